"""What a verb did: inputs, settings, cost, quality and figures, as one JSON file.

Reports read only these; nothing in them has to be read out of a name or a sentence.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from treadle.core.errors import DataError

__all__ = [
    "FORMAT",
    "RESULT_FILE",
    "Basis",
    "Column",
    "Comparison",
    "Entry",
    "Figure",
    "Input",
    "Measurement",
    "Result",
    "Role",
    "Series",
    "Table",
    "digest",
    "fingerprint",
    "read_result",
    "write_result",
]

RESULT_FILE = "result.json"
FORMAT: Literal[2] = 2
_MOST_DIGITS = 300
"""Longer whole numbers have no float."""
Basis = Literal["measured", "emulated", "simulated"]
"""How a number came about; numbers of different bases never stand in one table."""
Role = Literal[
    "model", "base", "teacher", "adapter", "config", "tokenizer", "data", "baseline", "server"
]
"""What an input is to the run: a model (its weights are in what the run made or measured), the base
that models were tuned from, a model that was learned from, an adapter, a config, a tokenizer, data
that was read, the result that this one is compared with, or a server that was asked."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Input(_Record):
    """One thing that the verb read."""

    name: str
    path: str
    content_hash: str
    role: Role


class Comparison(_Record):
    """What a measurement compares with what."""

    score: str
    """Name of the measurement of this result whose value is compared."""
    neutral: float
    """The value that says "no difference": 1 of a ratio, 0 of a difference."""
    baseline: str = ""
    """Fingerprint of the result it is compared with, or the name of one of this run's inputs; the
    driver fills it in where a method cannot know it."""


class Measurement(_Record):
    """One number with what is needed to trust it."""

    name: str
    value: float
    unit: str = ""
    low: float | None = None
    """Lower end of the 95 % interval."""
    high: float | None = None
    better: Literal["lower", "higher", "neither"] = "neither"
    basis: Basis = "measured"
    comparison: Comparison | None = None
    """Set where the value is a ratio or a difference to something else."""
    protocol: str | None = None
    """Hash of the protocol under which it was measured; numbers of different protocols are never
    compared."""
    note: str = ""


class Series(_Record):
    """One line, bar group or point cloud of a figure."""

    name: str
    x: list[float | str]
    y: list[float]
    low: list[float] | None = None
    high: list[float] | None = None

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        for name, values in (("x", self.x), ("low", self.low), ("high", self.high)):
            if values is not None and len(values) != len(self.y):
                raise ValueError(
                    f"series '{self.name}' has {len(values)} values of {name} and {len(self.y)} of "
                    f"y; give one each"
                )
        return self


class Figure(_Record):
    """A figure as data; the page draws it."""

    kind: Literal["line", "bar", "scatter", "heatmap", "interval", "timeline", "picture"]
    title: str
    x_label: str
    y_label: str
    series: list[Series]
    basis: Basis = "measured"
    png_base64: str = ""
    """Of a picture: what a program showed, as it was seen."""

    @model_validator(mode="after")
    def _check_spans(self) -> Self:
        for series in self.series if self.kind == "timeline" else ():
            is_named = any(isinstance(x, str) for x in series.x)
            if is_named and (series.low is None or series.high is None):
                raise ValueError(
                    f"lane '{series.name}' of a timeline names its spans and does not say when "
                    f"they begin and end; give low and high"
                )
        return self


class Column(_Record):
    """One column of a table."""

    name: str
    unit: str = ""
    better: Literal["lower", "higher", "neither"] = "neither"
    neutral: float | None = None
    """The value that says "no difference", where the column compares with something."""


class Entry(_Record):
    """One place of a table: a number with its interval, a word, or nothing."""

    value: float | str | None = None
    low: float | None = None
    """Lower end of the 95 % interval."""
    high: float | None = None
    note: str = ""


class Table(_Record):
    """A table as data; the page draws it."""

    title: str
    columns: list[Column]
    rows: list[list[Entry]]
    basis: Basis = "measured"
    notes: list[str] = Field(default_factory=list)
    """How its numbers came about: what was averaged, which intervals they are."""
    losses: list[str] | None = None
    """Rows that do worse than they should; None where nothing was compared."""

    @model_validator(mode="after")
    def _check_widths(self) -> Self:
        for number, row in enumerate(self.rows, 1):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"row {number} of table '{self.title}' has {len(row)} places for "
                    f"{len(self.columns)} columns; give one each"
                )
        return self


