"""Exact duplicates: documents of equal bytes, found by a hash of 128 bits."""

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from treadle.core.method import Standard
from treadle.native.text import Texts
from treadle.text.curate.base import Columns, CurateMethod, Documents, Verdicts
from treadle.text.curate.hashing import hash_texts
from treadle.text.curate.survivors import Keep, best_of, clusters, join, preference, unranked

if TYPE_CHECKING:
    from treadle.text.curate.corpus import Corpus

__all__ = ["Exact"]


class Exact(CurateMethod):
    """Keep one of all documents whose text is the same, byte for byte.

    key(d) = xxh3_128(text of d); two documents are copies if their keys are equal. With 128 bits,
    2^40 documents hold a false pair with a probability below 2^-48; a Bloom filter, the usual
    choice, loses one document in a thousand for nothing.
    """

    name: ClassVar[str] = "exact"
    paper: ClassVar[Standard] = Standard("hashing whole documents; the hash is Collet's XXH3")

    keep: Keep = "longest"
    """Which copy stays: longest, first (by id), best:COLUMN or earliest:COLUMN; ties by id."""
    ignore_case_and_space: bool = False
    """Compare lower-cased texts whose runs of white space are one space."""

    @property
    def index(self) -> tuple[str, ...]:
        """The hashes."""
        return ("key",)

    @property
    def indexed_by(self) -> str:
        """What is hashed."""
        return f"exact, {'words in lower case' if self.ignore_case_and_space else 'bytes'}"

    def measure(self, documents: Documents) -> Columns:
        """Return the hash of each text, and how much the document is preferred."""
        texts = documents.texts
        if self.ignore_case_and_space:
            words = (texts.text(n).lower().split() for n in range(len(texts)))
            texts = Texts.of([" ".join(text) for text in words])
        key = hash_texts(texts)
        return {"key": key, **preference(self.keep, documents)}

    def decide(self, corpus: "Corpus") -> Verdicts:
        """Return the copies."""
        notes = unranked(self.keep, corpus)
        parent = np.arange(len(corpus), dtype=np.int64)
        join(parent, corpus.column("key").astype(np.uint64, copy=False))
        order, is_best, best = best_of(corpus, clusters(parent))
        kept, cluster = np.full((2, len(corpus)), -1, np.int64)
        cluster[order] = best
        kept[order[~is_best]] = best[~is_best]
        is_copy = kept >= 0
        return Verdicts(
            ("exact copy",),
            np.where(is_copy, 0, -1).astype(np.int16),
            cluster=cluster,
            kept=kept,
            jaccard=np.where(is_copy, 1, np.nan).astype(np.float32),
            notes=notes,
        )
