"""Runs that are killed in the middle, here and in processes of their own; not a test itself."""

import hashlib
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import torch

from treadle.core.seed import torch_stream
from treadle.model import tiny
from treadle.model.fit import Fit, FitSettings, fit, random_batches

TOKENS = torch.randint(0, 320, (400,), generator=torch_stream(0, "tokens"))
CASES: dict[str, dict] = {
    "adamw": {"optimizer": "adamw"},
    "muon": {"optimizer": "muon"},
    "some, muon": {"optimizer": "muon", "learn": r"layers\.1\.(mlp|input_layernorm)"},
    "zeros": {"optimizer": "adamw", "learn": "_proj", "keep_zeros": True},
}


def model_of(case: str, seed: int = 0) -> torch.nn.Module:
    """Return the model of a case, of which the seed draws what learns in all cases."""
    model = tiny.model("llama")
    for name, parameter in model.named_parameters():
        if "layers.1.mlp" in name:
            parameter.data.normal_(0, 0.15, generator=torch_stream(seed, name))
        if "_proj" in name and CASES[case].get("keep_zeros"):
            parameter.data[::2] = 0
    return model


def curriculum(step: int, losses: Sequence[float]) -> torch.Tensor:
    """Rows that depend on every bit of the losses so far."""
    seed = int.from_bytes(hashlib.sha256(repr(list(losses)).encode()).digest()[:4], "little")
    return random_batches(TOKENS, 4, 16, seed)(step, losses)


def train(case: str, folder: Path, kill_at: int = -1, seed: int = 0) -> tuple[Fit, torch.nn.Module]:
    """Train six steps, saved after every second one; at `kill_at` the process kills itself."""
    model = model_of(case, seed)

    def batches(step: int, losses: Sequence[float]) -> torch.Tensor:
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return curriculum(step, losses)

    def evaluate(_: int) -> dict[str, float]:
        held = TOKENS[None, :32]
        return {"held-out": float(model(input_ids=held, labels=held).loss)}

    options = dict(CASES[case])
    keep_zeros = options.pop("keep_zeros", False)
    settings = FitSettings(
        steps=6, learning_rate=3e-3, save_every=2, evaluate_every=3, keep_zeros=keep_zeros
    )
    options |= {"evaluate": evaluate, "identity": "curriculum of TOKENS, next token"}
    return fit(model, batches, settings, folder, **options), model
