"""A frozen scorer of prompts: text in, index of a model out."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.checkpoint.routed import ROUTER_FILE, NgramFeatures, read_routing
from treadle.core.errors import CheckpointError
from treadle.model.embed.ngrams import ngram_counts

__all__ = ["PromptRouter", "load_router"]

Floats = npt.NDArray[np.float32]


class PromptRouter(NamedTuple):
    """Chooses the model with the largest w . f(text) + b."""

    features: NgramFeatures
    weight: Floats
    """[models, features]"""
    bias: Floats
    """[models]"""

    def scores(self, texts: Sequence[str]) -> Floats:
        """Return the score of every model for every text [texts, models], in float32."""
        return ngram_counts(texts, self.features) @ self.weight.T + self.bias

    def choose(self, texts: Sequence[str]) -> list[int]:
        """Return the index of the model for each text; the first of equals."""
        return [int(place) for place in self.scores(texts).argmax(axis=1)]


def load_router(folder: Path) -> PromptRouter:
    """Read the router of a bundle.

    Raises:
        CheckpointError: It is missing, damaged, or of other models than the bundle's.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    routing, file = read_routing(folder), folder / ROUTER_FILE
    try:
        tensors = load_file(file)
        weight, bias = tensors["weight"], tensors["bias"]
    except (OSError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{file} is no router ({error}); copy the bundle again.") from error
    if weight.dtype != np.float32 or bias.dtype != np.float32:
        raise CheckpointError(
            f"{file} holds {weight.dtype} and {bias.dtype}, but float32 was expected; copy the "
            f"bundle again."
        )
    wanted = (len(routing.experts), 2 * routing.features.width)
    if weight.shape != wanted or bias.shape != wanted[:1]:
        raise CheckpointError(
            f"{file} has weights {list(weight.shape)} and biases {list(bias.shape)}, but the "
            f"bundle's {wanted[0]} models and {wanted[1]} features make it {list(wanted)} and "
            f"{list(wanted[:1])}; copy the bundle again."
        )
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise CheckpointError(f"{file} holds numbers that are not finite; copy the bundle again.")
    return PromptRouter(routing.features, weight, bias)
