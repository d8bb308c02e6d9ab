"""The tensors that a partial checkpoint holds for certain, even after a power cut."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["JOURNAL_FILE", "Journal"]

JOURNAL_FILE = ".treadle-journal"


class Journal:
    """One line that names the plan, then one JSON list of finished tensors a line."""

    def __init__(self, folder: Path, plan: str) -> None:
        self._plan = plan
        self._stream = (folder / JOURNAL_FILE).open("a+b", buffering=0)

    def read(self) -> set[str] | None:
        """Return the finished tensors, or None if the journal is of another plan, or of none."""
        self._stream.seek(0)
        whole, newline, torn = self._stream.read().rpartition(b"\n")
        if torn:  # a write that was cut off
            self._stream.truncate(len(whole) + len(newline))
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
        except ValueError:  # a power cut may leave bytes of another kind
            return None
        if not lines or lines[0] != self._plan:
            return None
        return {name for line in lines[1:] for name in line}

    def start(self) -> None:
        """Begin anew with this plan and no finished tensor."""
        self._stream.truncate(0)
        self._append(self._plan)

    def add(self, names: Iterable[str]) -> None:
        """Append finished tensors; they are on disk when this returns."""
        self._append(sorted(names))

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _append(self, value: str | list[str]) -> None:
        line = json.dumps(value).encode() + b"\n"
        written = self._stream.write(line)
        assert written == len(line)
        os.fsync(self._stream.fileno())
