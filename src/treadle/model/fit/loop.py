"""The loop itself: gradients, clipping, an update; evaluations and saves between two steps."""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treadle.core import hardware
from treadle.core.errors import DataError, SettingsError
from treadle.core.progress import steps
from treadle.model.fit.batches import Batch, Batches, num_tokens
from treadle.model.fit.course import Course, Fit
from treadle.model.fit.learning import learning, sorted_by_place, zeros_of
from treadle.model.fit.objective import NEXT_TOKEN, Objective, add_gradients, as_objective
from treadle.model.fit.observer import Observer
from treadle.model.fit.returned import number, said
from treadle.model.fit.settings import FitSettings
from treadle.model.fit.state import SavedState, SaveWatch, run_key
from treadle.model.optimizers import OPTIMIZERS, Optimizer
from treadle.model.optimizers.base import RATE_FRACTION

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["fit"]

Evaluate = Callable[[int], Mapping[str, float]]


def fit(
    model: "nn.Module",
    batches: Batches,
    settings: FitSettings,
    folder: Path | None = None,
    *,
    objective: "Objective | Callable[[nn.Module, Batch], torch.Tensor]" = NEXT_TOKEN,
    optimizer: Optimizer | str | Mapping[str, Any] = "adamw",  # Any: values of its fields
    learn: str | None = None,
    evaluate: Evaluate | None = None,
    identity: str = "",
    keeps_state: bool = False,
    observe: Observer | None = None,
) -> Fit:
    """Train `model` in place on the batches of steps 0, 1, ...

    It trains on one device, in the dtype of the parameters, without dropout. Afterwards the model's
    modes and what requires a gradient are as they were before. In memory are the model, the
    gradients and the optimizer's averages of what learns, and the activations of one part.

    Args:
        model: Any module that the objective can use; a causal language model of transformers for
            the one that is given.
        batches: What comes in a step, a function of the step's number and of the losses so far.
            Its rows are split into `num_accumulated` parts: equal ones, unless the objective weighs
            them. A list is the parts themselves, of any shapes.
        settings: How to train.
        folder: Where the state is saved every `save_every` steps or `save_every_seconds`, and found
            by the same call after a crash; removed when training is done.
        objective: The loss, by default that of the next token; a function is a loss whose parts
            are equal.
        optimizer: Method of `treadle.model.optimizers.OPTIMIZERS`, its name, or a mapping.
        learn: Regular expression that is searched in the names of parameters; by default those
            learn that require a gradient. All others keep their bytes.
        evaluate: Called without gradients when so many updates are done as it is told: before the
            first, after every `evaluate_every`, and after the last. Its values are saved, too.
        identity: A text that names what functions hide, needed where a state is saved: the data and
            their order (the texts, rows, their length, the seed), the objective with its weights,
            and what `evaluate` measures. A digest of them is such a text
            (`treadle.core.result.digest`). A state that was saved under another one is refused;
            settings, optimizer, what learns and what is frozen are compared without it.
        keeps_state: Whether what was saved last stays after the end, until the caller has written
            the weights and removes it: a full disk then costs no training.
        observe: Told what each step showed (loss, gradient_norm, learning_rate and
            tokens_per_second, by the number of updates that are done), and what was evaluated.
            Steps that an earlier run had taken are not told again. `TensorBoard` is one.

    Raises:
        DataError: A batch cannot be used, or the loss or the gradient is not finite; the weights
            are those before that step, and the state that was saved last stays.
        SettingsError: An argument is of another kind, a setting has no effect or lacks what it
            needs, nothing learns, a function returned something else than it should, the rows
            cannot be split, or the folder holds the state of another run.
        CheckpointError: The state in the folder is damaged.
        CapacityError: The state could not be written; the former one stays.
    """
    chosen, aim = OPTIMIZERS.resolve(optimizer), as_objective(objective)
    _require_arguments(batches, settings, evaluate, observe)
    _require_place(settings, folder, identity)
    if settings.evaluate_every and evaluate is None:
        raise SettingsError("evaluate_every needs something to evaluate; give it, or set it to 0.")
    with learning(model, learn) as parameters:
        run = _Run(model, parameters, settings, chosen, aim)
        saved = run.saved(folder, [chosen.settings(), identity])
        course = saved.restore()
        first, watch = len(course.losses), SaveWatch(settings)
        with steps("train", settings.steps) as bar:
            bar.advance(first)
            if not first:
                _evaluate(evaluate, settings, course, observe)
            for step in range(first, settings.steps):
                try:
                    run.step(step, batches, course)
                except DataError:
                    if folder is not None and course.losses:
                        saved.save(course)  # the last good state: nothing was updated
                    raise
                _tell(observe, settings, course)
                _evaluate(evaluate, settings, course, observe)
                if watch.is_due(step + 1):
                    watch.time(lambda: saved.save(course))
                bar.show(f"loss {course.losses[-1]:.4g}")
                bar.advance()
        if not keeps_state:
            saved.remove()
    return course.as_fit(first)


