"""Kernels over documents: counts, MinHash keys, shingle sets, Jaccard, union of pairs.

Each has a twin in `text_twins` that gives the same numbers. Texts are UTF-8 in one buffer, cut by
offsets; calls release the interpreter's lock.
"""

import ctypes
from collections.abc import Collection
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from treadle.core.table import ParsedLines
from treadle.native import text_twins as twins
from treadle.native.characters import characters
from treadle.native.documents import Runs, Shingles, Texts, Unit
from treadle.native.loader import library
from treadle.native.pointers import OwningStructure, pointer

__all__ = [
    "COUNTS",
    "Runs",
    "Shingles",
    "Texts",
    "Unit",
    "count_documents",
    "jaccard",
    "leaders",
    "minhash_documents",
    "parse_lines",
    "run_documents",
    "shingle_documents",
    "similar_pieces",
    "stars",
    "unite",
]

T = TypeVar("T")
Integers = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]

_MAX_LINES = 8192
_SLACK_BYTES = 64
"""The kernel copies in blocks, and may write so much behind the last one."""

COUNTS = twins.COUNTS
"""Names of the columns that `count_documents` fills."""


class _Characters(OwningStructure):
    _fields_ = (
        ("classes", ctypes.c_void_p),
        ("lower", ctypes.c_void_p),
        ("size", ctypes.c_int64),
    )
    _points_to_ = (("u2", ("classes",)), ("u4", ("lower",)))

    @classmethod
    def of(cls, is_chinese: bool) -> "_Characters":
        tables = characters(is_chinese)
        return cls(tables.classes, tables.lower, tables.classes.size)


class _StopWords(OwningStructure):
    _fields_ = (("keys", ctypes.c_void_p), ("place", ctypes.c_void_p), ("mask", ctypes.c_int64))
    _points_to_ = (("u8", ("keys",)), ("i1", ("place",)))


def _kernel() -> ctypes.CDLL | None:
    return library("text", _Characters, _StopWords)


def count_documents(
    texts: Texts, unit: Unit, stop_words: Collection[str], required: tuple[str, ...]
) -> tuple[Integers, npt.NDArray[np.float64]]:
    """Count what document statistics are made of.

    Args:
        texts: The documents.
        unit: What n-grams and entropy are over: words between white space, or characters without
            it; with characters, sentences also end as Chinese ones do.
        stop_words: In lower case.
        required: Those of the stop words whose distinct number is counted; at most 63.

    Returns:
        Counts [docs, COUNTS], and the entropy of the units [docs] in nats.
    """
    kernel = _kernel()
    if kernel is None:
        return twins.count_documents(texts, unit, stop_words, required)
    counts = np.empty((len(texts), len(COUNTS)), np.int64)
    entropy = np.empty(len(texts))
    keys, place = twins.stop_word_table(tuple(stop_words), required)
    stop = _StopWords(keys, place, len(keys) - 1)
    table = _Characters.of(unit == "characters")
    done = kernel.count_documents(
        *(
            pointer(texts.data),
            pointer(texts.offsets),
            ctypes.c_int64(0),
            ctypes.c_int64(len(texts)),
        ),
        *(
            _number(unit),
            ctypes.byref(table),
            ctypes.byref(stop),
            pointer(counts),
            pointer(entropy),
        ),
    )
    return _checked(done, (counts, entropy))


