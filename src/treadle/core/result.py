"""What a verb did: inputs, settings, cost, quality and figures, as one JSON file.

Reports read only these.
"""

import contextlib
import datetime
import hashlib
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from treadle.core import hardware
from treadle.core.errors import DataError
from treadle.core.timing import Stopwatch

__all__ = [
    "RESULT_FILE",
    "Figure",
    "Input",
    "Measurement",
    "Recording",
    "Result",
    "Series",
    "digest",
    "fingerprint",
    "read_result",
    "write_result",
]

RESULT_FILE = "result.json"
_PACKAGES = ("treadle", "torch", "transformers", "numpy")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Input(_Record):
    """One thing that the verb read."""

    name: str
    path: str
    content_hash: str


class Measurement(_Record):
    """One number with what is needed to trust it."""

    name: str
    value: float
    unit: str = ""
    low: float | None = None
    """Lower end of the 95 % interval."""
    high: float | None = None
    better: Literal["lower", "higher", "neither"] = "neither"
    basis: Literal["measured", "emulated", "simulated"] = "measured"
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


class Figure(_Record):
    """A figure as data; the page draws it."""

    kind: Literal["line", "bar", "scatter", "heatmap", "interval", "timeline", "picture"]
    title: str
    x_label: str
    y_label: str
    series: list[Series]
    png_base64: str = ""
    """Of a picture: what a program showed, as it was seen."""


class Result(_Record):
    """The whole account of one run of a verb."""

    format: int = 1
    verb: str
    method: str
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
    """Byte counts by name, each counted from files."""
    protocol: dict[str, Any] | None = None  # Any: JSON values
    measurements: list[Measurement] = Field(default_factory=list)
    figures: list[Figure] = Field(default_factory=list)
    samples: dict[str, list[float]] = Field(default_factory=dict)
    """Per-example values that a later run pairs against."""
    notes: list[str] = Field(default_factory=list)
    versions: dict[str, str]
    hardware: dict[str, Any]  # Any: JSON values

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
            f"The result of '{self.verb} {self.method}' has no measurement '{name}' (it has: "
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


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


class Recording:
    """Clocks a verb from construction to `finish`, which returns its Result."""

    def __init__(
        self,
        verb: str,
        method: str,
        settings: dict[str, Any],  # Any: JSON values
        seed: int,
        inputs: list[Input],
    ) -> None:
        self.verb, self.method, self.settings = verb, method, settings
        self.seed, self.inputs = seed, inputs
        self.fingerprint = fingerprint(
            verb, settings, seed, {entry.name: entry.content_hash for entry in inputs}
        )
        self._started = datetime.datetime.now(datetime.UTC)
        self._watch = Stopwatch()
        self._watch.__enter__()

    def finish(
        self, output: Path, **outcome: Any
    ) -> Result:  # Any: fields of Result, validated there
        """Stop the clock and return the Result.

        `outcome` gives its measurements, figures, bytes and notes.
        """
        self._watch.__exit__(None, None, None)
        return Result(
            verb=self.verb,
            method=self.method,
            settings=self.settings,
            seed=self.seed,
            inputs=self.inputs,
            output=str(output),
            fingerprint=self.fingerprint,
            started=self._started.isoformat(timespec="seconds"),
            seconds=self._watch.wall_seconds,
            cpu_seconds=self._watch.cpu_seconds,
            peak_memory_bytes=hardware.peak_memory_bytes(),
            versions=_versions(),
            hardware=hardware.describe(),
            **outcome,
        )


def write_result(result: Result, folder: Path) -> Path:
    """Write `result` as `folder`/result.json, beside and renamed into place."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RESULT_FILE
    beside = folder / f".{RESULT_FILE}.{os.getpid()}"
    beside.write_text(result.model_dump_json(indent=2) + "\n")
    os.replace(beside, path)
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
        return Result.model_validate_json(file.read_text())
    except (ValidationError, UnicodeDecodeError) as error:
        raise DataError(
            f"'{file}' is not a result that treadle wrote ({str(error).splitlines()[0]}); run its "
            f"verb again."
        ) from error