def _require_arguments(
    batches: object, settings: object, evaluate: object, observe: object
) -> None:
    if not callable(batches):
        raise SettingsError(
            f"batches is {said(batches)}, but a function of a step's number and of the losses so "
            f"far was expected; give `lambda step, losses: rows`, or random_batches of a text."
        )
    if not isinstance(settings, FitSettings):
        raise SettingsError(
            f"settings is {said(settings)}, but FitSettings were expected; give "
            f"FitSettings(steps=...)."
        )
    if evaluate is not None and not callable(evaluate):
        raise SettingsError(
            f"evaluate is {said(evaluate)}, but a function of the number of updates that are done "
            f"was expected; give one that returns values by name."
        )
    if observe is not None and not callable(observe):
        raise SettingsError(
            f"observe is {said(observe)}, but a function of the number of updates that are done "
            f"and of values by name was expected; give one, such as TensorBoard(folder)."
        )


def _require_place(settings: FitSettings, folder: object, identity: object) -> None:
    """Require a place for the state, and what tells it from those of other runs."""
    if settings.saves and folder is None:
        raise SettingsError("save_every needs a folder for the state; give one, or set it to 0.")
    if folder is not None and not isinstance(folder, Path):
        raise SettingsError(f"folder is {said(folder)}, but a Path was expected; give Path(...).")
    if not isinstance(identity, str) or (settings.saves and not identity.strip()):
        raise SettingsError(
            f"identity = {identity!r}, but save_every needs a text that names data and objective, "
            f"such as a digest of both: functions cannot be compared, and a state that was saved "
            f"under others would be taken for this run's. Give one, or set save_every to 0."
        )


def _tell(observe: Observer | None, settings: FitSettings, course: Course) -> None:
    """Tell an observer what the last step showed."""
    if observe is not None:
        num_done = len(course.losses)
        values = {
            "loss": course.losses[-1],
            "gradient_norm": course.gradient_norms[-1],
            "learning_rate": settings.rate(num_done - 1),
            "tokens_per_second": course.num_tokens[-1] / max(course.seconds[-1], 1e-9),
        }
        observe(num_done, values)


def _evaluate(
    evaluate: Evaluate | None, settings: FitSettings, course: Course, observe: Observer | None
) -> None:
    import torch

    num_done = len(course.losses)
    if evaluate is not None and settings.evaluates_after(num_done):
        with torch.no_grad():
            found = evaluate(num_done)
        values = _values(found, num_done)
        course.evaluated(num_done, values)
        if observe is not None:
            observe(num_done, {f"evaluation/{name}": value for name, value in values.items()})


def _values(found: object, num_done: int) -> dict[str, float]:
    if not isinstance(found, Mapping):
        raise SettingsError(
            f"evaluate returned {said(found)} after {num_done} updates, but a mapping from names "
            f"to numbers was expected; return {{'held-out': loss}}, or {{}}."
        )
    values = {}
    for name, value in found.items():
        plain = number(value)
        if plain is None or not isinstance(name, str):
            raise SettingsError(
                f"evaluate returned {said(value)} for {name!r} after {num_done} updates, but a "
                f"number by a text was expected; return its mean, or leave it out."
            )
        values[name] = plain
    return values


class _Run:
    """A model with its optimizers, one step at a time."""

    def __init__(
        self,
        model: "nn.Module",
        parameters: "dict[str, nn.Parameter]",
        settings: FitSettings,
        optimizer: Optimizer,
        objective: Objective,
    ) -> None:
        self._model, self._parameters = model, parameters
        self._settings, self._objective = settings, objective
        self._optimizers = optimizer.build(*sorted_by_place(model, parameters))
        self._zeros = zeros_of(parameters) if settings.keep_zeros else {}

    def saved(self, folder: Path | None, settings: list[Any]) -> SavedState:  # Any: JSON values
        """Return the place of the run's state."""
        key = ""
        if folder is not None:
            known = [self._settings.model_dump(mode="json"), *settings]
            key = run_key(self._model, self._parameters, known)
        return SavedState(folder, self._parameters, self._optimizers, self._zeros, key)

    def step(self, step: int, batches: Batches, course: Course) -> None:
        """Take one step and add it to the course."""
        start = time.perf_counter()
        batch = batches(step, course.losses)
        num_parts = self._settings.num_accumulated
        loss = add_gradients(self._model, batch, self._objective, num_parts, step)
        norm = self._clip(step)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self._settings.rate(step) * group[RATE_FRACTION]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        for name, mask in self._zeros.items():
            self._parameters[name].data.masked_fill_(mask, 0)
        seconds, held = time.perf_counter() - start, hardware.anonymous_bytes()
        course.add(loss, norm, num_tokens(batch), seconds, held)

    def _clip(self, step: int) -> float:
        """Clip the gradient and return its norm before that."""
        import torch

        for name, mask in self._zeros.items():
            gradient = self._parameters[name].grad
            if gradient is not None:
                gradient.masked_fill_(mask, 0)  # no part of what learns
        bound = self._settings.clip_norm or math.inf
        learning = list(self._parameters.values())
        if all(parameter.grad is None for parameter in learning):
            raise SettingsError(
                f"The loss of step {step} depends on none of the {len(learning)} parameters that "
                f"learn; make it of the model's output, or let others learn."
            )
        norm = float(torch.nn.utils.clip_grad_norm_(learning, bound, foreach=False))
        if not math.isfinite(norm):
            raise DataError(
                f"The norm of the gradient is {norm} at step {step}; lower the learning rate, or "
                f"look for damaged data."
            )
        return norm
