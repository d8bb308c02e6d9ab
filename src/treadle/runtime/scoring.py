"""The runtime as a Scorer: what each token of a text costs a model, however it is held."""

from collections.abc import Sequence
from functools import cached_property

from treadle.core.errors import SettingsError
from treadle.core.shapes import Float, Tensor
from treadle.runtime.answering import computed_by, weight_bytes
from treadle.runtime.llm import LLM

__all__ = ["RuntimeScorer"]


class RuntimeScorer:
    """Scores tokens by the runtime; see `treadle.core.ports.Scorer`.

    What is measured is what a request would see: weights and cache as they are held, entries that
    were evicted, an adapter. A row may fill the whole context.

    Args:
        llm: The model.
        adapter: Name of the LoRA adapter that it is scored with.
    """

    def __init__(self, llm: LLM, adapter: str | None = None) -> None:
        self._llm, self._adapter = llm, adapter
        self.bytes_per_token = weight_bytes(llm)

    @cached_property
    def computed_by(self) -> str:
        """What computes, and in which form it holds the weights."""
        return computed_by(self._llm)

    def token_losses(self, rows: Sequence[Sequence[int]]) -> list[Float[Tensor, "_predicted"]]:
        """Return -log p of every token but the first of each row, in nats, in float32.

        Raises:
            DataError: A token is none of the model's, or its logits are no numbers.
            SettingsError: A row is longer than the model's context.
        """
        import torch

        most = self._llm.shape.max_positions
        longest = max(map(len, rows), default=0)
        if longest > most:
            raise SettingsError(
                f"A row of {longest} tokens is longer than the model's {most} positions; give "
                f"shorter ones."
            )
        return [torch.from_numpy(-found) for found in self._llm.log_probs(rows, self._adapter)]
