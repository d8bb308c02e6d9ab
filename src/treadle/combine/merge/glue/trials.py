"""Trials: what a merge of a cluster's models loses on items, remembered as it is found."""

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.combine.merge.base import MergeMethod
from treadle.combine.merge.glue.base import Weights
from treadle.combine.merge.glue.candidate import candidate
from treadle.combine.merge.glue.clusters import Cluster
from treadle.combine.merge.glue.items import AnswerRow, ItemSet, encoded
from treadle.combine.merge.glue.journal import TrialJournal
from treadle.combine.merge.inputs.models import Models
from treadle.combine.merge.plan import make_plan
from treadle.combine.merge.recipe.grammar import parse
from treadle.combine.merge.run import survey_jobs
from treadle.combine.merge.tables import METHODS
from treadle.core.result import digest
from treadle.core.seed import numpy_stream

if TYPE_CHECKING:
    from treadle.model.classes import Tokenizer

__all__ = ["Objective", "Settled", "Trials", "recipe_of", "require_askable", "score_of"]

Objective = Literal["nats", "probability"]
"""nats: the mean of -log p of the right answers; probability: 1 - the mean of p."""
_DIGITS = 6
"""Weights are rounded to so many before they are tried, as a recipe states them."""
_MOST_NATS = 1e4
"""What an answer counts at most: models that overflow give infinities, which no file can hold."""
Losses = npt.NDArray[np.float64]


class Settled(NamedTuple):
    """What is the same in all trials."""

    method: MergeMethod
    base: str | None
    dtype: str | None
    objective: Objective
    seed: int

    def without_base(self) -> "Settled":
        """Return how models stand alone, whatever the merge method."""
        return self._replace(method=METHODS.resolve("linear"), base=None)


def score_of(losses: Sequence[Losses], objective: Objective) -> float:
    """Return the mean over sets of the mean over items; lower is better."""
    if objective == "probability":
        return float(np.mean([1 - np.exp(-one).mean() for one in losses]))
    return float(np.mean([one.mean() for one in losses]))


def recipe_of(cluster: Cluster, weights: Weights, settled: Settled) -> dict[str, Any]:  # Any: YAML
    """Return a merge as a recipe in mergekit's grammar; models without weight are left out.

    Args:
        cluster: The models.
        weights: [groups, models]; see `Weights`.
        settled: How several are merged; one alone is taken as it is.
    """
    chosen = [place for place in range(len(cluster.models)) if weights[:, place].any()]
    if len(chosen) == 1:  # a model alone is itself, whatever the method does to task vectors
        weights, settled = np.eye(len(cluster.models))[chosen], settled.without_base()
    settings = settled.method.settings()
    name = settings.pop("method", settled.method.name)
    settings.pop("weight", None)
    # What can be given for each model is one value for all here (`merge_glue` sees to it).
    settings = {k: v[0] if isinstance(v, list) else v for k, v in settings.items()}
    recipe: dict[str, Any] = {"merge_method": name}  # Any: YAML
    if settled.base is not None:
        recipe["base_model"] = settled.base
    if len(weights) == 1:
        recipe["models"] = [
            _source(cluster, place, float(weights[0, place]), None) for place in chosen
        ]
    else:
        recipe["slices"] = _slices(cluster, weights, chosen)
    if settings:
        recipe["parameters"] = settings
    if settled.dtype is not None:
        recipe["dtype"] = settled.dtype
    return recipe


def _slices(cluster: Cluster, weights: Weights, chosen: list[int]) -> list[dict[str, Any]]:
    """Return one slice for each run of layers, which says of what lies outside, too."""
    tower = cluster.models[0].require_tower(None)
    count = num_layers(cluster)
    edges = np.linspace(0, count, len(weights)).round().astype(int).tolist()
    slices = []
    for group, (first, last) in enumerate(itertools.pairwise(edges), 1):
        sources = []
        for place in chosen:
            inside, outside = float(weights[group, place]), float(weights[0, place])
            weight = [{"filter": tower.prefixes[0], "value": inside}, {"value": outside}]
            sources.append(_source(cluster, place, weight, [first, last]))
        slices.append({"sources": sources})
    return slices


def _source(
    cluster: Cluster,
    place: int,
    weight: Any,
    layers: list[int] | None,  # Any: a setting
) -> dict[str, Any]:
    found: dict[str, Any] = {"model": str(cluster.models[place].ref)}
    if layers is not None:
        found["layer_range"] = layers
    return found | {"parameters": {"weight": weight}}


def tokenizer_of(cluster: Cluster) -> "Tokenizer":
    """Return the tokenizer that all models of a cluster share."""
    from treadle.model.load import load_tokenizer

    first = cluster.models[0]
    return load_tokenizer(first.token_folder or first.reader.folder)


def require_askable(cluster: Cluster, sets: Sequence[ItemSet]) -> None:
    """Check that every item fits into the models' context and has an answer of its own there.

    Raises:
        DataError: One does not; the message names it.
    """
    tokenizer, limit = tokenizer_of(cluster), _num_positions(cluster)
    for one in sets:
        encoded(tokenizer, one.items, limit)


