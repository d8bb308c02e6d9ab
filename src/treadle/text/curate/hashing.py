"""Hashes of 128 bits of whole texts."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from treadle.native.text import Texts

__all__ = ["hash_strings", "hash_texts"]

Keys = npt.NDArray[np.uint64]


def hash_texts(texts: Texts) -> Keys:
    """Return xxh3_128 of each text as two numbers: [docs, 2]."""
    from xxhash import xxh3_128_digest

    data, ends = memoryview(texts.data), texts.offsets.tolist()  # type: ignore[arg-type]  # a buffer
    digests = b"".join([xxh3_128_digest(data[start:stop]) for start, stop in pairwise(ends)])
    return np.frombuffer(digests, np.uint64).reshape(-1, 2)


def hash_strings(texts: list[str]) -> Keys:
    """Return xxh3_128 of each string as two numbers: [docs, 2]."""
    return hash_texts(Texts.of(texts))
