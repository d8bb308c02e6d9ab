"""CMA-ES: weights by evolution, with a race among the candidates of each generation."""

from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from treadle.combine.merge.glue.base import ModelPool, Search, Weights
from treadle.combine.merge.glue.greedy import by_score, evenly, grown
from treadle.core.errors import SettingsError
from treadle.core.method import Paper

__all__ = ["CmaEs"]

_STAGES = (1 / 8, 1 / 4, 1.0)
"""Shares of the items on which a generation is compared; half of it goes on to the next one."""


class CmaEs(Search):
    """Evolve one weight for each model and run of layers by covariance matrix adaptation.

    Candidates are points of the unit cube; each group's weights are divided by their sum. A
    generation races: all of it is scored on an eighth of the items, the better half on a quarter
    and the best quarter on all, which is as good as a ranking and costs a fifth. It starts from the
    merge that the coefficient search finds, and never returns a worse one.

    Paper: Zhao et al., 2024, evolutionary strategy (sigma 1/6); Hansen, The CMA Evolution Strategy:
    A Tutorial, 2016, through his package cma.
    """

    name: ClassVar[str] = "cmaes"
    paper = Paper(
        "Model-GLUE: Democratized LLM Scaling for A Large Model Zoo in the Wild",
        2024,
        "https://arxiv.org/abs/2410.05357",
    )

    num_candidates: Annotated[int, Field(ge=2)] = 60
    """Candidates that are tried, in all generations."""
    num_groups: Annotated[int, Field(ge=0)] = 1
    """Runs of layers with weights of their own, what stands outside of the layers being one more;
    0: a model has one weight for all of it."""
    population: Annotated[int, Field(ge=2)] | None = None
    """Candidates of a generation (default: 4 + 3 ln of the number of weights)."""
    sigma: Annotated[float, Field(gt=0, le=1)] = 1 / 6
    """Spread of the first generation."""
    warm: bool = True
    """Start from the merge of the coefficient search, which costs 9 evaluations a model; otherwise
    from equal weights."""
    races: bool = True
    """Score most candidates on a part of the items only."""

    def search(self, pool: ModelPool) -> Weights:
        """Return the weights."""
        cma = _package()
        groups = 1 + self.num_groups
        if self.num_groups > pool.num_layers:
            raise SettingsError(
                f"num_groups = {self.num_groups}, but the models have {pool.num_layers} layers; "
                f"give at most as many."
            )
        best = self._start(pool, groups)
        lowest = pool.score(best)
        options: dict[str, Any] = {  # Any: of the package
            "bounds": [0, 1],
            "seed": int(pool.generator.integers(1, 2**31)),
            "verbose": -9,
        }
        if self.population:
            options["popsize"] = self.population
        scale = best.max(axis=1, keepdims=True)  # the cube's inside, where steps go both ways
        evolution = cma.CMAEvolutionStrategy(
            (best / scale).clip(0.05, 0.95).ravel(), self.sigma, options
        )
        num_tried = 0
        while num_tried < self.num_candidates and not evolution.stop():
            points = evolution.ask()
            candidates = [_weights(point, groups) for point in points]
            ranks, finished = self._raced(pool, candidates)
            evolution.tell(points, ranks)
            num_tried += len(points)
            place, score = min(finished.items(), key=lambda item: item[1])
            if score < lowest:
                best, lowest = candidates[place], score
        return best

    def _start(self, pool: ModelPool, groups: int) -> Weights:
        if self.warm:
            found = grown(pool, by_score(pool), evenly(9))
        else:
            found = np.full((1, pool.num_models), 1 / pool.num_models)
        return np.repeat(found, groups, axis=0)

    def _raced(
        self, pool: ModelPool, candidates: list[Weights]
    ) -> tuple[list[float], dict[int, float]]:
        """Return each candidate's rank, and the scores of those that saw all items."""
        ranks, racing = [0.0] * len(candidates), list(range(len(candidates)))
        scores: dict[int, float] = {}
        for share in _STAGES if self.races else (1.0,):
            scores = {place: pool.score(candidates[place], share) for place in racing}
            racing = sorted(racing, key=scores.__getitem__)
            for rank, place in enumerate(racing):
                ranks[place] = float(rank)
            racing = racing[: max(1, (len(racing) + 1) // 2)]
        return ranks, scores


def _weights(point: npt.NDArray[np.float64], groups: int) -> Weights:
    rows = np.asarray(point, np.float64).reshape(groups, -1) + 1e-9
    found: Weights = rows / rows.sum(axis=1, keepdims=True)
    return found


def _package() -> Any:  # Any: it has no types
    try:
        import cma
    except ImportError as error:
        raise SettingsError(
            "The search cmaes needs the package cma; run pip install 'treadle[glue]', or choose "
            "another search."
        ) from error
    return cma
