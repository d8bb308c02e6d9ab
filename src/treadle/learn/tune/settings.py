"""How a model is tuned: what may be said beside the method, the model and the data."""

from typing import Annotated

from pydantic import Field

from treadle.core.settings import Settings
from treadle.learn.tune.lessons import TooLong
from treadle.model.fit.settings import Schedule
from treadle.model.packed import Compute

__all__ = ["TuneSettings"]


class TuneSettings(Settings):
    """How long, how fast and in what pieces a model learns."""

    steps: Annotated[int, Field(gt=0)] | None = None
    """Updates of the weights (default: as many as `epochs` take)."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """How often each row is seen, in place of `steps` (default 1)."""
    rows: Annotated[int, Field(gt=0)] = 8
    """Rows, or pairs, that come in a step."""
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Highest learning rate (default: 5e-5, and 1e-6 for dpo; ten times that with lora, twenty
    times with norms)."""
    schedule: Schedule = "cosine"
    """How the learning rate falls after the warm-up: cosine, linear, constant or trapezoid."""
    warmup_fraction: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Fraction of the steps in which the learning rate rises from zero."""
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Fraction of the learning rate that is left at the last step."""
    clip_norm: Annotated[float, Field(ge=0)] = 1.0
    """Largest norm of the gradient of all weights that learn; 0 leaves it as it is."""
    compute: Compute = "float32"
    """In which numbers matrices are multiplied; weights, gradients and sums stay float32. bfloat16
    is quicker where the processor multiplies it itself, and sees no change smaller than its
    steps."""
    part_tokens: Annotated[int, Field(gt=0)] = 512
    """Tokens that run through the model at once: a step's rows are split into parts of at most so
    many, and the split changes neither loss nor gradient, but memory."""
    max_tokens: Annotated[int, Field(gt=1)] | None = None
    """Most tokens of a row (default: the model's context)."""
    too_long: TooLong = "refuse"
    """What becomes of longer rows: refuse, cut, or drop."""
    window_tokens: Annotated[int, Field(gt=1)] = 512
    """Tokens of the windows into which --text is cut."""
    evaluate_every: Annotated[int, Field(ge=0)] = 0
    """Steps between two evaluations of what is held out; 0: before the first and after the last."""
    save_every: Annotated[int, Field(ge=0)] = 0
    """Steps between two saves of the state, beside those that the clock asks for."""
