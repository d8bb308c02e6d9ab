"""Models of architectures without facts here: loaded whole by transformers, and only that."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from treadle.core.errors import CheckpointError, UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["load_foreign"]


def load_foreign(folder: Path, trust_remote_code: bool = False) -> "PreTrainedModel":
    """Return the causal language model of a folder of floats in float32, as transformers reads it.

    Raises:
        CheckpointError: A tensor is missing or of another shape; transformers would draw it anew.
        UnsupportedModelError: transformers has no such causal language model, or cannot read it.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(  # Any: a model and what was amiss
            folder,
            dtype=torch.float32,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    except Exception as error:  # configs and modules raise many unrelated types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UnsupportedModelError(
            f"transformers cannot load a causal language model from '{folder}': {reason} Give "
            f"one of an architecture that it knows; --trust-remote-code runs code that the "
            f"folder brings along."
        ) from error
    module, told = loaded
    for kind in ("missing_keys", "mismatched_keys"):
        if amiss := sorted(map(str, told.get(kind) or ())):
            raise CheckpointError(
                f"'{folder}' lacks what its config needs ({kind.removesuffix('_keys')}: "
                f"{', '.join(amiss[:3])}); download the checkpoint again."
            )
    model: PreTrainedModel = module
    return model
