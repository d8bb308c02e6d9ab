"""The files of a source: a path, a pattern or a folder, links followed, and what is left unread."""

import glob
import os
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from treadle.core.errors import DataError
from treadle.core.mistaken import pointed
from treadle.core.table.recognise import JSON_MEND, JsonForm, json_form, refuse_mistaken
from treadle.core.table.units import Kind

__all__ = [
    "Found",
    "files_below",
    "find",
    "kind_of",
    "name_of_path",
    "partition_of",
    "refused_columns",
    "split_sources",
]

_SUFFIXES: dict[str, Kind] = {
    ".jsonl": "lines",
    ".ndjson": "lines",
    ".jsonl.gz": "gzip",
    ".ndjson.gz": "gzip",
    ".json": "lines",
    ".json.gz": "gzip",
    ".jsonl.zst": "zstd",
    ".jsonl.zstd": "zstd",
    ".ndjson.zst": "zstd",
    ".json.zst": "zstd",
    ".parquet": "parquet",
    ".warc": "warc",
    ".warc.gz": "warc",
    ".warc.zst": "warc",
    ".warc.wet": "warc",
    ".warc.wet.gz": "warc",
}
_JSON = (".json", ".json.gz", ".json.zst")
"""Ends of the names of files that hold lines of records, or something else in JSON."""
_TABLES = (".csv", ".tsv", ".json")
"""Ends of the names of files that most often hold records, and are read as one text each."""
_UNPACK = "unpack it and give the folder"
_COMPRESS = (
    "unpack it, or compress JSON lines with gzip or zstd and name them .jsonl.gz or .jsonl.zst"
)
_CONVERT = "convert it to Parquet or JSON lines"
_ARCHIVES = {
    **dict.fromkeys((".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz"), _UNPACK),
    **dict.fromkeys((".zip", ".7z", ".rar"), _UNPACK),
    **dict.fromkeys((".bz2", ".xz", ".lz4", ".br", ".lzma", ".gz", ".zst", ".zstd"), _COMPRESS),
    **dict.fromkeys((".arrow", ".feather", ".orc", ".avro", ".pkl", ".npz"), _CONVERT),
}
"""Ends of the names of files that hold documents in a form that is not read -> the mend."""
_LEAST_SHARDS = 0.1
"""Part of a folder's files that are shards; with fewer it is a tree that holds some by chance."""
_STDLIB = "stdlib:sources"
_AND = " + "
"""Between several sources that are read as one."""
_ANY_DEPTH = "**"
_PARTS = "data"
"""Folder of the text inside an output of ours, beside the side-cars."""
_NOT_SOURCES = {"__pycache__", "site-packages", "dist-packages", "test", "tests", "idlelib"}
"""Of the standard library: what is installed beside it, and what only tests it."""
_NULL = "__HIVE_DEFAULT_PARTITION__"
"""What Hive and Spark write into a path for a value that is missing."""

_HIDDEN, _NOWHERE = "hidden", "links that lead nowhere"
_TWICE, _SPECIAL = "links to a folder that is read under another name", "neither file nor folder"


class Found(NamedTuple):
    """The files of one source, in the order of their names."""

    root: Path
    roots: tuple[Path, ...]
    """What was named: the root, or all that a pattern matches."""
    base: Path
    """Documents and shards are called by their path from here."""
    files: list[Path]
    has_shards: bool
    """Whether the files are shards; if not, each is a document."""
    notes: list[str]


def split_sources(data: str | Path) -> list[str | Path]:
    """Return the sources that are named as "A + B"; a path that exists is one source."""
    return [data] if Path(data).exists() else list(str(data).split(_AND))


def find(data: str | Path, is_one_of_several: bool, text_column: str = "text") -> Found:
    """Return the files of a file, a folder or a pattern such as "data/**/*.jsonl".

    A file named .json is a shard if it holds lines of records.

    Raises:
        DataError: There is nothing, or something that cannot be read as documents.
    """
    root, roots = _resolve(data)
    skipped: Counter[str] = Counter()
    files = _once([file for one in roots for file in files_below(one, skipped)])
    documents = {  # in JSON, each as a whole
        file: form
        for file in files
        if file.name.lower().endswith(_JSON) and (form := json_form(file, text_column)) != "lines"
    }
    shards = [file for file in files if kind_of(file) is not None and file not in documents]
    for file in documents if shards else ():
        if what := pointed(file):
            raise DataError(f"'{file}' is {what}.")
    if len(shards) < _LEAST_SHARDS * len(files):
        shards = []
    notes = [f"{n} entries of '{root}' are not read: {what}." for what, n in skipped.items()]
    if not shards:
        _refuse_archives(files, roots, documents)
        notes += _notes_on_tables(files, root)
    elif len(shards) < len(files):
        num_ignored = len(files) - len(shards)
        notes += [
            f"{num_ignored} files beside the shards of '{root}' are no shards and not read."
            + _said_of(documents)
        ]
    base = _base_of(root, is_one_of_several and roots == (root,))
    return Found(root, roots, base, shards or files, bool(shards), notes)


