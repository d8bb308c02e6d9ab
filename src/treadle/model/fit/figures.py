"""Training as figures: losses, gradient norms, speed and memory over the steps."""

from collections.abc import Mapping, Sequence

import numpy as np

from treadle.core.result import Figure, Series
from treadle.model.fit.course import Fit

__all__ = ["loss_figure", "memory_figure", "norm_figure", "speed_figure"]


def loss_figure(
    curves: Mapping[str, Sequence[float]],
    num_points: int = 100,
    evaluations: Mapping[str, Sequence[tuple[int, float]]] | None = None,
) -> Figure:
    """Return loss curves by name, each step's loss averaged with those around it.

    Args:
        curves: Losses of training, by name.
        num_points: Most points of a curve of training.
        evaluations: Values by name that stand beside, as `Fit.evaluations` has them.
    """
    beside = [
        Series(name=name, x=[step for step, _ in values], y=[value for _, value in values])
        for name, values in (evaluations or {}).items()
    ]
    return Figure(
        kind="line",
        title="Training loss",
        x_label="step",
        y_label="nats per token",
        series=_averaged(curves, num_points) + beside,
    )


def norm_figure(curves: Mapping[str, Sequence[float]], num_points: int = 100) -> Figure:
    """Return the norms of the gradient by name, averaged as losses are."""
    return Figure(
        kind="line",
        title="Gradient norm",
        x_label="step",
        y_label="norm before clipping",
        series=_averaged(curves, num_points),
    )


def speed_figure(fits: Mapping[str, Fit], num_points: int = 100) -> Figure:
    """Return the tokens per second of trainings by name, over runs of steps."""
    series = []
    for name, done in fits.items():
        ends, tokens = _parts(done.num_tokens, num_points)
        _, seconds = _parts(done.seconds, num_points)
        points = [float(t.sum() / s.sum()) for t, s in zip(tokens, seconds, strict=True)]
        series.append(Series(name=name, x=ends, y=points))
    return Figure(
        kind="line",
        title="Training speed",
        x_label="step",
        y_label="tokens per second",
        series=series,
    )


def memory_figure(fits: Mapping[str, Fit], num_points: int = 100) -> Figure:
    """Return what trainings held in main memory by name, the most of each run of steps."""
    series = []
    for name, done in fits.items():
        ends, parts = _parts(done.memory_bytes, num_points)
        series.append(Series(name=name, x=ends, y=[float(part.max()) / 1e9 for part in parts]))
    return Figure(
        kind="line",
        title="Memory of training",
        x_label="step",
        y_label="GB at the end of a step",
        series=series,
    )


def _averaged(curves: Mapping[str, Sequence[float]], num_points: int) -> list[Series]:
    series = []
    for name, values in curves.items():
        ends, parts = _parts(values, num_points)
        series.append(Series(name=name, x=ends, y=[float(part.mean()) for part in parts]))
    return series


def _parts(values: Sequence[float], num_points: int) -> tuple[list[int], list["np.ndarray"]]:
    """Return the values in nearly equal runs, and the step after which each run ends."""
    parts = np.array_split(np.asarray(values), min(num_points, len(values)))
    return [int(end) for end in np.cumsum([len(part) for part in parts])], parts
