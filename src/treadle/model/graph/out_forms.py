"""Operators that write into tensors that they are given, instead of making new ones."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["OutForm", "out_form"]

_FACTORY_SETTINGS = frozenset({"dtype", "layout", "device", "pin_memory", "memory_format"})
"""What an out form takes from its output."""


class OutForm(NamedTuple):
    """Called as `target(*args, **kwargs, **{name: tensor for each of out_names})`.

    What it returns does not count.
    """

    target: Callable[..., Any]  # Any: every operator has its own signature
    out_names: tuple[str, ...]
    takes: frozenset[str]
    """The keyword arguments of the operator that its out form knows, too."""


def out_form(node: "torch.fx.Node") -> OutForm | None:
    """Return the out form of a node's operator; None where its kernel makes its own tensors.

    PyTorch also generates out forms that compute aside and copy; they are taken for none.
    """
    import torch

    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    name = str(node.target).removeprefix("aten.").removesuffix(".default")
    if name in _OWN:
        refuses = _REFUSED.get(name)
        if refuses is not None and refuses(node.args):
            return None
        own = _OWN[name]
        return OutForm(own, ("out",), frozenset(_keywords(node.target)) - _FACTORY_SETTINGS)
    return _declared(node.target)


@cache
def _declared(target: "torch._ops.OpOverload") -> OutForm | None:
    import torch

    wanted = [
        (argument.name, str(argument.type))
        for argument in target._schema.arguments
        if argument.name not in _FACTORY_SETTINGS
    ]
    packet = target.overloadpacket
    for overload in packet.overloads():
        found = getattr(packet, overload)
        arguments = found._schema.arguments
        outs = tuple(argument.name for argument in arguments if argument.is_out)
        if len(outs) != len(target._schema.returns) or torch.Tag.generated in found.tags:
            continue
        rest = [
            (argument.name, str(argument.type))
            for argument in arguments
            if not argument.is_out and argument.name not in _FACTORY_SETTINGS
        ]
        if rest == wanted:
            return OutForm(found, outs, frozenset(a.name for a in arguments if not a.is_out))
    return None


def _keywords(target: "torch._ops.OpOverload") -> list[str]:
    return [argument.name for argument in target._schema.arguments]


def _copy(source: "Tensor", *, out: "Tensor", **_: Any) -> None:
    out.copy_(source)


def _fill(value: Any) -> Callable[..., None]:  # Any: a number
    def fill(*_: Any, out: "Tensor", **__: Any) -> None:
        out.fill_(value)

    return fill


def _full(_size: Any, value: Any, *, out: "Tensor", **__: Any) -> None:
    out.fill_(value)


def _new_full(_like: Any, _size: Any, value: Any, *, out: "Tensor", **__: Any) -> None:
    out.fill_(value)


def _scalar(value: Any, *, out: "Tensor", **_: Any) -> None:
    out.fill_(value)


def _leave(*_: Any, out: "Tensor", **__: Any) -> None:
    """Leave an empty tensor as it is."""


def _binary(name: str) -> Callable[..., None]:
    def compute(first: "Tensor", second: Any, *rest: Any, out: "Tensor", **extra: Any) -> None:
        import torch

        names = ("alpha",) if name in ("add", "sub") else ()
        given = dict(zip(names, rest, strict=False)) | extra
        getattr(torch, name)(first, second, out=out, **given)

    return compute


def _embedding(weight: "Tensor", indices: "Tensor", *_: Any, out: "Tensor", **__: Any) -> None:
    import torch

    torch.index_select(weight, 0, indices.reshape(-1), out=out.view(-1, weight.shape[1]))


def _embedding_backward(
    gradient: "Tensor",
    indices: "Tensor",
    _num_rows: int,
    padding_index: int,
    _by_frequency: bool,
    *,
    out: "Tensor",
) -> None:
    out.zero_()
    out.index_add_(0, indices.reshape(-1), gradient.reshape(-1, out.shape[1]))
    if padding_index >= 0:
        out[padding_index].zero_()


def _slice_backward(
    gradient: "Tensor",
    _sizes: Sequence[int],
    dim: int,
    start: int,
    end: int,
    step: int,
    *,
    out: "Tensor",
) -> None:
    import torch

    out.zero_()
    torch.ops.aten.slice.Tensor(out, dim, start, end, step).copy_(gradient)


def _select_backward(
    gradient: "Tensor", _sizes: Sequence[int], dim: int, index: int, *, out: "Tensor"
) -> None:
    out.zero_()
    out.select(dim, index).copy_(gradient)


def _pad(source: "Tensor", pad: Sequence[int], value: Any = 0, *, out: "Tensor") -> None:
    out.fill_(value)
    inner = out
    for place in range(len(pad) // 2):
        dim = source.dim() - 1 - place
        inner = inner.narrow(dim, pad[2 * place], source.shape[dim])
    inner.copy_(source)


def _repeat(source: "Tensor", repeats: Sequence[int], *, out: "Tensor") -> None:
    """Copy `source` into every tile of `out`."""
    lead = [1] * (len(repeats) - source.dim()) + list(source.shape)
    split = [n for pair in zip(repeats, lead, strict=True) for n in pair]
    tiles = [n for size in lead for n in (1, size)]
    out.view(split).copy_(source.reshape(tiles).expand(split))


def _masked_fill(source: "Tensor", mask: "Tensor", value: Any, *, out: "Tensor") -> None:
    out.copy_(source)
    out.masked_fill_(mask, value)


def _index_put(
    source: "Tensor", indices: Any, values: "Tensor", accumulate: bool = False, *, out: "Tensor"
) -> None:
    import torch

    out.copy_(source)
    torch.ops.aten.index_put_.default(out, indices, values, accumulate)


_OWN: dict[str, Callable[..., None]] = {
    "clone": _copy,
    "_to_copy": _copy,
    "lift_fresh_copy": _copy,
    "mul.Scalar": _binary("mul"),
    "add.Scalar": _binary("add"),
    "sub.Scalar": _binary("sub"),
    "div.Scalar": _binary("div"),
    "embedding": _embedding,
    "embedding_dense_backward": _embedding_backward,
    "slice_backward": _slice_backward,
    "select_backward": _select_backward,
    "constant_pad_nd": _pad,
    "repeat": _repeat,
    "masked_fill.Scalar": _masked_fill,
    "masked_fill.Tensor": _masked_fill,
    "index_put": _index_put,
    "zeros": _fill(0),
    "ones": _fill(1),
    "zeros_like": _fill(0),
    "ones_like": _fill(1),
    "new_zeros": _fill(0),
    "new_ones": _fill(1),
    "full": _full,
    "full_like": _full,
    "new_full": _new_full,
    "scalar_tensor": _scalar,
    "empty_like": _leave,
    "new_empty_strided": _leave,
    "empty_strided": _leave,
}


def _scales_by_frequency(args: Sequence[Any]) -> bool:  # Any: arguments of an fx node
    """Return whether an embedding's backward does more than to add rows."""
    return bool(args[4])


def _crops(args: Sequence[Any]) -> bool:  # Any: arguments of an fx node
    return bool(min(args[1]) < 0)


_REFUSED: dict[str, Callable[[Sequence[Any]], bool]] = {
    "embedding_dense_backward": _scales_by_frequency,
    "constant_pad_nd": _crops,
}
"""Arguments for which an own form does not hold."""
