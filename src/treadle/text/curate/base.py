"""The protocol of curating: measure each document alone, then decide about all of them."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from treadle.core.method import Method
from treadle.text.curate.corpus import Corpus
from treadle.text.curate.documents import Columns, Documents
from treadle.text.curate.verdicts import Pieces, Verdicts

if TYPE_CHECKING:
    from treadle.native.text import Texts

__all__ = ["Columns", "CurateMethod", "Documents", "Pieces", "Verdicts"]


class CurateMethod(Method, ABC):
    """How documents are judged: `measure` sees texts and no corpus, `decide` the reverse."""

    @property
    def sidecar(self) -> tuple[str, ...]:
        """Names of the measured `statistics`, where they are worth keeping beside the text."""
        return ()

    @property
    def measured_of(self) -> str:
        """What the statistics are measured of; those of something else do not serve."""
        return ""

    @property
    def index(self) -> tuple[str, ...]:
        """Names of the measured columns by which copies are found, where a later run can."""
        return ()

    @property
    def indexed_by(self) -> str:
        """What those columns are made by; only equal ones are compared."""
        return self.name

    def label(self, documents: Documents) -> Columns:
        """Return what to remember of each document even where its statistics are there already."""
        return {}

    def refer(self, texts: "Texts") -> "npt.NDArray[np.uint64] | None":
        """Return what to remember of the texts to compare with; None if there is no use for any."""
        return None

    @abstractmethod
    def measure(self, documents: Documents) -> Columns:
        """Return what to remember of each document."""

    @abstractmethod
    def decide(self, corpus: Corpus) -> Verdicts:
        """Return which documents go."""

    def edit(self, documents: Documents, verdicts: Verdicts, first: int) -> list[str] | None:
        """Return the texts to write, or None to leave them; `first` is the first one's number."""
        return None
