"""Run a block over many chunks in step: all arrive at an input before the first one reads it.

So the matrices that read an input can be changed when its statistics are complete, and every
matrix still runs only once. The chunks stay small enough for the cache; what waits at an input is
its values and the residual stream.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from treadle.core.shapes import Float, Tensor
from treadle.model.layers import Block, LayeredModel
from treadle.model.seams import observed

if TYPE_CHECKING:
    import torch

__all__ = ["run_in_step"]


def run_in_step(
    model: LayeredModel,
    block: Block,
    layer: int,
    hidden: Float[Tensor, "batch seq hidden"],
    collect: "Callable[[str, torch.Tensor], None]",
    complete: Callable[[str], None],
) -> None:
    """Run `block` over the chunks of `hidden`, replacing it in place.

    Calls `collect(input, values [tokens, in])` as each chunk arrives at an input, in order, and
    `complete(input)` when the last has: before any chunk goes on, so the matrices that read the
    input may be changed there.
    """
    import torch
    from greenlet import getcurrent, greenlet

    main = getcurrent()
    arrived: list[str] = []

    def observer(name: str, values: "torch.Tensor") -> None:
        collect(name, values)
        arrived.append(name)
        main.switch()

    def run(chunk: "torch.Tensor") -> None:
        chunk.copy_(model.forward(block, layer, chunk))

    with torch.no_grad(), observed(block.module, block.matrices, observer):
        waiting = [greenlet(run) for _ in model.chunks(hidden)]
        try:
            for runner, chunk in zip(waiting, model.chunks(hidden), strict=True):
                runner.switch(chunk)
            while not all(runner.dead for runner in waiting):
                complete(arrived[-1])
                for runner in waiting:
                    runner.switch()
        finally:
            # Left waiting, they would end later and put back the gradient mode they entered in.
            for runner in waiting:
                runner.throw()
