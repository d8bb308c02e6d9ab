"""What enters the MLPs of dense models: texts run through them, one block in memory at a time."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from treadle.combine.merge.site import Floats
from treadle.core.checkpoint import CheckpointReader
from treadle.core.progress import steps

if TYPE_CHECKING:
    import torch

    from treadle.model.layers import Block

__all__ = ["LayerStates", "layer_states"]


class LayerStates(NamedTuple):
    """What one layer is given, text by text in their order, each [tokens, hidden]."""

    residual: list[Floats]
    """The residual stream before the layer."""
    mlp: list[Floats]
    """What enters its MLP, behind the norm."""


def layer_states(
    readers: Sequence[CheckpointReader], texts: Sequence[Sequence[int]]
) -> Iterator[LayerStates]:
    """Yield for each layer what it is given of some texts: the mean over the models.

    Of each model one block is in memory, beside the hidden states; each runs alone, on what it made
    of the texts itself. Computes in float32.

    Args:
        readers: Dense models of one architecture.
        texts: Tokens.
    """
    runners = [_Runner(reader, texts) for reader in readers]
    num_layers = runners[0].model.num_layers
    with steps("look at prompts", num_layers) as bar:
        for layer in range(num_layers):
            found = [runner.step(layer) for runner in runners]
            yield LayerStates(
                _mean([one.residual for one in found]), _mean([one.mlp for one in found])
            )
            bar.advance()


def _mean(models: Sequence[list[Floats]]) -> list[Floats]:
    return [
        np.mean(texts, axis=0, dtype=np.float32) if len(texts) > 1 else texts[0]
        for texts in zip(*models, strict=True)
    ]


class _Runner:
    """One model on its way through its blocks; texts of one length run together."""

    def __init__(self, reader: CheckpointReader, texts: Sequence[Sequence[int]]) -> None:
        import torch

        from treadle.model.layers import LayeredModel

        self.model: LayeredModel = LayeredModel(reader)
        self._places: dict[int, list[int]] = defaultdict(list)
        for place, text in enumerate(texts):
            self._places[len(text)].append(place)
        self._streams = {
            length: self.model.embed(torch.tensor([list(texts[place]) for place in places]))
            for length, places in self._places.items()
        }
        self.model.drop_ends()

    def step(self, layer: int) -> LayerStates:
        """Run a layer, and return what it was given."""
        found: dict[int, tuple[Floats, Floats]] = {}
        with self.model.block(layer) as block:
            for length, places in self._places.items():
                before = self._streams[length].numpy().copy()
                entered = self._run(block, layer, self._streams[length])
                rows = entered.reshape(len(places), length, -1)
                found |= dict(zip(places, zip(before, rows, strict=True), strict=True))
        order = sorted(found)
        return LayerStates([found[n][0] for n in order], [found[n][1] for n in order])

    def _run(self, block: "Block", layer: int, stream: "torch.Tensor") -> Floats:
        """Run the block, in place, and return what entered its MLP: [tokens, hidden]."""
        from treadle.model.seams import observed

        entered: list[Floats] = []
        (gate,) = (matrix for matrix in block.matrices if matrix.role == "gate")

        def observe(name: str, values: "torch.Tensor") -> None:
            entered.append(values.numpy().copy())

        with observed(block.module, [gate], observe):
            self.model.run(block, layer, stream)
        found: Floats = np.concatenate(entered)
        return found
