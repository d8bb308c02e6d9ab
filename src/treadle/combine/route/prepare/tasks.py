"""What a pool is asked: skills and files, each question in one split whatever else is asked."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from treadle.combine.route.prepare.base import PoolQuestion, Side
from treadle.core.errors import DataError, SettingsError
from treadle.core.result import digest
from treadle.core.skills import is_skill, parse_skill, skill_items
from treadle.core.table.questions import (
    CHOICE_FORM,
    QUESTION_FORM,
    choice_in,
    question_in,
    read_lines,
)

__all__ = ["Fractions", "TaskSet", "id_of", "read_tasks", "require_apart", "side_of"]

_SIDES: tuple[Side, ...] = get_args(Side)


class Fractions(NamedTuple):
    """How many questions are kept out of training."""

    dev: float
    test: float


class TaskSet(NamedTuple):
    """The questions of one entry of --data."""

    name: str
    posed: list[PoolQuestion]

    @property
    def content_hash(self) -> str:
        """The hash of all questions and answers."""
        return digest([list(one) for one in self.posed])


def id_of(question: str) -> str:
    """Return the hash that says "the same question", however blanks stand in it."""
    plain = " ".join(question.split())
    return hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def side_of(name: str, fractions: Fractions) -> Side:
    """Return the split of a question by its id, so that it never depends on what else is asked."""
    drawn = int(name, 16) / 16 ** len(name)
    if drawn < fractions.test:
        return "test"
    return "dev" if drawn < fractions.test + fractions.dev else "train"


def read_tasks(
    data: Sequence[str], num_questions: int | None, fractions: Fractions
) -> tuple[list[TaskSet], int]:
    """Read all questions, and how often one stood twice.

    Skills have splits of their own; a file is split by its questions' hashes, or is one split that
    stands before it, as in test=FILE.

    Raises:
        DataError: A file is missing or damaged, a question has two answers, or stands in two
            splits.
        SettingsError: A set is named twice.
    """
    for entry in data:
        if list(data).count(entry) > 1:
            raise SettingsError(f"'{entry}' is named twice; name each set once.")
    sets, seen, num_twice = [], dict[str, PoolQuestion](), 0
    for entry in data:
        posed = _skill(entry, num_questions, fractions)
        posed = _file(entry, num_questions, fractions) if posed is None else posed
        kept = []
        for one in posed:
            before = seen.setdefault(one.id, one)
            if before is one:
                kept.append(one)
                continue
            require_apart(before, one)
            num_twice += 1
        sets.append(TaskSet(entry, kept))
    return sets, num_twice


def require_apart(before: PoolQuestion, again: PoolQuestion) -> None:
    """Refuse a question that stands twice and differs.

    Raises:
        DataError: It is in two splits, or has two answers.
    """
    where = f"The question {again.question[:60]!r} of '{again.task}'"
    if before.side != again.side:
        raise DataError(
            f"{where} is in {again.side}, and in {before.side} by '{before.task}': nothing could "
            f"be claimed of what was calibrated or learned on it; take it out of one."
        )
    right = [one.answers[one.gold].split() for one in (before, again)]
    if right[0] != right[1]:
        raise DataError(
            f"{where} has the answer {again.answers[again.gold]!r}, and elsewhere "
            f"{before.answers[before.gold]!r}; keep one of them."
        )


def _skill(
    entry: str, num_questions: int | None, fractions: Fractions
) -> list[PoolQuestion] | None:
    """Return a skill's questions; None where the entry is none."""
    if not is_skill(entry):
        return None
    spec = parse_skill(entry, "train")
    is_whole = "/" not in entry.partition("?")[0]
    sides = _SIDES if is_whole else (spec.split,)
    sizes = _sizes(num_questions, fractions) if is_whole else {spec.split: num_questions}
    found = []
    for side in sides:
        for item in skill_items(spec._replace(split=side))[: sizes[side]]:
            found.append(
                PoolQuestion(id_of(item.prompt), spec.name, side, item.prompt, (item.answer,))
            )
    return found


def _sizes(num_questions: int | None, fractions: Fractions) -> dict[Side, int | None]:
    if num_questions is None:
        return dict.fromkeys(_SIDES)
    test, dev = (max(1, round(num_questions * part)) for part in (fractions.test, fractions.dev))
    return {"train": max(1, num_questions - dev - test), "dev": dev, "test": test}


def _file(entry: str, num_questions: int | None, fractions: Fractions) -> list[PoolQuestion]:
    given, sign, path = entry.partition("=")
    side = next((one for one in _SIDES if sign and one == given), None)
    file = Path(entry if side is None else path)
    rows, _ = read_lines(file, _posed, f"{QUESTION_FORM} or {CHOICE_FORM}")
    return [
        one._replace(task=file.stem, side=side or side_of(one.id, fractions))
        for one in rows[:num_questions]
    ]


def _posed(row: dict[str, Any]) -> PoolQuestion:  # Any: JSON values
    if "choices" not in row:
        question = question_in(row)
        return PoolQuestion(
            id_of(question.prompt), "", "train", question.prompt, (question.answer,)
        )
    choice = choice_in(row)
    answers = tuple(f" {text.strip()}" for text in choice.choices)
    query = choice.query.rstrip()
    return PoolQuestion(id_of(query), "", "train", query, answers, choice.gold)
