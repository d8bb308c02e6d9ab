"""What a killed run goes on from: the heads, what their optimizer remembers, samples done."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from treadle.core.checkpoint.publish import remove
from treadle.model.fit.state_file import StateFile, write_state
from treadle.shrink.sparsify.learners import HeadLearner

if TYPE_CHECKING:
    import torch

__all__ = ["LearnedState", "SamplesLearned"]

_FILE = "state.safetensors"

logger = logging.getLogger(__name__)


class SamplesLearned(NamedTuple):
    """How far a run is."""

    num_samples: int = 0
    num_tokens: int = 0
    losses: tuple[float, ...] = ()


class LearnedState:
    """The state beside an output.

    Args:
        out: The output.
        fingerprint: Of the run.
    """

    def __init__(self, out: Path, fingerprint: str) -> None:
        self.folder = out.absolute().with_name(f".{out.name}.sparsifying")
        self._fingerprint = fingerprint

    def save(self, learner: HeadLearner, learned: SamplesLearned) -> None:
        """Replace the state by a later one; a kill in the middle leaves the former.

        Raises:
            OSError: The disk is full, or cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        beside = self.folder / f".{_FILE}"
        note = {"fingerprint": self._fingerprint, **learned._asdict()}
        try:
            write_state(beside, learner.state(), note)
            os.replace(beside, self.folder / _FILE)
        except OSError:
            beside.unlink(missing_ok=True)
            raise

    def restore(self, learner: HeadLearner) -> SamplesLearned:
        """Put back what the same run saved; what another one left, or is damaged, is discarded."""
        file = self.folder / _FILE
        if not file.is_file():
            return SamplesLearned()
        try:
            with StateFile(file) as opened:
                if opened.note["fingerprint"] == self._fingerprint:
                    found: dict[str, torch.Tensor] = {n: opened.tensor(n) for n in opened.names}
                    note = opened.note
                    learned = SamplesLearned(
                        int(note["num_samples"]), int(note["num_tokens"]), tuple(note["losses"])
                    )
                    learner.restore(found)
                    return learned
            reason = "it was begun with other settings or inputs"
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            reason = f"it is damaged ({error})"
        logger.warning("Discarding what an interrupted run left in %s: %s.", self.folder, reason)
        self.remove()
        return SamplesLearned()

    def remove(self) -> None:
        """Delete the state: the run is done."""
        remove(self.folder)
