"""Texts as the mean of a causal language model's hidden states."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from treadle.core.errors import SettingsError
from treadle.core.result import digest
from treadle.model.embed.pooled import by_length
from treadle.model.load import full, load_tokenizer
from treadle.model.source import source_hash
from treadle.model.text import tokenizer_hash

if TYPE_CHECKING:
    import torch

__all__ = ["StateEmbedder"]


class StateEmbedder:
    """The mean of the states behind a block, at length 1; see `treadle.core.ports.Embedder`.

    Each state counts at length 1: the first one of many models is so much longer than all others
    that a plain mean says nothing else (every two texts have a cosine of 1.00 behind block 15 of
    SmolLM2-135M). The whole model is in memory, in float32; means are accumulated in float64.

    Args:
        folder: A causal language model.
        layer: Blocks that the states have run through (default: half of them).
        max_tokens: The last ones of a longer text are read.
    """

    def __init__(self, folder: Path, layer: int | None, max_tokens: int) -> None:
        self._tokenizer = load_tokenizer(folder)
        self._module = full(folder).eval()
        config = self._module.config.get_text_config()
        self._layer = config.num_hidden_layers // 2 if layer is None else layer
        if self._layer > config.num_hidden_layers:
            raise SettingsError(
                f"layer = {self._layer}, but '{folder}' has {config.num_hidden_layers} blocks; "
                f"give at most that many."
            )
        self._max_tokens = min(max_tokens, config.max_position_embeddings or max_tokens)
        self.dim = int(config.hidden_size)
        read = [source_hash(folder), tokenizer_hash(self._tokenizer)]
        self.hash = digest([*read, self._layer, self._max_tokens])
        self.computed_by = f"the mean of the states behind block {self._layer} of '{folder}'"

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the means [texts, dim]; zeros where a text has no token."""
        rows = [
            self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            for text in texts
        ]
        return by_length([row[-self._max_tokens :] for row in rows], self.dim, self._means)

    def _means(self, tokens: "torch.Tensor") -> "torch.Tensor":
        import torch

        states = self._module(tokens, output_hidden_states=True, use_cache=False).hidden_states
        alike = torch.nn.functional.normalize(states[self._layer].double(), dim=2)
        return alike.mean(dim=1).float()
