"""Replies on disk, one file for each member and way of asking: what is there is not asked again."""

import errno
import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from treadle.combine.route.prepare.base import Asking, Member, PoolQuestion, Reply
from treadle.core.errors import DataError
from treadle.core.result import digest

__all__ = ["AnswerFile"]


class AnswerFile:
    """The replies of one member. Use it as a context manager.

    A line is a reply; the first one says whose they are. A line that a crash cut off goes.
    """

    def __init__(self, folder: Path, member: Member, asking: Asking) -> None:
        """Read what is there.

        Raises:
            DataError: The file is damaged.
        """
        settings = asking.model_dump(mode="json")
        head: dict[str, object] = {"member": member.identity, "asking": settings}
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / f"{digest(head)[:16]}.jsonl"
        self._replies: dict[str, Reply] = {}
        lines = self._lines()
        if lines and lines[0] != head:
            raise self._damaged("its first line is another one's")
        for line in lines[1:]:
            self._learn(line)
        self._stream = self._file.open("ab", buffering=0)
        if not lines:
            try:
                self._append(head)
            except OSError:
                self._stream.close()
                raise

    def __enter__(self) -> Self:
        """Open it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self._stream.close()

    def of(self, posed: PoolQuestion) -> Reply | None:
        """Return the reply to a question, if there is one."""
        return self._replies.get(_key(posed))

    def missing(self, questions: Iterable[PoolQuestion]) -> list[PoolQuestion]:
        """Return the questions that have no reply."""
        return [one for one in questions if _key(one) not in self._replies]

    def add(self, posed: PoolQuestion, reply: Reply) -> None:
        """Keep a reply; it is on disk when this returns."""
        key = _key(posed)
        self._append({"question": key, **reply._asdict()})
        self._replies[key] = reply

    def _learn(self, line: dict[str, Any]) -> None:  # Any: JSON values
        try:
            key = str(line.pop("question"))
            for name in ("texts", "sureness", "loglikelihoods"):
                line[name] = tuple(line[name])
            self._replies[key] = Reply(**line)
        except (KeyError, TypeError) as error:
            raise self._damaged(f"{type(error).__name__}: {error}") from error

    def _lines(self) -> list[dict[str, Any]]:  # Any: JSON values
        if not self._file.is_file():
            return []
        whole, newline, torn = self._file.read_bytes().rpartition(b"\n")
        if torn:
            with self._file.open("r+b") as stream:
                stream.truncate(len(whole) + len(newline))
        try:
            found = [json.loads(line) for line in whole.splitlines()]
        except ValueError as error:
            raise self._damaged(str(error)) from error
        if not all(isinstance(line, dict) for line in found):
            raise self._damaged("a line is no object")
        return found

    def _damaged(self, what: str) -> DataError:
        return DataError(
            f"'{self._file}', which keeps answers, is damaged ({what}); remove it, and they are "
            f"asked for again."
        )

    def _append(self, line: dict[str, object]) -> None:
        whole = json.dumps(line).encode() + b"\n"
        if self._stream.write(whole) != len(whole):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._file))
        os.fsync(self._stream.fileno())


def _key(posed: PoolQuestion) -> str:
    """Return what a reply belongs to: the question to the letter, and what can be chosen."""
    return digest([posed.question, list(posed.answers) if posed.is_choice else []])[:24]
