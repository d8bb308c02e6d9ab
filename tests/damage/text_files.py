"""Corpora as they are found, and what is right for each: the documents, or a refusal; no test."""

import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

__all__ = ["DAMAGES", "Right", "texts"]

Write = Callable[[Path], None]
NUM_ROWS = 6
BIG = 10**30


def texts(*, without: tuple[int, ...] = ()) -> dict[str, str]:
    """Return the documents of the sound corpus by id."""
    return {
        f"n{n}": f"Document {n} of the corpus, é 中." for n in range(NUM_ROWS) if n not in without
    }


ROWS = [{"id": name, "text": text, "big": BIG} for name, text in texts().items()]
LINES = [json.dumps(row, ensure_ascii=False).encode() for row in ROWS]
WHOLE = b"\n".join(LINES) + b"\n"


class Right(NamedTuple):
    """What a damaged corpus is, and what must come of it."""

    write: Write
    documents: dict[str, str]
    """Those that stay, by id; {} for a refusal."""
    num_rejected: int = 0
    num_mended: int = 0
    refusal: str = ""
    """What the error says, as a pattern."""
    note: str = ""


def _bytes(name: str, content: bytes) -> Write:
    return lambda folder: (folder / name).write_bytes(content) and None


def _line(line: bytes, **right: object) -> Right:
    """Return a corpus whose fourth line is another."""
    write = _bytes("a.jsonl", b"\n".join([*LINES[:3], line, *LINES[4:]]) + b"\n")
    is_kept = not right.get("num_rejected")
    return Right(write, texts(without=() if is_kept else (3,)), **right)  # type: ignore[arg-type]


def _field(field: bytes) -> Right:
    return _line(LINES[3][:-1] + b", " + field + b"}", num_mended=1)


def _refused(name: str, content: bytes, refusal: str) -> Right:
    return Right(_bytes(name, content), {}, refusal=refusal)


def _zstd(content: bytes, **settings: int) -> bytes:
    parameters = zstandard.ZstdCompressionParameters(**settings)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return compressor.compress(content) + compressor.flush()


SKIPPED = b"\x50\x2a\x4d\x18\x05\0\0\0abcde"
"""A frame of zstd that holds no content (pzstd and others write them)."""


def _parquet(table: pa.Table, **settings: object) -> bytes:
    held = io.BytesIO()
    pq.write_table(table, held, **settings)
    return held.getvalue()


def _table(**columns: pa.Array) -> pa.Table:
    return pa.table({"id": list(texts()), "text": list(texts().values()), **columns})


def _with(place: int, value: object) -> list[object]:
    return [value if n == place else text.encode() for n, text in enumerate(texts().values())]


def _twice() -> pa.Table:
    columns = [list(texts()), list(texts().values()), list(range(6)), list(texts().values())]
    return pa.Table.from_arrays([pa.array(c) for c in columns], names=["id", "text", "n", "n"])


def _no_utf8() -> pa.Array:
    pieces = [text.encode() for text in texts().values()]
    pieces[3] = b"\xff\xfe"
    ends = np.cumsum([0, *map(len, pieces)]).astype(np.int32)
    return pa.Array.from_buffers(
        pa.string(), NUM_ROWS, [None, pa.py_buffer(ends), pa.py_buffer(b"".join(pieces))]
    )


def _linked(folder: Path) -> None:
    far = folder.parent / "far"
    far.mkdir(exist_ok=True)
    (far / "b.jsonl").write_bytes(b"\n".join(LINES[3:]))
    (folder / "a.jsonl").write_bytes(b"\n".join(LINES[:3]))
    (folder / "far").symlink_to(far)
    (folder / "loop").symlink_to(folder)


def _with_pipe(folder: Path) -> None:
    (folder / "a.jsonl").write_bytes(WHOLE)
    os.mkfifo(folder / "b.jsonl")


LINE_DAMAGES = {
    "NaN in a field": _field(b'"ppl": NaN'),
    "-Infinity in a list": _field(b'"a": [1, -Infinity]'),
    "1e400": _field(b'"n": 1e400'),
    "half a surrogate pair": _field(b'"s": "\\ud83d"'),
    "bytes in a field": _field(b'"s": "\xff\xc0"'),
    "a control character": _field(b'"s": "a\x00\tb"'),
    "a key twice": _field(b'"big": 2'),
    "too deep": _field(b'"d": ' + b"[" * 90_000 + b"]" * 90_000),
    "a wrong escape": _field(b'"p": "C:\\data"'),
    "a mark inside": _line(b"\xef\xbb\xbf" + LINES[3], num_mended=1),
    "a mark before": Right(_bytes("a.jsonl", b"\xef\xbb\xbf" + WHOLE), texts()),
    "lines of Windows": Right(_bytes("a.jsonl", WHOLE.replace(b"\n", b"\r\n")), texts()),
    "blank lines": _line(LINES[3] + b"\n\n \t\n"),
    "no last end": Right(_bytes("a.jsonl", WHOLE[:-1]), texts()),
    "a torn line": _line(LINES[3][:20], num_rejected=1),
    "a torn last line": Right(_bytes("a.jsonl", WHOLE[:-20]), texts(without=(5,)), 1),
    "two on a line": _line(LINES[3] + LINES[3], num_rejected=1),
    "bytes in the text": _line(LINES[3].replace(b"Doc", b"\xff"), num_rejected=1),
    "a list": _line(b"[1]", num_rejected=1),
    "no text": _line(b'{"id": "n3", "txt": "x"}', num_rejected=1),
    "a number as text": _line(b'{"id": "n3", "text": 5}', num_rejected=1),
    "NaN as text": _line(b'{"id": "n3", "text": NaN}', num_rejected=1),
    "NUL bytes": _line(bytes(4096), num_rejected=1),
    "deep and torn": _line(b'{"text": ' + b"[" * 90_000, num_rejected=1),
    "UTF-16": _refused("a.jsonl", WHOLE.decode().encode("utf-16"), "holds no document"),
    "nothing": _refused("a.jsonl", b"", "holds no documents?"),
    "a web page": _refused("a.jsonl", b"<!doctype html>\n<p>404", r"holds no document \(not JSON"),
    "a linked folder": Right(_linked, texts(), note="1 entries .*links to a folder"),
    "a pipe": Right(_with_pipe, texts(), note="1 entries .*neither file nor folder"),
}

