"""What reaches a block behind merged blocks: models, merged block by block in memory."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from treadle.combine.merge.base import Floats, MergeMethod
from treadle.combine.merge.inputs.sources import Inputs, TensorSource
from treadle.core.checkpoint import CheckpointReader
from treadle.core.progress import steps

if TYPE_CHECKING:
    import torch

    from treadle.model.facts import Linear
    from treadle.model.layers import Block
    from treadle.model.statistics import BlockStatistics

__all__ = ["merged_grams"]


class HeldSource(TensorSource):
    """A matrix in memory."""

    dtype = "F32"

    def __init__(self, values: Floats) -> None:
        self.shape, self._values = values.shape, values.reshape(-1)

    def read(self, first: int, target: Floats) -> None:
        """Write the elements from `first` on into `target`."""
        target[:] = self._values[first : first + target.size]


class HeldGram(NamedTuple):
    """What is known of a matrix in memory."""

    values: Floats
    is_transposed: bool = False

    def importance(self, first: int, target: Floats) -> None:
        """Gradients are not known here."""
        raise AssertionError("a method that asks for Gram matrices has no use for gradients")

    def coefficient(self) -> float:
        """Coefficients are not known here."""
        raise AssertionError("a method that asks for Gram matrices has no use for coefficients")

    def gram(self) -> Floats:
        """Return X^T X [in, in] of its inputs."""
        return self.values


def merged_grams(
    readers: Sequence[CheckpointReader],
    tokens: "Sequence[torch.Tensor]",
    method: MergeMethod,
    known: Sequence[Mapping[str, object]],
) -> "Iterator[tuple[int, list[dict[str, torch.Tensor]]]]":
    """Yield the Gram matrices of each layer, and for each model by "layer/input".

    The inputs are those of the model's own block on its own tokens, which ran through the merged
    blocks before it. In memory are one block of each model, the hidden states of all tokens, and at
    the beginning all embeddings and heads.

    Args:
        readers: The models.
        tokens: Of each model [batch, seq], all of one shape.
        method: Merges the matrices; all else is averaged.
        known: For each model the tensors on disk that are merged as matrices.
    """
    from treadle.model.layers import LayeredModel
    from treadle.model.statistics import collect_block

    models = [LayeredModel(reader) for reader in readers]
    for model, own in zip(models, tokens, strict=True):
        model.embed(own)  # for how its blocks are called
    first = models[0]
    _average([model.ends() for model in models])
    hidden = [first.embed(own) for own in tokens]
    for model in models:
        model.drop_ends()
    with steps("merged inputs", first.num_layers) as bar:
        for layer in range(first.num_layers):
            with ExitStack() as stack:
                blocks = [stack.enter_context(model.block(layer)) for model in models]
                found = [
                    collect_block(model, block, layer, values, True, and_run=False)
                    for model, block, values in zip(models, blocks, hidden, strict=True)
                ]
                yield layer, [_named(layer, one) for one in found]
                _merge_into_first(blocks, found, method, known)
                for values in hidden:
                    first.run(blocks[0], layer, values)
            bar.advance()


def _named(layer: int, found: "BlockStatistics") -> "dict[str, torch.Tensor]":
    return {f"{layer}/{name}": entry.gram for name, entry in found.items()}


def _average(parts: "Sequence[Mapping[str, torch.Tensor]]") -> None:
    """Replace the first one's tensors by the mean of their namesakes."""
    for name, target in parts[0].items():
        values = np.stack([part[name].numpy() for part in parts])
        target.numpy()[...] = values.mean(axis=0)


def _merge_into_first(
    blocks: "Sequence[Block]",
    found: "Sequence[BlockStatistics]",
    method: MergeMethod,
    known: Sequence[Mapping[str, object]],
) -> None:
    """Turn the first block into the merged one."""
    solved = []
    for matrices in zip(*(block.matrices for block in blocks), strict=True):
        if all(m.tensor in own for m, own in zip(matrices, known, strict=True)):
            solved.append((matrices[0], _merged(blocks, matrices, found, method)))
    _average([{n: p.data for n, p in block.module.named_parameters()} for block in blocks])
    for matrix, values in solved:
        blocks[0].view(matrix).numpy()[...] = values


def _merged(
    blocks: "Sequence[Block]",
    matrices: "Sequence[Linear]",
    found: "Sequence[BlockStatistics]",
    method: MergeMethod,
) -> Floats:
    views = [block.view(matrix) for block, matrix in zip(blocks, matrices, strict=True)]
    grams = [one[matrix.input].gram for one, matrix in zip(found, matrices, strict=True)]
    site = Inputs(
        matrices[0].name,
        tuple(HeldSource(view.numpy()) for view in views),
        None,
        (),
        tuple(HeldGram(gram.numpy()) for gram in grams),
    )
    merged = np.empty(site.num_elements, np.float32)
    measured = method.measure(site)
    for chunk in site.chunks(method.unit):
        run = method.merge(chunk, site, measured)
        merged[chunk.first : chunk.first + run.size] = run
    return merged.reshape(site.shape)
