"""Tracing a training step under fake tensors: no weight is read, no memory is used."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from treadle.core.errors import SettingsError, UnsupportedModelError
from treadle.model.graph.schema import Kind
from treadle.model.graph.update import UpdateRule

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch._subclasses.fake_tensor import FakeTensorMode

__all__ = ["STEP", "Binding", "Inputs", "Loss", "Traced", "TracedOptimizer", "trace_step"]

STEP = "step"
"""Name of the state that counts the steps, from 1."""

Inputs = Callable[[], "dict[str, Tensor]"] | Mapping[str, "Tensor"]
Loss = Callable[["nn.Module", "dict[str, Tensor]"], "Tensor"]


class Binding(NamedTuple):
    """What one placeholder of the traced step stands for."""

    node: str
    kind: Kind
    """A module's buffers are states, too. A temporary comes from an earlier half of the step."""
    name: str
    """Of the parameter, buffer or input; an optimizer's state is called PARAMETER.STATE."""


class TracedOptimizer(NamedTuple):
    """How every parameter is updated."""

    name: str
    rule: UpdateRule
    learning_rate: float
    clip_norm: float | None
    """Bound on the norm of all gradients together."""


class Traced(NamedTuple):
    """A step as one fx graph whose updates are single nodes, and where its parts begin."""

    module: "torch.fx.GraphModule"
    bindings: tuple[Binding, ...]
    tangent: str
    """The node that stands for the loss's gradient; what was traced after it is backward."""
    same_storage: Mapping[str, str] = {}
    """Of placeholders that share a storage with an earlier one, that one's name."""


def trace_step(
    build: "Callable[[], nn.Module]", inputs: Inputs, loss: Loss, by: TracedOptimizer
) -> Traced:
    """Trace forward, loss, backward and update of the module that `build` makes.

    Both callables run under fake tensors. The module is taken in the mode (training or evaluation)
    in which `build` leaves it.

    Raises:
        UnsupportedModelError: An operator has no fake form, or its result's shape depends on data.
        SettingsError: There is nothing to train, or the loss is no scalar.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode, _explained():
        module = build()
        given = inputs() if callable(inputs) else inputs
        data = {name: _faked(mode, value) for name, value in given.items()}
        parameters = {name: _faked(mode, value) for name, value in module.named_parameters()}
        buffers = {name: _faked(mode, value) for name, value in module.named_buffers()}
        trained = [name for name, value in parameters.items() if value.requires_grad]
        if not trained:
            raise SettingsError("No parameter requires a gradient; unfreeze what is to be trained.")
        run = _Step(_with_loss(module, loss), trained, by.clip_norm)
        traced = make_fx(run, tracing_mode="real")(parameters, buffers, data)
        names: list[tuple[Kind, str]] = [
            *(("parameter", name) for name in parameters),
            *(("state", name) for name in buffers),
            *(("data", name) for name in data),
        ]
        return _with_updates(traced, names, parameters, run.updated, by)


def _with_loss(module: "nn.Module", loss: Loss) -> "nn.Module":
    """Return a module that computes the loss, with `module` as its `body`."""
    from torch import nn

    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = module

        def forward(self, data: "dict[str, Tensor]") -> "Tensor":
            return loss(self.body, data)

    return WithLoss()


class _Step:
    """Forward, loss, backward and clipping as a function of tensors."""

    def __init__(self, module: "nn.Module", trained: list[str], clip_norm: float | None) -> None:
        self._module, self._trained, self._clip_norm = module, trained, clip_norm
        self.updated: list[str] = []

    def __call__(
        self,
        parameters: "dict[str, Tensor]",
        buffers: "dict[str, Tensor]",
        data: "dict[str, Tensor]",
    ) -> "list[Tensor | None]":
        """Return the loss, its gradient's node, the clipping factor, and the gradients."""
        import torch
        from torch.func import functional_call

        given = {f"body.{name}": value for name, value in {**parameters, **buffers}.items()}
        loss = functional_call(self._module, given, (data,), tie_weights=True)
        if loss.dim() != 0:
            raise SettingsError(
                f"The loss has the shape {tuple(loss.shape)}, expected a scalar; reduce it, for "
                f"example by mean()."
            )
        tangent = torch.ones_like(loss)
        trained = [parameters[name] for name in self._trained]
        found = torch.autograd.grad(loss, trained, tangent, allow_unused=True)
        gradients = {
            name: gradient
            for name, gradient in zip(self._trained, found, strict=True)
            if gradient is not None
        }
        self.updated = list(gradients)
        own = _owned(gradients, parameters)
        return [loss, tangent, _clip_factor(own, self._clip_norm), *own]


