"""Where documents come from: files found, hashed and cut into units that can be read in any order.

A unit is a run of whole documents of one file (or of whole small files), about 16 MB of it, so that
one large file is shared between workers. How a source is cut never shows in what is made of it.
"""

import mmap
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from treadle.core.errors import DataError
from treadle.core.result import digest
from treadle.core.table.units import Kind, LineParser, Source, Unit

if TYPE_CHECKING:
    import pyarrow as pa

    from treadle.core.table.batches import TableBatch

__all__ = ["batches_of", "open_source"]

_SUFFIXES: dict[str, Kind] = {
    ".jsonl": "lines",
    ".ndjson": "lines",
    ".jsonl.gz": "gzip",
    ".json.gz": "gzip",
    ".jsonl.zst": "zstd",
    ".json.zst": "zstd",
    ".parquet": "parquet",
    ".warc": "warc",
    ".warc.gz": "warc",
    ".warc.zst": "warc",
    ".warc.wet.gz": "warc",
}
_TABLES = (".csv", ".tsv", ".json")
"""Ends of the names of files that most often hold records, and are read as one text each."""
_UNIT_BYTES = 16 << 20
_UNIT_FILES = 2000
_LEAST_SHARDS = 0.1
"""Part of a folder's files that are shards; with fewer it is a tree that holds some by chance."""
_PIECE_BYTES = 1 << 20
"""Counted and hashed at a time: what the processor's cache holds."""
_STDLIB = "stdlib:sources"
_AND = " + "
"""Between several sources that are read as one."""
_PARTS = "data"
"""Folder of the text inside an output of ours, beside the side-cars."""
_NOT_SOURCES = {"__pycache__", "site-packages", "dist-packages", "test", "tests", "idlelib"}
"""Of the standard library: what is installed beside it, and what only tests it."""


def batches_of(source: Source, unit: Unit) -> "Iterator[TableBatch]":
    """Yield the documents of a unit, a few megabytes at a time, and what was refused.

    Raises:
        DataError: The file is damaged, or lacks the text column.
    """
    from treadle.core.table.readers import read_unit

    return read_unit(source, unit)


def open_source(
    data: str | Path,
    text_column: str = "text",
    id_column: str = "id",
    parser: LineParser | None = None,
) -> Source:
    """Find, hash and cut the documents of a file, a folder of shards, or a tree of text files.

    A folder is its shards (JSONL, Parquet or WARC, also compressed) if they are a tenth of its
    files; any other folder is a tree in which each file is a document. A folder that treadle wrote
    is its text. `stdlib:sources` stands for the Python standard library's own sources, and "A + B"
    for one source after the other. A `parser` reads plain JSON lines faster; what comes out is the
    same.

    Raises:
        DataError: There is nothing to read, the source is a table in CSV or a JSON document, or the
            shards do not fit together.
    """
    named = [data] if Path(data).exists() else str(data).split(_AND)
    roots = [_resolve(part) for part in named]
    cutter = _Cutter()
    notes = [note for root in roots for note in _cut(root, cutter, len(roots) > 1)]
    if not cutter.units:
        raise DataError(
            f"'{data}' holds no documents; give a JSONL or Parquet file, a folder of them, or a "
            f"folder of text files."
        )
    root = roots[0] if len(roots) == 1 else Path(str(data))
    return Source(
        root,
        tuple(cutter.units),
        digest(cutter.digests),
        cutter.num_bytes,
        text_column,
        id_column,
        _schema(cutter.units, text_column, id_column),
        tuple(notes),
        parser,
        tuple(roots),
    )


def _cut(root: Path, cutter: "_Cutter", is_one_of_several: bool) -> list[str]:
    """Cut the files of a source, and return notes on what is not read."""
    _refuse_table(root)
    files = [root] if root.is_file() else _files_of(root)
    shards = [file for file in files if _kind(file) is not None]
    if len(shards) < _LEAST_SHARDS * len(files):
        shards = []
    # Of several trees the names of their folders tell documents of equal paths apart.
    base = root.parent if root.is_file() or is_one_of_several else root
    if not shards:
        cutter.add_tree(files, base)
    for file in shards:
        cutter.add_shard(file, base)
    if not shards:
        return _notes_on_tables(files, root)
    ignored = len(files) - len(shards)
    if not ignored:
        return []
    return [f"{ignored} files beside the shards of '{root}' are no shards and not read."]


def _refuse_table(file: Path) -> None:
    if file.is_file() and file.suffix.lower() in _TABLES:
        raise DataError(
            f"'{file}' would be one text as a whole, its records too; convert it to JSON lines "
            f"(.jsonl) or Parquet. If each of its lines is a JSON object, name it .jsonl."
        )


