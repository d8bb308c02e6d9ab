"""Tracing a training step under fake tensors: no weight is read, no memory is used."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from treadle.core.errors import SettingsError, UnsupportedModelError
from treadle.model.graph.building import built, with_fixed_experts
from treadle.model.graph.explained import explained
from treadle.model.graph.inputs import Inputs, flat_tensors, nested
from treadle.model.graph.randomness import drop_idle_states, traced_states
from treadle.model.graph.schema import Kind
from treadle.model.graph.update import UpdateRule

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch._subclasses.fake_tensor import FakeTensorMode

__all__ = ["STEP", "Binding", "Loss", "Traced", "TracedOptimizer", "trace_step"]

STEP = "step"
"""Name of the state that counts the steps, from 1."""

Loss = Callable[["nn.Module", "dict[str, Any]"], "Tensor"]


_REENTRANT = "use_reentrant=True"
"""In the error of reentrant checkpointing, which no call but `backward()` differentiates."""


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
    notes: tuple[str, ...] = ()
    """How the step differs from the module's eager one."""


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

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with explained():
        module = built(build, mode)
        with mode, with_fixed_experts(module) as notes:
            given = inputs() if callable(inputs) else inputs
            data = {name: _faked(mode, value) for name, value in flat_tensors(given).items()}
            parameters = {name: _faked(mode, value) for name, value in module.named_parameters()}
            buffers = {name: _faked(mode, value) for name, value in module.named_buffers()}
            trained = [name for name, value in parameters.items() if value.requires_grad]
            if not trained:
                raise SettingsError(
                    "No parameter requires a gradient; unfreeze what is to be trained."
                )

            def compute(tensors: "dict[str, Tensor]") -> "Tensor":
                return loss(module, nested(given, tensors))

            run = _Step(module, compute, trained, by.clip_norm)
            traced = _traced(run, parameters, buffers, data)
            names: list[tuple[Kind, str]] = [
                *(("parameter", name) for name in parameters),
                *(("state", name) for name in buffers),
                *(("data", name) for name in data),
            ]
            return _with_updates(traced, names, parameters, run.updated, by, tuple(notes))


def _traced(
    run: "_Step",
    parameters: "dict[str, Tensor]",
    buffers: "dict[str, Tensor]",
    data: "dict[str, Tensor]",
) -> "torch.fx.GraphModule":
    """Trace a step; one that only `backward()` can differentiate by that."""
    from torch.fx.experimental.proxy_tensor import make_fx

    with traced_states():
        try:
            return make_fx(run, tracing_mode="real")(parameters, buffers, data)
        except RuntimeError as error:
            if _REENTRANT not in str(error):
                raise
        run.by_backward = True
        return make_fx(run, tracing_mode="real")(parameters, buffers, data)


def _calling(module: "nn.Module", function: Callable[..., Any]) -> "nn.Module":  # Any: its own
    """Return a module that calls `function`, with `module` as its `body`."""
    from torch import nn

    class Calling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = module

        def forward(self, *args: Any) -> Any:  # Any: the function's own
            return function(*args)

    return Calling()


class _Step:
    """Forward, loss, backward and clipping as a function of tensors."""

    def __init__(
        self,
        module: "nn.Module",
        loss: "Callable[[dict[str, Tensor]], Tensor]",
        trained: list[str],
        clip_norm: float | None,
    ) -> None:
        self._module, self._loss = module, loss
        self._trained, self._clip_norm = trained, clip_norm
        self.updated: list[str] = []
        self.by_backward = False
        """Whether gradients are summed into `grad`, as the engine does in training."""

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
        trained = [parameters[name] for name in self._trained]

        def step(data: "dict[str, Tensor]") -> "tuple[Tensor, Tensor, list[Tensor | None]]":
            """Run all, so that blocks that run again in the backward pass read the same tensors."""
            loss = self._loss(data)
            _require_loss(loss)
            tangent = torch.ones_like(loss)
            return loss, tangent, self._gradients(loss, tangent, trained)

        module = _calling(self._module, step)
        loss, tangent, found = functional_call(module, given, (data,), tie_weights=True)
        for name, buffer in buffers.items():
            if given[f"body.{name}"] is not buffer:  # assigned anew, not changed in place
                buffer.copy_(given[f"body.{name}"])
        gradients = {
            name: gradient
            for name, gradient in zip(self._trained, found, strict=True)
            if gradient is not None
        }
        self.updated = list(gradients)
        own = _owned(gradients, parameters)
        return [loss, tangent, _clip_factor(own, self._clip_norm), *own]

    def _gradients(
        self, loss: "Tensor", tangent: "Tensor", trained: "list[Tensor]"
    ) -> "list[Tensor | None]":
        import torch

        if not self.by_backward:
            return list(torch.autograd.grad(loss, trained, tangent, allow_unused=True))
        for parameter in trained:
            parameter.grad = None
        torch.autograd.backward(loss, tangent)
        found = [parameter.grad for parameter in trained]
        for parameter in trained:
            parameter.grad = None
        return found


def _require_loss(loss: Any) -> None:  # Any: whatever the user's function returns
    import torch

    if not isinstance(loss, torch.Tensor):
        raise SettingsError(
            f"The loss is a {type(loss).__name__}, expected a tensor with one number; return the "
            f"loss alone."
        )
    if loss.dim() != 0:
        raise SettingsError(
            f"The loss has the shape {tuple(loss.shape)}, expected a scalar; reduce it, for "
            f"example by mean()."
        )
    if not loss.requires_grad:
        raise SettingsError(
            "The loss depends on no parameter that learns; compute it from the module's result, "
            "outside of torch.no_grad() and without detach()."
        )


def _owned(gradients: "dict[str, Tensor]", parameters: "dict[str, Tensor]") -> "list[Tensor]":
    """Return the gradients, each dense, in its parameter's layout, in a storage of its own.

    PyTorch's engine copies in these cases, too, before it sets `grad`.
    """
    seen: set[int] = set()
    found = []
    for name, gradient in gradients.items():
        _require_dense(name, gradient)
        storage, like = gradient.untyped_storage(), parameters[name]
        fits = gradient.stride() == like.stride() and storage.nbytes() == gradient.nbytes
        if not fits or storage._cdata in seen:
            gradient = like.new_empty_strided(like.shape, like.stride()).copy_(gradient)
        seen.add(gradient.untyped_storage()._cdata)
        found.append(gradient)
    return found


def _require_dense(name: str, gradient: "Tensor") -> None:
    import torch

    if gradient.layout != torch.strided:
        layout = str(gradient.layout).removeprefix("torch.")
        raise UnsupportedModelError(
            f"The gradient of '{name}' has the layout {layout}, whose bytes depend on its values; "
            f"leave sparse=True out of the module that holds it (nn.Embedding, nn.EmbeddingBag)."
        )


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
    notes: tuple[str, ...],
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
    drop_idle_states(graph)
    graph.eliminate_dead_code(lambda node: node.target is by.rule.update or node.is_impure())
    traced.recompile()
    return Traced(traced, tuple(bindings), tangent.name, notes=notes)


def _scalar() -> "Tensor":
    import torch

    return torch.zeros((), dtype=torch.float32)


def _faked(mode: "FakeTensorMode", value: "Tensor") -> "Tensor":
    from torch._subclasses.fake_tensor import FakeTensor

    return value if isinstance(value, FakeTensor) else mode.from_tensor(value, static_shapes=True)