def _owned(gradients: "dict[str, Tensor]", parameters: "dict[str, Tensor]") -> "list[Tensor]":
    """Return the gradients, each dense, in its parameter's layout, in a storage of its own.

    PyTorch's engine copies in these cases, too, before it sets `grad`.
    """
    seen: set[int] = set()
    found = []
    for name, gradient in gradients.items():
        storage, like = gradient.untyped_storage(), parameters[name]
        fits = gradient.stride() == like.stride() and storage.nbytes() == gradient.nbytes
        if not fits or storage._cdata in seen:
            gradient = like.new_empty_strided(like.shape, like.stride()).copy_(gradient)
        seen.add(gradient.untyped_storage()._cdata)
        found.append(gradient)
    return found


def _clip_factor(gradients: "list[Tensor]", clip_norm: float | None) -> "Tensor | None":
    """Return what the gradients are multiplied by: the maths of `clip_grad_norm_`."""
    import torch

    if clip_norm is None:
        return None
    norms = torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients])
    return torch.clamp(clip_norm / (torch.linalg.vector_norm(norms) + 1e-6), max=1.0)


def _with_updates(
    traced: "torch.fx.GraphModule",
    names: list[tuple[Kind, str]],
    parameters: "dict[str, Tensor]",
    updated: list[str],
    by: TracedOptimizer,
) -> Traced:
    """Append one node for each parameter with a gradient, and placeholders for its states."""
    graph = traced.graph
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    bindings = [Binding(node.name, *name) for node, name in zip(placeholders, names, strict=True)]
    by_name = {
        binding.name: node
        for binding, node in zip(bindings, placeholders, strict=True)
        if binding.kind == "parameter"
    }
    (output,) = graph.find_nodes(op="output")
    loss, tangent, scale, *gradients = output.args[0]

    def state(name: str, like: "Tensor") -> "torch.fx.Node":
        with graph.inserting_after(placeholders[-1]):
            node = graph.placeholder(f"state_{len(placeholders)}")
        node.meta["val"] = like
        placeholders.append(node)
        bindings.append(Binding(node.name, "state", name))
        return node

    step = state(STEP, _scalar())
    settings = {**by.rule.settings, "learning_rate": by.learning_rate, "scale": scale}
    for name, gradient in zip(updated, gradients, strict=True):
        like = parameters[name].detach()
        states = [state(f"{name}.{kind}", like.new_zeros(like.shape)) for kind in by.rule.states]
        with graph.inserting_before(output):
            node = graph.create_node(
                "call_function",
                by.rule.update,
                (by_name[name], gradient, *states, step),
                settings,
                name=f"update_{name}".replace(".", "_"),
            )
        node.meta["val"] = None
    output.args = (loss,)
    graph.eliminate_dead_code(lambda node: node.target is by.rule.update or node.is_impure())
    traced.recompile()
    return Traced(traced, tuple(bindings), tangent.name)


def _scalar() -> "Tensor":
    import torch

    return torch.zeros((), dtype=torch.float32)


def _faked(mode: "FakeTensorMode", value: "Tensor") -> "Tensor":
    from torch._subclasses.fake_tensor import FakeTensor

    return value if isinstance(value, FakeTensor) else mode.from_tensor(value, static_shapes=True)


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what fake tensors cannot follow into an error that names the operator and the mend."""
    from torch._subclasses import fake_tensor as fake

    try:
        yield
    except fake.DataDependentOutputException as error:
        raise UnsupportedModelError(
            f"The step reads a number out of a tensor by '{error.func}', which has no value while "
            f"the step is captured; replace `.item()`, `if tensor:` and the like by tensor "
            f"operations such as torch.where."
        ) from error
    except fake.DynamicOutputShapeException as error:
        raise UnsupportedModelError(
            f"The shape of the result of '{error.func}' depends on data, and a plan needs fixed "
            f"shapes; use a form of fixed size (a mask instead of an index list; for experts, "
            f"a batched implementation)."
        ) from error
    except fake.UnsupportedOperatorException as error:
        raise _without_fake_form(str(error.func)) from error
    except RuntimeError as error:
        # A custom operator says so in words alone.
        found = re.search(r"no fake impl registered for <CustomOpDef\((.*?)\)>", str(error))
        if found is None:
            raise
        raise _without_fake_form(found.group(1)) from error


def _without_fake_form(operator: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"The operator '{operator}' says nothing of its result's shape; register a fake form with "
        f"torch.library.register_fake, or replace it."
    )
