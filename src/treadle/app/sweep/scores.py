"""Scores of cells over seeds: means with intervals, and what pairs them with a baseline."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.errors import DataError
from treadle.core.intervals import student_mean
from treadle.core.registry import near
from treadle.core.result import Entry, Measurement, Result

__all__ = [
    "NOTHING",
    "Chain",
    "Pair",
    "Paired",
    "Score",
    "average",
    "broken",
    "compare",
    "find_scores",
    "known_scores",
]

_EVALUATE = "evaluate"
NOTHING = Entry()
Chain = Mapping[str, Result]
"""The results of a cell by the names of its artefacts, the last step's last."""


class Score(NamedTuple):
    """A measurement that the table shows."""

    out: str
    """Artefact of the step that measures it."""
    measure: Measurement
    """It in some cell: its name, unit and direction are those of all."""
    title: str

    def of(self, chain: Chain) -> Measurement | None:
        """Return the measurement in a cell, if it is there, or in what was prepared."""
        found = (entry for result in self.results(chain) for entry in result.measurements)
        return next((entry for entry in found if entry.name == self.measure.name), None)

    def results(self, chain: Chain) -> list[Result]:
        """Return the results that may have it: of its step, or of steps called otherwise."""
        return [chain[self.out]] if self.out in chain else list(chain.values())


class Pair(NamedTuple):
    """A run and the one that it is compared with."""

    ours: Chain
    base: Chain
    group: str = ""
    """What runs share that are no independent ones: the model, where models and seeds repeat."""


class Paired(NamedTuple):
    """One row's difference to another, run by run."""

    difference: Entry
    """Of the score: its mean over pairs; the interval is Student's."""
    by_example: Entry
    """Of the values by example, where both results carry them: of these runs alone."""
    examples: str
    """What these values are called."""
    verdict: str
    """better, worse or no; empty where nothing can be said."""
    is_by_example: bool = False
    """Whether the examples of one run decided: then it holds for that run alone."""


def find_scores(chains: Sequence[Chain], asked: Sequence[str]) -> list[Score]:
    """Return the scores that were asked for, or those by which the steps that evaluate rank.

    "name" is a measurement of the last step, "step.name" of the step that makes `step`. What is
    called in two ways stands once.

    Raises:
        DataError: No cell has a measurement of that name.
    """
    if not chains:
        return []
    scores = [_asked(name, chains) for name in asked] if asked else _main(chains)
    unique = {(score.out, score.measure.name): score for score in reversed(scores)}
    return list(reversed(unique.values()))


def _main(chains: Sequence[Chain]) -> list[Score]:
    """Return the main score of each step that evaluates, and of the last, in any cell."""
    found: dict[tuple[str, str], Measurement] = {}
    for chain in chains:
        for out, result in chain.items():
            if result.verb != _EVALUATE and out != list(chain)[-1]:
                continue
            plain = [entry for entry in result.measurements if entry.comparison is None]
            ranking = [entry for entry in plain if entry.better != "neither"]
            for entry in (ranking or plain)[:1]:
                found.setdefault((out, entry.name), entry)
    names = [name for _, name in found]
    return [
        Score(out, entry, name if names.count(name) == 1 else f"{out}.{name}")
        for (out, name), entry in found.items()
    ]


def known_scores(chain: Chain) -> dict[str, Score]:
    """Return the scores of a cell by all names that they have."""
    known: dict[str, Score] = {}
    for out, result in chain.items():
        for entry in result.measurements:
            known.setdefault(f"{out}.{entry.name}", Score(out, entry, f"{out}.{entry.name}"))
            if out == list(chain)[-1]:
                known.setdefault(entry.name, Score(out, entry, entry.name))
    return known


def _asked(name: str, chains: Sequence[Chain]) -> Score:
    known: dict[str, Score] = {}
    for chain in chains:
        known = {**known_scores(chain), **known}
    if name not in known:
        raise DataError(f"No cell measured the score '{name}'. {near(name, list(known))}")
    return known[name]._replace(title=name)


def average(score: Score, chains: Sequence[Chain], groups: Sequence[str] = ()) -> Entry:
    """Return the mean over runs; of a single run, what it measured itself.

    Where runs form `groups`, a name for each run, the interval is over their means.
    """
    named = zip(chains, groups or [""] * len(chains), strict=True)
    measured = [(entry, name) for chain, name in named if (entry := score.of(chain)) is not None]
    found = [entry for entry, _ in measured]
    if not found:
        return NOTHING
    if len(found) == 1 and np.isfinite(found[0].value):
        only = found[0]
        note = "one run" if only.low is None else "one run; interval over its examples"
        return Entry(value=only.value, low=only.low, high=only.high, note=note)
    return _mean([entry.value for entry in found], [name for _, name in measured])


