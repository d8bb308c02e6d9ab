"""The verb: capture a step, plan it, say whether it fits and what would make it fit."""

from pathlib import Path
from typing import Annotated, Any, Literal

from treadle.core.arguments import checked
from treadle.core.registry import Choice
from treadle.core.result import Measurement, Result
from treadle.core.run import is_control, recorded
from treadle.core.sizes import Bytes, parse_bytes
from treadle.core.timing import Stopwatch
from treadle.learn.plan.account import figures, measurements, write_plan
from treadle.learn.plan.advice import advise
from treadle.learn.plan.base import Layout, Order, Planner
from treadle.learn.plan.stages import stages_of
from treadle.learn.plan.step import TrainingStep, read_step
from treadle.learn.plan.tables import LAYOUTS, ORDERS, PLANNERS
from treadle.model.graph.schema import save_graph

__all__ = ["plan"]

_GRAPH_FILE = "graph.json"


@checked
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
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    autocast: Literal["bfloat16", "float16"] | None = None,
    checkpointing: bool | None = None,
    lora_rank: int | None = None,
    learn: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
    **method_settings: Any,  # Any: validated by the table
) -> Result:
    """Plan the memory of a training step: say whether it fits, and what makes it fit.

    The step (forward, loss, backward, update) is captured under fake tensors, so planning takes
    the memory of the graph alone. Nothing is trained, and a folder needs no more than its config:
    the class that it names is planned (next tokens, encoder and decoder, speech to text, masked
    tokens, answers, choices, classes of texts, tokens or images), or refused.

    Args:
        model: Hugging Face folder, packaged:smollm2, a hub id, or a graph.json of an earlier plan.
        out: Folder for plan.json, graph.json and result.json (default: nothing is written).
        method: What is planned.
        batch: Rows of a batch (default 1).
        seq: Tokens of a row (default 512, or the model's positions where these are fewer); of
            encoder and decoder alike, none where the model sees images.
        budget: Memory that the step may take, such as 24GiB or 24Gi (powers of 1024), 24GB or 24G
            (of 1000).
        order: In what order operators run.
        layout: Where values lie.
        optimizer: adamw (PyTorch's fused kernel, without temporaries), adamw_foreach (of whose
            temporaries one parameter's are counted; the real ones take more) or sgd (default
            adamw).
        clip_norm: Clip the norm of all gradients together (default: no clipping).
        chunked_loss: Compute the loss in so many chunks of tokens, so that logits are never whole.
        dtype: Numbers of parameters, gradients and optimizer states (default float32).
        autocast: Numbers of the forward pass, where parameters stay in `dtype` (mixed precision).
        checkpointing: Keep each block's input alone, and make the rest again in the backward pass.
        lora_rank: Freeze the model and let factors of this rank learn beside its linear layers.
        learn: Regular expression found in the names of the parameters that learn (with lora_rank:
            of the linear layers that get factors).
        seed: Seed of random orders and of hill climbing.
        overwrite: Replace a plan in `out`.
        method_settings: Settings of the method as keywords, such as threshold=0.8, where the method
            is given by its name.

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
    out = None if out is None else Path(out)
    step = TrainingStep(
        str(model),
        *(batch, seq, optimizer, clip_norm, chunked_loss),
        *(dtype, autocast, checkpointing, lora_rank, learn),
    )
    settings: dict[str, Any] = {  # Any: JSON values
        **planner.settings(),
        **step.settings(),
        "order": ordering.settings(),
        "layout": placing.settings(),
        "budget": budget_bytes,
    }
    with recorded("plan", planner, settings, seed=seed, out=out, overwrite=overwrite) as run:
        with Stopwatch() as capturing:
            source = read_step(step)
        run.inputs.append(source.input)
        planned = planner.plan(source.graph, ordering, placing, seed)
        alignment_bytes = int(planner.settings().get("alignment_bytes", 1))
        stages = stages_of(planned, alignment_bytes)
        if budget_bytes is not None:
            advice = advise(step, planned, budget_bytes, planner, ordering, placing, seed)
            run.notes += advice.notes
            run.measurements += advice.measurements
        run.notes += [*source.notes, *planned.ordered.notes, *planned.placed.notes]
        run.measurements += measurements(planned, stages)
        capture = capturing.wall_seconds
        run.measurements.append(
            Measurement(name="capture", value=capture, unit="seconds", better="lower")
        )
        run.figures += figures(planned, stages, alignment_bytes)
        run.is_control = is_control(ordering) or is_control(placing)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            save_graph(planned.graph, out / _GRAPH_FILE)
            write_plan(planned, stages, settings, out)
    return run.result