def _base_of(root: Path, is_one_of_several: bool) -> Path:
    """Return what names are counted from."""
    # Of several trees the names of their folders tell documents of equal paths apart.
    base = root if root.is_dir() and not is_one_of_several else root.parent
    while any(_pairs(f"{base.name}/")):  # lang=en says something, even where it is the source
        base = base.parent
    return base


def _resolve(data: str | Path) -> tuple[Path, tuple[Path, ...]]:
    """Return what names are counted from, and the files and folders that are meant."""
    if str(data) == _STDLIB:
        root = Path(sysconfig.get_path("stdlib"))
        return root, (root,)
    root = Path(data)
    if not root.exists() and glob.has_magic(str(data)):
        return _matches(str(data))
    if not root.exists():
        raise DataError(
            f"No documents at '{root}'; give a file, a folder, a pattern such as 'data/*.jsonl', "
            f"or {_STDLIB} for the Python standard library's own sources."
        )
    is_ours = (root / _PARTS).is_dir() and (root / "result.json").is_file()
    root = root / _PARTS if is_ours else root
    return root, (root,)


def _matches(pattern: str) -> tuple[Path, tuple[Path, ...]]:
    """Return the folder that a pattern begins with, and what it matches."""
    parts = Path(pattern).parts
    num_plain = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    base, rest = Path(*parts[:num_plain]), parts[num_plain:]
    if _ANY_DEPTH in rest:  # the library would go round in links for ever
        files = files_below(base, Counter()) if base.is_dir() else []
        found = [one for one in files if _fits(one.relative_to(base).parts, rest)]
    else:
        found = sorted(map(Path, glob.glob(pattern)), key=lambda path: path.as_posix())
    if not found:
        raise DataError(
            f"Nothing matches '{pattern}'; look at the folder it begins with, and quote the "
            f"pattern so that the shell leaves it."
        )
    return base, tuple(found)