class Result(_Record):
    """The whole account of one run of a verb."""

    format: Literal[2] = FORMAT
    verb: str
    action: str = ""
    """What the verb was asked to do beside its methods; empty for its main work."""
    method: str
    """Name of the method; empty where verb or action has none."""
    is_control: bool = False
    """Whether the method is trivial, so that others must beat it."""
    is_resumed: bool = False
    """Whether an interrupted run's work was taken up: then the costs are of the last part only."""
    deed: str = ""
    """What was done to a model, in plain words that name no method, such as "half of the weights
    removed": the page tells side by side what did the same."""
    settings: dict[str, Any]  # Any: JSON values
    seed: int
    inputs: list[Input]
    output: str = ""
    fingerprint: str
    started: str
    seconds: float
    cpu_seconds: float
    peak_memory_bytes: int
    bytes: dict[str, int] = Field(default_factory=dict)
    """Byte counts by name: `input` and `output` of files, `zeros` of the input's numbers that are
    zero, `held` of the weights as they lay in memory."""
    protocol: dict[str, Any] | None = None  # Any: JSON values
    measurements: list[Measurement] = Field(default_factory=list)
    figures: list[Figure] = Field(default_factory=list)
    tables: list[Table] = Field(default_factory=list)
    """Where many runs are told of side by side."""
    samples: dict[str, list[float]] = Field(default_factory=dict)
    """Per-example values that a later run pairs against."""
    notes: list[str] = Field(default_factory=list)
    versions: dict[str, str]
    hardware: dict[str, Any]  # Any: JSON values

    @property
    def command(self) -> str:
        """Return the words that name what was done: the verb, and its action if there is one."""
        return f"{self.verb} {self.action}".strip()

    def measurement(self, name: str) -> Measurement:
        """Return the measurement called `name`.

        Raises:
            DataError: The result has none of that name.
        """
        for entry in self.measurements:
            if entry.name == name:
                return entry
        found = ", ".join(entry.name for entry in self.measurements) or "none"
        raise DataError(
            f"The result of '{self.command} {self.method}' has no measurement '{name}' (it has: "
            f"{found}); "
            f"run the verb that measures it."
        )


def digest(value: Any) -> str:  # Any: JSON values
    """Return the sha256 of `value` written as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(
    verb: str, settings: dict[str, Any], seed: int, inputs: dict[str, str]
) -> str:  # Any: JSON values
    """Return the hash that says "the same run".

    It covers verb, settings, seed and the content hashes of the inputs.
    """
    return digest({"verb": verb, "settings": settings, "seed": seed, "inputs": inputs})


def write_result(result: Result, folder: Path) -> Path:
    """Write `result` as `folder`/result.json, beside and renamed into place.

    Where that fails, a folder that it made goes again.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RESULT_FILE
    beside = folder / f".{RESULT_FILE}.{os.getpid()}"
    try:
        beside.write_text(result.model_dump_json(indent=2) + "\n")
        os.replace(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)
        if is_new:
            folder.rmdir()
        raise
    return path


def read_result(path: Path) -> Result:
    """Read a result file, or the one in the folder `path`.

    Raises:
        DataError: There is none, or it is not one that this version wrote.
    """
    file = path / RESULT_FILE if path.is_dir() else path
    if not file.is_file():
        raise DataError(
            f"No result at '{file}'; give the output folder of a verb, or its {RESULT_FILE}."
        )
    try:
        found = _format(file)
    except DataError as error:
        raise DataError(
            f"'{file}' is not a result that treadle wrote ({error}); run its verb again."
        ) from error
    if found is not None and found != FORMAT:
        age = "an older treadle, whose results say less" if found < FORMAT else "a newer treadle"
        raise DataError(
            f"'{file}' was written by {age} (format {found}, this one reads {FORMAT}); run its "
            f"verb again (a recipe does so by itself)."
        )
    try:
        if found is None:
            raise DataError("it says no format")
        return Result.model_validate_json(file.read_text())
    except (ValidationError, UnicodeDecodeError, DataError) as error:
        raise DataError(
            f"'{file}' is not a result that treadle wrote ({_first_mistake(error)}); run its verb "
            f"again."
        ) from error


def _first_mistake(error: Exception) -> str:
    """Return what is wrong first, and where."""
    if not isinstance(error, ValidationError):
        return str(error).splitlines()[0]
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]


def _counted(digits: str) -> int:
    """Return a whole number of a result, which is none beyond every count."""
    if len(digits) > _MOST_DIGITS:
        raise DataError(f"a whole number of {len(digits)} digits stands in it")
    return int(digits)


def _format(file: Path) -> int | None:
    """Return the format that a result says it has, if it is one."""
    try:
        found = json.loads(file.read_bytes(), parse_int=_counted)["format"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return found if isinstance(found, int) and not isinstance(found, bool) else None
