"""RouterDC: vectors of models that lie near the queries which they answer well."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from treadle.combine.route.base import Learned, RouteData
from treadle.combine.route.maths.contrast import model_loss, query_loss, sides_of
from treadle.combine.route.maths.descent import Batch, TrainedRoute, drawn
from treadle.combine.route.maths.groups import By, grouped
from treadle.core.method import Paper
from treadle.core.seed import torch_stream
from treadle.runtime.routed.queries.scorers import CosineScores

__all__ = ["RouterDC"]

_BEGINS = {"published": 1.0, "mended": 0.1}
"""Temperature."""
_NUM_SIDES = 3
"""Published: positives, and negatives, of a query."""
_SPREAD = 0.78
"""Published: standard deviation of the models' first vectors."""


class RouterDC(TrainedRoute):
    """Learn a projection of queries and a vector for each model by two contrasts.

    s_t(q) = cos(W q + b, k_t) / temperature. The first loss draws a query to its `positives` best
    models and away from its `negatives` worst (the paper's sample-LLM loss), the second draws
    queries of one group together (its sample-sample loss); both are InfoNCE, their sum weighted.
    `published` keeps the paper's choices: a query may be its own positive, every positive counts
    alike, negatives score at most 0.5, the temperature is 1, and the step that is best on the
    training questions stays. `mended` changes six things: no query is its own positive, positives
    weigh their margin over their negatives, negatives are whoever is worth less, of all models and
    not of six, the temperature is learned, and the development questions choose. We differ from the
    paper in both: what is trained is a projection of frozen vectors and no encoder, so the rate is
    larger; sums are log-sum-exp; groups are k-means without t-SNE.

    Paper: RouterDC: query-based router by dual contrastive learning, 2024.
    """

    name: ClassVar[str] = "routerdc"
    paper = Paper(
        "RouterDC: Query-Based Router by Dual Contrastive Learning for Assembling Large Language "
        "Models",
        2024,
        "https://arxiv.org/abs/2409.19886",
    )

    variant: Literal["published", "mended"] = "mended"
    """As in the paper, or with what we found wrong there mended."""
    positives: Annotated[int, Field(ge=1)] | None = None
    """Best models that a query is drawn to, at most (default: 3 published, all mended)."""
    negatives: Annotated[int, Field(ge=1)] | None = None
    """Worst models that it is pushed away from, at most (default: 3 published, all mended)."""
    other_queries: Annotated[int, Field(ge=1)] = 3
    """Queries of other groups that it is pushed away from."""
    tag: By = "cluster"
    """What a group is: the records' task, a cluster, or the first of these that there is."""
    num_clusters: Annotated[int, Field(ge=1)] = 8
    """Of k-means on training questions, where the records say no clusters."""
    model_weight: Annotated[float, Field(ge=0)] = 1.0
    """Of the loss of queries and models; 0 leaves it out."""
    query_weight: Annotated[float, Field(ge=0)] = 1.0
    """Of the loss of queries among each other (the paper's lambda); 0 leaves it out."""
    hidden: Annotated[int, Field(ge=1)] = 128
    """Length of a projected query and of a model's vector."""
    temperature: Annotated[float, Field(gt=0)] | None = None
    """Divides cosines; mended, where it begins (default: 1 published, 0.1 mended)."""

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if not self.model_weight and not self.query_weight:
            raise ValueError("model_weight and query_weight are both 0; leave one of them above")
        return self

    def chooses_on(self) -> Literal["dev", "train"]:
        """Return where steps are compared."""
        return "dev" if self.variant == "mended" else "train"

    def learn(self, data: RouteData, seed: int) -> Iterator[Learned]:
        """Yield the router after every so many steps."""
        import torch

        is_mended = self.variant == "mended"
        groups = grouped(data, self.tag, self.num_clusters, seed)
        note = f"Queries of one group are those of {groups.says}."
        stream = torch_stream(seed, "routerdc")
        vectors, labels = torch.from_numpy(data.vectors), torch.from_numpy(groups.labels)
        worth, scores = (
            torch.from_numpy(one.astype(np.float32)) for one in (data.worth, data.scores)
        )
        usual = data.num_models if is_mended else _NUM_SIDES
        sides = sides_of(worth, scores, self.positives or usual, self.negatives or usual, is_mended)
        weight = drawn((self.hidden, vectors.shape[1]), vectors.shape[1] ** -0.5, stream)
        bias = drawn((self.hidden,), 0.0, stream)
        models = drawn((data.num_models, self.hidden), _SPREAD, stream)
        heat = torch.tensor(self.temperature or _BEGINS[self.variant]).log()
        heat.requires_grad_(is_mended)

        def loss(places: Batch) -> torch.Tensor:
            some = torch.from_numpy(places)
            inner = torch.nn.functional.normalize(vectors[some] @ weight.T + bias, dim=1)
            now = heat.exp()
            total = torch.zeros(())
            if self.model_weight:
                logits = inner @ torch.nn.functional.normalize(models, dim=1).T / now
                own = type(sides)(*(one[some] for one in sides))
                total = total + self.model_weight * model_loss(logits, own, is_mended)
            if self.query_weight:
                heated = now if is_mended else 1.0
                total = total + self.query_weight * query_loss(
                    inner, labels[some], self.other_queries, heated, not is_mended, stream
                )
            return total

        parameters = (weight, bias, models, *([heat] if is_mended else []))
        for step, mean in self.descend(parameters, loss, len(vectors), seed):
            scorer = CosineScores(
                weight.detach().numpy().copy(),
                bias.detach().numpy().copy(),
                torch.nn.functional.normalize(models.detach(), dim=1).numpy(),
                float(heat.detach().exp()),
            )
            yield Learned(scorer, step, mean, note)
