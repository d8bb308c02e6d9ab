"""Which step is planned: a model with a batch, captured, or a graph from a file."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple, get_args

from treadle.core.errors import DataError, SettingsError
from treadle.core.registry import near
from treadle.core.result import Input, digest
from treadle.model.graph.schema import Graph, load_graph

__all__ = ["StepSource", "TrainingStep", "read_step"]

_BATCH, _SEQ, _OPTIMIZER, _DTYPE = 1, 512, "adamw", "float32"


class TrainingStep(NamedTuple):
    """What was asked for; None where the user said nothing."""

    model: str
    batch: int | None = None
    seq: int | None = None
    optimizer: str | None = None
    clip_norm: float | None = None
    chunked_loss: int | None = None
    dtype: str | None = None
    autocast: str | None = None
    checkpointing: bool | None = None
    lora_rank: int | None = None
    learn: str | None = None

    @property
    def is_file(self) -> bool:
        """Whether the step is a graph in a file."""
        return self.model.endswith(".json")

    def settings(self) -> dict[str, Any]:  # Any: JSON values
        """Return what determines the graph, beside the model; seq None: as many as it can."""
        if self.is_file:
            return {}
        return {
            "batch": _BATCH if self.batch is None else self.batch,
            "seq": self.seq,
            "optimizer": _OPTIMIZER if self.optimizer is None else self.optimizer,
            "clip_norm": self.clip_norm,
            "chunked_loss": self.chunked_loss,
            "dtype": _DTYPE if self.dtype is None else self.dtype,
            "autocast": self.autocast,
            "checkpointing": bool(self.checkpointing),
            "lora_rank": self.lora_rank,
            "learn": self.learn,
        }


class StepSource(NamedTuple):
    """A graph, and what it was read from."""

    graph: Graph
    input: Input
    notes: list[str]
    """How the step differs from what training the model would run."""


def read_step(step: TrainingStep) -> StepSource:
    """Return the graph of a step.

    Raises:
        SettingsError: A setting is out of bounds, unknown, or without effect on a graph's file.
        DataError: There is no such file, or it holds no graph.
    """
    return _from_file(step) if step.is_file else _captured(step)


def _from_file(step: TrainingStep) -> StepSource:
    for name, value in step._asdict().items():
        if name != "model" and value is not None:
            raise SettingsError(
                f"'{step.model}' is a captured graph, so {name} = {value} would have no effect; "
                f"leave it out, or give the model's folder."
            )
    path = Path(step.model)
    if not path.is_file():
        raise DataError(f"No graph at '{path}'; give a model, or the graph.json of a plan.")
    graph = load_graph(path)
    content_hash = hashlib.sha256(path.read_bytes()).hexdigest()
    return StepSource(
        graph, Input(name="graph", path=str(path), content_hash=content_hash, role="data"), []
    )


def _captured(step: TrainingStep) -> StepSource:
    from treadle.model.graph.capture import capture_model
    from treadle.model.graph.causal_lm import config_of, differences
    from treadle.model.graph.training import Training
    from treadle.model.graph.update import OptimizerName

    asked = step.settings()
    training = Training(**{name: asked.pop(name) for name in Training._fields})
    if asked["optimizer"] not in get_args(OptimizerName):
        known = list(get_args(OptimizerName))
        raise SettingsError(
            f"Unknown optimizer '{asked['optimizer']}'. {near(asked['optimizer'], known)}"
        )
    config, _ = config_of(step.model, "sdpa")
    asked["seq"] = _seq_of(step, config)
    captured = capture_model(step.model, **asked, training=training)
    read = Input(
        name="config", path=step.model, content_hash=digest(config.to_dict()), role="config"
    )
    return StepSource(captured.graph, read, differences(step.model, training))


def _seq_of(step: TrainingStep, config: Any) -> int:  # Any: transformers' own
    """Return the tokens of a row: as asked, or as many as the model can, up to a bound.

    Raises:
        SettingsError: The model has fewer positions, or none at all.
    """
    from treadle.model.graph.tasks import image_shape, num_positions, task_of

    task = task_of(config)
    if not task.has_tokens:
        if step.seq is not None:
            raise SettingsError(
                f"seq = {step.seq} has no effect on '{step.model}', {task.name} of images of "
                f"{image_shape(config)}; leave it out."
            )
        return 0
    most = num_positions(config)
    if step.seq is None:
        return _SEQ if most is None else min(_SEQ, most)
    if most is not None and step.seq > most:
        raise SettingsError(
            f"seq = {step.seq} is longer than the {most} positions of '{step.model}'; lower it."
        )
    return step.seq
