"""The one training loop: what learns, by which loss, on whose batches; a killed run goes on."""

from treadle.model.fit.batches import Batch, Batches, random_batches
from treadle.model.fit.course import Fit
from treadle.model.fit.figures import loss_figure, memory_figure, norm_figure, speed_figure
from treadle.model.fit.loop import fit
from treadle.model.fit.objective import NEXT_TOKEN, Objective, next_token_loss
from treadle.model.fit.observer import Observer, TensorBoard
from treadle.model.fit.settings import FitSettings

__all__ = [
    "NEXT_TOKEN",
    "Batch",
    "Batches",
    "Fit",
    "FitSettings",
    "Objective",
    "Observer",
    "TensorBoard",
    "fit",
    "loss_figure",
    "memory_figure",
    "next_token_loss",
    "norm_figure",
    "random_batches",
    "speed_figure",
]
