"""Making a module under fake tensors, and giving its experts a form of fixed shapes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from torch._subclasses.fake_tensor import FakeTensorMode

__all__ = ["built", "with_fixed_experts"]

_FIXED = "batched_mm"
"""transformers' form of experts that computes with shapes alone: the others loop over the experts
that got tokens, or group tokens by their counts."""


def built(build: "Callable[[], nn.Module]", mode: "FakeTensorMode") -> "nn.Module":
    """Return what `build` makes under fake tensors; a module that exists already as it is.

    What reads a number while it is made (rates of dropped paths out of torch.linspace, say) is made
    on the meta device, which leaves plain tensors plain where their code says so.
    """
    import torch
    from torch._subclasses.fake_tensor import DataDependentOutputException

    with _without_draws(), _fake_conversions():
        try:
            with mode:
                return build()
        except DataDependentOutputException:
            with suppress(Exception), torch.device("meta"):
                module = build()
                with mode:
                    return module.to_empty(device="cpu")
            raise


@contextmanager
def _without_draws() -> Iterator[None]:
    """Leave new weights as they are where drawing them would ask for their values."""
    from torch.nn import init

    name = "_no_grad_trunc_normal_"
    draw = getattr(init, name)
    setattr(init, name, lambda tensor, *_, **__: tensor)
    try:
        yield
    finally:
        setattr(init, name, draw)


@contextmanager
def _fake_conversions() -> Iterator[None]:
    """Let modules be converted (`.bfloat16()`, `.to(...)`) by new parameters.

    PyTorch swaps the tensors inside, which it refuses for fake ones. Tied parameters stay tied.
    """
    from torch import nn
    from torch._subclasses.fake_tensor import FakeTensor

    convert = nn.Module._apply
    made: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}

    def converted(self: nn.Module, fn: Callable[[Any], Any], recurse: bool = True) -> nn.Module:
        for child in self.children() if recurse else ():
            child._apply(fn)  # type: ignore[no-untyped-call]
        own = self._parameters
        self._parameters = {n: p for n, p in own.items() if not isinstance(p, FakeTensor)}
        convert(self, fn, recurse=False)  # type: ignore[no-untyped-call]
        for parameter in own.values():
            if isinstance(parameter, FakeTensor) and id(parameter) not in made:
                value = nn.Parameter(fn(parameter.detach()), parameter.requires_grad)
                made[id(parameter)] = parameter, value
        plain = self._parameters
        self._parameters = {n: plain[n] if n in plain else made[id(p)][1] for n, p in own.items()}
        return self

    nn.Module._apply = converted  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module._apply = convert  # type: ignore[method-assign]


@contextmanager
def with_fixed_experts(module: "nn.Module") -> Iterator[list[str]]:
    """Let experts compute with fixed shapes meanwhile; yield what is to be said of it."""
    notes: list[str] = []
    changed: list[tuple[Any, Any]] = []  # Any: models of transformers, and their settings
    parts: Iterator[Any] = module.modules()  # Any: modules of transformers among them
    for part in parts:
        forms = getattr(part, "get_experts_implementation", None)
        if forms is None or not part._can_set_experts_implementation():
            continue
        before = forms()
        if set(before.values()) != {_FIXED}:
            changed.append((part, before))
            part.set_experts_implementation(_FIXED)
    if changed:
        notes.append(
            "Planned with experts as one batched product for all tokens, because the other forms "
            "depend on the data; they take much less memory, so that what fits here fits there."
        )
    try:
        yield notes
    finally:
        for part, before in reversed(changed):
            part.set_experts_implementation(before)
