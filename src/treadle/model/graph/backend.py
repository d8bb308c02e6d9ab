"""torch.compile(backend="treadle"): forward and backward reordered for memory, in eager's bits."""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from treadle.core.errors import SettingsError, TreadleError, UnsupportedModelError
from treadle.model.graph.capture import Captured
from treadle.model.graph.execute import reordered
from treadle.model.graph.half import SavedHalf, capture_backward, capture_forward
from treadle.model.graph.order import least_peak
from treadle.model.graph.schema import Graph

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Backend", "Planner", "compile_step"]

Planner = Callable[[Graph], Sequence[int]]
"""From a graph to a topological order of its operators."""

Lowering = Literal["eager", "inductor"]
_Compiled = Callable[[list[Any]], Any]  # Any: tensors in, tensors out
_INDUCTOR: dict[str, Any] = {  # Any: its settings
    "reorder_for_peak_memory": False,
    "fallback_random": True,
}
"""Random numbers by eager's kernels: Inductor's own are put in before it sees a half."""
logger = logging.getLogger(__name__)


class Backend:
    """Compiles what dynamo hands over; `halves` keeps each half with the order that it got."""

    def __init__(self, planner: Planner = least_peak, lower_by: Lowering = "eager") -> None:
        self.planner, self.lower_by = planner, lower_by
        self.halves: list[tuple[Graph, list[int]]] = []

    def __call__(
        self,
        module: "torch.fx.GraphModule",
        inputs: "Sequence[torch.Tensor]",
        *,
        options: dict[str, Any] | None = None,  # Any: torch.compile's own
    ) -> Callable[..., Any]:
        """Return the compiled form of one graph of dynamo.

        Raises:
            SettingsError: There is an option other than lower_by (eager or inductor).
        """
        from torch._dynamo.backends.common import aot_autograd

        lower_by = self._lowering(options or {})
        if lower_by == "inductor":
            from torch._inductor import config
            from torch._inductor.decomposition import select_decomp_table

            with config.patch(_INDUCTOR):
                extra = {"decompositions": select_decomp_table()}
        else:
            extra = {}
        halves = _Halves(self, lower_by)
        compiler = aot_autograd(fw_compiler=halves.forward, bw_compiler=halves.backward, **extra)
        result: Callable[..., Any] = compiler(module, inputs)
        return result

    def _lowering(self, options: dict[str, Any]) -> Lowering:  # Any: torch.compile's own
        unknown = set(options) - {"lower_by"}
        chosen: Lowering = options.get("lower_by", self.lower_by)
        if unknown or chosen not in ("eager", "inductor"):
            raise SettingsError(
                f"The options {options} are not known; the backend takes lower_by, which is eager "
                f"or inductor."
            )
        return chosen


class _Halves:
    """The two halves of one graph, in the order in which AOTAutograd brings them."""

    def __init__(self, backend: Backend, lower_by: Lowering) -> None:
        self._backend, self._lower_by = backend, lower_by
        self._saved = SavedHalf({}, frozenset())

    def forward(self, module: "torch.fx.GraphModule", inputs: Sequence[Any]) -> _Compiled:
        captured, self._saved = capture_forward(module)
        return self._lower(captured, inputs)

    def backward(self, module: "torch.fx.GraphModule", inputs: Sequence[Any]) -> _Compiled:
        return self._lower(capture_backward(module, self._saved), inputs)

    def _lower(self, captured: Captured, inputs: Sequence[Any]) -> _Compiled:
        graph = captured.graph
        order = list(self._backend.planner(graph))
        self._backend.halves.append((graph, order))
        logger.info("%s: %d operators", graph.name, len(order))
        if self._lower_by == "eager":
            return _boxed(reordered(captured, order))
        return _by_inductor(reordered(captured, order, boxed=False), inputs, graph.name)


def _boxed(module: "torch.fx.GraphModule") -> _Compiled:
    def run(args: list[Any]) -> Any:  # Any: tensors
        return module(args)

    run._boxed_call = True  # type: ignore[attr-defined]
    return run


def _by_inductor(module: "torch.fx.GraphModule", inputs: Sequence[Any], name: str) -> _Compiled:
    """Let Inductor compile a half without changing its order for memory once more."""
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx_inner

    with config.patch(_INDUCTOR):
        compiled: _Compiled = compile_fx_inner(module, inputs, is_backward=name == "backward")
    return compiled


def compile_step(
    function: "nn.Module | Callable[..., Any]", backend: Backend | None = None
) -> Callable[..., Any]:
    """Return `function` compiled as one graph of fixed shapes, by `backend` or least peak first.

    Raises (on the first call):
        UnsupportedModelError: The graph breaks, or cannot be compiled; the message names where.
    """
    import torch
    from torch._dynamo import exc

    compiled = torch.compile(function, backend=backend or Backend(), fullgraph=True, dynamic=False)

    def run(*args: Any, **kwargs: Any) -> Any:  # Any: whatever the function takes
        try:
            return compiled(*args, **kwargs)
        except exc.Unsupported as error:
            first = str(error).strip().splitlines()[0]
            raise UnsupportedModelError(
                f"The step is no single graph: {first}. Replace what breaks it by tensor "
                f"operations, or compile the part that is one."
            ) from error
        except exc.TorchDynamoException as error:
            inner = getattr(error, "inner_exception", None)
            if isinstance(inner, TreadleError):
                raise inner from error
            said = str(inner or error).strip().splitlines() or [""]
            raise UnsupportedModelError(
                f"The step cannot be compiled: {type(inner or error).__name__}: {said[0]}. Run it "
                f"once eagerly on the same inputs: if it fails there too, mend it; if not, replace "
                f"what depends on values by tensor operations such as torch.where."
            ) from error

    return run
