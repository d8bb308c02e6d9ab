"""True Jaccard similarities inside clusters, computed from the texts again, in bounded memory."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.native.text import Shingles, Unit, jaccard, leaders, shingle_documents, stars
from treadle.text.curate.survivors import Ranking

if TYPE_CHECKING:
    from treadle.text.curate.corpus import Corpus

__all__ = ["Copies", "Likeness", "copies_of"]

_TEXT_BYTES = 128 << 20
"""Texts of whole clusters that are compared at a time; their shingles take about twice as much."""
Integers = npt.NDArray[np.int64]


class Copies(NamedTuple):
    """What the members of clusters turned out to be; the arrays are as long as the corpus."""

    kept: Integers
    jaccard: npt.NDArray[np.float32]


class Likeness(NamedTuple):
    """When a document is a copy of a kept one of its cluster."""

    unit: Unit
    size: int
    """Units in a shingle."""
    threshold: float
    """Least Jaccard similarity; 0 takes all."""
    keys: Callable[[Integers], npt.NDArray[np.uint64]] | None = None
    """From documents to the bands of each, [docs, bands], of which the two must share one."""


def copies_of(
    corpus: "Corpus", ranking: Ranking, is_short: npt.NDArray[np.bool_], likeness: Likeness
) -> Copies:
    """Return which documents are copies, of which one, and how similar they are.

    The best of a cluster stays, and those go for it that are like it. The best of what is left of
    the cluster stays too, and so on: a chain of ever less similar documents does not pull its far
    end along. With neither a threshold nor keys all but the best go. Documents without a shingle
    share a cluster only if they are equal. Known documents go for nothing.
    """
    kept = np.full(len(corpus), -1, np.int64)
    similar = np.full(len(corpus), np.nan, np.float32)
    for order, cluster in _groups(corpus, ranking):
        documents, places = np.unique(order, return_inverse=True)
        places = places.astype(np.int64)
        sets = _shingles(corpus, documents, likeness.unit, likeness.size)
        stays = order < corpus.num_known
        leader = _leaders(sets, places, order, cluster, stays, is_short[order], likeness)
        goes = np.flatnonzero(leader >= 0)
        found = jaccard(sets, places[goes], places[leader[goes]])
        found[is_short[order[goes]]] = 1.0
        kept[order[goes]], similar[order[goes]] = order[leader[goes]], found
    return Copies(kept, similar)


def _leaders(
    sets: Shingles,
    places: Integers,
    order: Integers,
    cluster: Integers,
    stays: npt.NDArray[np.bool_],
    is_short: npt.NDArray[np.bool_],
    likeness: Likeness,
) -> Integers:
    """Return for each row the row that it goes for; -1 for those that stay."""
    keys = None if likeness.keys is None else likeness.keys(order)
    is_first = np.concatenate([[True], cluster[1:] != cluster[:-1]])
    first = np.flatnonzero(is_first)[np.cumsum(is_first) - 1]
    if likeness.threshold > 0:
        found, _ = leaders(sets, places, cluster, stays | is_short, likeness.threshold, keys)
        return np.where(is_short & ~stays & ~is_first, first, found)
    if keys is not None:
        return stars(keys, stays)
    return np.where(stays | is_first, -1, first)


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
