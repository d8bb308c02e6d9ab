"""Factors that learn: peft puts them beside a model's matrices, and what they became is written."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treadle.core.errors import SettingsError
from treadle.core.seed import stream_seed
from treadle.model import facts
from treadle.model.adapters.adapter import WEIGHTS_FILE
from treadle.model.adapters.config import CONFIG_FILE
from treadle.model.adapters.keys import PREFIX
from treadle.model.seams import linear_shapes

if TYPE_CHECKING:
    from treadle.model.classes import CausalLM

__all__ = ["LEARNING", "add_factors", "block_matrices", "save_factors"]

LEARNING = r"\.lora_[AB]\."
"""Found in the names of the factors, and in no others."""
_NAME = "default"


def block_matrices(model: "CausalLM") -> dict[str, tuple[int, int]]:
    """Return the shapes [out, in] of the linear maps inside a model's decoder blocks.

    Experts that lie on each other in one parameter are none: peft's plain LoRA has no factors for
    them.
    """
    config = facts.base_config(model.config.to_dict())
    stem = facts.facts_of(config).blocks.split("{layer}")[0]
    return {name: s for name, s in linear_shapes(model).items() if name.startswith(stem)}


def add_factors(
    model: "CausalLM", names: Sequence[str], rank: int, alpha: float, seed: int
) -> dict[str, Any]:  # Any: JSON values
    """Put factors beside some of a model's matrices, in place, and return peft's config of them.

    The first factor of each is drawn, the second is zero, so that the model computes what it did.
    The random state of the process is left as it was.

    Args:
        model: In memory.
        names: Of the matrices, such as model.layers.0.mlp.down_proj.weight.
        rank: Of the factors.
        alpha: Their product is multiplied by alpha / rank.
        seed: Of what is drawn.

    Raises:
        SettingsError: peft is not installed.
    """
    import torch

    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise SettingsError(
            f"Adapters are trained with the package peft, which is not there ({error}); run: "
            f"pip install 'treadle[tune]'"
        ) from error
    modules = [name.rpartition(".")[0] for name in names]
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # a fraction is as good to peft as a whole number
        target_modules=_targets(model, modules),
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(stream_seed(seed, "lora"))
        inject_adapter_in_model(config, model, adapter_name=_NAME)
    said = config.to_dict()
    said["target_modules"] = sorted(config.target_modules or [])
    said["inference_mode"] = True
    return {key: _plain(value) for key, value in said.items()}


def save_factors(
    model: "CausalLM",
    config: dict[str, Any],  # Any: JSON values
    folder: Path,
) -> int:
    """Write the factors of a model and their config into `folder`, as peft does; return the bytes.

    Args:
        model: With factors.
        config: What `add_factors` returned, with the name of the base model.
        folder: Is there.
    """
    from safetensors.torch import save_file

    tensors = {
        f"{PREFIX}{name.replace(f'.{_NAME}.', '.')}": parameter.detach().contiguous()
        for name, parameter in model.named_parameters()
        if f".{_NAME}." in name
    }
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    text = json.dumps(config, indent=2, sort_keys=True)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _targets(model: "CausalLM", modules: Sequence[str]) -> list[str]:
    """Return the last words of the modules' names where these mean no other module.

    peft takes a module whose name ends in one of the words.
    """
    words = sorted({module.rpartition(".")[2] for module in modules})
    meant = {
        name
        for name, _ in model.named_modules()
        if any(name == word or name.endswith(f".{word}") for word in words)
    }
    return words if meant == set(modules) else sorted(modules)


def _plain(value: Any) -> Any:  # Any: what a dataclass of peft holds
    """Return a setting as JSON has it."""
    if isinstance(value, set | tuple):
        return sorted(value)
    return getattr(value, "value", value)