def _num_positions(cluster: Cluster) -> int | None:
    from treadle.model import facts

    config = facts.base_config(cluster.models[0].reader.config)
    return facts.context_length(config) or config.get("n_positions")


def num_layers(cluster: Cluster) -> int:
    """Return how many layers each of the models has."""
    from treadle.model import facts

    return facts.num_layers(facts.base_config(cluster.models[0].reader.config))


class Trials:
    """A cluster's pool (`treadle.combine.merge.glue.base.ModelPool`), and the claims on its merges.

    Args:
        cluster: The models.
        models: They, opened, and their base.
        settled: How merges are made and judged.
        dev: What is searched on.
        journal: Of the whole search.
    """

    def __init__(
        self,
        cluster: Cluster,
        models: Models,
        settled: Settled,
        dev: Sequence[ItemSet],
        journal: TrialJournal,
    ) -> None:
        self.cluster, self.settled = cluster, settled
        self.name = str(cluster.models[0].ref)
        # By content: a journal holds wherever the models lie.
        self._key = digest([model.content_hash for model in cluster.models])[:16]
        self.alike, self.num_models = cluster.alike, len(cluster.models)
        self.num_layers = num_layers(cluster)
        self.generator = numpy_stream(settled.seed, f"glue {self._key}")
        self.num_tried = 0
        """Merges that were computed, on however many items."""
        self._models, self._dev, self._journal = models, dev, journal
        self._tokenizer = tokenizer_of(cluster)
        self._rows: dict[str, list[AnswerRow]] = {}

    @property
    def names(self) -> list[str]:
        """The models, as they were named."""
        return self.cluster.names

    @property
    def singles(self) -> Losses:
        """[models] score of each alone."""
        return np.array([self.score(self.only(place)) for place in range(self.num_models)])

    def only(self, place: int) -> Weights:
        """Return the weights of one model alone."""
        found: Weights = np.eye(self.num_models)[place][None]
        return found

    def mean(self) -> Weights:
        """Return equal weights of all."""
        return np.full((1, self.num_models), 1 / self.num_models)

    @staticmethod
    def rounded(weights: Weights) -> Weights:
        """Return weights as they are tried, and as a recipe states them."""
        found: Weights = np.asarray(weights, np.float64).round(_DIGITS)
        return found

    def score(self, weights: Weights, share: float = 1.0) -> float:
        """Return the score on the first share of each set that is searched on."""
        return score_of(self.losses(weights, self._dev, share), self.settled.objective)

    def losses(self, weights: Weights, sets: Sequence[ItemSet], share: float = 1.0) -> list[Losses]:
        """Return what a merge loses on the first share of each set, in nats an answer.

        Of items with several answers it is -log of the right one's share of the probability of all.
        What the journal knows is not computed again.
        """
        weights = self.rounded(weights)
        wanted = {one.content_hash: math.ceil(share * len(one.items)) for one in sets}
        todo = []
        for one in sets:
            known = self._journal.losses(self._key, weights, one.content_hash)
            if len(known) < wanted[one.content_hash]:
                todo.append((one, len(known), wanted[one.content_hash]))
        if todo:
            self.num_tried += 1
            self._compute(weights, todo)
        return [
            np.array(self._journal.losses(self._key, weights, key)[: wanted[key]])
            for key in (one.content_hash for one in sets)
        ]

    def _compute(self, weights: Weights, todo: list[tuple[ItemSet, int, int]]) -> None:
        from treadle.model.scoring import BlockScorer

        recipe = parse(recipe_of(self.cluster, weights, self.settled), "the search")
        plan = make_plan(recipe, self._models, self.settled.seed)
        plan = survey_jobs(plan, recipe, workers=1)
        parts = [self._some(one, first, last) for one, first, last in todo]
        asked = [row for rows in parts for row in rows]
        found = BlockScorer(candidate(plan)).token_losses([row.tokens for row in asked])
        sums = [
            float(losses[row.first - 1 :].double().sum())
            for row, losses in zip(asked, found, strict=True)
        ]
        nats = {}
        for (one, first, last), rows in zip(todo, parts, strict=True):
            own, sums = sums[: len(rows)], sums[len(rows) :]
            by_item: list[list[float]] = [[] for _ in range(first, last)]
            for row, loss in zip(rows, own, strict=True):
                by_item[row.item - first].append(
                    min(loss, _MOST_NATS) if loss == loss else _MOST_NATS
                )
            items = one.items[first:last]
            pairs = zip(by_item, items, strict=True)
            nats[one.content_hash] = [_nats(each, item.gold) for each, item in pairs]
        self._journal.add(self._key, weights, nats)

    def _some(self, one: ItemSet, first: int, last: int) -> list[AnswerRow]:
        key = one.content_hash
        if key not in self._rows:
            self._rows[key] = encoded(self._tokenizer, one.items, _num_positions(self.cluster))
        return [row for row in self._rows[key] if first <= row.item < last]


def _nats(losses: Sequence[float], gold: int) -> float:
    """Return -log of what an answer has of the probability of all, or of all there is."""
    if len(losses) == 1:
        return losses[0]
    lowest = min(losses)
    total = sum(math.exp(lowest - one) for one in losses)
    return losses[gold] - lowest + math.log(total)
