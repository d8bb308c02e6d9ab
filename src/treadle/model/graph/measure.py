"""Measuring the memory that training takes, in eager PyTorch and by any other way to run a step."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from treadle.core.errors import SettingsError
from treadle.model.graph.building import built, grouped_products
from treadle.model.graph.inputs import Inputs
from treadle.model.graph.tasks import task_of
from treadle.model.graph.trace import Loss
from treadle.model.graph.training import PLAIN, Training
from treadle.model.graph.update import OptimizerName, rule_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PretrainedConfig

__all__ = [
    "LiveBytes",
    "UpdateTime",
    "allocated_bytes",
    "dispatched_bytes",
    "eager_model_peak",
    "eager_peak",
]

UpdateTime = Literal["after", "in_backward"]


class LiveBytes:
    """Bytes that were allocated and are not freed yet, and their most."""

    def __init__(self) -> None:
        self.live_bytes = 0
        self.peak_bytes = 0

    def add(self, num_bytes: int) -> None:
        """Count an allocation, or a release by a negative number."""
        self.live_bytes += num_bytes
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)


@contextmanager
def allocated_bytes() -> Iterator[LiveBytes]:
    """Count what PyTorch's CPU allocator hands out inside the context, read when it ends.

    It sees all: what kernels take while they run, too. Nothing changes in how the step runs,
    whereas a dispatch mode (as of PyTorch's MemTracker) keeps the engine from summing gradients in
    place.
    """
    from torch._C._profiler import _ExperimentalConfig
    from torch.autograd import (  # type: ignore[attr-defined]
        ProfilerConfig,
        ProfilerState,
        _disable_profiler_legacy,
        _enable_profiler_legacy,
    )

    counted = LiveBytes()
    # Record shapes, memory, stack, flops, modules. The newer profiler writes lines to the screen.
    asked = (False, True, False, False, False)
    _enable_profiler_legacy(ProfilerConfig(ProfilerState.CPU, *asked, _ExperimentalConfig()))
    try:
        yield counted
    finally:
        for record in (record for thread in _disable_profiler_legacy() for record in thread):
            if record.kind() == "memory_alloc":  # type: ignore[comparison-overlap]
                counted.add(record.cpu_memory_usage())


@contextmanager
def dispatched_bytes(existing: "list[Tensor]") -> Iterator[LiveBytes]:
    """Count the storages that come out of operators, but for those of `existing`.

    It needs no real memory: fake tensors count as real ones would. It does not see what a kernel
    takes and frees before it returns, and it makes the engine sum gradients out of place.
    """
    from torch.utils._python_dispatch import TorchDispatchMode

    from treadle.model.graph.nodes import tensors_of

    counted = LiveBytes()
    known = {tensor.untyped_storage()._cdata for tensor in existing}

    def free(handle: int, num_bytes: int) -> None:
        known.discard(handle)
        counted.add(-num_bytes)

    class Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:  # Any: torch's own signature
            made = func(*args, **(kwargs or {}))
            for tensor in tensors_of(made):
                storage = tensor.untyped_storage()
                if storage._cdata not in known:
                    known.add(storage._cdata)
                    release = weakref.finalize(storage, free, storage._cdata, storage.nbytes())
                    release.atexit = False
                    counted.add(storage.nbytes())
            return made

    with Mode():  # type: ignore[no-untyped-call]
        yield counted


def eager_peak(
    build: "Callable[[], nn.Module]",
    *,
    inputs: Inputs,
    loss: Loss | None = None,
    optimizer: OptimizerName = "adamw",
    clip_norm: float | None = None,
    update: UpdateTime = "after",
    fake: bool = False,
) -> int:
    """Return the peak bytes of temporaries in one eager step, as PyTorch's allocator counts them.

    Gradients are temporaries; parameters, states and data are not. The step is the second one, so
    that the optimizer's states are there.

    Args:
        build: Makes the module.
        inputs: The batch by keyword, or what makes it.
        loss: From the module and the batch to a scalar.
        optimizer: Which of PyTorch's: AdamW fused or foreach, or SGD with momentum.
        clip_norm: Clip the norm of all gradients before the update.
        update: After the backward pass, or each parameter as soon as its gradient is there, by a
            hook, which also frees the gradient.
        fake: Run PyTorch's own engine on fake tensors, and count by `dispatched_bytes`: nothing
            is allocated, so sizes beyond the machine's memory can be asked for.

    Raises:
        SettingsError: Clipping needs all gradients, which the hooks do not keep.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    if clip_norm is not None and update == "in_backward":
        raise SettingsError(
            "clip_norm needs all gradients at once, which updates in the backward pass free; leave "
            "one of the two out."
        )
    mode = FakeTensorMode(allow_non_fake_inputs=True) if fake else None
    module = build() if mode is None else built(build, mode)
    with nullcontext() if mode is None else mode, grouped_products() if fake else nullcontext():
        trainer = _EagerTrainer(module, loss, optimizer, clip_norm, update)
        data = dict(inputs() if callable(inputs) else inputs)
        trainer.step(data)
        existing = [*trainer.persistent(), *data.values()]
        with dispatched_bytes(existing) if fake else allocated_bytes() as counted:
            trainer.step(data)
    return counted.peak_bytes


def eager_model_peak(
    model: "str | Path | PretrainedConfig",
    *,
    batch: int,
    seq: int,
    optimizer: OptimizerName = "adamw",
    clip_norm: float | None = None,
    chunked_loss: int | None = None,
    attention: Literal["auto", "sdpa", "eager"] = "auto",
    update: UpdateTime = "after",
    fake: bool = False,
    training: Training = PLAIN,
) -> int:
    """Return `eager_peak` of a model of transformers, with the arguments of `capture_model`."""
    from treadle.model.graph.causal_lm import build_model, config_of, loss_of

    config, _ = config_of(model, attention)
    return eager_peak(
        lambda: build_model(config, training),
        inputs=lambda: task_of(config).batch(config, batch, seq),
        loss=loss_of(chunked_loss, training),
        optimizer=optimizer,
        clip_norm=clip_norm,
        update=update,
        fake=fake,
    )


class _EagerTrainer:
    """The plain loop: forward, backward, step, gradients set to None."""

    def __init__(
        self,
        module: "nn.Module",
        loss: Loss | None,
        optimizer: OptimizerName,
        clip_norm: float | None,
        update: UpdateTime,
    ) -> None:
        self._module, self._loss, self._clip_norm = module, loss, clip_norm
        trained: list[Tensor] = [value for value in module.parameters() if value.requires_grad]
        self._trained = trained
        groups = [trained] if update == "after" else [[value] for value in trained]
        self._optimizers = [_optimizer(optimizer, group) for group in groups]
        self._steps_after = update == "after"
        if not self._steps_after:
            for parameter, own in zip(trained, self._optimizers, strict=True):
                _on_gradient(parameter, own)

    def step(self, data: "dict[str, Tensor]") -> None:
        """Train one step."""
        import torch
        from torch.nn.utils import clip_grad_norm_

        from treadle.model.graph.capture import own_loss

        torch.autograd.backward((self._loss or own_loss)(self._module, data))
        if self._clip_norm is not None:
            clip_grad_norm_(self._trained, self._clip_norm)
        if self._steps_after:
            for optimizer in self._optimizers:
                optimizer.step()
                optimizer.zero_grad()

    def persistent(self) -> "list[Tensor]":
        """Return parameters, buffers and the optimizers' states."""
        import torch

        states = [
            value
            for optimizer in self._optimizers
            for state in optimizer.state.values()
            for value in state.values()
            if isinstance(value, torch.Tensor)
        ]
        return [*self._module.parameters(), *self._module.buffers(), *states]


def _on_gradient(parameter: "Tensor", optimizer: "torch.optim.Optimizer") -> None:
    def update(_: "Tensor") -> None:
        optimizer.step()
        optimizer.zero_grad()

    register: Callable[[Callable[[Tensor], None]], Any] = (
        parameter.register_post_accumulate_grad_hook
    )
    register(update)


def _optimizer(name: OptimizerName, parameters: "list[Tensor]") -> "torch.optim.Optimizer":
    import torch

    rule = rule_of(name)
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=1e-3, momentum=rule.settings["momentum"])
    is_fused = name == "adamw"
    return torch.optim.AdamW(parameters, lr=1e-3, fused=is_fused, foreach=not is_fused)
