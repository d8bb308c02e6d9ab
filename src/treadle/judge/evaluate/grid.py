"""The action grid: several models on several sets of questions, each pair measured once."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from treadle.core.arguments import checked
from treadle.core.errors import DataError, SettingsError
from treadle.core.progress import steps
from treadle.core.result import (
    RESULT_FILE,
    Column,
    Entry,
    Figure,
    Measurement,
    Result,
    Series,
    Table,
    digest,
)
from treadle.core.run import Recording, recorded
from treadle.judge.evaluate.base import TaskPrompts
from treadle.judge.evaluate.methods.exact import Exact
from treadle.judge.evaluate.paired import share
from treadle.judge.evaluate.subject import Subject

__all__ = ["evaluate_grid"]

_WORDS = ("*token*", "chat_template*", "generation_config.json", "merges*", "vocab*", "*.model")
"""Files of a tokenizer, and of where answers end."""

_CELLS = "cells"
_CONTROL = "commonest answer"


@checked
def evaluate_grid(
    models: list[str | Path],
    out: Path,
    *,
    data: list[str],
    num_questions: int | None = None,
    max_tokens: int = 32,
    stop: str = "\n",
    is_chat: bool = False,
    overwrite: bool = False,
    trust_remote_code: bool = False,
) -> Result:
    """Ask several models several sets of questions, by exact match, and draw one heat map.

    Each model is loaded once, and asked through the runtime. What was measured lies in `out` by the
    hashes of model, data and settings, and is not asked again: neither after a crash, nor when
    models or data are added with `overwrite`. A row beside the models says what always giving the
    commonest answer would reach.

    Args:
        models: Hugging Face folders, GGUF files, packaged:smollm2 or hub ids.
        out: Folder for result.json, and for what was measured.
        data: Questions: JSONL files with prompt and answer, or skills such as skills:json.
        num_questions: Questions of each, from the start (default: all).
        max_tokens: Most tokens of an answer.
        stop: An answer ends before this; empty: nowhere but where the model ends it.
        is_chat: Put each model's chat template around each prompt.
        overwrite: Replace the result in `out`; what was measured stays.
        trust_remote_code: Run code that the checkpoints bring along.

    Returns:
        The account of the run: accuracies with intervals, one heat map and one table.

    Raises:
        SettingsError: `out` holds a result already, or a setting is refused.
        CheckpointError: A model cannot be read.
        DataError: Data are missing, damaged or too few, or a prompt cannot be answered.
    """
    out = Path(out)
    if (out / RESULT_FILE).exists() and not overwrite:
        raise SettingsError(
            f"'{out}' holds a result already; pass --overwrite (what was measured is not asked "
            f"again), or another folder."
        )
    if not models or not data:
        raise SettingsError("A grid needs at least one model and one set of data; name them.")
    task = _task(num_questions, max_tokens, stop, is_chat)
    asked = {name: task.prepare(name) for name in dict.fromkeys(data)}
    rows = _subjects(models, trust_remote_code)
    settings = task.settings()
    with recorded("evaluate", settings=settings, action="grid", out=out, overwrite=None) as run:
        for name, row in rows.items():
            run.read(name, row.path, row.content_hash, "model")
        for name, prepared in asked.items():
            run.read(name, name, prepared.protocol["data_sha256"], "data")
        grid = _measured(rows, asked, task, out / _CELLS)
        run.protocol = _protocol(asked)
        _account_for(run, grid, asked)
    return run.result


class _Row(NamedTuple):
    """A model of the grid."""

    path: str
    subject: Subject
    content_hash: str
    """Of its weights and its config."""


Grid = dict[tuple[str, str], list[float]]
"""By model and data: right (1) and wrong (0) answers, in the order of the questions."""


def _task(num_questions: int | None, max_tokens: int, stop: str, is_chat: bool) -> Exact:
    from treadle.judge.evaluate.tables import TASKS

    settings = {"max_tokens": max_tokens, "stop": stop, "is_chat": is_chat}
    found = TASKS.resolve({"method": "exact", "num_questions": num_questions, **settings})
    assert isinstance(found, Exact)
    return found


def _subjects(models: Sequence[str | Path], trust_remote_code: bool) -> dict[str, _Row]:
    """Return the models by short names; all are looked for before one is asked."""
    from treadle.model.load import resolve
    from treadle.model.source import source_hash

    found = {}
    for name, path in _names([str(model) for model in models]).items():
        folder = resolve(path, takes_files=True)
        subject = Subject(folder, "runtime", None, None, trust_remote_code)
        with subject.open() as reader:
            content_hash = digest([source_hash(folder), reader.config, _words_hash(folder)])
        found[name] = _Row(path, subject, content_hash)
    return found


def _names(paths: list[str]) -> dict[str, str]:
    """Return each path once, by as many of its last parts as tell it from the others."""
    found: dict[str, str] = {}
    distinct = list(dict.fromkeys(os.path.normpath(path) for path in paths))
    for path in distinct:
        parts = Path(path).parts
        for length in range(1, len(parts) + 1):
            name = "/".join(parts[-length:])
            if sum(Path(other).parts[-length:] == parts[-length:] for other in distinct) == 1:
                break
        found[name] = path
    return found


def _measured(
    rows: Mapping[str, _Row], asked: Mapping[str, TaskPrompts], task: Exact, cells: Path
) -> Grid:
    """Return every cell of the grid, of which those that lie in `cells` are not asked again."""
    grid: Grid = {}
    with steps("evaluate", len(rows) * len(asked)) as bar:
        for name, row in rows.items():
            generator = None
            for data, prepared in asked.items():
                file = cells / f"{digest([row.content_hash, prepared.protocol['hash']])[:32]}.json"
                right = _read(file)
                if right is None:
                    generator = generator or row.subject.generator()
                    answers = generator.answer(prepared.prompts, prepared.asked)
                    right = task.score(prepared, answers)[1]["accuracy"]
                    _write(file, {"model": row.path, "data": data, "accuracy": right})
                grid[name, data] = right
                bar.advance()
    return grid


def _read(file: Path) -> list[float] | None:
    """Return what a cell's file says, or None where it is not there."""
    try:
        text = file.read_text()
    except FileNotFoundError:
        return None
    try:
        return [float(value) for value in json.loads(text)["accuracy"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"'{file}' is no measurement that treadle wrote ({error}); remove it, and it is "
            f"measured again."
        ) from error


def _write(file: Path, cell: dict[str, Any]) -> None:  # Any: JSON values
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    beside.write_text(json.dumps(cell) + "\n")
    os.replace(beside, file)


def _protocol(asked: Mapping[str, TaskPrompts]) -> dict[str, Any]:  # Any: JSON values
    hashes = {name: prepared.protocol["hash"] for name, prepared in asked.items()}
    return {"task": "exact", "data": hashes, "hash": digest(hashes)[:16]}


def _account_for(run: Recording, grid: Grid, asked: Mapping[str, TaskPrompts]) -> None:
    control = {name: _commonest(prepared) for name, prepared in asked.items()}
    names = list(dict.fromkeys(name for name, _ in grid))
    scores = {key: share(f"{key[0]} on {key[1]}", right) for key, right in grid.items()}
    run.measurements += [
        entry.model_copy(update={"protocol": asked[data].protocol["hash"]})
        for (_, data), entry in scores.items()
    ]
    run.samples = {f"{name} on {data}": right for (name, data), right in grid.items()}
    rows = {name: [scores[name, data] for data in asked] for name in names}
    run.figures.append(_figure(rows, control))
    run.tables.append(_table(rows, asked, control))


def _commonest(prepared: TaskPrompts) -> float:
    """Return the accuracy of always giving the commonest answer."""
    return Counter(prepared.state).most_common(1)[0][1] / len(prepared.state)


def _figure(rows: Mapping[str, list[Measurement]], control: Mapping[str, float]) -> Figure:
    columns: list[float | str] = list(control)
    series = [
        Series(
            name=name,
            x=columns,
            y=[entry.value for entry in entries],
            low=[entry.low or 0.0 for entry in entries],
            high=[entry.high or 0.0 for entry in entries],
        )
        for name, entries in rows.items()
    ]
    values = list(control.values())
    series.append(Series(name=_CONTROL, x=columns, y=values, low=values, high=values))
    return Figure(
        kind="heatmap",
        title="Share of right answers",
        x_label="questions",
        y_label="model",
        series=series,
    )


def _table(
    rows: Mapping[str, list[Measurement]],
    asked: Mapping[str, TaskPrompts],
    control: Mapping[str, float],
) -> Table:
    columns = [Column(name="model")]
    columns += [Column(name=data, better="higher") for data in asked]
    body = [
        [Entry(value=name), *(Entry(value=e.value, low=e.low, high=e.high) for e in entries)]
        for name, entries in rows.items()
    ]
    body.append([Entry(value=_CONTROL), *(Entry(value=value) for value in control.values())])
    counts = ", ".join(f"{len(prepared.prompts)} of {name}" for name, prepared in asked.items())
    bounds = list(control.values())
    return Table(
        title="Share of right answers, with 95 % intervals",
        columns=columns,
        rows=body,
        notes=[f"Questions: {counts}. Intervals are Wilson's."],
        losses=[name for name, entries in rows.items() if not _beats(entries, bounds)],
    )


def _beats(entries: Sequence[Measurement], bounds: Sequence[float]) -> bool:
    """Whether a model is better somewhere than always giving the commonest answer."""
    pairs = zip(entries, bounds, strict=True)
    return any(entry.low is not None and entry.low > bound for entry, bound in pairs)


def _words_hash(folder: Path) -> str:
    """Return the hash of the small files by which a model reads prompts and ends answers."""
    found = hashlib.sha256()
    for pattern in _WORDS:
        for file in sorted(folder.glob(pattern)) if folder.is_dir() else ():
            found.update(file.name.encode())
            found.update(file.read_bytes())
    return found.hexdigest()
