"""Questions with known answers: one JSON object on each line of a file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from treadle.core.errors import DataError

__all__ = [
    "CHOICE_FORM",
    "QUESTION_FORM",
    "ChoiceQuestion",
    "Question",
    "choice_in",
    "question_in",
    "read_lines",
    "require_count",
]

R = TypeVar("R")
QUESTION_FORM = '{"prompt": "...", "answer": "..."}'
CHOICE_FORM = '{"query": "...", "choices": ["...", "..."], "gold": 0}'


class Question(NamedTuple):
    """A question and its one right answer."""

    prompt: str
    answer: str


class ChoiceQuestion(NamedTuple):
    """A question with several answers, of which one is right."""

    query: str
    choices: list[str]
    gold: int
    """Index of the right one."""


def question_in(row: dict[str, Any]) -> Question:  # Any: JSON values
    """Return the question that a line of `QUESTION_FORM` holds.

    Raises:
        KeyError: A key is missing.
        ValueError: A value is empty, or no text.
    """
    prompt, answer = row["prompt"], row["answer"]
    for name, text in (("prompt", prompt), ("answer", answer)):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{name} = {text!r} is no text")
    return Question(prompt, answer)


def choice_in(row: dict[str, Any]) -> ChoiceQuestion:  # Any: JSON values
    """Return the question that a line of `CHOICE_FORM` holds.

    Raises:
        KeyError: A key is missing.
        ValueError: A value is empty, of another type, or `gold` is no index.
    """
    query, choices, gold = row["query"], row["choices"], row["gold"]
    if not isinstance(query, str) or not query.strip():
        raise ValueError(f"query = {query!r} is no text")
    if not isinstance(choices, list) or not all(isinstance(c, str) and c.strip() for c in choices):
        raise ValueError(f"choices = {choices!r} is no list of texts")
    if type(gold) is not int or len(choices) < 2 or not 0 <= gold < len(choices):
        raise ValueError(f"gold = {gold!r} of {len(choices)} choices")
    return ChoiceQuestion(query, choices, gold)


def read_lines(
    path: Path, parse: Callable[[Any], R], example: str
) -> tuple[list[R], str]:  # Any: JSON values
    """Return the questions of a JSONL file, and the whole text.

    Args:
        path: The file.
        parse: Makes a question of a line; raises KeyError, TypeError or ValueError if it is none.
        example: A good line, shown to who wrote a bad one.

    Raises:
        DataError: The file is missing, empty, no UTF-8, or a line is no question.
    """
    if not path.is_file():
        raise DataError(f"No task file at '{path}'; give a JSONL file of lines like {example}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"'{path}' is not UTF-8 (byte {error.start}); convert it with iconv."
        ) from error
    questions = []
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else (), 1):
        try:
            questions.append(parse(json.loads(line)))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise DataError(
                f"Line {number} of '{path}' is no question ({type(error).__name__}: {error}); "
                f"write {example} on each line."
            ) from error
    if not questions:
        raise DataError(f"'{path}' holds no questions; write one JSON object on each line.")
    return questions, text


def require_count(questions: list[R], count: int | None, path: str) -> list[R]:
    """Return the first `count` questions, or all.

    Raises:
        DataError: There are fewer.
    """
    if count and len(questions) < count:
        raise DataError(
            f"'{path}' has {len(questions)} questions, but {count} were asked for; give more, or "
            f"lower num_questions."
        )
    return questions[:count]