def _fits(names: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether a path is what a pattern means; ** stands for any number of folders."""
    if not pattern:
        return not names
    first, *others = pattern
    if first == _ANY_DEPTH:
        rest = tuple(others) or ("*",)
        return any(_fits(names[place:], rest) for place in range(len(names)))
    return bool(names) and fnmatchcase(names[0], first) and _fits(names[1:], tuple(others))


def _once(files: list[Path]) -> list[Path]:
    """Return the files without those that a pattern meets a second time."""
    seen: dict[tuple[str, str], Path] = {}
    for file in files:
        seen.setdefault((os.path.realpath(file.parent), file.name), file)
    return list(seen.values())


def _said_of(documents: Mapping[Path, JsonForm]) -> str:
    """Return the end of a note on files in JSON that hold no lines of records."""
    if not documents:
        return ""
    first, form = next(iter(documents.items()))
    return (
        f" {len(documents)} of them are no JSON lines ('{first.name}' is one {form}): {JSON_MEND}."
    )


def _refuse_archives(
    files: list[Path], roots: tuple[Path, ...], documents: Mapping[Path, JsonForm]
) -> None:
    """Refuse a file that holds records in another form, and a tree of nothing but such files."""
    mends = [_mend_of(file) for file in files]
    if files and all(mend or file in documents for mend, file in zip(mends, files, strict=True)):
        if files[0] in documents:
            refuse_mistaken(files[0], kind_of(files[0]) or "lines")
            form = documents[files[0]] if files[0].stat().st_size else "file without content"
            raise DataError(f"'{files[0]}' is one JSON {form}, not lines of records; {JSON_MEND}.")
        raise DataError(f"'{files[0]}' is of a kind that is not read; {mends[0]}.")
    table = next((one for one in roots if one.suffix.lower() in _TABLES and one.is_file()), None)
    if table is not None:
        raise DataError(
            f"'{table}' would be one text as a whole, its records too; convert it to JSON lines "
            f"(.jsonl) or Parquet. If each of its lines is a JSON object, name it .jsonl."
        )


def _mend_of(file: Path) -> str | None:
    name = file.name.lower()
    return next((mend for suffix, mend in _ARCHIVES.items() if name.endswith(suffix)), None)


def _notes_on_tables(files: list[Path], root: Path) -> list[str]:
    notes = []
    if tables := [file for file in files if file.suffix.lower() in _TABLES]:
        notes.append(
            f"{len(tables)} files in '{root}' end in {', '.join(_TABLES)} and are one text each "
            f"(the first: '{tables[0].name}'); if they hold records, convert them to .jsonl."
        )
    if archives := [file for file in files if _mend_of(file)]:
        notes.append(
            f"{len(archives)} files in '{root}' are archives or tables of a kind that is not read "
            f"(the first: '{archives[0].name}'); {_mend_of(archives[0])}."
        )
    return notes


def files_below(root: Path, skipped: "Counter[str]") -> list[Path]:
    """Return the files below a folder in the order of their names, and count what is skipped."""
    if not root.is_dir():
        return [root] if root.is_file() else _count(skipped, _SPECIAL)
    is_stdlib = root == Path(sysconfig.get_path("stdlib"))
    if is_stdlib:
        skipped = Counter()
    found, seen = [], {os.path.realpath(root)}
    for folder, names, files in os.walk(root, followlinks=True, onerror=_refuse_closed):
        names[:] = [
            name
            for name in sorted(names)
            if not (is_stdlib and name in _NOT_SOURCES)
            and _is_new(Path(folder) / name, root, seen, skipped)
        ]
        for name in sorted(files):
            file = Path(folder) / name
            if name.startswith("."):
                skipped[_HIDDEN] += 1
            elif not file.is_file():
                skipped[_SPECIAL if file.exists() else _NOWHERE] += 1
            elif not is_stdlib or name.endswith(".py"):
                found.append(file)
    return sorted(found, key=lambda file: file.relative_to(root).as_posix())


def _count(skipped: "Counter[str]", what: str) -> list[Path]:
    skipped[what] += 1
    return []


def _is_new(folder: Path, root: Path, seen: set[str], skipped: "Counter[str]") -> bool:
    """Whether to go into a folder: once into each, under its own name if it has one in here."""
    if folder.name.startswith("."):
        skipped[_HIDDEN] += 1
        return False
    real = os.path.realpath(folder)
    if real in seen or (folder.is_symlink() and _is_met_anyway(Path(real), root)):
        skipped[_TWICE] += 1
        return False
    seen.add(real)
    return True


def _is_met_anyway(folder: Path, root: Path) -> bool:
    """Whether a folder lies openly in the source, or the source in it."""
    top = Path(os.path.realpath(root))
    if not folder.is_relative_to(top):
        return folder in top.parents
    return not any(part.startswith(".") for part in folder.relative_to(top).parts)


def _refuse_closed(error: OSError) -> None:
    raise DataError(
        f"The folder '{error.filename}' cannot be read ({error.strerror}); change its permissions, "
        f"or move it out of the source."
    ) from error


def kind_of(file: Path) -> Kind | None:
    """Return what kind of shard a file is by its name, or None."""
    name = file.name.lower()
    return next((kind for suffix, kind in _SUFFIXES.items() if name.endswith(suffix)), None)


def name_of_path(file: Path, base: Path) -> str:
    """Return what a file is called in the source; bytes that are no UTF-8 stand as escapes."""
    path = file.relative_to(base).as_posix()
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def partition_of(name: str, taken: Iterable[str] = ()) -> tuple[tuple[str, str | None], ...]:
    """Return the columns that folders say, as Hive writes them: lang=en/part-0.parquet.

    Args:
        name: Path of a file inside its source.
        taken: Columns that no path can say.
    """
    refused = set(refused_columns(name, taken))
    return tuple((key, value) for key, value in _pairs(name) if key not in refused)


def refused_columns(name: str, taken: Iterable[str] = ()) -> list[str]:
    """Return the columns that a path says and that documents have of their own."""
    return [key for key, _ in _pairs(name) if key in {"id", "text", *taken}]


def _pairs(name: str) -> Iterator[tuple[str, str | None]]:
    for part in name.split("/")[:-1]:
        key, mark, value = part.partition("=")
        if key and mark:
            yield unquote(key), None if value == _NULL else unquote(value)
