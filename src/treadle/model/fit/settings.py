"""How long, how fast and in how many parts a model is trained."""

import math
from typing import Literal

from pydantic import Field

from treadle.core.settings import Settings

__all__ = ["FitSettings", "Schedule"]

Schedule = Literal["cosine", "linear", "constant", "trapezoid"]
_FALL_FRACTION = 0.2
"""Of the steps after the warm-up, in which a trapezoid falls."""


class FitSettings(Settings):
    """How a model is trained."""

    steps: int = Field(gt=0)
    """Updates of the weights."""
    learning_rate: float = Field(default=3e-4, gt=0)
    """Highest learning rate, reached at the end of the warm-up."""
    warmup_fraction: float = Field(default=0.05, ge=0, le=1)
    """Fraction of the steps in which the learning rate rises from zero."""
    schedule: Schedule = "cosine"
    """How the learning rate falls after the warm-up: along half a cosine, along a line, not at all,
    or along a line in the last fifth of the steps (trapezoid)."""
    final_fraction: float = Field(default=0.1, ge=0, le=1)
    """Fraction of the learning rate that is left at the last step; constant leaves all."""
    clip_norm: float = Field(default=1.0, ge=0)
    """Largest norm of the gradient of all weights that learn; 0 leaves it as it is."""
    num_accumulated: int = Field(default=1, gt=0)
    """Parts into which the rows of a step are split, one in memory at a time."""
    save_every: int = Field(default=0, ge=0)
    """Steps between two saves of the whole state; 0 saves never."""
    save_every_seconds: float = Field(default=0, ge=0)
    """Seconds after which the state is saved, too, once the running step is done; 0 saves never.
    A save that takes long makes the next one wait twenty times as long."""
    evaluate_every: int = Field(default=0, ge=0)
    """Steps between two evaluations; 0 evaluates before the first step and after the last."""
    keep_zeros: bool = False
    """Whether weights that are zero at the beginning stay zero, as those of a pruned model."""

    @property
    def saves(self) -> bool:
        """Whether the state is ever saved."""
        return self.save_every > 0 or self.save_every_seconds > 0

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        num_warmup = math.ceil(self.steps * self.warmup_fraction)
        if step < num_warmup:
            return self.learning_rate * (step + 1) / num_warmup
        progress = (step - num_warmup) / max(1, self.steps - 1 - num_warmup)
        left = self._left(min(1.0, progress))
        return self.learning_rate * (self.final_fraction + (1 - self.final_fraction) * left)

    def _left(self, progress: float) -> float:
        """Return how much of the fall is still to come, 1..0, for the share of it that is over."""
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        if self.schedule == "linear":
            return 1 - progress
        if self.schedule == "trapezoid":
            return min(1.0, (1 - progress) / _FALL_FRACTION)
        return 1.0

    def evaluates_after(self, step: int) -> bool:
        """Whether the model is evaluated once `step` updates are done."""
        is_due = self.evaluate_every > 0 and step % self.evaluate_every == 0
        return step in (0, self.steps) or is_due

    def saves_after(self, step: int) -> bool:
        """Whether the state is saved once `step` updates are done."""
        return self.save_every > 0 and step % self.save_every == 0
