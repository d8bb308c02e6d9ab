"""LoRA adapters beside a model: which there are, and what each adds to which matrix."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from treadle.core.checkpoint.described import read_object
from treadle.core.errors import CheckpointError, SettingsError, UnsupportedModelError
from treadle.core.registry import near
from treadle.model.adapters import Adapter, Factors
from treadle.model.load import resolve
from treadle.runtime.executor import Executor, Floats
from treadle.runtime.request import Request
from treadle.runtime.typed import require, text

__all__ = ["Adapters", "LowRank", "base_names", "low_ranks"]

_logger = logging.getLogger(__name__)
_IN_BLOCK = re.compile(r"\.\d+\.")


class LowRank(NamedTuple):
    """What an adapter adds to the product of one matrix [out, in]: widen @ (narrow @ x)."""

    narrow: Floats
    """[rank, in]"""
    widen: Floats
    """[out, rank], times the adapter's scale."""


class _Known(NamedTuple):
    slot: int
    content_hash: str


class Adapters:
    """The adapters of one engine by name; each has a slot in the executor while it is known."""

    def __init__(self, executor: Executor, base: frozenset[str] = frozenset()) -> None:
        self._executor, self._base = executor, base
        self._known: dict[str, _Known] = {}

    @property
    def names(self) -> list[str]:
        """The adapters that requests may ask for."""
        return list(self._known)

    def add(self, name: str, folder: str | Path) -> str | None:
        """Read an adapter; return a note if it names another base than this one.

        Raises:
            SettingsError: The name is empty or in use.
            CheckpointError: There is no adapter, or it is one for another base.
            UnsupportedModelError: It is of a kind that cannot run beside the model.
        """
        require(isinstance(folder, str | Path), "the adapter's folder", folder, "a path")
        if not text("the adapter's name", name) or name in self._known:
            raise SettingsError(
                f"Found adapter name '{name}', expected one that is not empty and not in use; "
                f"choose another, or remove the adapter of that name first."
            )
        adapter = Adapter(_folder(name, folder))
        slot = self._free_slot()
        self._executor.add_adapter(slot, adapter)
        self._known[name] = _Known(slot, adapter.content_hash)
        note = adapter.note_on_base(self._base, "this model") if self._base else None
        if note:
            _logger.info(note)
        return note

    def add_mixture(self, name: str, shares: Floats, content_hash: str) -> None:
        """Take in a mixture of the experts that the executor holds, as requests ask for it."""
        assert name not in self._known
        slot = self._free_slot()
        self._executor.add_mixture(slot, shares)  # type: ignore[attr-defined]
        self._known[name] = _Known(slot, content_hash)

    def _free_slot(self) -> int:
        taken = {known.slot for known in self._known.values()}
        return next(number for number in range(len(taken) + 1) if number not in taken)

    def remove(self, name: str) -> None:
        """Forget an adapter.

        Raises:
            SettingsError: There is none of this name.
        """
        self._require(name)
        self._executor.remove_adapter(self._known.pop(name).slot)

    def hash_of(self, name: str | None) -> str:
        """Return the hash of an adapter's content, empty for none.

        Raises:
            SettingsError: There is none of this name.
        """
        return "" if name is None else self._require(name).content_hash

    def slot_of(self, name: str | None) -> int | None:
        """Return the slot of an adapter in the executor, None for none.

        Raises:
            SettingsError: There is none of this name.
        """
        return None if name is None else self._require(name).slot

    def require_same(self, request: Request) -> None:
        """Check that the adapter of a request from another engine is the one of this name here.

        Raises:
            SettingsError: It is missing, or another one.
        """
        if self.hash_of(request.adapter) != request.adapter_hash:
            raise SettingsError(
                f"Request '{request.id}' comes with an adapter '{request.adapter}' of other "
                f"content than the one of this name here; add the same folder to both engines."
            )

    def slots(self) -> Mapping[str, int]:
        """Return the slot of each adapter in the executor."""
        return {name: known.slot for name, known in self._known.items()}

    def _require(self, name: str) -> _Known:
        if text("adapter", name) not in self._known:
            hint = near(name, self._known) if self._known else "There are none yet."
            raise SettingsError(f"No adapter '{name}'. {hint} Add it with add_adapter.")
        return self._known[name]


def _folder(name: str, folder: str | Path) -> Path:
    try:
        return resolve(folder)
    except CheckpointError as error:
        raise CheckpointError(
            f"No folder of the adapter '{name}' at '{folder}'; give one with adapter_config.json "
            f"beside adapter_model.safetensors, or a hub id where the network allows."
        ) from error


def base_names(folder: Path) -> frozenset[str]:
    """Return the names by which an adapter may call the model of `folder` its base."""
    file = folder / "config.json"
    named = read_object(file).get("_name_or_path") if file.is_file() else None
    return frozenset({folder.resolve().name, Path(str(named or "")).name})


def low_ranks(adapter: Adapter, shapes: Mapping[str, tuple[int, int]]) -> dict[str, LowRank]:
    """Return what an adapter adds to each matrix that it changes, in float32.

    Args:
        adapter: The adapter.
        shapes: Name of a weight -> its [out, in], for all weights that may be changed.

    Raises:
        UnsupportedModelError: It changes more than the matrices of decoder blocks.
        CheckpointError: It is one for another base, or holds numbers that are not finite.
    """
    adapter.call_as(shapes)
    others = [name for name in adapter.changes if not _IN_BLOCK.search(name)]
    others += adapter.replacements
    if others:
        raise UnsupportedModelError(
            f"The adapter {adapter.folder} changes '{others[0]}', and beside a model only LoRA on "
            f"the matrices of its decoder blocks can run; merge the adapter into the model "
            f"(treadle merge yaml with MODEL+ADAPTER) and load the result."
        )
    return {name: _low_rank(adapter, name, shapes.get(name)) for name in adapter.changes}


def _low_rank(adapter: Adapter, name: str, shape: tuple[int, int] | None) -> LowRank:
    factors = adapter.changes[name]
    narrow, widen = _matrices(adapter, factors)
    found = (widen.shape[0], narrow.shape[1])
    if shape is None:
        raise CheckpointError(
            f"The adapter {adapter.folder} changes '{name}', but the model has none of this name "
            f"that LoRA can be added to beside it; give the model that it was trained on"
            f"{adapter.trained_on}. If this is it, merge the adapter into it (treadle merge yaml "
            f"with MODEL+ADAPTER) and load the result."
        )
    if found != shape:
        raise CheckpointError(
            f"The adapter {adapter.folder} is one for another base: it changes '{name}' of shape "
            f"{list(found)} (out, in), but the model has shape {list(shape)}; give the model that "
            f"it was trained on{adapter.trained_on}."
        )
    with np.errstate(over="ignore"):  # found below, and named
        scaled = widen * np.float32(factors.scale)
    if not (np.isfinite(scaled).all() and np.isfinite(narrow).all()):
        raise CheckpointError(
            f"The adapter factors '{factors.left.name}' and '{factors.right.name}' in "
            f"'{factors.left.file}' are not finite; repair or retrain the adapter."
        )
    return LowRank(np.ascontiguousarray(narrow), np.ascontiguousarray(scaled))


def _matrices(adapter: Adapter, factors: Factors) -> tuple[Floats, Floats]:
    """Return lora_A [rank, in] and lora_B [out, rank]: peft stores both as they meet x."""
    pair = (factors.right, factors.left)
    first, second = reversed(pair) if factors.is_transposed else pair
    return adapter.read(first).astype(np.float32), adapter.read(second).astype(np.float32)
