"""The verb: capture a step, plan it, say whether it fits and what would make it fit."""

from pathlib import Path
from typing import Annotated, Any

from treadle.core.errors import SettingsError
from treadle.core.registry import Choice
from treadle.core.result import RESULT_FILE, Measurement, Recording, Result, write_result
from treadle.core.sizes import Bytes, parse_bytes
from treadle.core.timing import Stopwatch
from treadle.learn.plan import LAYOUTS, ORDERS, PLANNERS
from treadle.learn.plan.account import figures, measurements, write_plan
from treadle.learn.plan.advice import advise
from treadle.learn.plan.base import Layout, Order, Planner
from treadle.learn.plan.stages import stages_of
from treadle.learn.plan.step import Step, read_step
from treadle.model.graph.schema import save_graph

__all__ = ["plan"]

_GRAPH_FILE = "graph.json"


def plan(
    model: str | Path,
    out: Path | None = None,
    method: Planner | str = "memory",
    *,
    batch: int | None = None,
    seq: int | None = None,
    budget: Bytes | str | None = None,
    order: Annotated[Order | str | Choice, ORDERS] = "roam",
    layout: Annotated[Layout | str | Choice, LAYOUTS] = "nested",
    optimizer: str | None = None,
    clip_norm: float | None = None,
    chunked_loss: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Result:
    """Plan the memory of a training step: say whether it fits, and what makes it fit.

    The step (forward, loss, backward, update) is captured under fake tensors, so planning takes
    the memory of the graph alone. Nothing is trained.

    Args:
        model: Hugging Face folder, packaged:smollm2, a hub id, or a graph.json of an earlier plan.
        out: Folder for plan.json, graph.json and result.json (default: nothing is written).
        method: What is planned.
        batch: Rows of a batch (default 1).
        seq: Tokens of a row (default 512, or the model's positions where these are fewer).
        budget: Memory that the step may take, such as 24GiB.
        order: In what order operators run.
        layout: Where values lie.
        optimizer: adamw (PyTorch's fused kernel, without temporaries), adamw_foreach (of whose
            temporaries one parameter's are counted; the real ones take more) or sgd (default
            adamw).
        clip_norm: Clip the norm of all gradients together (default: no clipping).
        chunked_loss: Compute the loss in so many chunks of tokens, so that logits are never whole.
        seed: Seed of random orders and of hill climbing.
        overwrite: Replace a plan in `out`.

    Returns:
        The account of the run, as in the folder's result.json.

    Raises:
        SettingsError: A setting is wrong or has no effect, or `out` holds a plan.
        CapacityError: Nothing that could be switched on brings the step below the budget.
        CheckpointError: The model cannot be read.
        UnsupportedModelError: The step cannot be captured.
        DataError: The graph cannot be used.
    """
    planner = PLANNERS.resolve(method)
    ordering, placing = ORDERS.resolve(order, "roam"), LAYOUTS.resolve(layout, "nested")
    budget_bytes = parse_bytes(budget) if isinstance(budget, str) else budget
    if out is not None and (Path(out) / RESULT_FILE).exists() and not overwrite:
        raise SettingsError(f"'{out}' holds a result already; pass --overwrite or another folder.")
    step = Step(str(model), batch, seq, optimizer, clip_norm, chunked_loss)
    with Stopwatch() as capturing:
        source = read_step(step)
    settings: dict[str, Any] = {  # Any: JSON values
        **planner.settings(),
        **step.settings(),
        "order": ordering.settings(),
        "layout": placing.settings(),
        "budget_bytes": budget_bytes,
    }
    recording = Recording("plan", planner.name, settings, seed, [source.input])
    planned = planner.plan(source.graph, ordering, placing, seed)
    alignment_bytes = int(planner.settings().get("alignment_bytes", 1))
    stages = stages_of(planned, alignment_bytes)
    notes = [*source.notes, *planned.ordered.notes, *planned.placed.notes]
    found = measurements(planned, stages)
    capture = capturing.wall_seconds
    found.append(Measurement(name="capture", value=capture, unit="seconds", better="lower"))
    if budget_bytes is not None:
        advice = advise(step, planned, budget_bytes, planner, ordering, placing, seed)
        notes, found = [*advice.notes, *notes], [*advice.measurements, *found]
    result = recording.finish(
        Path(out or ""),
        measurements=found,
        figures=figures(planned, stages, alignment_bytes),
        notes=notes,
    )
    result = result.model_copy(
        update={
            "seconds": result.seconds + capturing.wall_seconds,
            "cpu_seconds": result.cpu_seconds + capturing.cpu_seconds,
        }
    )
    if out is None:
        return result.model_copy(update={"output": ""})
    Path(out).mkdir(parents=True, exist_ok=True)
    save_graph(planned.graph, Path(out) / _GRAPH_FILE)
    write_plan(planned, stages, settings, Path(out))
    write_result(result, Path(out))
    return result
