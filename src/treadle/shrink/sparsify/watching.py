"""What a frozen model shows of a sample: what heads read, and what they are to foretell."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from treadle.core.errors import SettingsError, UnsupportedModelError
from treadle.core.shapes import Float, Tensor
from treadle.model.facts import base_config
from treadle.runtime.executor import Executor
from treadle.runtime.probe import LayerInputs, Observable, Probe, Probed, probe_text
from treadle.shrink.sparsify.base import Target
from treadle.shrink.sparsify.samples import Sample
from treadle.shrink.sparsify.targets import causal_importance, repeated_attention

if TYPE_CHECKING:
    import torch

__all__ = ["FrozenModel", "LayerView", "open_frozen"]

_CHUNK_TOKENS = 2048
_OVERLAP_TOKENS = 8
_REPEAT = "\n\nRepeat the previous context exactly.\n\n"
_REPEAT_FROM = "\n\nRepeat the part of the previous context exactly, starting with "


class LayerView(NamedTuple):
    """What a layer shows of the prompt of a sample."""

    inputs: LayerInputs
    target: Float[Tensor, "prompt kv_heads"]
    """Minus infinity where no query may see an entry."""


class FrozenModel:
    """A model that runs and does not change.

    Args:
        executor: Runs it.
        target: What is asked.
        encode: Tokens of a text.
        softcap: Of the logits of its attention; 0 for none.
        outputs: [hidden, heads * dim] matrices behind attention, where the target needs them.
    """

    def __init__(
        self,
        executor: Executor,
        target: Target,
        encode: Any,  # Any: a tokenizer's function
        softcap: float,
        outputs: "Sequence[torch.Tensor] | None",
    ) -> None:
        self._executor, self._target = cast(Observable, executor), target
        self._encode, self._softcap, self._outputs = encode, softcap, outputs

    @property
    def windows(self) -> tuple[int | None, ...]:
        """What each layer sees."""
        return self._executor.shape.windows

    def view(self, sample: Sample) -> list[LayerView]:
        """Run a sample (of KVzip: its prompt, and the prompt repeated) and return what is seen."""
        return self._answered(sample) if self._target == "cis" else self._repeated(sample)

    def _answered(self, sample: Sample) -> list[LayerView]:
        probed = self._probe(sample.tokens.tolist(), False)
        return [
            LayerView(layer, causal_importance(layer, sample.num_prompt, window, self._softcap))
            for layer, window in zip(probed.inputs or (), self.windows, strict=True)
        ]

    def _repeated(self, sample: Sample) -> list[LayerView]:
        import torch

        context = sample.tokens[: sample.num_prompt].tolist()
        count = len(context)
        inputs: tuple[LayerInputs, ...] = ()
        found: list[list[torch.Tensor]] = [[] for _ in self.windows]
        for first in range(0, count, _CHUNK_TOKENS):
            chunk = range(first, min(first + _CHUNK_TOKENS, count))
            tokens = [*context, *self._cue(context, first), *context[chunk.start : chunk.stop]]
            probed = self._probe(tokens, self._target == "kvzip+")
            inputs = probed.inputs or () if first == 0 else inputs
            for layer, (own, window) in enumerate(
                zip(probed.inputs or (), self.windows, strict=True)
            ):
                output = None if self._outputs is None else self._outputs[layer]
                states = None if probed.states is None else probed.states[layer]
                found[layer].append(
                    repeated_attention(own, chunk, count, window, self._softcap, output, states)
                )
        return [LayerView(own, torch.cat(parts)) for own, parts in zip(inputs, found, strict=True)]

    def _cue(self, context: Sequence[int], first: int) -> list[int]:
        """Return what asks for a chunk; later ones are named by the tokens before them."""
        if first == 0:
            return list(self._encode(_REPEAT))
        before = context[first - _OVERLAP_TOKENS : first]
        return [*self._encode(_REPEAT_FROM), *before]

    def _probe(self, tokens: Sequence[int], has_states: bool) -> Probed:
        most = self._executor.shape.max_positions
        if len(tokens) > most:
            raise SettingsError(
                f"A sample takes {len(tokens)} tokens (target {self._target}: kvzip and kvzip+ "
                f"read the prompt twice), and the model has {most} positions; lower "
                f"--sample-tokens."
            )
        return probe_text(self._executor, tokens, Probe(None, 0, 0, has_states, True))


def open_frozen(
    folder: Path, target: Target, encode: Any, trust_remote_code: bool
) -> FrozenModel:  # Any: a tokenizer's function
    """Open a model in the numbers that its folder holds.

    Raises:
        CheckpointError: It computes no numbers.
        UnsupportedModelError: What happens inside of it cannot be seen.
    """
    from treadle.core.checkpoint import CheckpointReader
    from treadle.runtime.choice import choose_executor

    executor = choose_executor(folder, trust_remote_code=trust_remote_code)
    with CheckpointReader(folder) as reader:
        config = base_config(reader.config)
    outputs = _outputs(folder) if target == "kvzip+" else None
    softcap = float(config.get("attn_logit_softcapping") or 0.0)
    return FrozenModel(executor, target, encode, softcap, outputs)


def _outputs(folder: Path) -> "list[torch.Tensor]":
    """Return the matrix behind the attention of each layer, in float32."""
    import torch

    from treadle.model.blockwise import layers_of
    from treadle.model.source import open_model

    found = []
    with open_model(folder) as reader:
        for layer, matrices in enumerate(layers_of(reader)):
            own = next((one for one in matrices if one.role == "o"), None)
            if own is None:
                raise UnsupportedModelError(
                    f"Layer {layer} of '{folder}' has no output matrix of attention that treadle "
                    f"knows, which target kvzip+ needs; choose --target kvzip or cis."
                )
            found.append(own.of(reader.tensor(own.tensor, torch.float32)).contiguous())
    return found
