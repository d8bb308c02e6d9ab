"""Texts as an encoder reads them: the state of its first token, or the mean of all."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from treadle.core.checkpoint import content_hash
from treadle.core.errors import CheckpointError
from treadle.core.result import digest
from treadle.model.embed.pooled import by_length
from treadle.model.load import load_tokenizer
from treadle.model.text import tokenizer_hash

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

__all__ = ["EncoderEmbedder"]


class EncoderEmbedder:
    """States of an encoder, at length 1; see `treadle.core.ports.Embedder`.

    A text that is too long loses its beginning, since what is asked stands at the end. Means are of
    float32 states, accumulated in float64, and take in the tokens that the tokenizer adds.

    Args:
        folder: An encoder in Hugging Face's form, with its tokenizer.
        pooling: The mean of all tokens, or the first one.
        max_tokens: Most tokens, with those that the tokenizer adds.
    """

    def __init__(self, folder: Path, pooling: Literal["mean", "first"], max_tokens: int) -> None:
        self._tokenizer = load_tokenizer(folder)
        self._tokenizer.truncation_side = "left"
        self._module = _loaded(folder)
        positions = getattr(self._module.config, "max_position_embeddings", None) or max_tokens
        self._max_tokens, self._pooling = min(max_tokens, positions), pooling
        self.dim = int(self._module.config.hidden_size)
        read = [content_hash(folder), tokenizer_hash(self._tokenizer)]
        self.hash = digest([*read, pooling, self._max_tokens])
        self.computed_by = f"the {pooling} state of the encoder '{folder}'"

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the vectors [texts, dim]; zeros where a text has no token."""
        rows = [
            self._tokenizer(text, truncation=True, max_length=self._max_tokens)["input_ids"]
            for text in texts
        ]
        return by_length(rows, self.dim, self._pooled)

    def _pooled(self, tokens: "torch.Tensor") -> "torch.Tensor":
        import torch

        states = self._module(tokens).last_hidden_state
        if self._pooling == "first":
            first: torch.Tensor = states[:, 0]
            return first
        mean: torch.Tensor = states.mean(dim=1, dtype=torch.float64).float()
        return mean


def _loaded(folder: Path) -> "PreTrainedModel":
    """Return the encoder in float32; transformers' own bar stays silent."""
    from transformers import AutoModel
    from transformers.utils import logging

    shows_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        found: PreTrainedModel = AutoModel.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"'{folder}' holds no encoder that transformers reads "
            f"({str(error).splitlines()[0][:120]}); give the folder of one."
        ) from error
    finally:
        if shows_bars:
            logging.enable_progress_bar()
    return found.float().eval()
