"""What transformers answered before: to import it takes longer than a small merge."""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from treadle.core.cache import cache_folder

__all__ = ["remembered"]

_FORMAT = 1
"""Of the answers; one more whenever model.anatomy answers another way."""
_MOST = 500
logger = logging.getLogger(__name__)


def remembered(question: str, make: Callable[[], Any]) -> Any:  # Any: JSON values
    """Return the answer to a question, from an earlier run or made now, as JSON gives it back.

    Args:
        question: All that the answer depends on, but for the version of transformers.
        make: Return the answer; what it raises is not remembered.
    """
    file = _folder() / f"{hashlib.sha256(f'{_versions()} {question}'.encode()).hexdigest()}.json"
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        answer = json.dumps(make(), default=str)
    try:
        _write(file, answer)
    except OSError as error:
        logger.warning("Cannot remember what transformers said (%s); set TREADLE_CACHE.", error)
    return json.loads(answer)


def _folder() -> Path:
    return cache_folder() / "anatomy"


@cache
def _versions() -> str:
    return f"{_FORMAT} {version('transformers')}"


def _write(file: Path, answer: str) -> None:
    """Write an answer beside and rename it into place; the oldest ones are forgotten."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(f".{os.getpid()}")
    fresh.write_text(answer)
    fresh.replace(file)
    known = sorted(file.parent.glob("*.json"), key=lambda one: one.stat().st_mtime)
    for old in known[:-_MOST]:
        old.unlink(missing_ok=True)
