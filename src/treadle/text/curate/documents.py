"""Documents as methods see them, and what was measured of them."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa

    from treadle.native.text import Texts

__all__ = ["Columns", "Documents"]

Columns = dict[str, npt.NDArray[np.generic]]
"""What was measured, by name; the first axis goes on from batch to batch."""


class Documents(NamedTuple):
    """Some documents in their order."""

    texts: "Texts"
    table: "pa.Table"
    """id, text, and what else the source has."""
    reference: "npt.NDArray[np.uint64] | None" = None
    """What `refer` made of the texts to compare with."""
