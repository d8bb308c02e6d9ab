"""A random part of a corpus: the control for every other way to make it smaller."""

from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from treadle.core.method import Control
from treadle.core.seed import stream_seed
from treadle.text.curate.base import Columns, CurateMethod, Documents, Verdicts
from treadle.text.curate.hashing import hash_strings

if TYPE_CHECKING:
    from treadle.text.curate.corpus import Corpus

__all__ = ["Sample"]


class Sample(CurateMethod):
    """Keep documents at random, each by its id alone.

    d stays if u(d) < fraction, where u(d) is a hash of the seed and the id as a number from 0 to 1.
    So a sample does not change with shards or other documents, a smaller fraction keeps a part of
    what a larger one keeps, and `invert` leaves exactly the others.
    """

    name: ClassVar[str] = "sample"
    paper: ClassVar[Control] = Control("what size alone does, whatever is chosen")

    fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Part of the documents that stays."""
    invert: bool = False
    """Leave the others."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the choice."""

    def measure(self, documents: Documents) -> Columns:
        """Return the number of each document."""
        prefix = f"{stream_seed(self.seed, 'sample')} "
        keys = hash_strings([prefix + name for name in documents.table["id"].to_pylist()])
        return {"number": keys[:, 0] / 2.0**64}

    def decide(self, corpus: "Corpus") -> Verdicts:
        """Return the documents that were not drawn."""
        number = corpus.column("number").astype(np.float64, copy=False)
        stays = (number < self.fraction) != self.invert
        return Verdicts(
            ("not drawn",), np.where(stays, -1, 0).astype(np.int16), number.astype(np.float32)
        )
