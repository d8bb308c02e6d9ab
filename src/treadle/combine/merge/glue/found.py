"""What a search found in a cluster, and what each merge scores where it did not look."""

from typing import NamedTuple

from treadle.combine.merge.glue.base import Weights
from treadle.combine.merge.glue.items import Items
from treadle.combine.merge.glue.trials import Losses, Trials, score_of

__all__ = ["ClusterChoice", "ScoredMerge", "found_in"]


class ScoredMerge(NamedTuple):
    """A merge, and what it loses on every item."""

    name: str
    weights: Weights
    dev: list[Losses]
    """[items] of each set that was searched on."""
    test: list[Losses]
    """[items] of each set that was not."""


class ClusterChoice(NamedTuple):
    """A cluster, its models, their mean and the merge that was chosen."""

    trials: Trials
    singles: list[ScoredMerge]
    mean: ScoredMerge | None
    """Of all models with equal weights: the control."""
    chosen: ScoredMerge
    is_mergeable: bool
    """False where the method's base is another one's."""

    @property
    def dev_score(self) -> float:
        """The chosen merge's score on what was searched on."""
        return score_of(self.chosen.dev, self.trials.settled.objective)

    @property
    def best_single(self) -> ScoredMerge:
        """The best model on what was searched on."""
        return min(self.singles, key=lambda one: score_of(one.dev, self.trials.settled.objective))

    @property
    def dropped(self) -> list[str]:
        """Models that have no weight in the chosen merge."""
        sums = self.chosen.weights.sum(axis=0).tolist()
        return [name for name, used in zip(self.trials.names, sums, strict=True) if not used]


def found_in(trials: Trials, chosen: Weights, is_mergeable: bool, items: Items) -> ClusterChoice:
    """Measure a cluster's models, their mean and the chosen merge on all items."""

    def measured(name: str, weights: Weights) -> ScoredMerge:
        dev, test = (trials.losses(weights, sets) for sets in (items.dev, items.test))
        return ScoredMerge(name, trials.rounded(weights), dev, test)

    singles = [measured(name, trials.only(place)) for place, name in enumerate(trials.names)]
    is_several = is_mergeable and trials.num_models > 1
    mean = measured("mean of all", trials.mean()) if is_several else None
    return ClusterChoice(trials, singles, mean, measured("chosen", chosen), is_mergeable)
