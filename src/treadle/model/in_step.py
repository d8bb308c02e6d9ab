"""Run a block over many chunks in step: all arrive at an input before the first one reads it.

So the matrices that read an input can be changed when its statistics are complete, and every
matrix still runs only once. The chunks stay small enough for the cache; what waits at an input is
its values and the residual stream. A second copy of the block, which stays as it was, may run
beside on the inputs of the unchanged model; its chunks arrive right before those that they pair.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from treadle.core.shapes import Float, Tensor
from treadle.model.layers import Block, LayeredModel
from treadle.model.seams import Observer, observed

if TYPE_CHECKING:
    import torch
    from greenlet import greenlet

__all__ = ["Collect", "Stream", "run_in_step"]

Collect = Callable[[str, "torch.Tensor", "torch.Tensor | None"], None]
"""Receives a unique input's name and values [tokens, in], and those that the clean block has."""


class Stream(NamedTuple):
    """A block and the hidden states [batch, seq, hidden] that run through it, replaced in place."""

    block: Block
    hidden: "torch.Tensor"


def run_in_step(
    model: LayeredModel,
    block: Block,
    layer: int,
    hidden: Float[Tensor, "batch seq hidden"],
    collect: Collect,
    complete: Callable[[str], None],
    clean: Stream | None = None,
) -> None:
    """Run `block` over the chunks of `hidden`, replacing it in place.

    Calls `collect(input, values, clean values)` as each chunk arrives at an input, in order, and
    `complete(input)` when the last has: before any chunk goes on, so the matrices that read the
    input may be changed there. Without `clean`, or where the two have other tokens at an input
    (experts), its values are None.
    """
    arrived: list[str] = []
    beside: list[tuple[str, torch.Tensor]] = []

    def take(name: str, values: "torch.Tensor") -> None:
        pair = beside.pop() if beside else None
        is_same = pair is not None and pair[0] == name and pair[1].shape == values.shape
        collect(name, values, pair[1] if pair is not None and is_same else None)
        arrived.append(name)

    with ExitStack() as stack:
        runners = [stack.enter_context(_waiting(model, layer, Stream(block, hidden), take))]
        if clean is not None:
            other = _waiting(model, layer, clean, _keep(beside))
            runners.insert(0, stack.enter_context(other))
        _advance(runners)
        while not all(runner.dead for runner in runners[-1]):
            complete(arrived[-1])
            _advance(runners)


def _keep(beside: "list[tuple[str, torch.Tensor]]") -> Observer:
    def keep(name: str, values: "torch.Tensor") -> None:
        beside[:] = [(name, values)]

    return keep


def _advance(runners: "list[list[greenlet]]") -> None:
    """Let every chunk go on to its next input, each clean one right before its pair."""
    for pair in zip(*runners, strict=True):
        for runner in pair:
            if not runner.dead:
                runner.switch()


@contextmanager
def _waiting(
    model: LayeredModel, layer: int, stream: Stream, observer: Observer
) -> "Iterator[list[greenlet]]":
    """Yield one runner for each chunk of a stream; it stops behind each call of `observer`."""
    import torch
    from greenlet import getcurrent, greenlet

    main = getcurrent()

    def stop(name: str, values: "torch.Tensor") -> None:
        observer(name, values)
        main.switch()

    def runner(chunk: "torch.Tensor") -> "greenlet":
        return greenlet(lambda: chunk.copy_(model.forward(stream.block, layer, chunk)))

    block = stream.block
    with torch.no_grad(), observed(block.module, block.matrices, stop):
        waiting = [runner(chunk) for chunk in model.chunks(stream.hidden)]
        try:
            yield waiting
        finally:
            # Left waiting, they would end later and put back the gradient mode they entered in.
            for one in waiting:
                one.throw()
