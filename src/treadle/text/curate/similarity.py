"""True Jaccard similarities inside clusters, computed from the texts again, in bounded memory."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.native.text import Shingles, Unit, jaccard, shingle_documents
from treadle.text.curate.survivors import Ranking

if TYPE_CHECKING:
    from treadle.text.curate.corpus import Corpus

__all__ = ["Copies", "copies_of"]

_TEXT_BYTES = 128 << 20
"""Texts of whole clusters that are compared at a time; their shingles take about twice as much."""
Integers = npt.NDArray[np.int64]


class Copies(NamedTuple):
    """What the members of clusters turned out to be; the arrays are as long as the corpus."""

    kept: Integers
    jaccard: npt.NDArray[np.float32]


def copies_of(
    corpus: "Corpus",
    ranking: Ranking,
    unit: Unit,
    size: int,
    threshold: float,
    is_short: npt.NDArray[np.bool_],
    num_known: int = 0,
) -> Copies:
    """Return which documents are copies, of which one, and how similar they are.

    The best of a cluster stays, and those at least `threshold` similar to it go. The best of what
    is left of the cluster stays too, and so on: a chain of ever less similar documents does not
    pull its far end along. With a threshold of 0 all but the best go. Documents without a shingle
    share a cluster only if they are equal. The first `num_known` documents go for nothing.
    """
    kept = np.full(len(corpus), -1, np.int64)
    similar = np.full(len(corpus), np.nan, np.float32)
    for order, cluster in _groups(corpus, ranking):
        documents, places = np.unique(order, return_inverse=True)
        sets = _shingles(corpus, documents, unit, size)
        left = np.arange(len(order))
        while len(left):
            is_centre = np.concatenate([[True], cluster[left[1:]] != cluster[left[:-1]]])
            centre = left[is_centre][np.cumsum(is_centre) - 1][~is_centre]
            left = left[~is_centre]
            found = jaccard(sets, places[left].astype(np.int64), places[centre].astype(np.int64))
            found[is_short[order[left]]] = 1.0
            is_copy = (found >= threshold) & (order[left] >= num_known)
            kept[order[left[is_copy]]] = order[centre[is_copy]]
            similar[order[left[is_copy]]] = found[is_copy]
            left = left[~is_copy]
    return Copies(kept, similar)


def _groups(corpus: "Corpus", ranking: Ranking) -> Iterator[tuple[Integers, Integers]]:
    """Yield the members of some whole clusters at a time, and the cluster of each."""
    if not len(ranking.order):
        return
    starts = np.flatnonzero(ranking.is_best)
    ends = np.append(starts[1:], len(ranking.order))
    total = np.cumsum(corpus.num_bytes[ranking.order])
    first = 0
    while first < len(starts):
        before = total[starts[first] - 1] if starts[first] else 0
        stop = int(np.searchsorted(total[ends - 1], before + _TEXT_BYTES, side="right"))
        stop = max(stop, first + 1)
        rows = slice(starts[first], ends[stop - 1])
        yield ranking.order[rows], ranking.best[rows]
        first = stop


def _shingles(corpus: "Corpus", documents: Integers, unit: Unit, size: int) -> Shingles:
    values, lengths = [], []
    for _, texts in corpus.wanted_texts(documents):
        sets = shingle_documents(texts, unit, size)
        values.append(sets.values)
        lengths.append(np.diff(sets.starts))
    starts = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    return Shingles(np.concatenate(values), starts)
