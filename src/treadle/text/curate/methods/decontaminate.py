"""Documents that hold parts of evaluation sets."""

from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from treadle.core.method import Paper
from treadle.native.text import Texts, run_documents
from treadle.text.curate.base import Columns, CurateMethod, Documents, Verdicts

if TYPE_CHECKING:
    from treadle.text.curate.corpus import Corpus

__all__ = ["Decontaminate"]


class Decontaminate(CurateMethod):
    """Drop documents that share a run of words with an evaluation set.

    d goes if at least `min_runs` runs of `run_words` consecutive words of d stand in any string of
    the sets' records. Words are runs of letters and digits in lower case, and an ideograph is one;
    runs are compared by hashes of 64 bits. Where the paper cuts 200 characters around a match out
    of the document, the whole document goes here.

    Paper: Brown et al., Language Models are Few-Shot Learners, 2020, appendix C.
    """

    name: ClassVar[str] = "decontaminate"
    paper: ClassVar[Paper] = Paper(
        "Language Models are Few-Shot Learners", 2020, "https://arxiv.org/abs/2005.14165"
    )

    run_words: Annotated[int, Field(ge=1, le=64)] = 13
    """Words in a run; strings of the sets that are shorter find nothing."""
    min_runs: Annotated[int, Field(ge=1)] = 1
    """Shared runs from which on a document goes."""

    def refer(self, texts: Texts) -> npt.NDArray[np.uint64]:
        """Return the hashes of all runs of the evaluation sets."""
        return np.unique(run_documents(texts, "words", self.run_words).values)

    def measure(self, documents: Documents) -> Columns:
        """Return how many runs of each document stand in the evaluation sets."""
        assert documents.reference is not None
        runs = run_documents(documents.texts, "words", self.run_words)
        places = np.searchsorted(documents.reference, runs.values)
        places[places == len(documents.reference)] = 0
        is_shared = documents.reference[places] == runs.values
        total = np.concatenate([[0], np.cumsum(is_shared)])
        return {"shared_runs": (total[runs.starts[1:]] - total[runs.starts[:-1]]).astype(np.int64)}

    def decide(self, corpus: "Corpus") -> Verdicts:
        """Return the documents that share enough runs."""
        shared = corpus.column("shared_runs").astype(np.int64, copy=False)
        return Verdicts(
            ("in an evaluation set",),
            np.where(shared >= self.min_runs, 0, -1).astype(np.int16),
            shared.astype(np.float32),
        )
