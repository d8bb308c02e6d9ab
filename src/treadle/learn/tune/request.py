"""What was asked for, checked as far as it can be without model and data."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

from treadle.core.checkpoint import read_manifest
from treadle.core.errors import SettingsError
from treadle.learn.tune.base import Learner, Tuning
from treadle.learn.tune.settings import TuneSettings
from treadle.model.optimizers import Optimizer

__all__ = ["Dtype", "TuneRequest", "check", "is_pruned"]

Dtype = Literal["float32", "float16", "bfloat16"]
_HELDOUT_FRACTION = 0.1
"""Of pairs, so that what is said of preferences is not said of those that were learned."""


class TuneRequest(NamedTuple):
    """One tuning run."""

    method: Tuning
    learner: Learner
    optimizer: Optimizer
    settings: TuneSettings
    data: str | None
    text: str | None
    teacher: str | None
    heldout: str | None
    heldout_fraction: float | None
    dtype: Dtype | None
    chat: bool
    shuffle_answers: bool
    keep_zeros: bool | None
    seed: int

    @property
    def learning_rate(self) -> float:
        """The highest learning rate."""
        own = self.settings.learning_rate
        return self.method.learning_rate * self.learner.rate_factor if own is None else own

    @property
    def held_fraction(self) -> float:
        """Which fraction of the rows is held out."""
        if self.heldout_fraction is not None:
            return self.heldout_fraction
        is_needed = self.method.takes == "pairs" and self.heldout is None
        return _HELDOUT_FRACTION if is_needed else 0.0

    def told(self) -> dict[str, Any]:  # Any: JSON values
        """Return the settings that determine the outcome, beside inputs and seed."""
        return {
            **self.method.settings(),
            **self.settings.model_dump(mode="json", exclude={"save_every"}),
            "learning_rate": self.learning_rate,
            "learn": self.learner.settings(),
            "optimizer": self.optimizer.settings(),
            "heldout_fraction": self.held_fraction,
            "dtype": self.dtype,
            "chat": self.chat,
            "shuffle_answers": self.shuffle_answers,
            "keep_zeros": self.keep_zeros,
        }


def check(request: TuneRequest) -> None:
    """Refuse what contradicts itself or has no effect.

    Raises:
        SettingsError: Something does.
    """
    for is_wrong, says in _mistakes(request):
        if is_wrong:
            raise SettingsError(says)


def _mistakes(request: TuneRequest) -> list[tuple[bool, str]]:
    """Return everything that may be wrong: whether it is, and what is to be said."""
    method, settings = request.method, request.settings
    is_text, has_pairs = request.text is not None, method.takes == "pairs"
    has_heldout = request.heldout is not None or bool(request.held_fraction)
    has_teacher = request.teacher is not None
    return [
        (
            request.data is None and not is_text,
            f"Neither --data nor --text is given; give the one that '{method.name}' learns.",
        ),
        (
            request.data is not None and is_text,
            f"Both --data and --text are given; give the one that '{method.name}' learns.",
        ),
        (
            is_text and has_pairs,
            f"'{method.name}' learns pairs of answers, which no --text has; give --data FILE.",
        ),
        (
            bool(settings.steps and settings.epochs),
            "Both steps and epochs are given; leave one of them out.",
        ),
        (
            has_teacher and not method.has_teacher,
            f"'{method.name}' asks no teacher; leave --teacher out, or use distill.",
        ),
        (
            method.has_teacher and not has_teacher,
            f"'{method.name}' needs a teacher; add --teacher MODEL.",
        ),
        (
            request.heldout is not None and bool(request.heldout_fraction),
            "Both heldout and heldout_fraction are given; leave one of them out.",
        ),
        (
            bool(is_text and request.heldout_fraction),
            "heldout_fraction has no effect on a text; give another text as --heldout.",
        ),
        (
            bool(settings.evaluate_every) and not has_heldout,
            "evaluate_every has no effect, as nothing is held out; add --heldout FILE or "
            "--heldout-fraction 0.1, or leave it out.",
        ),
        (
            is_text and (request.chat or request.shuffle_answers),
            "A text has no prompts; leave --chat and --shuffle-answers out.",
        ),
        (
            has_pairs and request.shuffle_answers,
            "The answers of pairs cannot be shuffled; leave --shuffle-answers out.",
        ),
        (
            request.dtype is not None and request.learner.is_adapter,
            "dtype has no effect on an adapter, which is float32; leave it out.",
        ),
        (
            bool(request.keep_zeros) and request.learner.is_adapter,
            "keep_zeros has no effect on an adapter, which changes no weight of the model (and "
            "fills its zeros once it is merged); leave it out, or use --learn all.",
        ),
    ]


def is_pruned(folder: Path) -> bool:
    """Whether a model folder says that its zeros were made on purpose."""
    manifest = read_manifest(folder)
    made = None if manifest is None else manifest.provenance
    if made is None:
        return False
    return made.verb == "prune" or bool(made.settings.get("keep_zeros"))