def minhash_documents(
    texts: Texts, unit: Unit, size: int, multiply: Keys, add: Keys, bands: int
) -> tuple[Keys, Integers]:
    """Return the keys of each document's bands, and how many shingles it has.

    Args:
        texts: The documents.
        unit: What a shingle is a run of.
        size: Units in a shingle.
        multiply: One for each slot; slot p holds the least upper half of multiply[p] x + add[p].
        add: As long.
        bands: A divisor of the number of slots.

    Returns:
        Keys [docs, bands], 0 for a document without a shingle, and the numbers of shingles [docs].
    """
    kernel = _kernel()
    if kernel is None:
        return twins.minhash_documents(texts, unit, size, multiply, add, bands)
    keys, found = np.empty((len(texts), bands), np.uint64), np.empty(len(texts), np.int64)
    table = _Characters.of(False)
    sizes = map(ctypes.c_int64, (bands, len(multiply) // bands))
    done = kernel.minhash_documents(
        *(
            pointer(texts.data),
            pointer(texts.offsets),
            ctypes.c_int64(0),
            ctypes.c_int64(len(texts)),
        ),
        *(
            _number(unit),
            ctypes.c_int64(size),
            ctypes.byref(table),
            pointer(multiply),
            pointer(add),
        ),
        *(*sizes, pointer(keys), pointer(found)),
    )
    return _checked(done, (keys, found))


def shingle_documents(texts: Texts, unit: Unit, size: int) -> Shingles:
    """Return the set of each document's shingle hashes."""
    kernel = _kernel()
    if kernel is None:
        return twins.shingle_documents(texts, unit, size)
    values = np.empty(int(texts.offsets[-1] - texts.offsets[0]) + 1, np.uint32)
    starts = np.zeros(len(texts) + 1, np.int64)
    table = _Characters.of(False)
    done = kernel.shingle_documents(
        *(pointer(texts.data), pointer(texts.offsets), ctypes.c_int64(len(texts)), _number(unit)),
        *(ctypes.c_int64(size), ctypes.byref(table), pointer(values)),
        pointer(starts, 1),
    )
    return _checked(done, Shingles(values[: starts[-1]].copy(), starts))


def run_documents(texts: Texts, unit: Unit, size: int) -> Runs:
    """Return 64-bit hashes of all runs of `size` units, in the order of each document."""
    kernel = _kernel()
    if kernel is None:
        return twins.run_documents(texts, unit, size)
    values = np.empty(int(texts.offsets[-1] - texts.offsets[0]) + 1, np.uint64)
    starts = np.zeros(len(texts) + 1, np.int64)
    table = _Characters.of(False)
    done = kernel.run_documents(
        *(pointer(texts.data), pointer(texts.offsets), ctypes.c_int64(len(texts)), _number(unit)),
        *(ctypes.c_int64(size), ctypes.byref(table), pointer(values)),
        pointer(starts, 1),
    )
    return _checked(done, Runs(values[: starts[-1]].copy(), starts))


def parse_lines(
    content: npt.NDArray[np.uint8], text_column: str, id_column: str
) -> ParsedLines | None:
    """Read JSON lines from the beginning of `content`, up to some thousand of them.

    Returns:
        What they say, or None where a line is not plain or there is no machine code: then Python
        reads them, and says why one is no document.
    """
    kernel = _kernel()
    if kernel is None:
        return None
    room = np.empty((3, len(content) + _SLACK_BYTES), np.uint8)
    ends, flags = np.empty((3, _MAX_LINES), np.int64), np.empty((2, _MAX_LINES), np.uint8)
    num_lines = ctypes.c_int64()
    names = [
        part
        for name in (text_column.encode(), id_column.encode())
        for part in (ctypes.c_char_p(name), ctypes.c_int64(len(name)))
    ]
    kernel.parse_lines.restype = ctypes.c_int64
    done = kernel.parse_lines(
        *(pointer(content), ctypes.c_int64(len(content)), ctypes.c_int64(_MAX_LINES), *names),
        *(
            pointer(room[0]),
            pointer(room[1]),
            pointer(room[2]),
            pointer(ends),
            pointer(flags[0]),
            pointer(flags[1]),
        ),
        ctypes.byref(num_lines),
    )
    if done < 0:
        return None
    lines = slice(0, num_lines.value)
    texts, ids, rests = room
    return ParsedLines(
        texts, ids, rests, ends[:, lines], flags[0, lines] > 0, flags[1, lines], done
    )


def jaccard(sets: Shingles, left: Integers, right: Integers) -> npt.NDArray[np.float64]:
    """Return the Jaccard similarity of pairs of sets; 0 where both are empty."""
    kernel = _kernel()
    if kernel is None:
        return twins.jaccard(sets, left, right)
    found = np.empty(len(left))
    kernel.jaccard(
        *(pointer(sets.values), pointer(sets.starts), pointer(left), pointer(right)),
        *(ctypes.c_int64(len(left)), pointer(found)),
    )
    return found


def leaders(
    sets: Shingles,
    places: Integers,
    clusters: Integers,
    stays: npt.NDArray[np.bool_],
    threshold: float,
    keys: Keys | None = None,
) -> tuple[Integers, npt.NDArray[np.float64]]:
    """Return for each row the first of those that stay to which it is similar, and how much.

    A row for which there is none stays, and is given -1 and NaN.

    Args:
        sets: Shingles.
        places: Each row's set; the preferred rows first.
        clusters: Of each row; those of one stand together, and others are not compared.
        stays: Rows that go for none.
        threshold: Least Jaccard similarity, above 0.
        keys: Bands of each row, one of which must agree as well.
    """
    kernel = _kernel()
    if kernel is None:
        return twins.leaders(sets, places, clusters, stays, threshold, keys)
    leader, similar = np.full(len(places), -1, np.int64), np.full(len(places), np.nan)
    bands = 0 if keys is None else keys.shape[1]
    held = np.zeros((1, 1), np.uint64) if keys is None else np.ascontiguousarray(keys)
    done = kernel.leaders(
        *(pointer(sets.values), pointer(sets.starts), pointer(places), pointer(clusters)),
        *(pointer(stays.astype(np.uint8)), ctypes.c_int64(len(places))),
        *(ctypes.c_double(threshold), pointer(held), ctypes.c_int64(bands)),
        *(pointer(leader), pointer(similar)),
    )
    return _checked(done, (leader, similar))


def stars(keys: Keys, stays: npt.NDArray[np.bool_]) -> Integers:
    """Return for each row the first of those that stay with which it shares a band.

    A row for which there is none stays, and is given -1.

    Args:
        keys: Bands of each row, [rows, bands]; the preferred rows first.
        stays: Rows that go for none.
    """
    kernel = _kernel()
    if kernel is None:
        return twins.stars(keys, stays)
    leader, held = np.full(len(keys), -1, np.int64), np.ascontiguousarray(keys)
    done = kernel.stars(
        *(pointer(held), ctypes.c_int64(keys.shape[1]), pointer(stays.astype(np.uint8))),
        *(ctypes.c_int64(len(keys)), pointer(leader)),
    )
    return _checked(done, leader)


def similar_pieces(
    pieces: Texts, starts: Integers, fraction: float, short_chars: int, window: int
) -> npt.NDArray[np.bool_]:
    """Say which pieces are almost equal to one of their document that stands before and stays.

    Args:
        pieces: Those of all documents, in their order.
        starts: The first piece of each document, and the one after the last: [docs + 1].
        fraction: Edits, in parts of the longer piece, up to which two are alike; below 0.3.
        short_chars: A piece of so many characters or fewer must be equal.
        window: How many of the pieces that stay a piece is compared with, from the last one back.
    """
    kernel = _kernel()
    if kernel is None:
        return twins.similar_pieces(pieces, starts, fraction, short_chars, window)
    goes = np.zeros(len(pieces), np.uint8)
    done = kernel.similar_pieces(
        *(
            pointer(pieces.data),
            pointer(pieces.offsets),
            pointer(starts),
            ctypes.c_int64(len(starts) - 1),
        ),
        *(ctypes.c_double(fraction), ctypes.c_int64(short_chars), ctypes.c_int64(window)),
        pointer(goes),
    )
    return _checked(done, goes.astype(np.bool_))


def unite(parent: Integers, left: Integers, right: Integers) -> None:
    """Join the trees of each pair; following `parent` ends at the smallest of a tree.

    Args:
        parent: [docs], changed; to begin with, each document's is itself.
        left: One of each pair.
        right: The other.
    """
    kernel = _kernel()
    if kernel is None:
        return twins.unite(parent, left, right)
    kernel.unite(pointer(parent), pointer(left), pointer(right), ctypes.c_int64(len(left)))
    return None


def _number(unit: Unit) -> ctypes.c_int32:
    return ctypes.c_int32(unit == "characters")


def _checked(done: int, found: T) -> T:
    if not done:
        raise MemoryError("the longest document of a batch does not fit the memory")
    return found