def broken(score: Score, chains: Sequence[Chain]) -> int:
    """Return in how many runs the score is no finite number."""
    found = [entry.value for chain in chains if (entry := score.of(chain)) is not None]
    return sum(not np.isfinite(value) for value in found)


def _mean(values: Sequence[float], groups: Sequence[str]) -> Entry:
    """Return the mean with Student's interval; nothing where a run gave no finite number."""
    if odd := [value for value in values if not np.isfinite(value)]:
        return Entry(note=f"{odd[0]:g} in {len(odd)} of {len(values)} runs")
    note = ""
    if 1 < len(set(groups)) < len(values) and len(set(values)) > 1:
        members = [
            [v for v, name in zip(values, groups, strict=True) if name == one]
            for one in dict.fromkeys(groups)
        ]
        values = [float(np.mean(own)) for own in members]
        note = f"of {len(values)} inputs"
    mean = float(np.mean(np.asarray(values, dtype=np.float64)))
    if len(values) == 1:
        return Entry(value=mean)
    if len(set(values)) == 1:
        return Entry(value=mean, note="equal in all runs")  # seeds have no effect on it
    low, high = student_mean(values)
    return Entry(value=mean, low=low, high=high, note=note)


def compare(score: Score, pairs: Sequence[Pair]) -> Paired | None:
    """Return how the first of each pair differs from the second; None where nothing compares.

    Of several runs Student's interval over the runs decides, whatever their examples say: with a
    handful of runs nothing else keeps to its 5 % of false alarms. Of one run its examples decide,
    of that run alone. Pairs of different protocols say nothing of each other and are left out.
    """
    same = []
    for pair in pairs:
        ours, theirs = score.of(pair.ours), score.of(pair.base)
        if ours is not None and theirs is not None and ours.protocol == theirs.protocol:
            same.append((pair, ours.value - theirs.value))
    if not same:
        return None
    difference = _mean([gap for _, gap in same], [pair.group for pair, _ in same])
    name, better, gaps = _gaps(score, [pair for pair, _ in same])
    by_example = _over_examples(gaps)
    verdict = _verdict(score.measure.better, difference)
    is_one_run = all(np.array_equal(gap, gaps[0]) for gap in gaps)
    if not verdict and is_one_run and (said := _verdict(better, by_example)):
        agree = _side(better, by_example) == _side(score.measure.better, difference)
        return Paired(difference, by_example, name, said if agree else "no", True)
    return Paired(difference, by_example, name, verdict)


def _gaps(score: Score, pairs: Sequence[Pair]) -> tuple[str, str, list[npt.NDArray[np.float64]]]:
    """Return what is known by example, which way of it is better, and each pair's differences."""
    held = pairs[0].ours[score.out]
    first = list(held.samples)
    name = score.measure.name if score.measure.name in first else first[0] if first else ""
    better = next((one.better for one in held.measurements if one.name == name), "neither")
    gaps = []
    for chain, base, _ in pairs:
        ours = chain[score.out].samples.get(name, [])
        others = (one.samples[name] for one in score.results(base) if name in one.samples)
        theirs = next(others, [])
        if not ours or len(ours) != len(theirs):
            return "", "neither", []
        gaps.append(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64))
    if len({len(gap) for gap in gaps}) > 1 or not all(np.isfinite(gap).all() for gap in gaps):
        return "", "neither", []
    return name, better, gaps


def _over_examples(gaps: Sequence[npt.NDArray[np.float64]]) -> Entry:
    """Return the mean difference of these runs with Student's interval over the examples."""
    if not gaps:
        return NOTHING
    means = np.stack(gaps).mean(axis=0)
    if len(means) == 1:
        return Entry(value=float(means[0]))
    low, high = student_mean(means.tolist())
    return Entry(value=float(means.mean()), low=low, high=high)


def _verdict(better: str, difference: Entry) -> str:
    """Return what an interval says of its own mean; empty where there is none."""
    if difference.low is None or difference.high is None or better == "neither":
        return ""
    if difference.low <= 0 <= difference.high:
        return "no"
    return _side(better, difference)


def _side(better: str, difference: Entry) -> str:
    if not isinstance(difference.value, float) or difference.value == 0:
        return ""
    return "better" if (difference.value > 0) == (better == "higher") else "worse"
