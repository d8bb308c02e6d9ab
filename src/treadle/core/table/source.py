"""Where documents come from: files found, hashed and cut into units that can be read in any order.

A unit is a run of whole documents of one file (or of whole small files), about 16 MB of it, so that
one large file is shared between workers. How a source is cut never shows in what is made of it.
"""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from treadle.core.errors import DataError
from treadle.core.result import digest
from treadle.core.table.files import (
    Found,
    find,
    kind_of,
    name_of_path,
    partition_of,
    refused_columns,
    split_sources,
)
from treadle.core.table.recognise import refuse_mistaken
from treadle.core.table.units import Kind, LineParser, Source, Unit

if TYPE_CHECKING:
    import pyarrow as pa

    from treadle.core.table.batches import TableBatch

__all__ = ["batches_of", "fields_of", "open_source"]

_UNIT_BYTES = 16 << 20
_UNIT_FILES = 2000
_PIECE_BYTES = 1 << 20
"""Counted and hashed at a time: what the processor's cache holds."""


def batches_of(source: Source, unit: Unit) -> "Iterator[TableBatch]":
    """Yield the documents of a unit, a few megabytes at a time, and what was refused.

    Raises:
        DataError: The file is damaged, or lacks the text column.
    """
    from treadle.core.table.readers import read_unit

    with _refuse_unreadable(unit.files[0]):
        yield from read_unit(source, unit)


