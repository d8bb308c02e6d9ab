"""Who answered what how well: questions with a score of every model."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from treadle.core.errors import DataError
from treadle.core.result import digest

__all__ = ["Doubles", "ScoredQuestions", "question_key", "table_of"]

Doubles = npt.NDArray[np.float64]
_QUESTIONS = ("question", "query", "prompt")
_TASKS = ("task", "dataset", "source")
_NO_TASK = "(none)"
_FORM = '{"question": "...", "scores": {"model": 0.5}}'


class ScoredQuestions(NamedTuple):
    """Questions, and what each model got for its answer."""

    ids: list[str]
    questions: list[str]
    models: tuple[str, ...]
    scores: Doubles
    """[questions, models], 0..1; NaN where a model has none."""
    cost: Doubles | None = None
    """The same of costs; None where no record has any."""
    latency: Doubles | None = None
    """The same in seconds."""
    tasks: tuple[str, ...] | None = None
    """Of each question; None where no record says one."""
    clusters: tuple[int, ...] | None = None
    """Of each question; None unless every record says one."""
    confidence: Doubles | None = None
    """How sure each model was of its answer, 0..1; None where no record says it."""

    @property
    def content_hash(self) -> str:
        """The hash of all that is in it."""
        held = [one if one is None else _plain(one) for one in self]
        return digest(held)

    @property
    def keys(self) -> list[int]:
        """Hashes of the questions."""
        return [question_key(one) for one in self.questions]

    def rows(self, places: Sequence[int]) -> Self:
        """Return the records at some places."""
        chosen = list(places)
        return self._replace(
            ids=[self.ids[n] for n in chosen],
            questions=[self.questions[n] for n in chosen],
            scores=self.scores[chosen],
            cost=None if self.cost is None else self.cost[chosen],
            latency=None if self.latency is None else self.latency[chosen],
            tasks=None if self.tasks is None else tuple(self.tasks[n] for n in chosen),
            clusters=None if self.clusters is None else tuple(self.clusters[n] for n in chosen),
            confidence=None if self.confidence is None else self.confidence[chosen],
        )

    def of_models(self, names: Sequence[str]) -> Self:
        """Return what is said of some models, in that order; all of them are in the table."""
        places = [self.models.index(name) for name in names]
        return self._replace(
            models=tuple(names),
            scores=self.scores[:, places],
            cost=None if self.cost is None else self.cost[:, places],
            latency=None if self.latency is None else self.latency[:, places],
            confidence=None if self.confidence is None else self.confidence[:, places],
        )

    def binarised(self, tasks: Sequence[str]) -> Self:
        """Return the table in which every score above 0 of some tasks counts as 1.

        Raises:
            DataError: No question is of such a task.
        """
        if not tasks:
            return self
        known = set(self.tasks or ())
        if lost := [one for one in tasks if one not in known]:
            raise DataError(
                f"No question is of the task '{lost[0]}', whose scores were to be 0 or 1; the "
                f"tasks are {', '.join(sorted(known)) or 'not told'}."
            )
        is_one = np.asarray([one in tasks for one in self.tasks or ()])
        scores = self.scores.copy()
        scores[is_one] = np.where(
            np.isnan(scores[is_one]), np.nan, (scores[is_one] > 0).astype(np.float64)
        )
        return self._replace(scores=scores)


def question_key(question: str) -> int:
    """Return a hash of 63 bits that says "the same question", however blanks stand in it."""
    text = " ".join(question.split())
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8]) >> 1


def table_of(
    records: Iterable[tuple[str, Any]],  # Any: JSON values
) -> ScoredQuestions:
    """Return the table of records.

    Args:
        records: Where each stands, for messages, and what it says.

    Raises:
        DataError: One is no record, an id stands twice, or nothing can be compared.
    """
    read = [_record(where, record) for where, record in records]
    if not read:
        raise DataError(f"There are no records; give some, such as {_FORM}.")
    models = tuple(dict.fromkeys(name for one in read for name in one.scores))
    scores = _grid([one.scores for one in read], models)
    assert scores is not None
    _require_comparable(scores, models)
    told = [one.cluster for one in read]
    return ScoredQuestions(
        _ids(read),
        [one.question for one in read],
        models,
        scores,
        _grid([one.cost for one in read], models),
        _grid([one.latency for one in read], models),
        tuple(one.task or _NO_TASK for one in read) if any(one.task for one in read) else None,
        tuple(one for one in told if one is not None) if None not in told else None,
        _grid([one.confidence for one in read], models),
    )


class _Record(NamedTuple):
    where: str
    name: str
    question: str
    scores: dict[str, float]
    cost: dict[str, float]
    latency: dict[str, float]
    task: str
    cluster: int | None
    confidence: dict[str, float]


def _record(where: str, record: Any) -> _Record:  # Any: a JSON value
    if not isinstance(record, Mapping):
        raise DataError(f"{where} is no record but {str(record)[:40]!r}; write {_FORM}.")
    question = next((record[key] for key in _QUESTIONS if key in record), None)
    if not isinstance(question, str) or not question.strip():
        raise DataError(f"{where} asks {question!r}, which is no question; write {_FORM}.")
    scores = _numbers(where, "scores", record.get("scores"))
    if not scores:
        raise DataError(f"{where} has no scores; write {_FORM}, or leave it out.")
    for name, value in scores.items():
        if not 0 <= value <= 1:
            raise DataError(
                f"{where}: the score of '{name}' is {value:g}, but 0 to 1 was expected; scale the "
                f"scores, such as percents by 1/100."
            )
    task = next((found for key in _TASKS if (found := _told(record, key)) is not None), "")
    named, cluster = _told(record, "id"), _cluster(where, record)
    keys = ("cost", "latency", "confidence")
    cost, latency, sure = (_numbers(where, key, record.get(key)) for key in keys)
    if any(value > 1 for value in sure.values()):
        raise DataError(f"{where}: a confidence is above 1; scale them to 0..1.")
    name = "" if named is None else str(named)
    return _Record(where, name, question, scores, cost, latency, str(task), cluster, sure)


def _told(record: Mapping[str, Any], key: str) -> Any:  # Any: a JSON value
    """Return what a record says; None where it has NaN, as columns do that lack a value."""
    value = record.get(key)
    return None if isinstance(value, float) and math.isnan(value) else value


def _cluster(where: str, record: Mapping[str, Any]) -> int | None:  # Any: JSON values
    """Return the cluster; columns that lack some hold whole numbers as floats."""
    value = _told(record, "cluster_id")
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise DataError(f"{where}: cluster_id is {value!r}; give a whole number, or none.")
    return value


def _numbers(where: str, key: str, value: Any) -> dict[str, float]:  # Any: a JSON value
    """Return a number of each model; a model with null has none."""
    if value is None:
        return {}
    pairs = value
    if isinstance(value, list) and all(isinstance(one, tuple) for one in value):
        pairs = dict(value)  # a map of Parquet
    if not isinstance(pairs, Mapping):
        raise DataError(f"{where}: {key} is {value!r}; write a number for each model by its name.")
    found = {}
    for name, number in pairs.items():
        if number is None:
            continue
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        if not is_number or not math.isfinite(number) or number < 0:
            raise DataError(
                f"{where}: {key} of '{name}' is {number!r}, but a number from 0 on was expected; "
                f"correct it, or leave the model out where it was not asked."
            )
        found[str(name)] = float(number)
    return found


def _ids(read: Sequence[_Record]) -> list[str]:
    """Return an id for each record: its own, or the hash of its question with a count."""
    found: dict[str, str] = {}
    times: dict[str, int] = {}
    for one in read:
        if one.name and one.name in found:
            raise DataError(
                f"{one.where} and {found[one.name]} have the same id '{one.name}'; give each "
                f"question one of its own, or none."
            )
        name = one.name or f"question:{question_key(one.question):016x}"
        times[name] = times.get(name, 0) + 1
        found[name if times[name] == 1 else f"{name}#{times[name]}"] = one.where
    return list(found)


def _grid(values: Sequence[Mapping[str, float]], models: Sequence[str]) -> Doubles | None:
    if not any(values):
        return None
    found = np.full((len(values), len(models)), np.nan)
    places = {name: place for place, name in enumerate(models)}
    for row, one in zip(found, values, strict=True):
        for name, value in one.items():
            if name in places:
                row[places[name]] = value
    return found


def _require_comparable(scores: Doubles, models: Sequence[str]) -> None:
    if len(models) < 2:
        raise DataError(
            f"All scores are of one model, '{models[0]}', so there is nothing to choose; give "
            f"scores of two models or more."
        )
    if int(np.isfinite(scores).sum(axis=1).max()) < 2:
        raise DataError(
            f"No question has scores of two models (there are {len(models)}), so nothing can be "
            f"compared; ask the models the same questions."
        )


def _plain(value: Any) -> Any:  # Any: a field of the table, as JSON
    return value.tolist() if isinstance(value, np.ndarray) else list(value)
