"""Texts as the mean of fixed vectors of their tokens: model2vec's folders, or any model's input."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from treadle.core.checkpoint import CheckpointReader, content_hash
from treadle.core.checkpoint.hashing import hash_tensors
from treadle.core.codec import Array
from treadle.core.errors import CheckpointError
from treadle.core.result import digest
from treadle.model.embed.pooled import unit
from treadle.model.facts.names import EMBEDDINGS

__all__ = ["StaticEmbedder"]

Floats = npt.NDArray[np.float32]
_NAMES = ("embeddings", "embedding.weight")
"""What folders of static embeddings call the table."""
_MAPPING, _WEIGHTS = "mapping", "weights"
"""Of each token, its row, and how much that counts."""


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
        words = hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
        tensors, found = _tensors(folder)
        self.hash = digest([found, words])
        self._rows = _table(folder, tensors)
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


def _tensors(folder: Path) -> tuple[dict[str, Array], str]:
    """Return what there may be of a table, its weights and its mapping, and a hash of it all."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if (folder / "config.json").is_file():
        with CheckpointReader(folder) as reader:
            names = [name for name in reader.tensors if _is_part(name)]
            return {name: np.array(reader.array(name)) for name in names}, content_hash(folder)
    file = folder / "model.safetensors"
    try:
        found = {name: one for name, one in load_file(file).items() if _is_part(name)}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{file} is missing or damaged ({error}); download the static embeddings again."
        ) from error
    return found, hash_tensors(found, found.__getitem__, lambda _: None)


def _is_part(name: str) -> bool:
    return name in (*_NAMES, _MAPPING, _WEIGHTS) or name.endswith(EMBEDDINGS)


def _table(folder: Path, tensors: dict[str, Array]) -> Floats:
    """Return the vector of every token id [vocab, dim] in float32."""
    names = [name for name in tensors if name not in (_MAPPING, _WEIGHTS)]
    if len(names) != 1 or tensors[names[0]].ndim != 2:
        raise CheckpointError(
            f"'{folder}' holds no single table of embeddings (found: "
            f"{', '.join(names) or 'none'}); give model2vec's layout, with a tensor "
            f"'embeddings' of [vocab, dim]."
        )
    rows: Floats = tensors[names[0]].astype(np.float32)
    if _MAPPING in tensors:
        rows = rows[tensors[_MAPPING].astype(np.int64)]
    if _WEIGHTS in tensors:
        rows = rows * tensors[_WEIGHTS].astype(np.float32)[:, None]
    return rows
