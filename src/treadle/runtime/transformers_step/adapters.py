"""LoRA in the generic step: hooks on transformers' linears that live as long as one call."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from treadle.core.errors import UnsupportedModelError
from treadle.model.adapters import Adapter
from treadle.model.seams import linear_shapes, replaced_output
from treadle.runtime.executor import AdapterRun
from treadle.runtime.linear.lora import low_ranks

if TYPE_CHECKING:
    import torch

__all__ = ["HookedAdapters"]


class _Change(NamedTuple):
    """What an adapter adds to one module's output: x @ narrow @ widen."""

    narrow: "torch.Tensor"
    """[in, rank]"""
    widen: "torch.Tensor"
    """[rank, out]"""


class HookedAdapters:
    """The adapters of a generic step by slot; the module itself is never changed."""

    def __init__(self, module: Any, device: "torch.device") -> None:  # Any: a causal LM
        self._module, self._device = module, device
        self._changes: dict[int, dict[str, _Change]] = {}

    def add(self, slot: int, adapter: Adapter) -> None:
        """Take an adapter in; see `low_ranks` for what is refused."""
        import torch

        self._changes[slot] = {
            name.removesuffix(".weight"): _Change(
                *(torch.from_numpy(factor.T.copy()).to(self._device) for factor in change)
            )
            for name, change in low_ranks(adapter, linear_shapes(self._module)).items()
        }

    def remove(self, slot: int) -> None:
        """Let an adapter go."""
        del self._changes[slot]

    @contextmanager
    def hooked(self, runs: Sequence[AdapterRun], num_rows: int) -> Iterator[None]:
        """Add the adapters' parts to the outputs of the module's linears while this is open."""
        names = {name for run in runs for name in self._changes[run.slot]}
        changes = {}
        for name in sorted(names):
            parts = [
                (run, self._changes[run.slot][name])
                for run in runs
                if name in self._changes[run.slot]
            ]
            changes[self._module.get_submodule(name)] = _Addition(name, parts, num_rows)
        with replaced_output(changes):
            yield


class _Addition:
    """Adds to the rows of some runs what their adapters make of one module's input."""

    def __init__(
        self, name: str, parts: Sequence[tuple[AdapterRun, _Change]], num_rows: int
    ) -> None:
        self._name, self._parts, self._num_rows = name, parts, num_rows

    def __call__(self, read: "torch.Tensor", output: "torch.Tensor") -> "torch.Tensor":
        """Return the output with the adapters' parts."""
        rows = read.reshape(-1, read.shape[-1])
        if len(rows) != self._num_rows:
            raise UnsupportedModelError(
                f"'{self._name}' runs on {len(rows)} of {self._num_rows} rows, so an adapter "
                f"cannot tell whose they are; merge the adapter into the model and load the result."
            )
        changed = output.reshape(len(rows), -1).clone()
        for run, change in self._parts:
            part = slice(run.first_row, run.first_row + run.num_rows)
            changed[part] += rows[part] @ change.narrow @ change.widen
        return changed.reshape(output.shape)
