"""Texts that a corpus is compared with: evaluation sets in whatever form they come."""

from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.errors import DataError, SettingsError
from treadle.core.mistaken import mistaken, pointed
from treadle.core.result import Input, digest
from treadle.core.table import NotJson, files_below, json_form, read_object, strings_in
from treadle.core.table.parquet import open_parquet
from treadle.native.text import Texts
from treadle.text.curate.base import CurateMethod

__all__ = ["Reference", "read_reference"]


class Reference(NamedTuple):
    """What a method made of the texts, and where they came from."""

    keys: npt.NDArray[np.uint64] | None
    inputs: list[Input]


def read_reference(method: CurateMethod, against: list[str] | list[Path] | None) -> Reference:
    """Read the texts and hand them to the method.

    Raises:
        SettingsError: The method needs such texts and there are none, or the reverse.
        DataError: A file is missing, or holds nothing to compare with.
    """
    needs = method.refer(Texts.of([])) is not None
    if needs != bool(against):
        raise SettingsError(
            f"'{method.name}' needs texts to compare with; name them with --against."
            if needs
            else f"'{method.name}' compares with no other texts; leave --against out."
        )
    found: list[str] = []
    inputs = []
    names = [str(name) for name in against or ()]  # of a recipe's artefact it is a path
    for name in names:
        strings = [text for file in _files(Path(name)) for text in _strings(file)]
        inputs.append(
            Input(name=f"against {name}", path=name, content_hash=digest(strings), role="data")
        )
        found += strings
    keys = method.refer(Texts.of(found)) if needs else None
    if keys is not None and not len(keys):
        raise DataError(
            f"{', '.join(names)} holds no text as long as a run to compare; shorten the "
            f"run, or name other files."
        )
    return Reference(keys, inputs)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        is_ours = (path / "data").is_dir() and (path / "result.json").is_file()
        root = path / "data" if is_ours else path
        return files_below(root, Counter())
    if not path.is_file():
        raise DataError(f"No evaluation set at '{path}'; give a file or a folder.")
    return [path]


def _strings(file: Path) -> Iterator[str]:
    """Yield every string of a file's records, or the text of a plain file."""
    if what := pointed(file):
        raise DataError(f"'{file}' is {what}.")
    try:
        if file.suffix == ".parquet":
            yield from _strings_of_parquet(file)
        elif file.suffix in (".jsonl", ".ndjson") or _has_lines(file):
            for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
                yield from _strings_of(line, f"line {number} of it is ")
        elif file.suffix == ".json":
            yield from _strings_of(file.read_bytes(), "it is ")
        else:
            yield file.read_text("utf-8")
    except (ValueError, OSError) as error:
        if what := mistaken(file):
            raise DataError(f"'{file}' is {what}.") from error
        raise DataError(
            f"'{file}' cannot be read as an evaluation set ({error}); give text, JSON, JSON lines "
            f"or Parquet."
        ) from error


def _has_lines(file: Path) -> bool:
    return file.suffix == ".json" and json_form(file, "text") == "lines"


def _strings_of(content: bytes, where: str) -> list[str]:
    """Return the strings of any JSON value."""
    value = content.removeprefix(BOM_UTF8).strip()
    if not value:
        return []
    try:
        return read_object(b'{"": ' + value + b"}").strings()
    except NotJson as refusal:
        raise ValueError(f"{where}{refusal}") from refusal


def _strings_of_parquet(file: Path) -> Iterator[str]:
    with open_parquet(file) as opened:
        for batch in opened.iter_batches():
            for column in batch.columns:
                yield from strings_in(column.to_pylist())
