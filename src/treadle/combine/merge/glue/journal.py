"""The journal of a search: what every trial lost on every item, line by line as it is found."""

import json
import os
from pathlib import Path
from typing import Any

from treadle.combine.merge.glue.base import Weights
from treadle.core.errors import SettingsError

__all__ = ["TrialJournal"]

_WHOSE = "search"


class TrialJournal:
    """Losses by cluster, weights and set of items; a search that was killed reads them again.

    Args:
        file: JSONL; its first line names the search, each other one is a trial on some items.
        search: What the search is: models, items and settings.

    Raises:
        SettingsError: The file is another search's.
    """

    def __init__(self, file: Path, search: str) -> None:
        self._known: dict[tuple[str, str, str], list[float]] = {}
        self.num_read = 0
        """Trials that an earlier run had made."""
        self.num_trials = 0
        """Trials that are in the file."""
        lines = self._lines(file)
        if len(lines) == 1 and lines[0] != {_WHOSE: search}:  # of a search that made no trial
            file.unlink()
            lines = []
        if lines and lines[0] != {_WHOSE: search}:
            raise SettingsError(
                f"'{file}' is the journal of another search (other models, items or settings); "
                f"start that one again to end it, choose another output, or pass --overwrite."
            )
        for line in lines[1:]:
            self._learn(line["cluster"], json.dumps(line["weights"]), line["losses"])
        self.num_read = self.num_trials = len(lines[1:])
        self._stream = file.open("ab", buffering=0)
        if not lines:
            try:
                self._append({_WHOSE: search})
            except OSError:
                self._stream.close()
                raise

    def losses(self, cluster: str, weights: Weights, items: str) -> list[float]:
        """Return what a merge lost on the first items of a set, as many as are known."""
        return self._known.get((cluster, json.dumps(weights.tolist()), items), [])

    def add(self, cluster: str, weights: Weights, losses: dict[str, list[float]]) -> None:
        """Note what a merge lost on the items that follow the known ones of each set.

        All sets of a trial are one line, so that a crash loses it whole: what is computed together
        is computed together again.
        """
        self.num_trials += 1
        self._append({"cluster": cluster, "weights": weights.tolist(), "losses": losses})
        self._learn(cluster, json.dumps(weights.tolist()), losses)

    def _learn(self, cluster: str, weights: str, losses: dict[str, list[float]]) -> None:
        for items, found in losses.items():
            self._known.setdefault((cluster, weights, items), []).extend(found)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    @staticmethod
    def _lines(file: Path) -> list[dict[str, Any]]:  # Any: JSON values
        """Return the whole lines of a file, after cutting off one that a crash left unfinished."""
        if not file.is_file():
            return []
        whole, newline, torn = file.read_bytes().rpartition(b"\n")
        if torn:
            with file.open("r+b") as stream:
                stream.truncate(len(whole) + len(newline))
        try:
            found: list[dict[str, Any]] = [json.loads(line) for line in whole.splitlines()]
        except ValueError as error:
            raise SettingsError(
                f"'{file}' is damaged ({error}); remove it, which loses the trials in it."
            ) from error
        return found

    def _append(self, line: dict[str, object]) -> None:
        self._stream.write(json.dumps(line).encode() + b"\n")
        os.fsync(self._stream.fileno())
