"""What a file holds, seen in its first bytes, where its name alone does not say it."""

from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from treadle.core.errors import DataError
from treadle.core.mistaken import mistaken, pointed
from treadle.core.table.packed import unpacked
from treadle.core.table.records import JsonRecord, NotJson, read_object
from treadle.core.table.units import Kind

__all__ = ["JSON_MEND", "JsonForm", "is_json_array", "json_form", "refuse_mistaken", "why_no_text"]

JSON_MEND = "write a record a line, such as with jq -c '.[]' for an array, and name the file .jsonl"
_NO_FILE = "a pointer of Git LFS, Xet or git-annex, not the file; run git lfs pull or git annex get"
_UTF16 = "a text in UTF-16; convert it, such as with iconv -f UTF-16 -t UTF-8"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff", b"{\0", b"\0{")
_CHUNK_BYTES = 64 << 10
_HEAD_BYTES = 16 << 20
"""A first line that is longer is taken for a record if it begins like one."""
_LOOKED_AT = 20
"""Lines of a file named .json that say whether it holds lines."""
_POINTER_BYTES = 512
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_OWN: dict[Kind, tuple[bytes, ...]] = {
    "lines": (b"{", BOM_UTF8 + b"{"),
    "gzip": (_GZIP,),
    "zstd": (_ZSTD,),
    "parquet": (b"PAR1", b"PARE"),
    "warc": (_GZIP, _ZSTD, b"WARC"),
}
_PACKED = {_GZIP: ("gzip", ".gz"), _ZSTD: ("zstd", ".zst")}
_SKIPPED = b"\x2a\x4d\x18"
"""Of zstd, the end of the first word of a frame that holds nothing; its first byte is 5x."""

JsonForm = Literal["lines", "array", "value"]
"""What a file in JSON holds."""


def refuse_mistaken(file: Path, kind: Kind) -> None:
    """Refuse a shard whose first bytes are of another kind of file than its name says.

    Raises:
        DataError: They are; it says of which, and what to do.
    """
    with file.open("rb") as stream:
        head = stream.read(16)
    is_skipped = kind in ("zstd", "warc") and head[1:4] == _SKIPPED
    if not head or head.startswith(_OWN[kind]) or is_skipped:
        return
    if what := _other(file, head, kind):
        raise DataError(f"'{file}' is {what}.")


def _other(file: Path, head: bytes, kind: Kind) -> str:
    for magic, (name, suffix) in _PACKED.items():
        if head.startswith(magic):
            mend = f"name it '{_stem(file)}{suffix}'" if kind != "parquet" else "unpack it"
            return f"packed with {name}, which its name does not say; {mend}"
    if head.startswith(_UTF16_MARKS):
        return _UTF16
    start = head.removeprefix(BOM_UTF8).lstrip()
    if kind in ("gzip", "zstd", "parquet") and start.startswith((b"{", b"[")):
        return f"plain JSON by its first bytes, not {kind}; name it '{_stem(file)}'"
    return mistaken(file)


def _stem(file: Path) -> str:
    """Return the name that the file has without its packing."""
    if file.suffix.lower() in (".gz", ".zst", ".zstd"):
        return file.stem
    return f"{file.stem}.jsonl" if file.suffix.lower() == ".parquet" else file.name


def why_no_text(file: Path, content: bytes) -> str | None:
    """Return why a file of a tree is no text, although it may look like one; None if it is."""
    if len(content) < _POINTER_BYTES and pointed(file):
        return _NO_FILE
    if content.startswith(_UTF16_MARKS):
        return _UTF16
    if file.suffix.lower() == ".json" and is_json_array(content):
        return f"one JSON array; {JSON_MEND}"
    return None


def is_json_array(content: bytes) -> bool:
    """Whether a text begins as an array of JSON objects."""
    found = content.removeprefix(BOM_UTF8).lstrip()
    return found.startswith(b"[") and found[1:].lstrip().startswith(b"{")


def json_form(file: Path, text_column: str) -> JsonForm:
    """Return what a file named .json holds, packed or not: lines of records, an array, or a value.

    Several objects on lines of their own are records, and so is a single one that has the text; a
    single one without it is a value, such as a configuration.

    Raises:
        DataError: The file is packed, and damaged.
    """
    packed = file.suffix.lower() != ".json"
    if packed:
        refuse_mistaken(file, "gzip" if file.suffix.lower() == ".gz" else "zstd")
    with file.open("rb") as stream:
        chunks = unpacked(file) if packed else iter(lambda: stream.read(_CHUNK_BYTES), b"")
        head = _head(chunks)
    lines = [line for line in head.removeprefix(BOM_UTF8).split(b"\n") if line.strip()]
    if lines and lines[0].lstrip().startswith(b"["):
        return "array"
    if len(head) >= _HEAD_BYTES and len(lines) == 1:
        return "lines" if lines[0].lstrip().startswith(b'{"') else "value"
    found = [record for line in lines[:_LOOKED_AT] if (record := _record(line)) is not None]
    return "lines" if len(found) > 1 or any(_has(one, text_column) for one in found) else "value"


def _head(chunks: Iterator[bytes]) -> bytes:
    """Return a file's beginning, up to the end of its first lines."""
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= _HEAD_BYTES or head.count(b"\n") > _LOOKED_AT:
            break
    return head


def _record(line: bytes) -> JsonRecord | None:
    try:
        return read_object(line)
    except NotJson:
        return None


def _has(record: JsonRecord, column: str) -> bool:
    try:
        record.take(column)
    except KeyError:
        return False
    return True
