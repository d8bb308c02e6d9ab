"""What became of a load: latencies with intervals, rates, goodput, and their plots."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from treadle.core.intervals import bootstrap_quantiles, wilson
from treadle.core.result import Figure, Measurement, Series
from treadle.judge.bench.drive import Served

__all__ = ["LatencyObjective", "figures", "measurements", "notes"]

_QUANTILES = (0.5, 0.9, 0.95, 0.99)
_OK, _BUSY = 200, (429, 503)
_MOST_POINTS = 400
_FEW = 2000
"""Below it the 99th percentile is mostly noise."""


class LatencyObjective(NamedTuple):
    """The latency that users are promised (a service level objective)."""

    first_seconds: float
    """Until the first piece."""
    token_seconds: float
    """Mean time of a further token."""


def _is_answered(one: Served) -> bool:
    return one.status == _OK and one.first_seconds is not None


def _first(one: Served) -> float:
    assert one.first_seconds is not None
    return one.first_seconds - one.scheduled_seconds


def _whole(one: Served) -> float:
    assert one.last_seconds is not None
    return one.last_seconds - one.scheduled_seconds


def _token(one: Served) -> float:
    """Return the mean time of a token after the first; NaN where there is none."""
    assert one.first_seconds is not None
    assert one.last_seconds is not None
    if one.answer_tokens < 2:
        return math.nan
    return (one.last_seconds - one.first_seconds) / (one.answer_tokens - 1)


_LATENCIES: dict[str, tuple[Callable[[Served], float], str]] = {
    "first_token": (_first, "from the scheduled time to the first piece"),
    "token": (_token, "mean of a further token"),
    "request": (_whole, "from the scheduled time to the end"),
}


def measurements(
    served: Sequence[Served], objective: LatencyObjective, seed: int
) -> list[Measurement]:
    """Return latencies, rates and goodput of all that was sent."""
    answered = [one for one in served if _is_answered(one)]
    found = _fates(served, answered)
    for name, (measure, what) in _LATENCIES.items():
        found += _latency(name, what, [measure(one) for one in answered], seed)
    return found + _rates(answered) + _goodput(served, answered, objective)


def _fates(served: Sequence[Served], answered: Sequence[Served]) -> list[Measurement]:
    busy = sum(one.status in _BUSY for one in served)
    counts = {
        "answered": (len(answered), "higher", ""),
        "refused": (busy, "lower", "with 429 or 503"),
        "failed": (len(served) - len(answered) - busy, "lower", "other errors, broken connections"),
    }
    return [
        Measurement(name=name, value=value, unit="requests", better=better, note=note)
        for name, (value, better, note) in counts.items()
    ]


def _latency(name: str, what: str, values: Sequence[float], seed: int) -> list[Measurement]:
    kept = [value for value in values if not math.isnan(value)]
    if not kept:
        return []
    intervals = bootstrap_quantiles(kept, _QUANTILES, seed)
    return [
        Measurement(
            name=f"{name}_p{round(100 * level)}",
            value=float(np.quantile(kept, level)),
            low=interval.low,
            high=interval.high,
            unit="seconds",
            better="lower",
            note=f"{what}; bootstrap over {len(kept)} requests",
        )
        for level, interval in zip(_QUANTILES, intervals, strict=True)
    ]


def _rates(answered: Sequence[Served]) -> list[Measurement]:
    if not answered:
        return []
    seconds = _duration(answered)
    read = sum(one.prompt_tokens for one in answered)
    cached = sum(one.cached_tokens for one in answered)
    amounts = {
        "request_rate": (len(answered), "answered requests per second", ""),
        "answer_rate": (sum(one.answer_tokens for one in answered), "tokens per second", ""),
        "prompt_rate": (read, "tokens per second", f"{cached} of {read} from the prefix cache"),
    }
    return [
        Measurement(name=name, value=amount / seconds, unit=unit, better="higher", note=note)
        for name, (amount, unit, note) in amounts.items()
    ]


def _duration(answered: Sequence[Served]) -> float:
    """Return the seconds from the first sending to the last piece."""
    ends = [one.last_seconds or 0.0 for one in answered]
    return max(1e-9, max(ends) - min(one.sent_seconds for one in answered))


def _goodput(
    served: Sequence[Served], answered: Sequence[Served], objective: LatencyObjective
) -> list[Measurement]:
    if not served:
        return []
    good = [
        _first(one) <= objective.first_seconds
        and not _token(one) > objective.token_seconds  # one token alone has no further ones
        for one in answered
    ]
    right = [*map(float, good), *[0.0] * (len(served) - len(answered))]
    low, high = wilson(right)
    what = (
        f"first piece within {objective.first_seconds:g} s and further tokens within "
        f"{objective.token_seconds:g} s each"
    )
    found = [
        Measurement(
            name="goodput",
            value=sum(good) / len(served),
            low=low,
            high=high,
            unit="of all requests",
            better="higher",
            note=f"{what}; refused and failed ones count as missed",
        )
    ]
    if answered:
        found.append(
            Measurement(
                name="goodput_rate",
                value=sum(good) / _duration(answered),
                unit="requests per second",
                better="higher",
                note=what,
            )
        )
    return found


def figures(served: Sequence[Served]) -> list[Figure]:
    """Return how latencies are distributed, and how the load went on."""
    answered = [one for one in served if _is_answered(one)]
    if not answered:
        return []
    return [_distribution(answered), _course(answered), _latency_over_time(answered)]


def _distribution(answered: Sequence[Served]) -> Figure:
    levels = np.linspace(0, 1, 101)
    series = []
    for label, measure in (("first token", _first), ("whole request", _whole)):
        values = np.quantile([measure(one) for one in answered], levels)
        series.append(Series(name=label, x=[100 * level for level in levels], y=values.tolist()))
    return Figure(
        kind="line",
        title="Latency of the fastest share of requests",
        x_label="% of requests",
        y_label="seconds",
        series=series,
    )


def _course(answered: Sequence[Served]) -> Figure:
    ends = np.array([one.last_seconds or 0.0 for one in answered])
    sent = np.array([one.sent_seconds for one in answered])
    times = np.linspace(float(sent.min()), float(ends.max()), 200)
    inside = [int(((sent <= time) & (time < ends)).sum()) for time in times]
    return Figure(
        kind="line",
        title="Requests on their way",
        x_label="seconds since the load began",
        y_label="requests",
        series=[Series(name="sent and not yet answered", x=times.tolist(), y=inside)],
    )


def _latency_over_time(answered: Sequence[Served]) -> Figure:
    shown = sorted(answered, key=lambda one: one.scheduled_seconds)
    shown = shown[:: max(1, -(-len(shown) // _MOST_POINTS))]
    return Figure(
        kind="scatter",
        title="Time to the first token, request by request",
        x_label="scheduled at, seconds since the load began",
        y_label="seconds",
        series=[
            Series(
                name="first token",
                x=[one.scheduled_seconds for one in shown],
                y=[_first(one) for one in shown],
            )
        ],
    )


def notes(served: Sequence[Served], shares: bool) -> list[str]:
    """Return what a reader of the figures must know; `shares` says whether prompts share blocks."""
    found = []
    if not shares and (cached := sum(one.cached_tokens for one in served)):
        found.append(
            f"{cached} prompt tokens came from the server's prefix cache, although no two prompts "
            f"share any: an earlier run left them there. Give another --seed for a cold cache."
        )
    if len(served) < _FEW:
        found.append(
            f"{len(served)} requests: far percentiles rest on few of them; mind their intervals."
        )
    if lags := [one.sent_seconds - one.scheduled_seconds for one in served]:
        found.append(f"The client sent requests at most {max(lags):.3f} s late.")
    wrong = [one for one in served if not _is_answered(one)]
    if reasons := sorted({one.reason or "an answer without pieces" for one in wrong}):
        shown = "; ".join(reasons[:3])
        found.append(f"{len(wrong)} requests had no answer: {shown[:600]}")
    return found
