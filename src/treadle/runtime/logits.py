"""Logits that are no numbers: how they are found, and what is said of them."""

from pathlib import Path

import numpy as np

from treadle.core.errors import CheckpointError
from treadle.runtime.executor import Floats

__all__ = ["flaw_of", "require_numbers", "require_sound"]


def flaw_of(logits: Floats) -> str | None:
    """Return what is wrong with logits [rows, vocab], if anything is.

    Norms turn overflow into zeros as well as into NaN, and then all tokens are equal on all rows. A
    logit of minus infinity only strikes its token out.
    """
    highest = logits.max(axis=-1)
    if np.isnan(highest).any():  # a maximum of NaN and numbers is NaN
        return "NaN"
    if not np.isfinite(highest).all():
        return "infinite"
    return "equal for all tokens" if bool((logits == highest[..., None]).all()) else None


def require_sound(logits: Floats, source: Path | str, form: str) -> None:
    """Check what a model computes when it is loaded.

    Args:
        logits: [rows, vocab] of several tokens.
        source: The model.
        form: Of its weights.

    Raises:
        CheckpointError: They have a flaw.
    """
    flaw = flaw_of(logits)
    if flaw is not None:
        raise CheckpointError(
            f"The model of '{source}' computes logits that are {flaw}, with weights in {form}: it "
            f"is damaged, or its numbers overflow in this form; download or make it again, or "
            f"hold it in a wider form (weights='fp32')."
        )


def require_numbers(logits: Floats, kv_dtype: str) -> None:
    """Refuse logits of a step that are NaN or infinite, before anything is noted down.

    Raises:
        CheckpointError: They are; nothing that was asked is at fault.
    """
    if not logits.size:
        return
    highest = logits.max()
    if not np.isfinite(highest):
        raise CheckpointError(
            f"The model's logits are {'NaN' if np.isnan(highest) else 'infinite'} (kv_dtype is "
            f"{kv_dtype}); check the weights, or use kv_dtype='fp32' (--kv-dtype fp32) if this "
            f"happens only in fp16."
        )
