"""One reader a format; those of JSON lines, Parquet and WARC have their own files."""

from collections.abc import Iterator
from pathlib import Path

from treadle.core.table import batches
from treadle.core.table.batches import Record, Reject, TableBatch, batched
from treadle.core.table.files import name_of_path, partition_of
from treadle.core.table.lines import line_batches
from treadle.core.table.parquet import parquet_batches
from treadle.core.table.recognise import why_no_text
from treadle.core.table.records import rest_of
from treadle.core.table.units import Source, Unit
from treadle.core.table.warc import warc_records

__all__ = ["read_unit"]


def read_unit(source: Source, unit: Unit) -> Iterator[TableBatch]:
    """Yield the documents of a unit in their order."""
    if unit.kind == "parquet":
        yield from parquet_batches(source, unit)
    elif unit.kind == "files":
        yield from batched(_file_records(unit), source.schema)
    elif unit.kind == "warc":
        yield from batched(warc_records(unit), source.schema)
    else:
        yield from line_batches(source, unit)


def _file_records(unit: Unit) -> Iterator[Record | Reject]:
    base = Path(unit.name)
    for file in unit.files:
        name = name_of_path(file, base)
        if file.stat().st_size > batches.MAX_DOCUMENT_BYTES:
            yield Reject(name, 0, "longer than a document may be")
            continue
        content = file.read_bytes()
        if refusal := why_no_text(file, content) or ("binary" if b"\0" in content else None):
            yield Reject(name, 0, refusal)
            continue
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            yield Reject(name, 0, "not UTF-8")
            continue
        meta, _ = rest_of(b"{}", dict(partition_of(name)))
        yield (name, text, meta) if text and not text.isspace() else Reject(name, 0, "empty")
