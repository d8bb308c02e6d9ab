"""What a user asked for, checked: the settings of one run, before anything is read or written."""

from typing import Any, NamedTuple

from treadle.core.errors import SettingsError
from treadle.shrink.sparsify.base import HeadTraining

__all__ = ["SparsifyRequest", "check"]

_LEAST_TOKENS = 64


class SparsifyRequest(NamedTuple):
    """A whole run."""

    method: HeadTraining
    text: str | None
    pairs: str | None
    num_samples: int
    sample_tokens: int
    heldout_fraction: float
    local_tokens: int
    seed: int

    @property
    def num_heldout(self) -> int:
        """Samples that are not learned, at least one."""
        return max(1, round(self.num_samples * self.heldout_fraction))

    @property
    def num_learned(self) -> int:
        """Samples that are learned."""
        return self.num_samples - self.num_heldout

    def settings(self) -> dict[str, Any]:  # Any: JSON values
        """Return what determines the output beside the model and the seed."""
        own = self._asdict()
        del own["method"], own["seed"]
        return {**self.method.settings(), **own}


def check(request: SparsifyRequest) -> None:
    """Check that the settings go together.

    Raises:
        SettingsError: One is out of its range, or has no effect.
    """
    if (request.text is None) == (request.pairs is None):
        raise SettingsError(
            "Heads learn on samples made of a text, or on pairs of prompts and answers; give "
            "either --text FILE.txt or --pairs FILE.jsonl."
        )
    for name, value, least in (
        ("num_samples", request.num_samples, 2),
        ("sample_tokens", request.sample_tokens, _LEAST_TOKENS),
        ("local_tokens", request.local_tokens, 0),
    ):
        if value < least:
            raise SettingsError(f"{name} = {value} is too few; give at least {least}.")
    if not 0 < request.heldout_fraction < 1:
        raise SettingsError(
            f"heldout_fraction = {request.heldout_fraction} is outside 0..1; give the share of the "
            f"text and of the samples that is not learned, such as 0.1."
        )
    if request.num_learned < 1:
        raise SettingsError(
            f"heldout_fraction = {request.heldout_fraction} leaves no sample of "
            f"{request.num_samples} to learn; lower it."
        )
    if request.local_tokens > request.sample_tokens // 2:
        raise SettingsError(
            f"local_tokens = {request.local_tokens} is more than half of a sample's "
            f"{request.sample_tokens}, so that little is left to learn; lower it."
        )
    design = request.method.design()
    changed = request.method.model_fields_set
    if design.solver == "ridge":
        for name in sorted(changed & {"learning_rate", "passes"}):
            raise SettingsError(
                f"{name} has no effect where heads are solved at once (form linear); leave it out, "
                f"or choose --form mlp."
            )
