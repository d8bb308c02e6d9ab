"""Texts as the mean of fixed vectors of their tokens: model2vec's folders, or any model's input."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from treadle.core.checkpoint import CheckpointReader, content_hash
from treadle.core.errors import CheckpointError
from treadle.model.embed.pooled import unit
from treadle.model.facts.names import EMBEDDINGS

__all__ = ["StaticEmbedder"]

Floats = npt.NDArray[np.float32]
_NAMES = ("embeddings", "embedding.weight")
"""What folders of static embeddings call the table."""


class StaticEmbedder:
    """The mean of rows of one table, at length 1; see `treadle.core.ports.Embedder`.

    Args:
        folder: tokenizer.json, and safetensors of a table [vocab, dim] called ``embeddings`` (with
            ``weights`` and ``mapping`` of tokens where they are, as model2vec writes them); or any
            model's folder, of which the input embeddings are read.
    """

    computed_by = "the mean of static embeddings of tokens"

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        if not (folder / "tokenizer.json").is_file():
            raise CheckpointError(
                f"'{folder}' holds no tokenizer.json, and texts have to become tokens; give a "
                f"folder of static embeddings, or of a model with its tokenizer."
            )
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.hash = content_hash(folder)
        self._rows = _table(folder)
        self.dim = self._rows.shape[1]

    def embed(self, texts: Sequence[str]) -> Floats:
        """Return the means [texts, dim]; zeros where a text has no token."""
        found = np.zeros((len(texts), self.dim), np.float32)
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        for row, one in zip(found, encoded, strict=True):
            ids = [token for token in one.ids if token < len(self._rows)]
            if ids:
                row[:] = self._rows[ids].mean(axis=0, dtype=np.float64)
        return unit(found)


def _table(folder: Path) -> Floats:
    """Return the vector of every token id [vocab, dim] in float32."""
    with CheckpointReader(folder) as reader:
        names = [
            name
            for name in reader.tensors
            if name in _NAMES or any(name.endswith(end) for end in EMBEDDINGS)
        ]
        if len(names) != 1 or len(reader.tensors[names[0]].shape) != 2:
            raise CheckpointError(
                f"'{folder}' holds no single table of embeddings (found: "
                f"{', '.join(names) or 'none'}); give model2vec's layout, with a tensor "
                f"'embeddings' of [vocab, dim]."
            )
        rows: Floats = reader.array(names[0]).astype(np.float32)
        if "mapping" in reader.tensors:
            rows = rows[reader.array("mapping").astype(np.int64)]
        if "weights" in reader.tensors:
            rows = rows * reader.array("weights").astype(np.float32)[:, None]
    return rows
