"""How well scores choose what matters, on samples that were not learned."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from treadle.core.keep import keep_rows
from treadle.shrink.sparsify.base import HeadDesign
from treadle.shrink.sparsify.heads import read_inputs, scores_of
from treadle.shrink.sparsify.watching import LayerView

if TYPE_CHECKING:
    import torch

__all__ = ["FRACTIONS", "TRAINED", "Overlaps", "overlap", "overlaps_of"]

FRACTIONS = (0.1, 0.125)
"""Of the entries, how many are kept."""
TRAINED = "trained"
"""The heads' own name among their rivals: random, key_norm (the shortest keys), recency."""

Floats = npt.NDArray[np.float32]


Overlaps = dict[tuple[float, str], list[Floats]]
"""(fraction, scorer) -> [layers] of [kv_heads] overlaps; NaN where no entry has a target."""


def overlap(score: Floats, target: Floats, fraction: float) -> Floats:
    """Return for each row [kv_heads] how much of the best of `target` is among those of `score`.

    Args:
        score: [kv_heads, entries]
        target: [kv_heads, entries]
        fraction: Of the entries, how many are kept, rounded up.
    """
    size = target.shape[1]
    num_kept = int(np.ceil(size * fraction - 1e-9))
    both = keep_rows(score, size - num_kept) & keep_rows(target, size - num_kept)
    found: Floats = (both.sum(axis=1) / num_kept).astype(np.float32)
    return found


def overlaps_of(
    views: Sequence[LayerView],
    design: HeadDesign,
    layers: "Sequence[Mapping[str, torch.Tensor]]",
    count: int,
    stream: np.random.Generator,
) -> Overlaps:
    """Return what of a sample's best entries trained heads and their rivals find.

    Args:
        views: What the model shows of the sample.
        design: Of the heads.
        layers: The heads' numbers.
        count: Entries of the sample that count, from the first on.
        stream: Of random scores.
    """
    found: Overlaps = {}
    for view, own in zip(views, layers, strict=True):
        target = view.target[:count].numpy().T
        is_seen = np.isfinite(target).all(axis=0)
        scores = _scores(view, design, own, count)
        scores["random"] = stream.random(target.shape, np.float32)
        for fraction in FRACTIONS:
            for name, score in scores.items():
                part = np.full(len(target), np.nan, np.float32)
                if is_seen.any():
                    part = overlap(score[:, is_seen], target[:, is_seen], fraction)
                found.setdefault((fraction, name), []).append(part)
    return found


def _scores(
    view: LayerView, design: HeadDesign, own: "Mapping[str, torch.Tensor]", count: int
) -> dict[str, Floats]:
    """Return what each way to score says of entries [kv_heads, entries]."""
    keys = view.inputs.turned_keys[:count]
    trained = scores_of(design, own, read_inputs(design, view.inputs, count))
    newest = np.arange(count, dtype=np.float32)
    return {
        TRAINED: trained.detach().numpy().T,
        "key_norm": -np.linalg.norm(keys, axis=2).T,
        "recency": np.broadcast_to(newest, (keys.shape[1], count)),
    }
