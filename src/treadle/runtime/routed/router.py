"""A frozen scorer of prompts: text in, index of a model out."""

import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.checkpoint.routed import ROUTER_FILE, NgramFeatures, read_routing
from treadle.core.errors import CheckpointError

__all__ = ["PromptRouter", "features_of", "load_router"]

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
        return features_of(texts, self.features) @ self.weight.T + self.bias

    def choose(self, texts: Sequence[str]) -> list[int]:
        """Return the index of the model for each text; the first of equals."""
        return [int(place) for place in self.scores(texts).argmax(axis=1)]


def features_of(texts: Sequence[str], spec: NgramFeatures) -> Floats:
    """Return hashed counts of n-grams [texts, 2 width]: of the whole texts, then of their ends.

    An n-gram that occurs c times counts 1 + ln c; each of the two halves has length 1/sqrt(2).
    Hashes are CRC-32 of UTF-8, which is the same everywhere.
    """
    found = np.zeros((len(texts), 2 * spec.width), np.float32)
    for row, text in zip(found, texts, strict=True):
        whole, end = row[: spec.width], row[spec.width :]
        for half, part in ((whole, text), (end, text[-spec.tail_characters :] + "\0")):
            for gram, count in _grams(part, spec.orders).items():
                half[zlib.crc32(gram.encode("utf-8", "surrogatepass")) % spec.width] += 1 + np.log(
                    count
                )
            norm = float(np.linalg.norm(half))
            if norm:
                half /= norm * np.sqrt(2)
    return found


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


def _grams(text: str, orders: Sequence[int]) -> Counter[str]:
    return Counter(
        text[start : start + order] for order in orders for start in range(len(text) - order + 1)
    )
