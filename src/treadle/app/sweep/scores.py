"""Scores of cells over seeds: means with intervals, and what pairs them with a baseline."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from treadle.core.errors import DataError
from treadle.core.intervals import bootstrap_seeds_and_rows, student_mean
from treadle.core.registry import near
from treadle.core.result import Entry, Measurement, Result

__all__ = ["NOTHING", "Chain", "Paired", "Score", "average", "compare", "find_scores"]

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


class Paired(NamedTuple):
    """One row's difference to another, run by run."""

    difference: Entry
    """Of the score: its mean over pairs; the interval is Student's."""
    by_example: Entry
    """Of the values by example, where both results carry them."""
    examples: str
    """What these values are called."""
    verdict: str
    """better, worse or no; empty where nothing can be said."""


def find_scores(chains: Sequence[Chain], asked: Sequence[str]) -> list[Score]:
    """Return the scores that were asked for, or those by which the last step ranks.

    "name" is a measurement of the last step, "step.name" of the step that makes `step`.

    Raises:
        DataError: No cell has a measurement of that name.
    """
    if not chains:
        return []
    if asked:
        return [_asked(name, chains) for name in asked]
    last = list(chains[0])[-1]
    found = chains[0][last].measurements
    plain = [entry for entry in found if entry.comparison is None]
    ranking = [entry for entry in plain if entry.better != "neither"]
    return [Score(last, entry, entry.name) for entry in (ranking or plain)[:1]]


def _asked(name: str, chains: Sequence[Chain]) -> Score:
    known: dict[str, Score] = {}
    for chain in chains:
        last = list(chain)[-1]
        for out, result in chain.items():
            for entry in result.measurements:
                score = Score(out, entry, name)
                known.setdefault(f"{out}.{entry.name}", score)
                if out == last:
                    known.setdefault(entry.name, score)
    if name not in known:
        raise DataError(f"No cell measured the score '{name}'. {near(name, list(known))}")
    return known[name]


def average(score: Score, chains: Sequence[Chain]) -> Entry:
    """Return the mean over runs; of a single run, what it measured itself."""
    found = [entry for chain in chains if (entry := score.of(chain)) is not None]
    if not found:
        return NOTHING
    if len(found) == 1:
        only = found[0]
        note = "one run" if only.low is None else "one run; interval over its examples"
        return Entry(value=only.value, low=only.low, high=only.high, note=note)
    return _mean([entry.value for entry in found])


def _mean(values: Sequence[float]) -> Entry:
    mean = float(np.mean(np.asarray(values, dtype=np.float64)))
    if len(values) == 1 or not np.isfinite(values).all():
        return Entry(value=mean)
    if len(set(values)) == 1:
        return Entry(value=mean, note="equal in all runs")  # seeds have no effect on it
    low, high = student_mean(values)
    return Entry(value=mean, low=low, high=high)


def compare(score: Score, pairs: Sequence[tuple[Chain, Chain]]) -> Paired | None:
    """Return how the first of each pair differs from the second; None where nothing compares.

    Pairs of different protocols say nothing of each other and are left out.
    """
    same = []
    for chain, base in pairs:
        ours, theirs = score.of(chain), score.of(base)
        if ours is not None and theirs is not None and ours.protocol == theirs.protocol:
            same.append((chain, base, ours.value - theirs.value))
    if not same:
        return None
    difference = _mean([gap for _, _, gap in same])
    examples, by_example = _by_example(score, [(chain, base) for chain, base, _ in same])
    decisive = by_example if by_example.low is not None else difference
    return Paired(difference, by_example, examples, _verdict(score, difference, decisive))


def _by_example(score: Score, pairs: Sequence[tuple[Chain, Chain]]) -> tuple[str, Entry]:
    """Return the mean difference example by example, with the interval over runs and examples."""
    first = list(pairs[0][0][score.out].samples)
    name = score.measure.name if score.measure.name in first else first[0] if first else ""
    gaps = []
    for chain, base in pairs:
        ours = chain[score.out].samples.get(name, [])
        held = (one.samples[name] for one in score.results(base) if name in one.samples)
        theirs = next(held, [])
        if not ours or len(ours) != len(theirs):
            return "", NOTHING
        gaps.append(np.asarray(ours) - np.asarray(theirs))
    if len({len(gap) for gap in gaps}) > 1 or not all(np.isfinite(gap).all() for gap in gaps):
        return "", NOTHING
    table = np.stack(gaps).astype(np.float64)
    low, high = bootstrap_seeds_and_rows(table, 0)
    return name, Entry(value=float(table.mean()), low=low, high=high)


def _verdict(score: Score, difference: Entry, decisive: Entry) -> str:
    if score.measure.better == "neither" or not isinstance(difference.value, float):
        return ""
    if decisive.low is None or decisive.high is None:
        return ""
    if decisive.low <= 0 <= decisive.high or difference.value == 0:
        return "no"
    is_higher = difference.value > 0
    return "better" if is_higher == (score.measure.better == "higher") else "worse"
