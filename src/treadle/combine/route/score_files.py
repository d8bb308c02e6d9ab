"""Score tables from files: JSON, JSONL and Parquet, and folders as RouterDC publishes them.

Such a folder holds a file for each task, named after it: ``gsm8k-train.json``, ``mmlu_test.json``;
or train.jsonl, dev.jsonl and test.jsonl, as `treadle route prepare` writes them. What says neither
is a task that nobody trains on. RouterBench's tables (.csv) bring costs along.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from treadle.combine.route.records import ScoredQuestions, table_of
from treadle.core.checkpoint.manifest import MANIFEST_FILE
from treadle.core.errors import DataError
from treadle.core.result import RESULT_FILE
from treadle.core.table.questions import read_lines

__all__ = ["Scored", "read_scores"]

Side = Literal["train", "test"]
_SIDE = re.compile(r"[-_.]?(train|dev|test)$")
_SUFFIXES = (".json", ".jsonl", ".parquet", ".csv")
_COST = "|total_cost"
_CSV_KEYS = ("sample_id", "prompt", "eval_name")
_BESIDE = ("oracle_model_to_route_to",)
"""Columns of RouterBench that are no model's."""
_LONGEST_FIELD = 1 << 24

Found = tuple[str, Any]  # Any: a JSON value
"""Where a record stands, and what it says."""


class Scored(NamedTuple):
    """What was read."""

    table: ScoredQuestions
    notes: list[str]


def read_scores(data: Path, side: Side) -> Scored:
    """Read a table of scores: a file, or the files of one side of a folder.

    Args:
        data: A file of records in JSON, JSONL or Parquet, a table of RouterBench in CSV, or a
            folder of such files whose names say the task, and train or test.
        side: Of a folder, what is read: files of training, or all others but those named dev.

    Raises:
        DataError: It is missing or damaged, or holds no records.
    """
    if data.is_dir():
        return _folder(data, side)
    return Scored(table_of(_records(data)), [])


def _folder(data: Path, side: Side) -> Scored:
    files = sorted(one for one in data.iterdir() if one.suffix.lower() in _SUFFIXES)
    files = [one for one in files if one.name not in (RESULT_FILE, MANIFEST_FILE)]
    told = [(one, *_named(one)) for one in files]
    wanted = ("train",) if side == "train" else ("test", None)
    taken = [(one, task) for one, task, said in told if said in wanted]
    if not taken:
        names = ", ".join(one.name for one in files) or "none"
        raise DataError(
            f"'{data}' holds no score files to {side} on (it has: {names}); name them after their "
            f"task, such as gsm8k_{side}.json."
        )
    found: list[Found] = []
    for file, task in taken:
        for where, record in _records(file):
            is_plain = isinstance(record, dict) and not {"task", "dataset"} & record.keys()
            found.append((where, {**record, "task": task} if is_plain and task else record))
    left = [one.name for one, _, said in told if said in (None, "dev")]
    notes = []
    if side == "train" and left:
        notes.append(
            f"Not trained on, as their names do not say train: {', '.join(left)}. Development "
            f"questions are given by --dev."
        )
    return Scored(table_of(found), notes)


def _named(file: Path) -> tuple[str, str | None]:
    """Return a file's task, and which side it is of."""
    found = _SIDE.search(file.stem)
    return (file.stem[: found.start()], found[1]) if found else (file.stem, None)


def _records(file: Path) -> Iterator[Found]:
    """Yield the records of a file."""
    if not file.is_file():
        raise DataError(
            f"There is no file '{file}'; give scores in JSON, JSONL or Parquet, or a folder of "
            f"score files."
        )
    if file.suffix.lower() == ".parquet":
        rows: Iterable[Any] = _parquet(file)  # Any: JSON values
    elif file.suffix.lower() == ".csv":
        rows = _csv(file)
    else:
        rows = _json(file)
    for number, row in enumerate(rows, 1):
        yield f"Record {number} of '{file}'", row


def _json(file: Path) -> list[Any]:  # Any: JSON values
    """Return the values of an array, or of lines."""
    with file.open("rb") as stream:
        head = stream.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not head.startswith(b"["):
        return read_lines(file, _as_it_is, '{"question": "...", "scores": {"model": 0.5}}')[0]
    try:
        found: list[Any] = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"'{file}' is no JSON ({str(error)[:120]}); write it again, or download it again."
        ) from error
    return found


def _as_it_is(row: Any) -> Any:  # Any: a JSON value
    return row


def _parquet(file: Path) -> list[Any]:  # Any: values of columns
    from treadle.core.table.parquet import open_parquet

    with open_parquet(file) as opened:
        rows: list[Any] = opened.read().to_pylist()
    return rows


def _csv(file: Path) -> Iterator[dict[str, Any]]:  # Any: JSON values
    """Yield the rows of a table of RouterBench: a column of scores and one of costs a model."""
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.DictReader(stream)
            columns = [one for one in rows.fieldnames or () if one]
            if not set(_CSV_KEYS) <= set(columns):
                raise DataError(
                    f"'{file}' is no table of RouterBench, whose columns are "
                    f"{', '.join(_CSV_KEYS)} and the models; convert it to JSONL."
                )
            priced = [one for one in columns if f"{one}{_COST}" in columns]
            models = priced or [
                one for one in columns if "|" not in one and one not in (*_CSV_KEYS, *_BESIDE)
            ]
            for row in rows:
                yield {  # without sample_id: the published files use some of them twice
                    "question": row["prompt"],
                    "task": row["eval_name"],
                    "scores": {one: _number(row[one]) for one in models},
                    "cost": {one: _number(row[f"{one}{_COST}"]) for one in priced},
                }
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"'{file}' is no table in CSV ({error}); download it again.") from error
    finally:
        csv.field_size_limit(before)


def _number(text: str | None) -> Any:  # Any: a number, or what stands in its place
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        return text
