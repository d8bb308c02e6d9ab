"""The places where a module's behaviour is observed or replaced; nobody else patches a module."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING, Any

from treadle.core.errors import SettingsError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from treadle.model.facts import Linear

__all__ = [
    "Observer",
    "OutputChange",
    "linear_shapes",
    "observed",
    "replaced_forward",
    "replaced_output",
    "tensor_of",
]

Observer = Callable[[str, "torch.Tensor"], None]
"""Receives the name of a unique input and its values [tokens, in], just before the first matrix
reads them."""
OutputChange = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]
"""From a module's first input and its output to the output that goes on instead."""


@contextmanager
def replaced_forward(
    modules: Sequence["nn.Module"],
    forwards: Sequence[Callable[..., Any]],  # Any: each block has its own signature
) -> Iterator[None]:
    """Let each of `modules` compute its entry of `forwards` instead, inside the block."""
    before: list[tuple[nn.Module, Any]] = []
    pairs = list(zip(modules, forwards, strict=True))
    try:
        for module, forward in pairs:
            before.append((module, vars(module).get("forward")))
            module.forward = forward
        yield
    finally:
        for module, replaced in reversed(before):
            if replaced is None:
                del module.forward
            else:  # by a block around this one
                module.forward = replaced


@contextmanager
def replaced_output(changes: Mapping["nn.Module", OutputChange]) -> Iterator[None]:
    """Let what each module gives be changed before anyone reads it, inside the block.

    An output that holds several things, as some architectures' blocks and models give, keeps what
    stands behind its hidden states. A module that is called several times is changed each time.

    Raises:
        SettingsError: While a module runs: it was called with no tensor, or a change gave none.
    """
    handles = []
    try:
        for module, change in changes.items():
            handles.append(module.register_forward_hook(_changing(change), with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _changing(change: OutputChange) -> Callable[..., Any]:
    import torch

    def after(
        module: "nn.Module", args: tuple[Any, ...], named: dict[str, Any], output: Any
    ) -> Any:
        read = next((x for x in (*args, *named.values()) if isinstance(x, torch.Tensor)), None)
        is_model = hasattr(output, "to_tuple")  # an object with names, which is no tuple
        given = next(iter(output.values())) if is_model else tensor_of(output)
        found = None if read is None else change(read, given)
        if not isinstance(found, torch.Tensor):
            raise SettingsError(
                f"Found {type(found).__name__} in place of the output of "
                f"{type(module).__name__}; return a tensor, of a module that reads one."
            )
        if is_model:
            changed = copy(output)
            changed[next(iter(output))] = found
            return changed
        return (found, *output[1:]) if isinstance(output, tuple) else found

    return after


def tensor_of(output: Any) -> "torch.Tensor":  # Any: a tensor, or a tuple that starts with one
    """Return the hidden states of a block's output, which some architectures wrap in a tuple."""
    hidden: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


@contextmanager
def observed(
    block: "nn.Module", matrices: Sequence["Linear"], observer: Observer
) -> Iterator[None]:
    """Call `observer` before each unique input of the block's `matrices` is read, inside the block.

    The observer may change the matrices in place: the block then computes with the new values.
    """
    first: dict[str, Linear] = {}
    for matrix in matrices:
        if matrix.expert is None:
            first.setdefault(matrix.input, matrix)
    handles = []
    for name, matrix in first.items():
        module = block.get_submodule(matrix.parameter.rpartition(".")[0])
        handles.append(module.register_forward_pre_hook(_hook(name, observer)))
    experts = {m.parameter.rpartition(".")[0] for m in matrices if m.expert is not None}
    names = {m.input for m in matrices if m.expert is not None}
    homes = [block.get_submodule(home) for home in sorted(experts)]
    try:
        with replaced_forward(homes, [_experts_forward(home, names, observer) for home in homes]):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(name: str, observer: Observer) -> Callable[["nn.Module", tuple[Any, ...]], None]:
    def before(module: "nn.Module", args: tuple[Any, ...]) -> None:
        observer(name, args[0].reshape(-1, args[0].shape[-1]))

    return before


def _experts_forward(
    experts: "nn.Module", names: set[str], observer: Observer
) -> Callable[..., "torch.Tensor"]:
    """Return the loop over experts with an observer.

    It computes what transformers' fused experts do, one expert at a time.
    """
    parts: Mapping[str, Any] = experts._parameters
    act: Any = experts.act_fn

    def forward(
        hidden: "torch.Tensor", chosen: "torch.Tensor", weights: "torch.Tensor"
    ) -> "torch.Tensor":
        import torch
        from torch.nn import functional

        out = torch.zeros_like(hidden)
        for expert in range(parts["down_proj"].shape[0]):
            token, slot = torch.where(chosen == expert)
            tokens = hidden[token]
            if f"expert_mlp_in.{expert}" in names:
                observer(f"expert_mlp_in.{expert}", tokens)
            gate, up = functional.linear(tokens, parts["gate_up_proj"][expert]).chunk(2, dim=-1)
            inner = act(gate) * up
            if f"expert_down_in.{expert}" in names:
                observer(f"expert_down_in.{expert}", inner)
            product = functional.linear(inner, parts["down_proj"][expert])
            out.index_add_(0, token, product * weights[token, slot, None])
        return out

    return forward


def linear_shapes(module: "nn.Module") -> dict[str, tuple[int, int]]:
    """Return the [out, in] of the weight of every linear map in `module`, by the weight's name."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    found = {}
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            found[f"{name}.weight"] = (part.out_features, part.in_features)
        elif isinstance(part, Conv1D):
            found[f"{name}.weight"] = (part.weight.shape[1], part.weight.shape[0])
    return found
