"""Task files: one JSON object on each line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from treadle.core.errors import DataError

__all__ = ["read_lines", "require_count"]

R = TypeVar("R")


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
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"'{path}' is not UTF-8 (byte {error.start}); convert it with iconv."
        ) from error
    questions = []
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else (), 1):
        try:
            questions.append(parse(json.loads(line)))
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
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