@contextmanager
def _refuse_unreadable(path: Path) -> Iterator[None]:
    """Turn what the system says of a file into an error that says what to do."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"'{error.filename or path}' cannot be read ({error.strerror or error}); change its "
            f"permissions, or move it out of the source."
        ) from error


def fields_of(source: Source) -> list[str]:
    """Return the names of fields that hold texts in the first JSON lines of a source.

    Raises:
        DataError: The file is damaged.
    """
    from treadle.core.table.lines import fields_of_texts

    lines = [unit for unit in source.units if unit.kind in ("lines", "gzip", "zstd")]
    return fields_of_texts(lines[0]) if lines else []


def open_source(
    data: str | Path,
    text_column: str = "text",
    id_column: str = "id",
    parser: LineParser | None = None,
) -> Source:
    """Find, hash and cut the documents of a file, a folder of shards, or a tree of text files.

    A folder is its shards (JSONL, Parquet or WARC, also compressed) if they are a tenth of its
    files; any other folder is a tree in which each file is a document. A folder that treadle wrote
    is its text. `stdlib:sources` stands for the Python standard library's own sources, "A + B"
    for one source after the other, and a pattern such as "data/**/*.jsonl" for what it matches.
    Folders such as lang=en are columns of what lies in them. A `parser` reads plain JSON lines
    faster; what comes out is the same.

    Raises:
        DataError: There is nothing to read, the source is a table in CSV or a JSON document, or the
            shards do not fit together.
    """
    named = split_sources(data)
    cutter = _Cutter((text_column, id_column))
    with _refuse_unreadable(Path(str(data))):
        sources = [find(part, len(named) > 1, text_column) for part in named]
    for found in sources:
        cutter.add(found)
    if not cutter.units:
        raise DataError(
            f"'{data}' holds no documents; give a JSONL or Parquet file, a folder of them, or a "
            f"folder of text files."
        )
    schema, notes = _schema(cutter.units, text_column, id_column)
    return Source(
        sources[0].root if len(sources) == 1 else Path(str(data)),
        tuple(cutter.units),
        digest(cutter.digests),
        cutter.num_bytes,
        text_column,
        id_column,
        schema,
        (*(note for found in sources for note in found.notes), *cutter.notes, *notes),
        parser,
        tuple(root for found in sources for root in found.roots),
    )


class _Cutter:
    """Reads every byte once: for its hash, and for where units begin."""

    def __init__(self, taken: tuple[str, str]) -> None:
        self._taken = taken
        self._refused: dict[str, str] = {}
        self.units: list[Unit] = []
        self.digests: list[tuple[str, str]] = []
        self.num_bytes = 0

    @property
    def notes(self) -> list[str]:
        """What folders say, and no column says again."""
        return [
            f"Folders such as '{name}' say no column '{key}': documents have that of their own."
            for key, name in self._refused.items()
        ]

    def add(self, found: Found) -> None:
        """Cut the files of a source.

        Raises:
            DataError: One of them cannot be read.
        """
        with _refuse_unreadable(found.root):
            if not found.has_shards:
                self._add_tree(found.files, found.base)
            for file in found.files if found.has_shards else ():
                self._add_shard(file, found.base)

    def _add_shard(self, file: Path, base: Path) -> None:
        kind = kind_of(file)
        assert kind is not None
        size = file.stat().st_size
        name = name_of_path(file, base)
        self.num_bytes += size
        refuse_mistaken(file, kind)
        if kind == "lines":
            self._add_lines(file, name, size)
        else:
            self.digests.append((name, _hash(file)))
        if kind == "parquet":
            self._add_row_groups(file, name)
        elif kind != "lines":
            self._add(kind, name, (file,), 0, size, 0)

    def _add_tree(self, files: list[Path], base: Path) -> None:
        """Each file is a document; a few thousand of them, or 16 MB, are a unit."""
        taken: list[Path] = []
        taken_bytes = 0
        for file in files:
            size = file.stat().st_size
            self.num_bytes += size
            self.digests.append((name_of_path(file, base), _hash(file)))
            self._look(name_of_path(file, base), ())
            if taken and (taken_bytes + size > _UNIT_BYTES or len(taken) >= _UNIT_FILES):
                self._add("files", str(base), tuple(taken), 0, 0, 0)
                taken, taken_bytes = [], 0
            taken.append(file)
            taken_bytes += size
        if taken:
            self._add("files", str(base), tuple(taken), 0, 0, 0)

    def _add(self, kind: Kind, name: str, files: tuple[Path, ...], *place: int) -> None:
        partition = () if kind == "files" else partition_of(name, self._taken)
        if kind != "files":
            self._look(name, self._taken)
        start, stop, row = place
        self.units.append(Unit(len(self.units), kind, name, files, start, stop, row, partition))

    def _look(self, name: str, taken: tuple[str, ...]) -> None:
        for key in refused_columns(name, taken):
            self._refused.setdefault(key, name)

    def _add_lines(self, file: Path, name: str, size: int) -> None:
        from xxhash import xxh3_128

        hashed, start, row = xxh3_128(), 0, 0
        if size:
            with file.open("rb") as stream, _mapped(stream.fileno()) as content:
                while start < size:
                    end = content.find(b"\n", min(start + _UNIT_BYTES, size) - 1)
                    stop = size if end < 0 else end + 1
                    num_rows = 0
                    for first in range(start, stop, _PIECE_BYTES):
                        piece = content[first : min(first + _PIECE_BYTES, stop)]
                        hashed.update(piece)
                        num_rows += piece.count(b"\n")
                    self._add("lines", name, (file,), start, stop, row)
                    _let_go(content, start, stop)
                    start, row = stop, row + num_rows
        self.digests.append((name, hashed.hexdigest()))

    def _add_row_groups(self, file: Path, name: str) -> None:
        from treadle.core.table.parquet import open_parquet

        with open_parquet(file) as opened:
            row = 0
            for group in range(opened.num_row_groups):
                self._add("parquet", name, (file,), group, group + 1, row)
                row += opened.metadata.row_group(group).num_rows


def _mapped(descriptor: int) -> mmap.mmap:
    return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)


def _let_go(content: mmap.mmap, start: int, stop: int) -> None:
    """Let whole pages of a run leave this process's memory; they stay in the system's cache."""
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    num_bytes = (stop - first) // mmap.PAGESIZE * mmap.PAGESIZE
    if num_bytes > 0:
        content.madvise(mmap.MADV_DONTNEED, first, num_bytes)


def _hash(file: Path) -> str:
    from xxhash import xxh3_128

    hashed = xxh3_128()
    with file.open("rb") as stream:
        while piece := stream.read(_UNIT_BYTES):
            hashed.update(piece)
    return hashed.hexdigest()


def _schema(units: list[Unit], text_column: str, id_column: str) -> "tuple[pa.Schema, list[str]]":
    """Return the columns of all shards together, as they appear, and notes on what is left out."""
    import pyarrow as pa

    from treadle.core.table.batches import LINE_SCHEMA

    found = pa.schema(list(LINE_SCHEMA)[:2])
    notes = []
    seen: set[tuple[Path, ...]] = set()
    for unit in units:
        if unit.files in seen or (unit.kind == "files" and not _has_partition(unit)):
            continue
        seen.add(unit.files)
        schema = LINE_SCHEMA
        if unit.kind == "parquet":
            schema, repeated = _shard_schema(unit, text_column, id_column)
            notes += [
                f"Of the columns '{name}' of '{unit.name}' the first is read." for name in repeated
            ]
        before = (found, schema)
        try:
            found = pa.unify_schemas([found, schema], promote_options="permissive")
        except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
            raise DataError(
                f"The columns of '{unit.files[0]}' do not fit those of the shards before it: "
                f"{error}. Cast the column to one type, or curate the shards apart."
            ) from error
        notes += [note for one in before for note in _notes_on_rounding(one, found)]
    return found, list(dict.fromkeys(notes))


def _notes_on_rounding(before: "pa.Schema", after: "pa.Schema") -> list[str]:
    """Return notes on decimal columns that became floats."""
    import pyarrow as pa

    names = [
        field.name
        for field in before
        if pa.types.is_decimal(field.type) and pa.types.is_floating(after.field(field.name).type)
    ]
    return [
        f"The column '{name}' is decimal in some shards and float in others, and is read as float: "
        f"digits that no float has are lost; cast it to one type to keep them."
        for name in names
    ]


def _has_partition(unit: Unit) -> bool:
    base = Path(unit.name)
    return any(partition_of(name_of_path(file, base)) for file in unit.files)


def _shard_schema(
    unit: Unit, text_column: str, id_column: str
) -> "tuple[pa.Schema, tuple[str, ...]]":
    from treadle.core.table.parquet import open_parquet, shard_of

    keys = tuple(key for key, _ in unit.partition)
    with open_parquet(unit.files[0]) as opened:
        shard = shard_of(opened.schema_arrow, unit.files[0], text_column, id_column, keys)
    return shard.schema, shard.repeated
