"""How long, how fast and in how many parts a model is trained."""

import math

from pydantic import Field

from treadle.core.settings import Settings

__all__ = ["FitSettings"]


class FitSettings(Settings):
    """How a model is trained."""

    num_steps: int = Field(gt=0)
    """Updates of the weights."""
    learning_rate: float = Field(default=3e-4, gt=0)
    """Highest learning rate, reached at the end of the warm-up."""
    warmup_fraction: float = Field(default=0.05, ge=0, le=1)
    """Fraction of the steps in which the learning rate rises from zero."""
    final_fraction: float = Field(default=0.1, ge=0, le=1)
    """Fraction of the learning rate that a cosine leaves at the last step."""
    clip_norm: float = Field(default=1.0, ge=0)
    """Largest norm of the gradient of all weights that learn; 0 leaves it as it is."""
    num_accumulated: int = Field(default=1, gt=0)
    """Parts into which the rows of a step are split, one in memory at a time."""
    save_every: int = Field(default=0, ge=0)
    """Steps between two saves of the whole state; 0 saves never."""
    evaluate_every: int = Field(default=0, ge=0)
    """Steps between two evaluations; 0 evaluates before the first step and after the last."""
    keep_zeros: bool = False
    """Whether weights that are zero at the beginning stay zero, as those of a pruned model."""

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        num_warmup = math.ceil(self.num_steps * self.warmup_fraction)
        if step < num_warmup:
            return self.learning_rate * (step + 1) / num_warmup
        progress = (step - num_warmup) / max(1, self.num_steps - 1 - num_warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return self.learning_rate * (self.final_fraction + (1 - self.final_fraction) * cosine)

    def evaluates_after(self, step: int) -> bool:
        """Whether the model is evaluated once `step` updates are done."""
        is_due = self.evaluate_every > 0 and step % self.evaluate_every == 0
        return step in (0, self.num_steps) or is_due

    def saves_after(self, step: int) -> bool:
        """Whether the state is saved once `step` updates are done."""
        return self.save_every > 0 and step % self.save_every == 0
