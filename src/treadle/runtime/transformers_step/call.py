"""The call of a model of transformers with the rows of a step."""

from typing import TYPE_CHECKING, Any

from treadle.runtime.transformers_step.attention import STEP, inside_step

if TYPE_CHECKING:
    import torch

__all__ = ["call"]


def call(
    module: Any, tokens: "torch.Tensor", positions: "torch.Tensor", step: Any, **options: Any
) -> Any:  # Any: modules of transformers and their outputs
    """Call a model with its rows as one text; `step` replaces its attention."""
    import torch

    token = inside_step.set(True)
    try:
        with torch.inference_mode():
            return module(
                input_ids=tokens[None],
                position_ids=positions[None],
                use_cache=False,
                **{STEP: step},
                **options,
            )
    finally:
        inside_step.reset(token)
