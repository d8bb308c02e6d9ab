"""RouterDC's two losses: queries against models, and queries against queries."""

from typing import TYPE_CHECKING, NamedTuple

from treadle.core.shapes import Bool, Float, Int, Tensor

if TYPE_CHECKING:
    import torch

__all__ = ["ContrastSides", "model_loss", "query_loss", "sides_of"]

_BAD = 0.5
"""Published: models above this score are nobody's negatives."""


class ContrastSides(NamedTuple):
    """Which models a query is drawn to, and which it is pushed away from."""

    positives: Int[Tensor, "batch positives"]
    negatives: Int[Tensor, "batch negatives"]
    counts: Bool[Tensor, "batch positives negatives"]
    """Whether a negative stands against a positive."""
    weights: Float[Tensor, "batch positives"]
    """Of each positive's term; 0 where it is none."""


def sides_of(
    worth: Float[Tensor, "batch models"],
    scores: Float[Tensor, "batch models"],
    num_positives: int,
    num_negatives: int,
    is_mended: bool,
) -> ContrastSides:
    """Return the best models of each query and the worst; by worth, of those that were asked.

    Published: the best ones whose scores are above 0, each of weight 1, against the worst ones
    whose scores are at most 0.5; rates move neither of the two. Mended: a negative stands against
    those that are worth more than itself, and a positive weighs as much as it is worth more than
    its negatives' mean; who is worth no more than they is none.

    Args:
        worth: NaN where a model was not asked.
        scores: Of which rates took nothing off; NaN in the same places.
        num_positives: At most so many.
        num_negatives: At most so many.
        is_mended: Which of the two.
    """
    import torch

    known = torch.where(torch.isnan(worth), torch.full_like(worth, -torch.inf), worth)
    positives = known.topk(min(num_positives, known.shape[1]), dim=1)
    # Who was not asked is the last of the worst.
    turned = torch.where(torch.isnan(worth), torch.full_like(worth, torch.inf), worth)
    negatives = (-turned).topk(min(num_negatives, known.shape[1]), dim=1)
    bad = -negatives.values
    if not is_mended:
        is_bad = scores.gather(1, negatives.indices) <= _BAD  # NaN is neither
        counts = is_bad[:, None, :].expand(-1, positives.values.shape[1], -1)
        weights = (scores.gather(1, positives.indices) > 0).to(worth.dtype)
        return ContrastSides(positives.indices, negatives.indices, counts, weights)
    counts = bad[:, None, :] < positives.values[:, :, None]
    low = torch.where(counts, bad[:, None, :], torch.zeros_like(bad)[:, None, :]).sum(dim=2)
    margins = positives.values - low / counts.sum(dim=2).clamp(min=1)
    weights = torch.where(counts.any(dim=2), margins.clamp(min=0), torch.zeros_like(margins))
    return ContrastSides(positives.indices, negatives.indices, counts, weights)


def model_loss(
    logits: Float[Tensor, "batch models"], sides: ContrastSides, is_mended: bool
) -> "torch.Tensor":
    """Return the contrast of queries and models, by log-sum-exp.

    -log(e^s+ / (e^s+ + sum over negatives of e^s-)), weighted and added up over the positives.
    Published: the mean over queries. Mended: over the sum of all weights.
    """
    import torch

    good = logits.gather(1, sides.positives)
    bad = logits.gather(1, sides.negatives)[:, None, :].expand(-1, good.shape[1], -1)
    bad = bad.masked_fill(~sides.counts, -torch.inf)
    against = torch.cat([good[:, :, None], bad], dim=2)
    terms = (torch.logsumexp(against, dim=2) - good) * sides.weights
    return terms.sum() / (sides.weights.sum().clamp(min=1e-6) if is_mended else len(logits))


def query_loss(
    inner: Float[Tensor, "batch hidden"],
    labels: Int[Tensor, "batch"],
    num_negatives: int,
    temperature: "torch.Tensor | float",
    may_be_itself: bool,
    generator: "torch.Generator",
) -> "torch.Tensor":
    """Return the contrast of queries of one group with others, mean over the batch.

    -log(e^c+ / (e^c+ + sum of e^c-)), where c+ is the cosine to one query of the same group, drawn
    from the batch, and c- are those to queries of other groups. A query without any of one of the
    two adds nothing.

    Args:
        inner: Of length 1.
        labels: Groups.
        num_negatives: Drawn for each query.
        temperature: Divides the cosines.
        may_be_itself: As published: the positive may be the query itself, which teaches nothing.
        generator: Draws both.
    """
    import torch

    cosines = inner @ inner.T / temperature
    is_same = labels[:, None] == labels[None]
    near = is_same if may_be_itself else is_same & ~torch.eye(len(labels), dtype=torch.bool)
    order = torch.rand(len(labels), len(labels), generator=generator)
    positives = order.masked_fill(~near, -1).argmax(dim=1)
    drawn = order.masked_fill(is_same, -1).topk(min(num_negatives, len(labels)), dim=1)
    good = cosines.gather(1, positives[:, None])
    bad = cosines.gather(1, drawn.indices).masked_fill(drawn.values < 0, -torch.inf)
    terms = torch.logsumexp(torch.cat([good, bad], dim=1), dim=1) - good[:, 0]
    counts = near.any(dim=1) & (drawn.values >= 0).any(dim=1)
    return torch.where(counts, terms, torch.zeros_like(terms)).mean()
