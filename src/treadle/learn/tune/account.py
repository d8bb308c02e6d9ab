"""What a training showed: numbers, curves, and what is to be said of it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from treadle.core.result import Figure, Measurement, Series
from treadle.core.run import Recording
from treadle.learn.tune.request import TuneRequest

if TYPE_CHECKING:
    from treadle.model.fit import Fit

__all__ = ["account_for"]

_AVERAGED = 10
"""Steps at either end of a loss curve that make one number, at most a quarter of all."""


def account_for(
    run: Recording,
    request: TuneRequest,
    done: "Fit",
    steps: int,
    num_learning: int,
    num_parameters: int,
) -> None:
    """Note what a training did."""
    from treadle.model.fit import loss_figure, memory_figure, norm_figure, speed_figure

    few = max(1, min(_AVERAGED, steps // 4))
    unit = "nats per pair" if request.method.takes == "pairs" else "nats per token"
    first, last = (sum(some) / len(some) for some in (done.losses[:few], done.losses[-few:]))
    note = f"mean of {few} step{'s' if few > 1 else ''}"
    run.measurements += [
        Measurement(
            name="loss_first", value=first, unit=unit, better="lower", note=f"{note}, first"
        ),
        Measurement(name="loss_last", value=last, unit=unit, better="lower", note=f"{note}, last"),
        Measurement(name="steps", value=steps, note=f"of {request.settings.rows} rows"),
        Measurement(
            name="tokens", value=sum(done.num_tokens), note="that ran through the model to learn"
        ),
        Measurement(
            name="tokens_per_second",
            value=done.tokens_per_second,
            better="higher",
            note="of training",
        ),
        Measurement(
            name="learning_weights",
            value=num_learning,
            note=f"{num_learning / max(1, num_parameters):.3g} of the model's {num_parameters}",
        ),
    ]
    name = request.method.name
    evaluations = {k: v for k, v in done.evaluations.items() if k == "held-out loss"}
    loss = loss_figure({"training": done.losses}, evaluations=evaluations)
    run.figures += [
        loss.model_copy(update={"y_label": unit}),
        norm_figure({name: done.gradient_norms}),
        speed_figure({name: done}),
        memory_figure({name: done}),
    ]
    rewards = {k: v for k, v in done.evaluations.items() if k not in evaluations}
    if rewards:
        run.figures.append(_rewards_figure(rewards))


def _rewards_figure(found: Mapping[str, Sequence[tuple[int, float]]]) -> Figure:
    """Return what pairs that are held out showed as training went."""
    return Figure(
        kind="line",
        title="Held-out rewards",
        x_label="step",
        y_label="margin of rewards, or share of pairs",
        series=[
            Series(name=name, x=[step for step, _ in values], y=[value for _, value in values])
            for name, values in found.items()
        ],
    )