def _notes_on_tables(files: list[Path], root: Path) -> list[str]:
    tables = [file for file in files if file.suffix.lower() in _TABLES]
    if not tables:
        return []
    return [
        f"{len(tables)} files in '{root}' end in {', '.join(_TABLES)} and are one text each (the "
        f"first: '{tables[0].relative_to(root)}'); if they hold records, convert them to .jsonl."
    ]


def _resolve(data: str | Path) -> Path:
    if str(data) == _STDLIB:
        return Path(sysconfig.get_path("stdlib"))
    root = Path(data)
    if not root.exists():
        raise DataError(
            f"No documents at '{root}'; give a file, a folder, or {_STDLIB} for the Python "
            f"standard library's own sources."
        )
    is_ours = (root / _PARTS).is_dir() and (root / "result.json").is_file()
    return root / _PARTS if is_ours else root


def _files_of(root: Path) -> list[Path]:
    """Return the files below a folder in the order of their names, without hidden ones."""
    is_stdlib = root == Path(sysconfig.get_path("stdlib"))
    found = []
    for folder, names, files in os.walk(root):
        names[:] = sorted(
            name
            for name in names
            if not name.startswith(".") and not (is_stdlib and name in _NOT_SOURCES)
        )
        for name in sorted(files):
            file = Path(folder) / name
            is_wanted = not name.startswith(".") and (not is_stdlib or name.endswith(".py"))
            if is_wanted and file.is_file():  # links may lead nowhere
                found.append(file)
    return sorted(found, key=lambda file: file.relative_to(root).as_posix())


def _kind(file: Path) -> Kind | None:
    name = file.name.lower()
    return next((kind for suffix, kind in _SUFFIXES.items() if name.endswith(suffix)), None)


class _Cutter:
    """Reads every byte once: for its hash, and for where units begin."""

    def __init__(self) -> None:
        self.units: list[Unit] = []
        self.digests: list[tuple[str, str]] = []
        self.num_bytes = 0

    def add_shard(self, file: Path, base: Path) -> None:
        kind = _kind(file)
        assert kind is not None
        size = file.stat().st_size
        name = file.relative_to(base).as_posix()
        self.num_bytes += size
        if kind == "lines":
            self._add_lines(file, name, size)
        else:
            self.digests.append((name, _hash(file)))
        if kind == "parquet":
            self._add_row_groups(file, name)
        elif kind != "lines":
            self._add(kind, name, (file,), 0, size, 0)

    def add_tree(self, files: list[Path], base: Path) -> None:
        """Each file is a document; a few thousand of them, or 16 MB, are a unit."""
        taken: list[Path] = []
        taken_bytes = 0
        for file in files:
            size = file.stat().st_size
            self.num_bytes += size
            self.digests.append((file.relative_to(base).as_posix(), _hash(file)))
            if taken and (taken_bytes + size > _UNIT_BYTES or len(taken) >= _UNIT_FILES):
                self._add("files", str(base), tuple(taken), 0, 0, 0)
                taken, taken_bytes = [], 0
            taken.append(file)
            taken_bytes += size
        if taken:
            self._add("files", str(base), tuple(taken), 0, 0, 0)

    def _add(self, kind: Kind, name: str, files: tuple[Path, ...], *place: int) -> None:
        self.units.append(Unit(len(self.units), kind, name, files, *place))

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
        from treadle.core.table.readers import open_parquet

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


def _schema(units: list[Unit], text_column: str, id_column: str) -> "pa.Schema":
    """Return the columns of all shards together, in the order in which they appear."""
    import pyarrow as pa

    from treadle.core.table.batches import LINE_SCHEMA
    from treadle.core.table.readers import open_parquet, shard_schema

    found = pa.schema(list(LINE_SCHEMA)[:2])
    seen: set[tuple[Path, ...]] = set()
    for unit in units:
        if unit.files in seen or unit.kind == "files":
            continue
        seen.add(unit.files)
        schema = LINE_SCHEMA
        if unit.kind == "parquet":
            with open_parquet(unit.files[0]) as opened:
                schema = shard_schema(opened.schema_arrow, unit.files[0], text_column, id_column)
        try:
            found = pa.unify_schemas([found, schema], promote_options="permissive")
        except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
            raise DataError(
                f"The columns of '{unit.files[0]}' do not fit those of the shards before it: "
                f"{error}. Cast the column to one type, or curate the shards apart."
            ) from error
    return found
