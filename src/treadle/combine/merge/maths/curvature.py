"""How much loss lies between models and their mean, from how sharply the loss bends there."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from treadle.combine.merge.base import Chunk
from treadle.combine.merge.site import Knowledge
from treadle.core.result import Figure, Measurement, Series

__all__ = ["averaging_gain", "gain_advice", "gain_figure", "gain_measurement"]

_FAR = 0.5
"""Nats a token from which on the second order says little: of tiny models an estimate of 0.008 was
right to 4 %, one of 0.1 a fifth too high, and one of 1 more than three times too high."""


def averaging_gain(chunk: Chunk, knowledge: Sequence[Knowledge], num_tokens: int) -> float:
    """Return a run's part of ½ Σ_j F_j Var_n(θ_nj), in nats a token; added up in float64.

    That is the mean of the models' losses less the loss of their mean, to second order, with the
    diagonal Fisher information F for the curvature, averaged over the models' data (MERIT, 2026).
    Where a model predicts as its data is, gradients of single tokens are uncorrelated, so that F
    is the mean squared gradient of a window's mean loss, times the tokens in that mean. On real
    text those of one window are alike, which makes the estimate too high.

    Args:
        chunk: The models; their task vectors do as well.
        knowledge: Of each model.
        num_tokens: How many a window's loss is the mean of.
    """
    variance = chunk.models.var(axis=0, dtype=np.float64)
    fisher = np.zeros_like(variance)
    importance = np.empty(variance.shape, np.float32)
    for known in knowledge:
        known.importance(chunk.first, importance)
        fisher += importance
    return 0.5 * num_tokens / len(knowledge) * float(variance @ fisher)


def gain_measurement(gain: float) -> Measurement:
    """Return the gain of all tensors as a number of a result."""
    return Measurement(
        name="gain of averaging",
        value=gain,
        unit="nats a token",
        basis="simulated",
        note="(an estimate, half the curvature-weighted variance: the mean of the models' losses "
        "less the loss of their mean, to second order; too high where windows are of one topic)",
    )


def gain_figure(gains: Mapping[str, float]) -> Figure:
    """Draw the gain of each layer."""
    series = [Series(name="gain of averaging", x=list(gains), y=list(gains.values()))]
    return Figure(
        kind="bar",
        title="Curvature-weighted variance of the models by layer",
        x_label="layer",
        y_label="nats a token",
        series=series,
    )


def gain_advice(gain: float) -> Iterator[str]:
    """Yield what the gain means for a choice."""
    yield (
        f"On these texts the mean of the models should lose up to {gain:.3g} nats a token less "
        f"than they do on average (of SmolLM2-135M with noise, half of the estimate was measured). "
        f"Evaluate each one on all the texts: if the best one is further below their average than "
        f"that, prefer it, or weigh it more; if by less than half of that, the mean should beat it."
    )
    if gain > _FAR:
        yield (
            f"The models lie far apart: {gain:.3g} nats are more than a second-order estimate can "
            f"tell, and the mean may well lose; merge by ties or wudi, or route between them."
        )
