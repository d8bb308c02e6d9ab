"""A model with no past: from a config to weights as its architecture initialises them."""

from typing import TYPE_CHECKING, Any

from treadle.core.errors import UnsupportedModelError
from treadle.core.seed import stream_seed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["fresh_model"]


def fresh_model(config: dict[str, Any], seed: int) -> "PreTrainedModel":  # Any: JSON values
    """Return a causal language model of float32 weights in main memory, in evaluation mode.

    Each module's weights are drawn as its architecture draws them, from a stream of `seed` that is
    named after its first parameter, so that they depend on no other module. The random state of the
    process is left as it was; the whole model is held in memory.

    Args:
        config: As in config.json, with its `model_type`; what it lacks is the architecture's
            default.
        seed: Of the weights.

    Raises:
        UnsupportedModelError: transformers has no causal language model of that type, or refuses
            the config.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from treadle.model.load import auto_class

    fields = {key: value for key, value in config.items() if key != "model_type"}
    model_type = config.get("model_type", "")
    # Seeding reaches every device, so the state of every device is kept.
    with torch.random.fork_rng():
        try:
            if auto_class(model_type) != "AutoModelForCausalLM":
                raise ValueError("it has no causal language model")
            made = AutoConfig.for_model(model_type, **fields)
            built = AutoModelForCausalLM.from_config(made, dtype=torch.float32)
        except Exception as error:  # a config's class refuses in whatever way it likes
            raise UnsupportedModelError(
                f"transformers makes no model of this config (model_type '{model_type}'): {error}. "
                f"Mend the config, or name another model_type."
            ) from error
        _initialise(built, seed)
    model: PreTrainedModel = built.eval()
    return model


def _initialise(model: "PreTrainedModel", seed: int) -> None:
    """Draw module by module, the inner ones first: some architectures scale what these hold."""
    import torch

    for name, module in reversed(list(model.named_modules())):
        own = next((own for own, _ in module.named_parameters(recurse=False)), "")
        torch.manual_seed(stream_seed(seed, f"{name}.{own}"))
        with torch.no_grad():
            model._init_weights(module)
