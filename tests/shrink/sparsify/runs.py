"""Small runs on tiny models, and heads that learn drawn numbers; not a test itself."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from treadle.core.result import Result
from treadle.runtime.probe import LayerInputs
from treadle.shrink.sparsify import METHODS, sparsify
from treadle.shrink.sparsify.base import HeadTraining
from treadle.shrink.sparsify.heads import LayerSize, scores_of
from treadle.shrink.sparsify.learners import LayerLesson, learner_for

TOKENS = 96
SMALL = {"num_samples": 4, "sample_tokens": TOKENS, "heldout_fraction": 0.25, "local_tokens": 8}


def run(model: Path, out: Path, method: str, text: str, **settings: Any) -> Result:
    """Train on three samples, and measure on one."""
    return sparsify(model, out, method, text=text, **{**SMALL, **settings})


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer_of(
    rows: int, heads: int, kv_heads: int, dim: int, seed: int = 0, scale: float = 0.5
) -> LayerInputs:
    """What a layer with drawn numbers works with."""
    draw = np.random.default_rng(seed)

    def numbers(*shape: int) -> np.ndarray:
        return draw.normal(size=shape).astype(np.float32)

    of_keys = (rows, kv_heads, dim)
    return LayerInputs(
        numbers(rows, heads, dim),
        numbers(*of_keys),
        numbers(*of_keys),
        numbers(rows, heads * dim),
        numbers(rows, heads, dim),
        numbers(*of_keys),
        scale,
    )


def taught(
    method: HeadTraining, truth: torch.Tensor, num_samples: int = 60, is_shuffled: bool = False
) -> float:
    """Teach heads what follows from tokens, aim = sigmoid(inputs @ truth), and test on others.

    Returns:
        The overlap of the best 10 % on 400 tokens that were not learned.
    """
    inputs, kv_heads = truth.shape
    design = method.design()
    size = LayerSize(4, kv_heads, 8, inputs)
    if design.reads == "projections":
        assert (4 + 2 * kv_heads) * 8 == inputs
    learner = learner_for(method, design, [size], 32, 0)
    for number in range(num_samples):
        x = drawn(number + 10, 128, inputs)
        aim = method.aim(torch.sigmoid(x @ truth))
        if is_shuffled:
            aim = aim[torch.randperm(128, generator=torch.Generator().manual_seed(number))]
        lesson = LayerLesson(x, aim, torch.ones_like(aim, dtype=torch.bool))
        learner.learn([lesson], number / num_samples, 1 / num_samples)
    x = drawn(5, 400, inputs)
    found, wanted = scores_of(design, learner.layers()[0], x).detach(), x @ truth
    best = [set(part.topk(40, dim=0).indices[:, 0].tolist()) for part in (found, wanted)]
    return len(best[0] & best[1]) / 40


def methods() -> list[str]:
    return list(METHODS.table)
