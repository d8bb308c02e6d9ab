"""What a user asked for, checked: the settings of one run, before anything is read or written."""

from typing import Any, Literal, NamedTuple

from treadle.core.errors import SettingsError
from treadle.model.text import Bos
from treadle.shrink.prune.base import Allocation, Metric, Update
from treadle.shrink.prune.patterns import Pattern

__all__ = ["MODES", "Mode", "PruneRequest", "check"]

Mode = Literal["one-pass", "two-pass", "dense"]
MODES = {
    "one-pass": "each matrix is pruned before its output is used, so that every block runs once",
    "two-pass": "each block runs once to collect and once more, pruned, for the next one's inputs",
    "dense": "statistics of the unpruned model, saved and reused by later runs on the same tokens",
}


class PruneRequest(NamedTuple):
    """A whole pruning run."""

    metric: Metric
    pattern: Pattern
    sparsity: float
    update: Update
    allocation: Allocation
    text: str | None
    num_windows: int
    window_tokens: int
    bos: Bos
    calibrate: Mode | None
    keep_zeros: bool
    seed: int
    allow_nonuniform: bool

    @property
    def needs(self) -> frozenset[str]:
        """Statistics that the metric and the update need."""
        return self.metric.needs | self.update.needs

    @property
    def needs_data(self) -> bool:
        """Whether calibration text is needed at all."""
        return bool(self.needs | self.allocation.needs)

    @property
    def needs_inputs(self) -> bool:
        """Whether the metric or the update looks at activations."""
        return bool(self.needs - {"gradient"})

    @property
    def needs_dense(self) -> bool:
        """Whether statistics of the whole unpruned model come first."""
        return bool(self.allocation.needs) or (
            self.needs_inputs and (self.mode == "dense" or self.pattern.kind == "global")
        )

    @property
    def mode(self) -> Mode:
        """When calibration runs: as asked, or one pass (dense for pattern global)."""
        default: Mode = "dense" if self.pattern.kind == "global" else "one-pass"
        return self.calibrate or default

    @property
    def follows(self) -> bool:
        """Whether blocks are pruned on the inputs that the blocks pruned before give them."""
        return self.needs_inputs and self.mode != "dense"

    def settings(self) -> dict[str, Any]:  # Any: JSON values
        """Return what determines the output beside the model, the text and the seed."""
        fixed = {
            **self.metric.settings(),
            "pattern": str(self.pattern),
            "sparsity": self.sparsity,
            "update": self.update.settings(),
            "allocation": self.allocation.settings(),
            **({"keep_zeros": True} if self.keep_zeros else {}),
        }
        if not self.needs_data:
            return fixed
        windows: dict[str, Any] = {  # Any: JSON values
            "num_windows": self.num_windows,
            "window_tokens": self.window_tokens,
            "bos": self.bos,
        }
        return {**fixed, **windows, "calibrate": self.mode, "text": self.text}


def check(request: PruneRequest) -> None:
    """Check that the settings go together.

    Raises:
        SettingsError: Two contradict each other, one has no effect, or one is missing.
    """
    pattern = request.pattern
    if request.num_windows < 1 or request.window_tokens < 2:
        raise SettingsError(
            f"num_windows = {request.num_windows} and window_tokens = {request.window_tokens} give "
            f"no tokens to "
            f"calibrate on; use at least 1 window of 2 tokens."
        )
    if request.needs_data and request.text is None:
        raise SettingsError(
            f"'{request.metric.name}' with update '{request.update.name}' and allocation "
            f"'{request.allocation.name}' "
            f"needs calibration text; pass --text FILE (or stdlib:calibration)."
        )
    if not request.needs_data and request.text is not None:
        raise SettingsError(
            f"'{request.metric.name}' looks at no data, so text = '{request.text}' would have no "
            f"effect; leave it out."
        )
    if not request.needs_data and request.bos != "auto":
        raise SettingsError(
            f"'{request.metric.name}' looks at no data, so bos = '{request.bos}' would have no "
            f"effect; leave it out."
        )
    if request.keep_zeros and pattern.is_structured and request.update.name == "none":
        raise SettingsError(
            f"pattern {pattern} takes whole {pattern} away and update none changes no weight, so "
            f"keep_zeros would have no effect; leave it out."
        )
    if request.calibrate and not request.needs_inputs:
        raise SettingsError(
            f"'{request.metric.name}' looks at no activations, so calibrate = "
            f"'{request.calibrate}' would have no "
            f"effect; leave it out."
        )
    if pattern.kind == "global" and request.calibrate not in (None, "dense"):
        raise SettingsError(
            f"pattern global compares all blocks before any is pruned, so calibrate = "
            f"'{request.calibrate}' is "
            f"impossible; leave it out, or choose dense."
        )
    if request.allocation.name != "uniform" and pattern.kind in ("n:m", "global"):
        raise SettingsError(
            f"allocation '{request.allocation.name}' shares sparsity out over blocks, but pattern "
            f"{pattern} fixes it "
            f"otherwise; use allocation uniform, or pattern rows."
        )
