"""Making a module under fake tensors, and giving its experts a form of fixed shapes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from torch._subclasses.fake_tensor import FakeTensorMode

__all__ = ["built", "grouped_products", "with_fixed_experts"]

_GROUPED = "grouped_mm"
"""transformers' form of experts where nothing else is asked for: tokens sorted by their experts,
and one product in groups. Its rows are tokens x experts of a token in all, whoever gets them."""
_FIXED = {_GROUPED, "batched_mm"}
"""The forms whose shapes depend on no data; the others loop over the experts that got tokens."""


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
        if not set(before.values()) <= _FIXED:
            changed.append((part, before))
            part.set_experts_implementation(_GROUPED)
    if changed:
        said = sorted({str(form) for _, before in changed for form in before.values()} - _FIXED)
        notes.append(
            f"Planned with experts as one product in groups (experts_implementation 'grouped_mm', "
            f"transformers' own choice), because the shapes of {', '.join(said)} depend on the "
            f"data; both take about the same memory."
        )
    try:
        with grouped_products():
            yield notes
    finally:
        for part, before in reversed(changed):
            part.set_experts_implementation(before)


@contextmanager
def grouped_products() -> Iterator[None]:
    """Let products in groups be transformers' own operator meanwhile, with the same results.

    PyTorch's kernel, which it takes where it can, says of no numbers but bfloat16 what shape comes
    out under fake tensors.
    """
    from transformers.integrations import moe

    can_use = moe._can_use_grouped_mm
    moe._can_use_grouped_mm = lambda *_: False
    try:
        yield
    finally:
        moe._can_use_grouped_mm = can_use
