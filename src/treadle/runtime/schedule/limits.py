"""How much an engine runs at once."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from treadle.core.errors import SettingsError
from treadle.runtime.typed import flag, number, whole

if TYPE_CHECKING:
    from treadle.runtime.settings import EngineSettings

__all__ = ["Limits", "limits_of"]

_MOST_SEQS = 64


@dataclass(frozen=True)
class Limits:
    """The bounds of a batch, checked."""

    max_num_seqs: int = 16
    """Requests in a batch."""
    max_num_batched_tokens: int = 256
    """Rows of a step: bounds how long a prompt holds up those who generate."""
    watermark_fraction: float = 0.01
    """Of the pages, kept free when a request is admitted beside others."""
    preemption: Literal["recompute", "swap"] = "recompute"
    """Whether a request that makes room computes its pages again, or keeps a copy of them."""
    has_prefix_cache: bool = True
    rows_beside_urgent: int | None = 2
    """Rows of a step that all requests of lower priority get together beside a more urgent one, by
    the policies that look at priorities: bounds how much they slow it down. None for no bound."""
    rows_beside_less_served: int | None = 4
    """Rows of a step that all clients that were served more get together beside one that was served
    less, by the fair policies: who floods does not slow the others down. None for no bound."""

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("max_num_seqs", "max_num_batched_tokens"):
            object.__setattr__(self, name, whole(name, getattr(self, name), 1))
        number("watermark_fraction", self.watermark_fraction)
        flag("enable_prefix_caching", self.has_prefix_cache)
        if self.rows_beside_urgent is not None:
            whole("rows_beside_urgent", self.rows_beside_urgent, 0)
        if self.rows_beside_less_served is not None:  # 0 would let them hold their places for ever
            whole("rows_beside_less_served", self.rows_beside_less_served, 1)
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise SettingsError(
                f"max_num_batched_tokens={self.max_num_batched_tokens} is less than "
                f"max_num_seqs={self.max_num_seqs}, so not every request could generate; raise it."
            )
        if not 0 <= self.watermark_fraction < 1:
            raise SettingsError(
                f"Found watermark_fraction={self.watermark_fraction}; give 0 or more, below 1."
            )
        if self.preemption not in ("recompute", "swap"):
            raise SettingsError(f"No preemption '{self.preemption}'; choose 'recompute' or 'swap'.")


def limits_of(settings: "EngineSettings") -> Limits:
    """Return the bounds that an engine's settings give.

    Raises:
        SettingsError: They contradict each other.
    """
    most = settings.max_num_seqs
    return Limits(
        min(_MOST_SEQS, settings.max_num_batched_tokens) if most is None else most,
        settings.max_num_batched_tokens,
        settings.watermark_fraction,
        settings.preemption,
        settings.enable_prefix_caching,
        settings.rows_beside_urgent,
        settings.rows_beside_less_served,
    )
