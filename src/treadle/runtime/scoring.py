"""The runtime as a Scorer: what each token of a text costs a model, however it is held."""

import math
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from treadle.core.checkpoint import CheckpointReader
from treadle.core.errors import CapacityError, SettingsError, UnsupportedModelError
from treadle.core.hardware import available_memory_bytes, usable_physical_cores
from treadle.core.shapes import Float, Tensor
from treadle.runtime import agreed
from treadle.runtime.answering import computed_by, weight_bytes
from treadle.runtime.choice import agreement
from treadle.runtime.linear.packed import AUTO
from treadle.runtime.llm import LLM
from treadle.runtime.native_step.llama import LlamaStep

__all__ = ["RuntimeScorer", "exact_scorer"]

_MOST_OF_MEMORY = 0.6
"""Of what is free, for weights in float32; the cache takes a quarter of the rest at most."""


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

    def token_losses(
        self, rows: Sequence[Sequence[int]], firsts: Sequence[int] | None = None
    ) -> list[Float[Tensor, "_asked"]]:
        """Return -log p of each row's tokens from `firsts` on, in nats, in float32.

        Raises:
            DataError: A token is none of the model's.
            CheckpointError: Its logits are no numbers.
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
        found = self._llm.log_probs(rows, firsts, self._adapter)
        return [torch.from_numpy(-values) for values in found]


def exact_scorer(folder: Path, reader: CheckpointReader, longest: int) -> RuntimeScorer | None:
    """Return a scorer by the native step with everything in float32, as blocks compute it.

    None where blocks have to: the native step does not compute the model, or not what transformers
    does, or would hold its numbers as codes; or they do not fit into memory at once, or a row
    of `longest` tokens beside them; or it goes beyond the model's positions.

    Raises:
        CheckpointError: The model cannot be read, or computes no numbers.
    """
    import torch

    num_weights = sum(math.prod(info.shape) for info in reader.tensors.values())
    if 4 * num_weights > _MOST_OF_MEMORY * available_memory_bytes():
        return None
    try:
        # As many threads as blocks would take, which OMP_NUM_THREADS bounds.
        threads = min(usable_physical_cores(), torch.get_num_threads())
        step = LlamaStep(folder, _exact_form(folder), threads)
    except UnsupportedModelError:
        return None
    is_within = longest <= step.shape.max_positions
    if is_within and step.weights.forms == {"fp32"} and _agrees(folder, step):
        with suppress(CapacityError):
            llm = LLM(folder, executor=step, kv_dtype="fp32")
            if longest <= llm.cache_tokens:
                return RuntimeScorer(llm)
    step.close()
    return None


def _exact_form(folder: Path) -> str:
    """Return the form that rounds nothing: a GGUF file's codes become the floats that they say."""
    return "fp32" if folder.is_file() else AUTO


def _agrees(folder: Path, step: LlamaStep) -> bool:
    """Whether a step computes what transformers does; what agreed once is remembered."""
    signature = agreed.sign(folder, _exact_form(folder))
    if agreed.is_known(signature):
        return True
    holds = agreement(folder, step).holds(step.weights)
    if holds:
        agreed.remember(signature)
    return holds