HALF = WHOLE.find(b"\n") + 1
PACKED = gzip.compress(WHOLE)
ARCHIVE_DAMAGES = {
    "members": Right(
        _bytes("a.jsonl.gz", gzip.compress(WHOLE[:HALF]) + gzip.compress(WHOLE[HALF:])), texts()
    ),
    "zeros behind gzip": Right(_bytes("a.jsonl.gz", PACKED + bytes(512)), texts()),
    "garbage behind gzip": _refused("a.jsonl.gz", PACKED + b"garbage", "a.jsonl.gz' is damaged"),
    "gzip cut": _refused("a.jsonl.gz", PACKED[:-9], "a.jsonl.gz' is damaged"),
    "gzip cut at the sum": _refused("a.jsonl.gz", PACKED[:-4], "a.jsonl.gz' is damaged"),
    "plain and called gzip": _refused("a.jsonl.gz", WHOLE, "a.jsonl.gz' is damaged"),
    "frames": Right(
        _bytes("a.jsonl.zst", zstandard.compress(WHOLE[:HALF]) + zstandard.compress(WHOLE[HALF:])),
        texts(),
    ),
    "skipped frames": Right(
        _bytes("a.jsonl.zst", SKIPPED + zstandard.compress(WHOLE) + SKIPPED), texts()
    ),
    "a long window": Right(_bytes("a.jsonl.zst", _zstd(WHOLE, window_log=30)), texts()),
    "garbage behind zstd": _refused(
        "a.jsonl.zst", zstandard.compress(WHOLE) + b"garbage", "a.jsonl.zst' is damaged"
    ),
    "zstd cut": _refused("a.jsonl.zst", zstandard.compress(WHOLE)[:-9], "a.jsonl.zst' is damaged"),
    "plain and called zstd": _refused("a.jsonl.zst", WHOLE, "a.jsonl.zst' is damaged"),
    "tar": _refused("a.tar", b"x" * 1024, "a.tar' is of a kind that is not read; unpack it"),
    "zip": _refused("a.zip", b"PK\3\4", "a.zip' is of a kind that is not read; unpack it"),
    "bzip2": _refused("a.jsonl.bz2", b"BZh9", "a.jsonl.bz2' is of a kind .* compress JSON lines"),
}

SOUND = _parquet(_table())
PARQUET_DAMAGES = {
    "two of one name": Right(_bytes("a.parquet", _parquet(_twice())), texts(), note="'n' of"),
    "a bad text in bytes": Right(
        _bytes("a.parquet", _parquet(_table(text=pa.array(_with(3, b"\xff"))))),
        texts(without=(3,)),
        1,
    ),
    "a bad text in strings": Right(
        _bytes("a.parquet", _parquet(_table(text=_no_utf8()))), texts(without=(3,)), 1
    ),
    "a missing text": Right(
        _bytes("a.parquet", _parquet(_table(text=pa.array(_with(3, None))))),
        texts(without=(3,)),
        1,
    ),
    "bad bytes beside": Right(
        _bytes("a.parquet", _parquet(_table(other=_no_utf8()))), texts(), 0, 1
    ),
    "a dictionary": Right(
        _bytes("a.parquet", _parquet(_table(text=pa.array(texts().values()).dictionary_encode()))),
        texts(),
    ),
    "views": Right(
        _bytes(
            "a.parquet",
            _parquet(
                _table(
                    text=pa.array(texts().values(), pa.string_view()),
                    o=pa.array(texts(), pa.string_view()),
                )
            ),
        ),
        texts(),
    ),
    "lists": _refused(
        "a.parquet",
        _parquet(_table(text=pa.array([["x"]] * NUM_ROWS))),
        r"holds list<.*expected strings; name",
    ),
    "nothing but null": _refused(
        "a.parquet", _parquet(_table(text=pa.nulls(NUM_ROWS))), r"holds no document \(empty\)"
    ),
    "no text": _refused("a.parquet", _parquet(_table().drop(["text"])), r"no column 'text' \(it"),
    "no rows": _refused("a.parquet", _parquet(_table().slice(0, 0)), "holds no document"),
    "cut": _refused("a.parquet", SOUND[:-5], "a.parquet' is no whole Parquet file"),
    "half": _refused("a.parquet", SOUND[: len(SOUND) // 2], "a.parquet' is no whole Parquet file"),
    "empty": _refused("a.parquet", b"", "a.parquet' is no whole Parquet file"),
    "text": _refused("a.parquet", WHOLE, "a.parquet' is no whole Parquet file"),
    "encrypted": _refused(
        "a.parquet", b"PARE" + bytes(30) + b"\x14\0\0\0PARE", "a.parquet' is encrypted; decrypt it"
    ),
}

DAMAGES = {
    **{f"lines: {name}": one for name, one in LINE_DAMAGES.items()},
    **{f"archives: {name}": one for name, one in ARCHIVE_DAMAGES.items()},
    **{f"parquet: {name}": one for name, one in PARQUET_DAMAGES.items()},
}
