"""Several merged models behind a router that is solved for, not trained."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from treadle.combine.merge.expert_names import plain_name
from treadle.combine.merge.glue.found import ClusterChoice, ScoredMerge
from treadle.combine.merge.glue.items import Items, ItemSet
from treadle.combine.merge.glue.trials import Losses, Settled, score_of
from treadle.core.checkpoint.routed import NgramFeatures
from treadle.core.seed import numpy_stream
from treadle.model.embed.ngrams import ngram_counts
from treadle.runtime.routed.router import PromptRouter

__all__ = ["Expert", "Mixture", "choose_mixture"]

_RIDGE = 1e-3
"""Beside features of length 1."""
_WORTH = 0.01
"""What share of the score another expert has to gain, since it costs a model's memory."""


class Expert(NamedTuple):
    """A model of the mixture: what was chosen in a cluster, or a model that it dropped."""

    part: ClusterChoice
    merge: ScoredMerge
    name: str
    """Of its folder."""


class Mixture(NamedTuple):
    """Experts, and who answers what."""

    experts: list[Expert]
    router: PromptRouter
    dev: list[Losses]
    """[items] of each set: what the chosen model loses."""
    test: list[Losses]
    oracle: list[Losses]
    """[items] of each test set: what the best model of each item loses."""
    random: list[Losses]
    """[items] of each test set: what a model that is drawn for each item loses."""
    shares: list[list[float]]
    """[sets][experts] of each test set: how often each is chosen."""


def choose_mixture(
    found: Sequence[ClusterChoice], items: Items, settled: Settled, max_experts: int
) -> Mixture | None:
    """Return the mixture of what cannot be merged and is best at something; None if that is one.

    Experts are taken from the clusters' merges and from all single models, one after the other:
    whoever lowers the score most, if each set were answered by its best expert, until that gains
    less than a hundredth. Each item is the expert's that loses least on it. Ridge regression of
    whose it is on hashed n-grams of the text, in closed form, gives each expert a linear score; the
    largest one answers. The ridge is small (`_RIDGE`): texts of different kinds may differ in few
    n-grams.

    Args:
        found: What was found in each cluster.
        items: What was searched on, and what was not.
        settled: By what is judged.
        max_experts: Most models of the mixture.
    """
    experts = _chosen(_candidates(found), settled, max_experts)
    if len(experts) < 2:
        return None
    router = _regressed(experts, items.dev)
    dev, _ = _routed(router, items.dev, [one.merge.dev for one in experts])
    test, shares = _routed(router, items.test, [one.merge.test for one in experts])
    stacked = [np.stack(losses) for losses in zip(*(e.merge.test for e in experts), strict=True)]
    oracle = [one.min(axis=0) for one in stacked]
    random = [_blind(one, settled, number) for number, one in enumerate(stacked)]
    return Mixture(experts, router, dev, test, oracle, random, shares)


def _candidates(found: Sequence[ClusterChoice]) -> list[Expert]:
    """Return every cluster's choice, and all models that are no choice by themselves."""
    merges, singles = [], []
    for number, part in enumerate(found, 1):
        alone = [one for one in part.singles if np.array_equal(one.weights, part.chosen.weights)]
        if not alone:
            merges.append(Expert(part, part.chosen, f"merge-{number}"))
        singles += [Expert(part, one, plain_name(one.name)) for one in part.singles]
    return [*merges, *singles]


def _chosen(candidates: Sequence[Expert], settled: Settled, most: int) -> list[Expert]:
    """Return the experts, under names that differ."""
    scores = np.array(
        [[score_of([one], settled.objective) for one in e.merge.dev] for e in candidates]
    )
    taken = [int(scores.mean(axis=1).argmin())]
    while len(taken) < min(most, len(candidates)):
        now = scores[taken].min(axis=0)
        means = np.minimum(scores, now).mean(axis=1)
        best = int(means.argmin())
        if means[best] > now.mean() * (1 - _WORTH):
            break
        taken.append(best)
    owners = {int(place) for place in scores[taken].argmin(axis=0)}
    kept = [candidates[place] for number, place in enumerate(taken) if number in owners]
    names = [one.name for one in kept]
    return [
        one if names.count(one.name) == 1 else one._replace(name=f"{one.name}-{number}")
        for number, one in enumerate(kept, 1)
    ]


def _regressed(experts: Sequence[Expert], sets: Sequence[ItemSet]) -> PromptRouter:
    """Return the ridge regression of whose an item is, in which every set counts alike."""
    spec = NgramFeatures()
    texts, owners, weights = [], [], []
    for number, one in enumerate(sets):
        losses = np.stack([one.merge.dev[number] for one in experts])
        owners.append(np.eye(len(experts))[losses.argmin(axis=0)])
        texts.append(ngram_counts([item.prompt for item in one.items], spec).astype(np.float64))
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
