"""Several merged models behind a router that is solved for, not trained."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from treadle.combine.merge.glue.found import ClusterChoice
from treadle.combine.merge.glue.items import Items, ItemSet
from treadle.combine.merge.glue.trials import Losses, Settled, score_of
from treadle.core.checkpoint.routed import NgramFeatures
from treadle.core.seed import numpy_stream
from treadle.runtime.routed.router import PromptRouter, features_of

__all__ = ["Mixture", "choose_mixture"]

_RIDGE = 1e-3
"""Beside features of length 1."""


class Mixture(NamedTuple):
    """Clusters' merges, and who answers what."""

    parts: list[ClusterChoice]
    names: list[str]
    """Of the experts' folders."""
    router: PromptRouter
    dev: list[Losses]
    """[items] of each set: what the chosen model loses."""
    test: list[Losses]
    oracle: list[Losses]
    """[items] of each test set: what the best model of each item loses."""
    random: list[Losses]
    """[items] of each test set: the mean of all models, which is what choosing blindly costs."""
    shares: list[list[float]]
    """[sets][experts] of each test set: how often each is chosen."""


def choose_mixture(
    found: Sequence[ClusterChoice], items: Items, settled: Settled, notes: list[str]
) -> Mixture | None:
    """Return the mixture of the clusters that are best at something; None if that is one cluster.

    Each item is the expert's that loses least on it. Ridge regression of whose it is on hashed
    n-grams of the text, in closed form, gives each expert a linear score; the largest one answers.
    The ridge is small (`_RIDGE`): texts of different kinds may differ in few n-grams.

    Args:
        found: What was found in each cluster.
        items: What was searched on, and what was not.
        settled: By what is judged.
        notes: Takes what is to be said.
    """
    scores = np.array([[score_of([one], settled.objective) for one in f.chosen.dev] for f in found])
    best = sorted({int(place) for place in scores.argmin(axis=0)})
    left = [found[place] for place in range(len(found)) if place not in best]
    notes += [
        f"The cluster of {one.trials.name} is best at none of the sets, so it is no part of OUT."
        for one in left
    ]
    if len(best) < 2:
        return None
    parts = [found[place] for place in best]
    router = _regressed(parts, items.dev)
    dev, _ = _routed(router, items.dev, [one.chosen.dev for one in parts])
    test, shares = _routed(router, items.test, [one.chosen.test for one in parts])
    stacked = [np.stack(losses) for losses in zip(*(p.chosen.test for p in parts), strict=True)]
    oracle = [one.min(axis=0) for one in stacked]
    random = [_blind(one, settled, number) for number, one in enumerate(stacked)]
    return Mixture(parts, _names(parts), router, dev, test, oracle, random, shares)


def _regressed(parts: Sequence[ClusterChoice], sets: Sequence[ItemSet]) -> PromptRouter:
    """Return the ridge regression of whose an item is, in which every set counts alike."""
    spec = NgramFeatures()
    texts, owners, weights = [], [], []
    for number, one in enumerate(sets):
        losses = np.stack([part.chosen.dev[number] for part in parts])
        owners.append(np.eye(len(parts))[losses.argmin(axis=0)])
        texts.append(features_of([item.prompt for item in one.items], spec).astype(np.float64))
        weights.append(np.full(len(one.items), 1 / len(one.items)))
    inputs, wanted, weight = (np.concatenate(many) for many in (texts, owners, weights))
    weight = weight / weight.mean()
    middle, usual = (np.average(many, axis=0, weights=weight) for many in (inputs, wanted))
    root = np.sqrt(weight)[:, None]
    rows = (inputs - middle) * root
    gram = rows @ rows.T + _RIDGE * np.eye(len(rows))
    solved = rows.T @ np.linalg.solve(gram, (wanted - usual) * root)
    bias = usual - middle @ solved
    return PromptRouter(spec, solved.T.astype(np.float32), bias.astype(np.float32))


def _routed(
    router: PromptRouter, sets: Sequence[ItemSet], losses: Sequence[Sequence[Losses]]
) -> tuple[list[Losses], list[list[float]]]:
    found, shares = [], []
    for number, one in enumerate(sets):
        chosen = np.array(router.choose([item.prompt for item in one.items]))
        stacked = np.stack([own[number] for own in losses])
        found.append(stacked[chosen, np.arange(len(chosen))])
        shares.append([float((chosen == place).mean()) for place in range(len(losses))])
    return found, shares


def _blind(losses: Losses, settled: Settled, number: int) -> Losses:
    """Return what a model that is drawn for each item loses."""
    drawn = numpy_stream(settled.seed, f"blind {number}").integers(
        len(losses), size=losses.shape[1]
    )
    found: Losses = losses[drawn, np.arange(losses.shape[1])]
    return found


def _names(parts: Sequence[ClusterChoice]) -> list[str]:
    """Return a folder name for each: the last part of the first model's path, made unique."""
    found: list[str] = []
    for part in parts:
        last = part.trials.name.rstrip("/").rpartition("/")[2].partition("+")[0]
        name = "".join(c if c.isalnum() or c in "._-" else "-" for c in last).strip("-.") or "model"
        number, free = 2, name
        while free in found:
            free, number = f"{name}-{number}", number + 1
        found.append(free)
    return found
