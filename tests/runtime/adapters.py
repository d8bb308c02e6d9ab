"""LoRA adapters for the tests, in peft's format, and the model with one merged in; not a test."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

ROLES = (
    *(f"self_attn.{role}_proj" for role in "qkvo"),
    *(f"mlp.{role}_proj" for role in ("gate", "up", "down")),
)


def modules(roles: Iterable[str] = ROLES, num_layers: int = 2) -> list[str]:
    return [f"model.layers.{layer}.{role}" for layer in range(num_layers) for role in roles]


def write_adapter(
    folder: Path,
    base: Path,
    names: Iterable[str] | None = None,
    rank: int = 4,
    seed: int = 0,
    size: float = 0.3,
    **config: object,
) -> Path:
    """Write an adapter of random factors, large enough to change every answer."""
    weights = load_file(base / "model.safetensors")
    draw = np.random.default_rng(seed)
    tensors = {}
    for name in modules() if names is None else names:
        rows, columns = weights[f"{name}.weight"].shape
        for letter, shape in (("A", (rank, columns)), ("B", (rows, rank))):
            values = draw.normal(size=shape) * size
            tensors[f"base_model.model.{name}.lora_{letter}.weight"] = values.astype(np.float32)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def merged(folder: Path, base: Path, adapter: Path, scale: float) -> Path:
    """Write the model with W + scale * B @ A, the plain way."""
    shutil.copytree(base, folder)
    weights = load_file(base / "model.safetensors")
    factors = load_file(adapter / "adapter_model.safetensors")
    for name, left in factors.items():
        if ".lora_B." in name:
            right = factors[name.replace(".lora_B.", ".lora_A.")].astype(np.float64)
            weight = name.removeprefix("base_model.model.").replace(".lora_B", "")
            change = scale * (left.astype(np.float64) @ right)
            weights[weight] = (weights[weight] + change).astype(np.float32)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder
