"""What a run says of itself: overlaps beside rivals', the losses, and what the heads cost."""

from collections.abc import Sequence

import numpy as np

from treadle.core.intervals import bootstrap_mean
from treadle.core.result import Comparison, Figure, Measurement, Series
from treadle.core.run import Recording
from treadle.model.retaining import RetainingHeads
from treadle.shrink.sparsify.heads import MOST_FRACTION
from treadle.shrink.sparsify.overlap import FRACTIONS, TRAINED, Overlaps
from treadle.shrink.sparsify.state import SamplesLearned

__all__ = ["account_for_heads", "account_for_overlaps", "num_numbers"]

_UNIT = "share of the entries with the highest targets"


def account_for_overlaps(run: Recording, samples: Sequence[Overlaps], seed: int) -> None:
    """Note how much of what matters the heads find on held-out samples, beside their rivals."""
    by_name: dict[str, list[float]] = {}
    for fraction in FRACTIONS:
        means = {
            name: [_mean(one[fraction, name]) for one in samples]
            for own, name in samples[0]
            if own == fraction
        }
        trained = means[TRAINED]
        for name, values in means.items():
            by_name.setdefault(name, []).append(float(np.mean(values)))
            run.measurements.append(_measured(f"overlap_{fraction:g}_{name}", values, seed))
            if name != TRAINED:
                apart = [mine - other for mine, other in zip(trained, values, strict=True)]
                run.measurements.append(_compared(fraction, name, apart, seed))
                if float(np.mean(apart)) < 0:
                    run.notes.append(
                        f"At {fraction:g} of the entries the heads lose to {name}: overlap "
                        f"{np.mean(trained):.3f} against {np.mean(values):.3f}."
                    )
        run.samples[f"overlap_{fraction:g}"] = trained
        run.figures.append(_by_head(samples, fraction))
    run.figures.append(
        Figure(
            kind="bar",
            title="Overlap with the target on held-out samples",
            x_label="entries kept",
            y_label="overlap",
            series=[
                Series(name=name, x=[f"{one:g}" for one in FRACTIONS], y=values)
                for name, values in by_name.items()
            ],
        )
    )


def _mean(layers: Sequence[np.ndarray]) -> float:
    """Return the mean over all heads that have targets; 0 where none has."""
    values = np.concatenate(layers)
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else 0.0


def _means_of_known(values: np.ndarray) -> np.ndarray:
    """Return the means [heads] over the samples in which a head has targets; 0 where none has."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.asarray(total / np.maximum(known.sum(axis=0), 1))


def _interval(values: Sequence[float], seed: int) -> tuple[float | None, float | None]:
    """Return the ends of the 95 % interval of a mean; one sample has none."""
    return (None, None) if len(values) < 2 else bootstrap_mean(values, seed)


def _measured(name: str, values: Sequence[float], seed: int) -> Measurement:
    low, high = _interval(values, seed)
    mean = float(np.mean(values))
    return Measurement(name=name, value=mean, unit=_UNIT, low=low, high=high, better="higher")


def _compared(fraction: float, rival: str, apart: Sequence[float], seed: int) -> Measurement:
    low, high = _interval(apart, seed)
    return Measurement(
        name=f"overlap_{fraction:g}_over_{rival}",
        value=float(np.mean(apart)),
        unit="difference of shares, paired by sample",
        low=low,
        high=high,
        better="higher",
        comparison=Comparison(score=f"overlap_{fraction:g}_{TRAINED}", neutral=0.0, baseline=rival),
    )


def _by_head(samples: Sequence[Overlaps], fraction: float) -> Figure:
    """Return the trained heads' overlaps, a row for each layer."""
    by_layer = [
        _means_of_known(np.stack([one[fraction, TRAINED][layer] for one in samples]))
        for layer in range(len(samples[0][fraction, TRAINED]))
    ]
    series = [
        Series(
            name=f"layer {layer}",
            x=[f"head {head}" for head in range(len(values))],
            y=values.tolist(),
        )
        for layer, values in enumerate(by_layer)
    ]
    return Figure(
        kind="heatmap",
        title=f"Overlap by layer and KV head at {fraction:g} of the entries",
        x_label="KV head",
        y_label="layer",
        series=series,
    )


def num_numbers(heads: RetainingHeads) -> int:
    """Return how many numbers trained heads have."""
    parts = (part for layer in heads.layers for part in layer if part is not None)
    return sum(part.size for part in parts)


def account_for_heads(
    run: Recording, heads: RetainingHeads, num_parameters: int, learned: SamplesLearned, solver: str
) -> None:
    """Note what heads cost, and how they learned."""
    own = num_numbers(heads)
    share = own / num_parameters
    run.bytes["heads"] = 4 * own
    if share > MOST_FRACTION:
        run.notes.append(
            f"The heads have {share:.1%} of the model's parameters, more than the "
            f"{MOST_FRACTION:.0%} that they are meant to have: the model is small for this method."
        )
    run.measurements += [
        Measurement(name="head_parameters", value=own, unit="numbers", better="lower"),
        Measurement(name="head_share", value=share, unit="fraction of the model's", better="lower"),
        Measurement(name="training_samples", value=learned.num_samples, unit="samples"),
        Measurement(name="training_tokens", value=learned.num_tokens, unit="tokens"),
    ]
    if solver == "ridge":
        run.notes.append("Solved at once from sums over all tokens: there is no curve of losses.")
        return
    losses = [float(loss) for loss in learned.losses]
    run.measurements.append(
        Measurement(
            name="last_loss",
            value=float(np.mean(losses[-10:])),
            unit="mean of the last 10 samples",
            better="lower",
        )
    )
    series = Series(name=run.method, x=[float(n + 1) for n in range(len(losses))], y=losses)
    run.figures.append(
        Figure(
            kind="line",
            title="Loss of each sample before it was learned",
            x_label="sample",
            y_label="loss",
            series=[series],
        )
    )
