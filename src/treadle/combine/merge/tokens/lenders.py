"""The models of a merge as far as their vocabularies go."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from treadle.combine.merge.recipe.grammar import ModelRef
from treadle.core.checkpoint import CheckpointReader
from treadle.core.errors import CheckpointError
from treadle.model.facts import EMBEDDINGS, spelt_key, text_config

__all__ = ["BY_TOKEN", "Lender", "require_rows"]

BY_TOKEN = (
    *EMBEDDINGS,
    *("shared.weight", "lm_head.weight", "lm_head.bias", "embed_out.weight", "embed_out.bias"),
    *("lm_head.decoder.weight", "lm_head.decoder.bias", "cls.predictions.bias"),
    *("cls.predictions.decoder.weight", "cls.predictions.decoder.bias"),
)
"""What has a row for each token."""


class Lender(NamedTuple):
    """A model of the merge, as far as its vocabulary goes."""

    ref: ModelRef
    reader: CheckpointReader
    num_rows: int | None = None
    """Rows of its embedding, where an adapter gives it others than its file has."""
    tokens: Path | None = None
    """The folder of its tokenizer; None for its own."""

    @property
    def tokenizer_folder(self) -> Path:
        """Where its tokenizer lies."""
        return self.tokens or self.reader.folder

    @property
    def rows(self) -> int | None:
        """Rows of its embedding; None where it has no vocabulary."""
        if self.num_rows is not None:
            return self.num_rows
        for name, info in self.reader.tensors.items():
            if name.endswith(EMBEDDINGS):
                return info.shape[0]
        found = text_config(self.reader.config).get("vocab_size")
        return found if isinstance(found, int) else None


def require_rows(lenders: Sequence[Lender]) -> list[int]:
    """Return the rows of all models.

    Raises:
        CheckpointError: One has no vocabulary.
    """
    found: list[int] = []
    for one in lenders:
        if one.rows is None:
            key = spelt_key(text_config(one.reader.config), "vocab_size")
            raise CheckpointError(
                f"{one.reader.folder} has no token embedding that is known here "
                f"({', '.join(EMBEDDINGS)}) and no {key} in config.json, so its tokens cannot be "
                f"brought in line; add {key} there, or ask for no tokenizer."
            )
        found.append(one.rows)
    return found
