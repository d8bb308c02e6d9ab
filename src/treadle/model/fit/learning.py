"""Which parameters learn, and which weights of them stay zero."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from treadle.core.errors import SettingsError

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["learning", "sorted_by_place", "zeros_of"]


@contextmanager
def learning(model: "nn.Module", pattern: str | None) -> "Iterator[dict[str, nn.Parameter]]":
    """Let some parameters of `model` learn, without dropout, and put back all that it changed.

    Args:
        model: Its gradients are dropped at the beginning and at the end.
        pattern: Regular expression that is searched in the parameters' names; None lets those learn
            that require a gradient already.

    Raises:
        SettingsError: Nothing learns, or the pattern is no regular expression or no text.
    """
    everything = dict(model.named_parameters())
    chosen = _chosen(model, everything, pattern)
    required = {name: p.requires_grad for name, p in everything.items()}
    modes = {module: module.training for module in model.modules()}
    try:
        for name, parameter in everything.items():
            parameter.requires_grad_(name in chosen)
        model.eval()  # no dropout: what a step does follows from its data alone
        model.zero_grad(set_to_none=True)
        yield chosen
    finally:
        model.zero_grad(set_to_none=True)
        for name, parameter in everything.items():
            parameter.requires_grad_(required[name])
        for module, is_training in modes.items():
            module.training = is_training


def _chosen(
    model: "nn.Module", everything: "Mapping[str, nn.Parameter]", pattern: str | None
) -> "dict[str, nn.Parameter]":
    if pattern is None:
        chosen = {name: p for name, p in everything.items() if p.requires_grad}
        if not chosen:
            raise SettingsError(
                f"None of the model's {len(everything)} parameters requires a gradient, so that "
                f"nothing learns; call requires_grad_() on those that shall, or give `learn`."
            )
        return chosen
    if not isinstance(pattern, str):
        raise SettingsError(
            f"learn = {pattern!r} is no text; give a regular expression that is found in the names "
            f"of the parameters that shall learn, such as 'norm' or 'q_proj|v_proj'."
        )
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise SettingsError(
            f"learn = {pattern!r} is no regular expression ({error}); give one that is found in "
            f"the names of the parameters that shall learn."
        ) from error
    # A tied parameter has several names, of which each may be meant.
    named = model.named_parameters(remove_duplicate=False)
    meant = {id(p) for name, p in named if expression.search(name) and p.is_floating_point()}
    chosen = {name: p for name, p in everything.items() if id(p) in meant}
    if not chosen:
        raise SettingsError(
            f"learn = {pattern!r} is found in no name of the model's {len(everything)} parameters, "
            f"so that nothing learns; they are called like '{next(iter(everything), '')}'."
        )
    return chosen


def sorted_by_place(
    model: "nn.Module", parameters: "Mapping[str, nn.Parameter]"
) -> "tuple[list[nn.Parameter], list[nn.Parameter]]":
    """Return the matrices between two hidden states, and all other parameters."""
    from torch import nn

    ends = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    head: Any = getattr(model, "get_output_embeddings", None)  # Any: a method of transformers'
    if head is not None and head() is not None:
        ends.add(id(head().weight))
    hidden = [p for p in parameters.values() if p.dim() == 2 and id(p) not in ends]
    found = {id(p) for p in hidden}
    return hidden, [p for p in parameters.values() if id(p) not in found]


def zeros_of(parameters: "Mapping[str, nn.Parameter]") -> "dict[str, torch.Tensor]":
    """Return where the matrices among `parameters` are zero, for those that are somewhere.

    Raises:
        SettingsError: There is no zero to keep, or a matrix is nothing but zeros.
    """
    found = {name: p.detach() == 0 for name, p in parameters.items() if p.dim() > 1}
    found = {name: mask for name, mask in found.items() if bool(mask.any())}
    if not found:
        raise SettingsError(
            "keep_zeros has nothing to keep: no matrix that learns holds a zero; leave it out, or "
            "give a pruned model."
        )
    empty = [name for name, mask in found.items() if bool(mask.all())]
    if empty:
        raise SettingsError(
            f"keep_zeros would keep '{empty[0]}' from learning, which is zero throughout; freeze "
            f"it, or leave keep_zeros out (a fresh adapter begins with zeros)."
        )
    return found
