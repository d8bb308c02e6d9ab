"""The one training loop: AdamW, warm-up and cosine, clipping, accumulation; a killed run goes on.

It trains any causal language model whole, on one device, in the dtype of its parameters. What comes
in which step is a function of the step alone, so that a resumed run sees the same data in the same
order.
"""

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from treadle.core.errors import DataError, SettingsError
from treadle.core.progress import steps
from treadle.core.result import Figure, Series, digest
from treadle.core.seed import numpy_stream
from treadle.core.shapes import Int, Tensor

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Fit", "FitSettings", "fit", "loss_figure", "random_batches"]

Batches = Callable[[int], Int[Tensor, "rows seq"]]
"""From the number of a step to its token rows."""

_STATE = "fit.safetensors"


class FitSettings(BaseModel):
    """How a model is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    num_steps: int = Field(gt=0)
    """Updates of the weights."""
    learning_rate: float = Field(default=3e-4, gt=0)
    """Highest learning rate, reached at the end of the warm-up."""
    warmup_fraction: float = Field(default=0.05, ge=0, le=1)
    """Fraction of the steps in which the learning rate rises from zero."""
    final_fraction: float = Field(default=0.1, ge=0, le=1)
    """Fraction of the learning rate that a cosine leaves at the last step."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled decay of matrices; vectors (norms, biases) do not decay."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of AdamW's two averages."""
    clip_norm: float = Field(default=1.0, ge=0)
    """Largest norm of the gradient of all weights; 0 leaves it as it is."""
    num_accumulated: int = Field(default=1, gt=0)
    """Parts into which the rows of a step are split, one in memory at a time."""
    save_every: int = Field(default=0, ge=0)
    """Steps between two saves of the whole state; 0 saves never."""

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        num_warmup = math.ceil(self.num_steps * self.warmup_fraction)
        if step < num_warmup:
            return self.learning_rate * (step + 1) / num_warmup
        progress = (step - num_warmup) / max(1, self.num_steps - 1 - num_warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return self.learning_rate * (self.final_fraction + (1 - self.final_fraction) * cosine)


class Fit(NamedTuple):
    """What training did."""

    losses: list[float]
    """Mean loss of a token at each step, before its update, in nats."""
    gradient_norms: list[float]
    first_step: int
    """Where this run began: 0, or where a killed one had saved."""


def random_batches(tokens: Int[Tensor, "tokens"], rows: int, seq: int, seed: int) -> Batches:
    """Return batches of windows that begin at random places of one long text.

    Raises:
        DataError: The text is shorter than a window.
    """
    import torch

    num_places = len(tokens) - seq + 1
    if num_places < 1:
        raise DataError(
            f"The text has {len(tokens)} tokens, too few for one window of {seq}; give more text "
            f"or a shorter window."
        )

    def batch(step: int) -> "torch.Tensor":
        places = numpy_stream(seed, f"batch {step}").integers(num_places, size=rows)
        return torch.stack([tokens[place : place + seq] for place in places])

    return batch


def fit(
    model: "nn.Module", batches: Batches, settings: FitSettings, folder: Path | None = None
) -> Fit:
    """Train `model` in place on the batches of steps 0, 1, ...

    Args:
        model: A causal language model of transformers; its parameters become trainable.
        batches: Its rows are split into `num_accumulated` equal parts.
        settings: How to train.
        folder: Where the state is saved every `save_every` steps, and found by the same call after
            a crash; removed when training is done.

    Raises:
        DataError: The loss is no number; nothing is saved after that.
        SettingsError: `save_every` has no folder, or the rows cannot be split into equal parts.
    """
    import torch

    if settings.save_every and folder is None:
        raise SettingsError("save_every needs a folder for the state; give one, or set it to 0.")
    parameters = [p.requires_grad_(True) for p in model.parameters()]
    optimizer = torch.optim.AdamW(
        [
            {
                "params": [p for p in parameters if p.dim() > 1],
                "weight_decay": settings.weight_decay,
            },
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=settings.betas,
        foreach=False,  # one tensor's temporaries at a time, instead of all of them
    )
    saved = _Saved(folder, settings, model, optimizer)
    losses, norms = saved.restore()
    first = len(losses)
    model.eval()  # no dropout: what a step does follows from its data alone
    with steps("train", settings.num_steps) as bar:
        bar.advance(first)
        for step in range(first, settings.num_steps):
            for group in optimizer.param_groups:
                group["lr"] = settings.rate(step)
            losses.append(_gradients(model, batches(step), settings.num_accumulated))
            norms.append(_clip(parameters, settings.clip_norm))
            _require_number(losses[-1], step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if settings.save_every and (step + 1) % settings.save_every == 0:
                saved.save(losses, norms)
            bar.advance()
    for parameter in parameters:
        parameter.requires_grad_(False)
    saved.remove()
    return Fit(losses, norms, first)


def _gradients(model: "nn.Module", rows: "torch.Tensor", num_parts: int) -> float:
    """Add up the gradients of a step and return its mean loss."""
    import torch

    if len(rows) % num_parts:
        raise SettingsError(
            f"{len(rows)} rows cannot be split into {num_parts} equal parts; change "
            f"num_accumulated, or the rows of a batch."
        )
    total = 0.0
    for part in torch.split(rows, len(rows) // num_parts):
        loss = model(input_ids=part, labels=part, use_cache=False).loss / num_parts
        loss.backward()
        total += float(loss.detach())
    return total


def _clip(parameters: "list[torch.Tensor]", clip_norm: float) -> float:
    import torch

    bound = clip_norm or math.inf
    return float(torch.nn.utils.clip_grad_norm_(parameters, bound, foreach=False))


def _require_number(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise DataError(
            f"The loss is {loss} at step {step}; lower the learning rate, or look for damaged data."
        )


def loss_figure(curves: dict[str, list[float]], num_points: int = 100) -> Figure:
    """Return loss curves by name, each step's loss averaged with those around it."""
    series = []
    for name, losses in curves.items():
        parts = np.array_split(np.asarray(losses), min(num_points, len(losses)))
        ends = np.cumsum([len(part) for part in parts])
        points = [float(part.mean()) for part in parts]
        series.append(Series(name=name, x=[int(end) for end in ends], y=points))
    return Figure(
        kind="line",
        title="Training loss",
        x_label="step",
        y_label="nats per token",
        series=series,
    )


class _Saved:
    """The state of a run on disk: weights, AdamW's averages and the losses so far."""

    def __init__(
        self,
        folder: Path | None,
        settings: FitSettings,
        model: "nn.Module",
        optimizer: "torch.optim.AdamW",
    ) -> None:
        self._folder, self._model, self._optimizer = folder, model, optimizer
        shapes = {name: list(p.shape) for name, p in model.named_parameters()}
        self._key = digest([settings.model_dump(mode="json"), shapes])

    def _tensors(self) -> "Iterator[tuple[str, torch.Tensor]]":
        for name, parameter in self._model.named_parameters():
            yield f"weight {name}", parameter.data
            state = self._optimizer.state[parameter]
            for key in ("exp_avg", "exp_avg_sq"):
                if key in state:
                    yield f"{key} {name}", state[key]

    def save(self, losses: list[float], norms: list[float]) -> None:
        """Save beside and rename: a crash in the middle leaves the former state."""
        from safetensors.torch import save_file

        assert self._folder is not None
        self._folder.mkdir(parents=True, exist_ok=True)
        beside = self._folder / f".{_STATE}"
        note = {"key": self._key, "losses": losses, "norms": norms}
        tensors = {name: tensor.contiguous() for name, tensor in self._tensors()}
        save_file(tensors, beside, metadata={"note": json.dumps(note)})
        os.replace(beside, self._folder / _STATE)

    def restore(self) -> tuple[list[float], list[float]]:
        """Put back what was saved by the same settings, and return the losses up to there."""
        if self._folder is None or not (self._folder / _STATE).is_file():
            return [], []
        from safetensors import safe_open

        with safe_open(self._folder / _STATE, "pt") as file:
            note: dict[str, Any] = json.loads(file.metadata()["note"])  # Any: JSON values
            if note["key"] != self._key:
                raise SettingsError(
                    f"'{self._folder}' holds the state of a run with other settings; finish that "
                    f"one, or remove the folder."
                )
            self._put_back(file.get_tensor, len(note["losses"]))
        return note["losses"], note["norms"]

    def _put_back(self, read: "Callable[[str], torch.Tensor]", num_steps: int) -> None:
        import torch

        for name, parameter in self._model.named_parameters():
            parameter.data.copy_(read(f"weight {name}"))
            self._optimizer.state[parameter] = {
                "step": torch.tensor(float(num_steps)),
                "exp_avg": read(f"exp_avg {name}"),
                "exp_avg_sq": read(f"exp_avg_sq {name}"),
            }

    def remove(self) -> None:
        """Delete the state: the run is done."""
        if self._folder is not None:
            (self._folder / _STATE).unlink(missing_ok=True)
