"""What a method decides."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.result import Figure, Measurement

__all__ = ["Pieces", "Verdicts"]


class Pieces(NamedTuple):
    """What goes of the documents that stay."""

    goes: npt.NDArray[np.bool_]
    """Of the pieces of all documents, in their order."""
    starts: npt.NDArray[np.int64]
    """The first piece of each document."""


class Verdicts(NamedTuple):
    """What is decided of every document; the arrays are as long as the corpus."""

    reasons: tuple[str, ...]
    reason: npt.NDArray[np.int16]
    """Which of the reasons a document goes for; -1 if it stays."""
    value: npt.NDArray[np.float32] | None = None
    """What the reason was found by."""
    cluster: npt.NDArray[np.int64] | None = None
    """The best of the documents that were found together; -1 outside of any such cluster."""
    kept: npt.NDArray[np.int64] | None = None
    """The document that a copy goes for; -1 if it stays."""
    jaccard: npt.NDArray[np.float32] | None = None
    """Of a copy and the document that it goes for."""
    pieces: Pieces | None = None
    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()
    measurements: tuple[Measurement, ...] = ()
