"""The state of a run on disk: what learns, its optimizers' memory, and the course so far."""

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treadle.core.errors import CapacityError, CheckpointError, SettingsError
from treadle.core.result import digest
from treadle.model.fit.course import Course
from treadle.model.fit.settings import FitSettings
from treadle.model.fit.state_file import StateFile, write_state

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["SaveWatch", "SavedState", "run_key"]

_FILE = "fit.safetensors"
_HISTORY = {
    "losses": float,
    "gradient_norms": float,
    "num_tokens": int,
    "seconds": float,
    "memory_bytes": int,
}


class SaveWatch:
    """Says when a state is to be saved: by the number of steps, and by the time since the last one.

    Args:
        settings: How often.
    """

    _MOST_OF_TIME = 0.05
    """No larger share of a run's time goes into saves that the clock asks for."""

    def __init__(self, settings: FitSettings) -> None:
        self._settings = settings
        self._last, self._wait_seconds = time.monotonic(), settings.save_every_seconds

    def is_due(self, num_done: int) -> bool:
        """Whether the state is to be saved once so many updates are done."""
        if self._settings.saves_after(num_done):
            return True
        waited = time.monotonic() - self._last
        is_last = num_done == self._settings.steps
        return 0 < self._wait_seconds <= waited and not is_last

    def time(self, save: Callable[[], None]) -> None:
        """Save, and wait the longer for the next one the longer it takes."""
        begun = time.monotonic()
        save()
        self._last = time.monotonic()
        least = (self._last - begun) / self._MOST_OF_TIME
        if self._settings.save_every_seconds:
            self._wait_seconds = max(self._settings.save_every_seconds, least)


