"""Whole pruning runs on tiny models, for the tests of the family; not a test itself."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from naive import plain_losses, plain_model, tokens_of, weights_of
from treadle.core.checkpoint import CheckpointReader
from treadle.core.result import Result
from treadle.model.layers import LayeredModel
from treadle.model.loss import token_losses
from treadle.shrink.prune import METRICS, prune

CALIBRATION = {"num_windows": 3, "window_tokens": 32}


def run(model: Path, out: Path, method: str, text: str | None = None, **settings: Any) -> Result:
    """Prune with a small calibration, where `text` is given."""
    data = {"text": text, **CALIBRATION} if text else {}
    return prune(model, out, METRICS.resolve(method), **{**data, **settings})


def needs_text(method: str) -> bool:
    metric = METRICS.resolve(method)
    return bool(metric.needs or metric.default_update()["method"] != "none")


def layered_losses(folder: Path, tokens: torch.Tensor) -> torch.Tensor:
    with CheckpointReader(folder) as reader:
        return token_losses(LayeredModel(reader), [tokens])[0]


def assert_loads_anywhere(folder: Path) -> torch.Tensor:
    """Plain transformers computes what we compute; return the losses."""
    tokens = tokens_of(2, 24, seed=9)
    found = layered_losses(folder, tokens)
    torch.testing.assert_close(
        found, plain_losses(plain_model(folder), tokens), rtol=1e-5, atol=1e-5
    )
    return found


def zeros_of(folder: Path) -> dict[str, np.ndarray]:
    """Where each matrix [out, in] is zero."""
    return {name: (weight == 0).numpy() for name, weight in weights_of(folder).items()}


def assert_sparsity(folder: Path, pattern: str, sparsity: float) -> None:
    """The exact count of every comparison group: rows, tensors, groups of m, or the whole model."""
    zeros = zeros_of(folder)
    if pattern == "global":
        total = sum(zero.size for zero in zeros.values())
        assert sum(zero.sum() for zero in zeros.values()) == int(total * sparsity + 1e-9)
    for name, zero in zeros.items():
        if pattern == "rows":
            assert (zero.sum(axis=1) == int(zero.shape[1] * sparsity + 1e-9)).all(), name
        elif pattern == "tensor":
            assert zero.sum() == int(zero.size * sparsity + 1e-9), name
        elif ":" in pattern:
            n, m = map(int, pattern.split(":"))
            assert (zero.reshape(-1, m).sum(axis=1) == m - n).all(), name
