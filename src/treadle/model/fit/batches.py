"""What comes in a step: rows of tensors, and how they are split for accumulation."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from treadle.core.errors import DataError, SettingsError
from treadle.core.seed import numpy_stream
from treadle.core.shapes import Int, Tensor
from treadle.model.fit.returned import said

if TYPE_CHECKING:
    import torch

__all__ = ["Batch", "Batches", "num_rows", "num_tokens", "random_batches", "require_batch", "split"]

# Any: a tensor, or a mapping or tuple of tensors, which have the rows as first axis; or a list of
# such, which are the parts of a step.
Batch = Any
Batches = Callable[[int, Sequence[float]], Batch]
"""From the number of a step and the losses of all steps before it to what comes in it.

It must be a function of the two alone: a resumed run asks again, with the losses that were saved.
"""


def random_batches(tokens: Int[Tensor, "tokens"], rows: int, seq: int, seed: int) -> Batches:
    """Return batches of windows that begin at random places of one long text.

    Raises:
        DataError: The text is shorter than a window.
        SettingsError: A window has no tokens, or a step no rows.
    """
    import torch

    if rows < 1 or seq < 1:
        raise SettingsError(
            f"rows = {rows} and seq = {seq} make empty batches; give at least one row of one token."
        )
    num_places = len(tokens) - seq + 1
    if num_places < 1:
        raise DataError(
            f"The text has {len(tokens)} tokens, too few for one window of {seq}; give more text "
            f"or a shorter window."
        )

    def batch(step: int, _losses: Sequence[float]) -> "torch.Tensor":
        places = numpy_stream(seed, f"batch {step}").integers(num_places, size=rows)
        return torch.stack([tokens[place : place + seq] for place in places])

    return batch


def _tensors(batch: Batch) -> "list[torch.Tensor]":
    if isinstance(batch, Mapping):
        return list(batch.values())
    return list(batch) if isinstance(batch, tuple) else [batch]


def require_batch(batch: Batch, step: int) -> None:
    """Require tensors that have the same number of rows, at least one.

    Raises:
        DataError: They are something else; the step is named.
    """
    import torch

    if isinstance(batch, list) and batch:
        for part in batch:
            require_batch(part, step)
        return
    is_form = isinstance(batch, torch.Tensor | Mapping | tuple)
    if not is_form or not _tensors(batch):
        raise DataError(
            f"The batch of step {step} is {said(batch)}, but a tensor, or a mapping or tuple of "
            f"tensors, was expected; return such (torch.tensor makes one of numbers)."
        )
    for tensor in _tensors(batch):
        if not isinstance(tensor, torch.Tensor) or not tensor.dim():
            raise DataError(
                f"The batch of step {step} holds {said(tensor)}, but only tensors whose first axis "
                f"counts the rows were expected; leave it out, or make it such a tensor."
            )
    found = {len(tensor) for tensor in _tensors(batch)}
    if len(found) != 1 or 0 in found:
        raise DataError(
            f"The tensors of step {step} have {sorted(found)} rows, but all need the same number, "
            f"at least one; return tensors whose first axis counts the rows of the step."
        )


def num_rows(batch: Batch) -> int:
    """Return the rows of a batch."""
    return len(_tensors(batch)[0])


def num_tokens(batch: Batch) -> int:
    """Return how many places of a batch run through the model: rows times their length.

    Counted are `input_ids` where there are some, and the first tensor otherwise.
    """
    if isinstance(batch, list):
        return sum(map(num_tokens, batch))
    named = batch.get("input_ids") if isinstance(batch, Mapping) else None
    first = _tensors(batch)[0] if named is None else named
    return int(first.shape[:2].numel())


def split(batch: Batch, num_parts: int, may_differ: bool) -> list[Batch]:
    """Split the rows of a batch into parts, which are of one size unless they `may_differ`.

    A list is parts already.

    Raises:
        SettingsError: The rows cannot be split so.
    """
    import torch

    if isinstance(batch, list):
        return _parts(batch, num_parts, may_differ)
    rows = num_rows(batch)
    if rows < num_parts or (rows % num_parts and not may_differ):
        raise SettingsError(
            f"{rows} rows cannot be split into {num_parts} {'' if may_differ else 'equal '}parts; "
            f"change num_accumulated, or the rows of a batch."
        )
    if num_parts == 1:
        return [batch]
    parts = [torch.tensor_split(tensor, num_parts) for tensor in _tensors(batch)]
    return [_like(batch, some) for some in zip(*parts, strict=True)]


def _parts(batch: list[Batch], num_parts: int, may_differ: bool) -> list[Batch]:
    if num_parts > 1:
        raise SettingsError(
            f"The batch is a list of {len(batch)} parts, so that num_accumulated = {num_parts} has "
            f"no effect; leave it out, or return rows."
        )
    if len(batch) > 1 and not may_differ:
        raise SettingsError(
            f"The batch is a list of {len(batch)} parts, and nothing says what each weighs; give "
            f"Objective(loss, weight), or return rows."
        )
    return batch


def _like(batch: Batch, tensors: "Sequence[torch.Tensor]") -> Batch:
    """Return `tensors` in the form of `batch`."""
    if isinstance(batch, Mapping):
        return dict(zip(batch, tensors, strict=True))
    if isinstance(batch, tuple):
        return type(batch)(*tensors) if hasattr(batch, "_fields") else tuple(tensors)
    return tensors[0]
