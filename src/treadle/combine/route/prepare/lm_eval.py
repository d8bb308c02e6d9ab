"""Scores that lm-eval wrote (`--log_samples`): samples_TASK_DATE.jsonl, one file for each task."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from treadle.combine.route.prepare.base import PoolQuestion
from treadle.combine.route.prepare.scores import PoolScore
from treadle.combine.route.prepare.tasks import Fractions, id_of, side_of
from treadle.core.errors import DataError, SettingsError

__all__ = ["Sampled", "read_samples"]

_FILE = re.compile(r"samples_(?P<task>.+?)(?:_\d{4}-\d{2}-\d{2}T[\d.:-]+)?\.jsonl")
_METRICS = ("exact_match", "acc", "pass@1", "em", "f1")
"""Whose value is the score, the first that is there."""


class Sampled(NamedTuple):
    """One sample of lm-eval's."""

    posed: PoolQuestion
    scored: PoolScore


def read_samples(entry: str, fractions: Fractions) -> tuple[str, list[Sampled]]:
    """Return the model's name and the samples of NAME=FILE.

    Raises:
        SettingsError: It is not written so.
        DataError: The file is missing or damaged, or has a question twice.
    """
    name, sign, path = entry.partition("=")
    if not sign or not name or not path:
        raise SettingsError(
            f"Found --lm-eval '{entry}', expected NAME=FILE with the model's name; give both."
        )
    file = Path(path)
    match = _FILE.fullmatch(file.name)
    task = match["task"] if match else file.stem
    found: dict[str, Sampled] = {}
    for number, line in enumerate(_lines(file), 1):
        where = f"line {number} of '{file}'"
        one = _sampled(where, line, task, fractions)
        if one.posed.id in found:
            raise DataError(
                f"The question of {where} stands in it before; give a file with one sample of "
                f"each question (one filter, one repeat)."
            )
        found[one.posed.id] = one
    return name, list(found.values())


def _lines(file: Path) -> Sequence[str]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"'{file}' cannot be read ({error}); give lm-eval's samples.") from error
    if not text:
        raise DataError(f"'{file}' holds no samples; run lm-eval with --log_samples.")
    return text.removesuffix("\n").split("\n")  # other signs that end lines stand in texts


def _sampled(where: str, line: str, task: str, fractions: Fractions) -> Sampled:
    try:
        row = json.loads(line)
        question = _question(row)
        score, confidence = _score(row)
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise DataError(
            f"{where[0].upper()}{where[1:]} is no sample of lm-eval's ({type(error).__name__}: "
            f"{error}); give a file that --log_samples wrote."
        ) from error
    name = id_of(question)
    posed = PoolQuestion(
        name, task, side_of(name, fractions), question, (str(row.get("target", "")),)
    )
    return Sampled(posed, PoolScore(score, confidence))


def _question(row: dict[str, Any]) -> str:  # Any: JSON values
    """Return the text that the model read before its answer."""
    given = row["arguments"]
    first = given["gen_args_0"]["arg_0"] if isinstance(given, dict) else given[0][0]
    if not isinstance(first, str) or not first.strip():
        raise ValueError("its arguments hold no text")
    return first


def _score(row: dict[str, Any]) -> tuple[float, float | None]:  # Any: JSON values
    """Return the score, and how sure the model was where choices tell."""
    name = next((one for one in _METRICS if one in row), None)
    if name is None:
        raise KeyError(f"none of {', '.join(_METRICS)}")
    score = float(row[name])
    if not 0 <= score <= 1:
        raise ValueError(f"{name} is {score}, and 0 to 1 was expected")
    told = row.get("filtered_resps")
    if name != "acc" or not isinstance(told, list) or len(told) < 2:
        return score, None
    values = np.asarray([float(one[0]) for one in told], np.float64)
    if np.isnan(values).any() or not np.isfinite(values.max()):
        raise ValueError(f"its likelihoods are {values.tolist()!r:.60}")
    chances = np.exp(values - values.max())
    chances /= chances.sum()
    sure = float(chances.max())
    return (sure if score else 0.0), sure
