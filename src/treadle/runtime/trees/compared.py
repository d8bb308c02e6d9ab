"""The same steps of a tree by several modes of attention: what each takes, whether they agree."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from treadle.core.errors import SettingsError
from treadle.runtime.cache.pages import KeyValues
from treadle.runtime.engine import Engine
from treadle.runtime.executor import Floats, StepRows
from treadle.runtime.native_step.llama import LlamaStep

__all__ = ["Agreed", "ComparedStep", "ModeSeconds", "comparing"]

_TIE = 1e-3
"""Two best logits that are closer, relative to the largest, may change places."""


class ModeSeconds(NamedTuple):
    """Seconds of all threads' processors in one mode."""

    attention: float
    whole: float
    """Of the step, with the plan."""
    plan: float
    """By the clock of the wall."""


class Agreed(NamedTuple):
    """How the tokens that a mode finds best compare with those of the first mode."""

    num_rows: int
    num_ties: int
    """Rows with another best token, whose two best logits nearly tie."""
    num_others: int
    """Rows with another best token that do not."""
    largest_gap: float
    """Between the two best logits of a tie, relative to the largest."""
    num_equal: int
    """Rows whose logits are equal to the last bit."""


class ComparedStep(NamedTuple):
    """A step that ran in every mode."""

    step: int
    num_rows: int
    seconds: dict[str, ModeSeconds]
    agreed: dict[str, Agreed]


class _Compared:
    """An executor that runs some of its steps in several modes, one after the other."""

    def __init__(
        self, executor: LlamaStep, modes: Sequence[str], is_measured: Callable[[int], bool]
    ) -> None:
        self._executor, self._modes, self._is_measured = executor, list(modes), is_measured
        self._num_steps = 0
        self.found: list[ComparedStep] = []

    def __getattr__(self, name: str) -> Any:  # Any: whatever an executor has
        return getattr(self._executor, name)

    def forward(self, rows: StepRows, pool: KeyValues) -> Floats:
        """Run a step; one of single rows in every mode, if it is measured."""
        is_decoding = len(rows.tokens) == len(rows.context_lengths) == len(rows.wanted)
        if not is_decoding:
            return self._executor.forward(rows, pool)
        self._num_steps += 1
        if not self._is_measured(self._num_steps):
            return self._executor.forward(rows, pool)
        before = self._executor.tree_attention
        turn = self._num_steps % len(self._modes)
        seconds, logits = {}, {}
        for mode in self._modes[turn:] + self._modes[:turn]:
            seconds[mode], logits[mode] = self._timed(mode, rows, pool)
        self._executor.tree_attention = before
        first = logits[self._modes[0]]
        agreed = {mode: _agreed(first, logits[mode]) for mode in self._modes[1:]}
        number = self._num_steps
        self.found.append(ComparedStep(number, len(rows.tokens), seconds, agreed))
        return first

    def _timed(self, mode: str, rows: StepRows, pool: KeyValues) -> tuple[ModeSeconds, Floats]:
        executor = self._executor
        executor.tree_attention = mode
        executor.time_attention(True)
        planned, begin = executor.sharing.plan_seconds, time.process_time()
        logits = executor.forward(rows, pool)
        whole = time.process_time() - begin
        planned = executor.sharing.plan_seconds - planned
        return ModeSeconds(executor.time_attention(False), whole, planned), logits


def _agreed(expected: Floats, found: Floats) -> Agreed:
    best, other = expected.argmax(axis=1), found.argmax(axis=1)
    differs = np.flatnonzero(best != other)
    top = np.partition(expected[differs], -2, axis=1)[:, -2:]
    gaps = (top[:, 1] - top[:, 0]) / np.abs(expected[differs]).max(axis=1, initial=1e-30)
    ties = gaps < _TIE
    equal = int((expected == found).all(axis=1).sum())
    largest = float(gaps[ties].max(initial=0))
    return Agreed(len(best), int(ties.sum()), int((~ties).sum()), largest, equal)


@contextmanager
def comparing(
    engine: Engine, modes: Sequence[str], is_measured: Callable[[int], bool]
) -> Iterator[list[ComparedStep]]:
    """Let steps of an engine in which every row answers run in several modes while the block runs.

    Args:
        engine: Its native step computes.
        modes: Of attention; the answers are those of the first one.
        is_measured: Says of the number of a step, from 1 on, whether it runs in all of them.

    Raises:
        SettingsError: Another executor computes it.
    """
    executor = engine.executor
    if not isinstance(executor, LlamaStep):
        raise SettingsError(
            "Modes of attention are compared in the native step, and this model runs through "
            "transformers; take a model that the native step computes (treadle doctor says more)."
        )
    compared = _Compared(executor, modes, is_measured)
    engine._runner.executor = compared
    try:
        yield compared.found
    finally:
        engine._runner.executor = executor
