"""Visit a model's decoder blocks one at a time with their real inputs.

One block, the embedding and the head are in memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from treadle.core import hardware
from treadle.core.checkpoint import CheckpointReader
from treadle.core.progress import steps
from treadle.core.shapes import Float, Int, Tensor
from treadle.model import facts
from treadle.model.belonging import shapes_of
from treadle.model.facts import base_config
from treadle.model.load import materialise, materialise_rest, parameter_view, set_widths, skeleton
from treadle.model.rope import RopeLengths, RotaryFactors
from treadle.model.seams import replaced_forward, tensor_of

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Block", "LayeredModel"]

_CHUNK_TOKENS = 2048
"""Tokens that run through a block at once: their MLP activations fit a server's L3 cache."""


class Block:
    """One decoder block in memory."""

    def __init__(self, module: "nn.Module", matrices: list[facts.Linear]) -> None:
        self.module, self.matrices = module, matrices

    def view(self, matrix: facts.Linear) -> Float[Tensor, "out in"]:
        """Return the values of `matrix`, as a view that writes through to the module."""
        return parameter_view(self.module.get_parameter(matrix.parameter), matrix)


class LayeredModel:
    """A causal language model of which one decoder block at a time is in memory.

    Peak memory is the embedding and head, one block in float32, and the hidden states that the
    caller keeps. Computes in float32 whatever the storage dtype.
    """

    def __init__(self, reader: CheckpointReader, trust_remote_code: bool = False) -> None:
        import torch

        self.reader = reader
        self.config = base_config(reader.config)
        self.shapes = shapes_of(reader)
        self.num_layers = facts.num_layers(self.config)
        self._module = skeleton(reader, trust_remote_code)
        materialise_rest(self._module, reader, torch.float32)
        stem = facts.facts_of(self.config).blocks
        self._blocks = [
            self._module.get_submodule(stem.format(layer=layer)[:-1])
            for layer in range(self.num_layers)
        ]
        self._rotary = RotaryFactors(self._module)
        self._calls: dict[tuple[int, ...], list[tuple[tuple[Any, ...], dict[str, Any]]]] = {}

    @property
    def rope_lengths(self) -> RopeLengths:
        """How rotary factors follow from the length of a text (see `model.rope`)."""
        return self._rotary.lengths

    def matrices(self, layer: int) -> list[facts.Linear]:
        """Return the matrices of block `layer`."""
        return facts.linears(self.config, layer, self.shapes)

    @contextmanager
    def block(self, layer: int) -> Iterator[Block]:
        """Load block `layer` and drop it at the end."""
        import torch

        module, matrices = self._blocks[layer], self.matrices(layer)
        prefix = facts.block_prefix(self.config, layer, self.shapes)
        materialise(module, self.reader, prefix, matrices, torch.float32)
        set_widths(module, self.config)
        try:
            yield Block(module, matrices)
        finally:
            module.to("meta")
            for name in self.shapes:
                if name.startswith(prefix):
                    self.reader.release(name)
            hardware.return_freed_memory()

    def visit(self, title: str, first: int = 0) -> Iterator[tuple[int, Block]]:
        """Yield each block from `first` on with its number, one in memory, under a progress bar."""
        with steps(title, self.num_layers) as bar:
            bar.advance(first)
            for layer in range(first, self.num_layers):
                with self.block(layer) as block:
                    yield layer, block
                bar.advance()

    def embed(
        self, tokens: Int[Tensor, "batch seq"], regime: int | None = None
    ) -> Float[Tensor, "batch seq hidden"]:
        """Return the input of the first block.

        Remembers how blocks are called for this shape and its chunks.

        Args:
            tokens: Rows of equal length.
            regime: By `rope_lengths`, of the texts that rows are the start of; None: rows are whole
                texts.

        Raises:
            SettingsError: The model has fewer positions than a row has tokens.
        """
        facts.require_positions(self.config, tokens.shape[1])
        for num_rows in {len(chunk) for chunk in self.chunks(tokens)}:
            self._enter(tokens[:num_rows], regime)
        return self._enter(tokens, regime)

    def chunks(self, values: "torch.Tensor") -> "list[torch.Tensor]":
        """Split rows [batch, seq, ...] into views of about 2048 tokens."""
        import torch

        return list(torch.split(values, max(1, _CHUNK_TOKENS // values.shape[1])))

    def _enter(self, tokens: "torch.Tensor", regime: int | None) -> "torch.Tensor":
        """Run the model with blocks that only remember how they were called.

        What a block receives beside the hidden states (masks, rotary tables) depends on the shape
        and the regime alone.
        """
        import torch

        calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        entered: list[torch.Tensor] = []

        def remember(hidden: "torch.Tensor", *args: Any, **kwargs: Any) -> "torch.Tensor":
            entered.append(hidden)
            calls.append((args, kwargs))
            return hidden

        backbone = self._module.get_submodule(self._module.base_model_prefix)
        num_tokens = tokens.shape[1]
        regime = self.rope_lengths.regime(num_tokens) if regime is None else regime
        turned = self._rotary.by_text(torch.full((num_tokens,), regime))
        blocks = replaced_forward(self._blocks, [remember] * self.num_layers)
        with torch.no_grad(), turned, blocks:
            backbone(input_ids=tokens, use_cache=False)
        self._calls[tuple(tokens.shape)] = calls
        return entered[0]

    def ends(self) -> "dict[str, torch.Tensor]":
        """Return what lies outside the blocks, by the module's names; writing changes the model."""
        named = self._module.named_parameters()
        return {name: parameter.data for name, parameter in named if not parameter.is_meta}

    def drop_ends(self) -> None:
        """Let go of all but the blocks; from here on `embed` and `logits` cannot be called."""
        self._module.to("meta")

    def forward(
        self, block: Block, layer: int, hidden: Float[Tensor, "batch seq hidden"]
    ) -> Float[Tensor, "batch seq hidden"]:
        """Run `block` on the whole of `hidden` at once.

        `embed` must have seen a batch of this shape, or chunks of it.
        """
        import torch

        args, kwargs = self._calls[tuple(hidden.shape[:2])][layer]
        with torch.no_grad():
            return tensor_of(block.module(hidden, *args, **kwargs))

    def run(
        self, block: Block, layer: int, hidden: Float[Tensor, "batch seq hidden"]
    ) -> Float[Tensor, "batch seq hidden"]:
        """Run `block` over `hidden` in cache-sized chunks, replacing it in place, and return it."""
        for chunk in self.chunks(hidden):
            chunk.copy_(self.forward(block, layer, chunk))
        return hidden

    def logits(
        self, tokens: Int[Tensor, "batch seq"], hidden: Float[Tensor, "batch seq hidden"]
    ) -> Float[Tensor, "batch seq vocab"]:
        """Return the model's logits from the last block's output.

        Norm, head and soft-capping are as the model does them.
        """
        import torch

        def leave(_: "torch.Tensor", *args: Any, **kwargs: Any) -> "torch.Tensor":
            return hidden

        with torch.no_grad(), replaced_forward(self._blocks, [leave] * self.num_layers):
            logits: torch.Tensor = self._module(input_ids=tokens, use_cache=False).logits
        return logits