class SavedState:
    """Saves and restores the parameters that learn; what is frozen is the caller's, and not saved.

    Args:
        folder: Where the file lies; None saves nothing.
        parameters: What learns, by name.
        optimizers: What holds the memory of each parameter.
        zeros: Where weights are kept at zero, by name.
        key: Everything that the run depends on.
    """

    def __init__(
        self,
        folder: Path | None,
        parameters: "Mapping[str, nn.Parameter]",
        optimizers: "list[torch.optim.Optimizer]",
        zeros: "dict[str, torch.Tensor]",
        key: str,
    ) -> None:
        self._folder, self._parameters, self._zeros, self._key = folder, parameters, zeros, key
        self._optimizers = optimizers
        self._owner = {
            id(parameter): optimizer
            for optimizer in optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }

    def save(self, course: Course) -> None:
        """Save beside and rename: whatever happens in the middle leaves the former state.

        Raises:
            CapacityError: The disk is full, or cannot be written.
        """
        assert self._folder is not None
        beside = self._folder / f".{_FILE}"
        tensors = self._tensors(course)
        note = {
            "key": self._key,
            "sha256": _sha256(sorted(tensors.items())),
            "memory": self._plain(),
            "evaluations": course.evaluations,
        }
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_state(beside, tensors, note)
            os.replace(beside, self._folder / _FILE)
        except OSError as error:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            kept = "the state before it is" if self._is_there() else "none is"
            raise CapacityError(
                f"The state after {len(course.losses)} steps could not be saved in "
                f"'{self._folder}' ({error}); {kept} there. Make room, and run the same again."
            ) from error

    def restore(self) -> Course:
        """Put back what was saved by the same run, and return its course; an empty one without.

        Raises:
            SettingsError: The state is that of another run.
            CheckpointError: The state is damaged.
        """
        if not self._is_there():
            return Course()
        assert self._folder is not None
        file = self._folder / _FILE
        try:
            with StateFile(file) as opened:
                return self._put_back(opened)
        except SettingsError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"The state of training in '{file}' is damaged ({error}); remove it to begin "
                f"again, or put back a copy of it."
            ) from error

    def remove(self) -> None:
        """Delete the state: the run is done."""
        if self._folder is not None:
            (self._folder / _FILE).unlink(missing_ok=True)
            (self._folder / f".{_FILE}").unlink(missing_ok=True)

    def _is_there(self) -> bool:
        return self._folder is not None and (self._folder / _FILE).is_file()

    def _tensors(self, course: Course) -> "dict[str, torch.Tensor]":
        import torch

        found = {}
        for name, parameter in self._parameters.items():
            found[f"weight {name}"] = parameter.detach()
            for key, value in self._memory(name).items():
                if isinstance(value, torch.Tensor):
                    found[f"memory {key} {name}"] = value
        found |= {f"zeros {name}": mask for name, mask in self._zeros.items()}
        for name in _HISTORY:
            found[f"course {name}"] = torch.tensor(getattr(course, name), dtype=torch.float64)
        return {name: tensor.contiguous() for name, tensor in found.items()}

    def _memory(self, name: str) -> dict[str, Any]:  # Any: tensors and plain values
        """Return what its optimizer remembers of a parameter."""
        parameter = self._parameters[name]
        found: dict[str, Any] = self._owner[id(parameter)].state[parameter]
        return found

    def _plain(self) -> dict[str, dict[str, Any]]:  # Any: plain values
        """Return the memory of each parameter, with None in the place of a tensor."""
        import torch

        return {
            name: {
                key: None if isinstance(value, torch.Tensor) else value
                for key, value in self._memory(name).items()
            }
            for name in self._parameters
        }

    def _put_back(self, opened: StateFile) -> Course:
        note = opened.note
        if note["key"] != self._key:
            raise SettingsError(
                f"'{self._folder}' holds the state of a run with other settings, data or model; "
                f"finish that one, or remove the folder."
            )
        if note["sha256"] != _sha256((name, opened.tensor(name)) for name in sorted(opened.names)):
            raise ValueError("its bytes have changed since they were written")
        for name, parameter in self._parameters.items():
            parameter.data.copy_(opened.tensor(f"weight {name}"))
        self._remember(opened, note["memory"])
        for name, mask in self._zeros.items():
            mask.copy_(opened.tensor(f"zeros {name}"))
        course = Course()
        for name, kind in _HISTORY.items():
            getattr(course, name).extend(map(kind, opened.tensor(f"course {name}").tolist()))
        for name, values in note["evaluations"].items():
            course.evaluations[name] = [(int(step), value) for step, value in values]
        return course

    def _remember(
        self,
        opened: StateFile,
        plain: Mapping[str, Mapping[str, Any]],  # Any: plain values
    ) -> None:
        """Give the optimizers their memory back; they put it on their parameters' device."""
        names = {id(parameter): name for name, parameter in self._parameters.items()}
        for optimizer in self._optimizers:
            groups = optimizer.state_dict()["param_groups"]
            state = {}
            for group, numbered in zip(optimizer.param_groups, groups, strict=True):
                for parameter, number in zip(group["params"], numbered["params"], strict=True):
                    name = names[id(parameter)]
                    state[number] = {
                        key: opened.tensor(f"memory {key} {name}") if value is None else value
                        for key, value in plain[name].items()
                    }
            optimizer.load_state_dict({"state": state, "param_groups": groups})


def run_key(
    model: "nn.Module",
    parameters: "Mapping[str, nn.Parameter]",
    settings: list[Any],  # Any: JSON values
) -> str:
    """Return a hash of what a run depends on: settings, what learns, and all that is frozen."""
    shapes = {name: [str(p.dtype), list(p.shape)] for name, p in parameters.items()}
    frozen = {
        name: tensor.detach()
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
        if name not in parameters
    }
    return digest([*settings, shapes, _sha256(sorted(frozen.items()))])


def _sha256(tensors: "Iterable[tuple[str, torch.Tensor]]") -> str:
    """Return the hash of all names and bytes, in their order."""
    import torch

    found = hashlib.sha256()
    for name, tensor in tensors:
        values = tensor.cpu().contiguous().reshape(-1)
        found.update(name.encode())
        found.update(values.view(torch.uint8).numpy().data)
    return found.hexdigest()
