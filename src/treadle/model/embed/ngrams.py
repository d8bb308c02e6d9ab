"""Texts as hashed counts of their n-grams of characters, without any model."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from treadle.core.checkpoint.routed import NgramFeatures
from treadle.core.result import digest

__all__ = ["NgramEmbedder", "ngram_counts"]

Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint32]
_POLYNOMIAL = 0xEDB88320
"""Of CRC-32, its bits reversed."""
_ONES = np.uint32(0xFFFFFFFF)
_LAST_OF_BYTES = (0x7F, 0x7FF, 0xFFFF)
"""The last character that UTF-8 writes in one, two and three bytes."""
_LEAD = np.asarray([0, 0, 0xC0, 0xE0, 0xF0], np.uint32)
"""How the first of so many bytes begins."""


class NgramEmbedder:
    """Hashed n-grams of characters; see `treadle.core.ports.Embedder`."""

    computed_by = "hashed n-grams of characters"

    def __init__(self, spec: NgramFeatures) -> None:
        self._spec = spec
        self.dim = 2 * spec.width
        self.hash = digest(spec.model_dump(mode="json"))

    def embed(self, texts: Sequence[str]) -> Floats:
        """Return the hashed counts [texts, dim]."""
        return ngram_counts(texts, self._spec)


def ngram_counts(texts: Sequence[str], spec: NgramFeatures) -> Floats:
    """Return hashed counts of n-grams [texts, 2 width]: of the whole texts, then of their ends.

    An n-gram that occurs c times counts 1 + ln c; each of the two halves has length 1/sqrt(2).
    Hashes are CRC-32 of UTF-8, which is the same everywhere; n-grams of one length whose CRC is the
    same are one. Sums in float64.
    """
    found = np.zeros((len(texts), 2 * spec.width), np.float32)
    for row, text in zip(found, texts, strict=True):
        row[: spec.width] = _half(text, spec)
        row[spec.width :] = _half(text[-spec.tail_characters :] + "\0", spec)
    return found


def _half(text: str, spec: NgramFeatures) -> npt.NDArray[np.float64]:
    """Return the counts of a text [width], at length 1/sqrt(2); all zeros where it has none."""
    octets, lengths = _encoded(text)
    found = np.zeros(spec.width)
    states = np.full(len(lengths), _ONES)
    for order in range(1, min(max(spec.orders), len(lengths)) + 1):
        states = _taken_in(
            states[: len(lengths) - order + 1], octets[:, order - 1 :], lengths[order - 1 :]
        )
        if order in spec.orders:
            grams, counts = np.unique(states ^ _ONES, return_counts=True)
            places = grams % np.uint32(spec.width)
            found += np.bincount(places, 1 + np.log(counts), spec.width)
    norm = float(np.linalg.norm(found))
    return found / (norm * np.sqrt(2)) if norm else found


def _encoded(text: str) -> tuple[Words, npt.NDArray[np.int64]]:
    """Return the UTF-8 of each character [4, characters], and how many of the bytes it has."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    lengths = np.ones(len(points), np.int64)
    for last in _LAST_OF_BYTES:
        lengths += points > last
    octets = np.zeros((4, len(points)), np.uint32)
    for place in range(int(lengths.max(initial=1))):
        shifted = points >> np.maximum(6 * (lengths - 1 - place), 0).astype(np.uint32)
        octets[place] = 0x80 | (shifted & 0x3F) if place else _LEAD[lengths] | shifted
    return octets, lengths


def _taken_in(states: Words, octets: Words, lengths: npt.NDArray[np.int64]) -> Words:
    """Return the states of CRC-32 after one more character each."""
    for place in range(int(lengths.max(initial=1))):
        after = _TABLE[(states ^ octets[place]) & np.uint32(0xFF)] ^ (states >> np.uint32(8))
        states = np.where(lengths > place, after, states) if place else after
    return states


def _table() -> Words:
    """Return what CRC-32 makes of each byte."""
    found = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        found = np.where(found & 1, (found >> 1) ^ np.uint32(_POLYNOMIAL), found >> 1)
    return found.astype(np.uint32)


_TABLE = _table()
