"""Token files in Megatron's format: all documents' tokens in a .bin, and an .idx that cuts them.

The .idx is: the magic MMIDIDX and two zeros, u64 version 1, u8 code of the type of tokens, u64
number of sequences, u64 number of document marks, int32 sizes, int64 places in bytes, int64 marks.
Here each document is a sequence, so that the marks are 0, 1, 2, ...
"""

import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.errors import DataError

__all__ = ["TokenFile", "open_tokens", "token_dtype", "write_tokens"]

_MAGIC, _VERSION = b"MMIDIDX\0\0", 1
_HEADER = struct.Struct("<9sQBQQ")
_CODES: dict[int, np.dtype[np.generic]] = {
    1: np.dtype("u1"),
    2: np.dtype("i1"),
    3: np.dtype("<i2"),
    4: np.dtype("<i4"),
    5: np.dtype("<i8"),
    8: np.dtype("<u2"),
}
_SMALL_VOCABULARY = 65500
"""Up to here Megatron, too, takes 16 bits."""


class TokenFile(NamedTuple):
    """Documents as tokens: document i is tokens[starts[i] : starts[i + 1]]."""

    tokens: npt.NDArray[np.generic]
    """Mapped, not read."""
    starts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1


def token_dtype(vocab_size: int) -> np.dtype[np.generic]:
    """Return the type of tokens of a vocabulary."""
    return _CODES[8 if vocab_size < _SMALL_VOCABULARY else 4]


def write_tokens(
    stem: Path, documents: Iterable[npt.NDArray[np.generic]], dtype: np.dtype[np.generic]
) -> int:
    """Write `stem`.bin and `stem`.idx, and return the number of tokens."""
    sizes = []
    with stem.with_suffix(".bin").open("wb") as stream:
        for document in documents:
            stream.write(document.astype(dtype, copy=False).tobytes())
            sizes.append(len(document))
        stream.flush()
        os.fsync(stream.fileno())
    ends = np.cumsum(sizes, dtype=np.int64)
    places = np.concatenate([[0], ends[:-1]])[: len(sizes)] * dtype.itemsize
    code = next(code for code, kind in _CODES.items() if kind == dtype)
    with stem.with_suffix(".idx").open("wb") as stream:
        stream.write(_HEADER.pack(_MAGIC, _VERSION, code, len(sizes), len(sizes) + 1))
        stream.write(np.array(sizes, "<i4").tobytes())
        stream.write(places.astype("<i8").tobytes())
        stream.write(np.arange(len(sizes) + 1, dtype="<i8").tobytes())
    return int(ends[-1]) if sizes else 0


def open_tokens(stem: Path) -> TokenFile:
    """Open `stem`.bin and `stem`.idx; marks that join several sequences to a document are obeyed.

    Raises:
        DataError: One is missing, no such file, or they do not fit together.
    """
    index, content = stem.with_suffix(".idx"), stem.with_suffix(".bin")
    for file in (index, content):
        if not file.is_file():
            raise DataError(f"No token file at '{file}'; give the output of treadle curate pack.")
    raw = index.read_bytes()
    if len(raw) < _HEADER.size or not raw.startswith(_MAGIC):
        raise DataError(f"'{index}' is no index of Megatron's; pack the corpus again.")
    _, version, code, num_sequences, num_marks = _HEADER.unpack_from(raw)
    expected = _HEADER.size + 12 * num_sequences + 8 * num_marks
    if version != _VERSION or code not in _CODES or len(raw) != expected:
        raise DataError(
            f"'{index}' has version {version}, type {code} and {len(raw)} bytes, expected version "
            f"{_VERSION}, a type of whole numbers and {expected} bytes; pack the corpus again."
        )
    sizes = np.frombuffer(raw, "<i4", num_sequences, _HEADER.size)
    marks = np.frombuffer(raw, "<i8", num_marks, _HEADER.size + 12 * num_sequences)
    starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])[marks]
    dtype = _CODES[code]
    if content.stat().st_size != int(starts[-1]) * dtype.itemsize:
        raise DataError(
            f"'{content}' has {content.stat().st_size} bytes where its index says "
            f"{int(starts[-1]) * dtype.itemsize}; pack the corpus again."
        )
    return TokenFile(np.memmap(content, dtype, "r"), starts)
