"""Documents and what is made of them, as arrays that kernels and their twins share."""

from collections.abc import Collection
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Runs", "Shingles", "Texts", "Unit"]

Integers = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Unit = Literal["words", "characters"]


class Texts(NamedTuple):
    """Documents: text i is data[offsets[i]:offsets[i + 1]], valid UTF-8."""

    data: npt.NDArray[np.uint8]
    offsets: Integers

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def text(self, number: int) -> str:
        """Return one document."""
        start, stop = self.offsets[number : number + 2]
        return self.data[start:stop].tobytes().decode()

    @staticmethod
    def of(texts: Collection[str]) -> "Texts":
        """Return the documents as one buffer."""
        encoded = [text.encode() for text in texts]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(text) for text in encoded], out=offsets[1:])
        return Texts(np.frombuffer(b"".join(encoded) or b"\0", np.uint8), offsets)


class Shingles(NamedTuple):
    """Sets of shingle hashes: set i is values[starts[i]:starts[i + 1]], in order."""

    values: npt.NDArray[np.uint32]
    starts: Integers


class Runs(NamedTuple):
    """Hashes of all runs of units: those of document i are values[starts[i]:starts[i + 1]]."""

    values: Keys
    starts: Integers
