"""What readers yield: batches of (id, text, ...), and a reason for every refused record."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from treadle.core.table.unnamed import name_of_text

__all__ = [
    "BATCH_BYTES",
    "BATCH_ROWS",
    "LINE_SCHEMA",
    "MAX_DOCUMENT_BYTES",
    "Mended",
    "Record",
    "Reject",
    "TableBatch",
    "batched",
    "fitted",
]

MAX_DOCUMENT_BYTES = 256 << 20
"""Longer records are refused before they are held in memory."""
BATCH_BYTES = 4 << 20
BATCH_ROWS = 8192
LINE_SCHEMA = pa.schema(
    [("id", pa.large_string()), ("text", pa.large_string()), ("meta", pa.large_string())]
)
"""Of JSON lines: whatever else a line says is one JSON text, so that no two shards can differ."""
Record = tuple[str | None, str, str | None]
"""Id, text, and what else is said."""


class Reject(NamedTuple):
    """A record that is no document."""

    file: str
    row: int
    reason: str


class Mended(NamedTuple):
    """A record that is a document, and something that was replaced in it."""

    file: str
    row: int
    what: str


class TableBatch(NamedTuple):
    """Some documents of a unit in their order, what was refused among them, and what replaced."""

    table: pa.Table
    rejects: list[Reject]
    mended: list[Mended]


def batched(records: Iterator[Record | Reject | Mended], schema: pa.Schema) -> Iterator[TableBatch]:
    """Gather records into batches; what was mended in a record stands before it."""
    ids: list[str] = []
    texts: list[str] = []
    metas: list[str | None] = []
    rejects: list[Reject] = []
    mended: list[Mended] = []
    held = 0
    for record in records:
        if isinstance(record, Reject):
            rejects.append(record)
        elif isinstance(record, Mended):
            mended.append(record)
        else:
            name, text, meta = record
            ids.append(name_of_text(text.encode()) if name is None else name)
            texts.append(text)
            metas.append(meta)
            held += len(text)
        if held >= BATCH_BYTES or len(ids) + len(rejects) >= BATCH_ROWS:
            yield TableBatch(_table((ids, texts, metas), schema), rejects, mended)
            ids, texts, metas, rejects, mended, held = [], [], [], [], [], 0
    if ids or rejects or mended:
        yield TableBatch(_table((ids, texts, metas), schema), rejects, mended)


def _table(columns: tuple[list[Any], ...], schema: pa.Schema) -> pa.Table:  # Any: text or None
    arrays = [pa.array(column, pa.large_string()) for column in columns]
    return fitted(pa.Table.from_arrays(arrays, schema=LINE_SCHEMA), schema)


def fitted(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the table with the columns of the whole source; one that it lacks is null."""
    if table.schema == schema:
        return table
    have = set(table.schema.names)
    arrays = [
        table[field.name].cast(field.type)
        if field.name in have
        else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)
