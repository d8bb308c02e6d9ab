"""Tiny models of every rope type, and what transformers says of a text; not a test itself."""

from collections.abc import Sequence
from typing import Any

import torch

BOUND, LONGEST = 64, 128
HEAD_DIM = 16
ROPES: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 2.0, "original_max_position_embeddings": BOUND},
    "llama3": {
        **{"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        "original_max_position_embeddings": BOUND,
    },
    "longrope": {"factor": 2.0, "original_max_position_embeddings": BOUND},
    "proportional": {"partial_rotary_factor": 0.5},
}
"""Rope type -> its parameters."""
PLACED = ("gpt2", "opt")
"""Architectures whose positions are embedded, not turned."""


def parameters(rope: str, width: int = HEAD_DIM, bound: int = BOUND) -> dict[str, Any]:
    """Rotary parameters of a type, for heads that turn `width` numbers."""
    found = {"rope_type": rope, "rope_theta": 10_000.0, **ROPES[rope]}
    if rope == "longrope":
        found["short_factor"] = [1.0 + 0.1 * place for place in range(width // 2)]
        found["long_factor"] = [2.0 + 0.5 * place for place in range(width // 2)]
        found["original_max_position_embeddings"] = bound
    return found


def overrides(model_type: str, rope: str) -> dict[str, Any]:
    """What the config of a tiny model of `model_type` adds to turn by `rope`."""
    common: dict[str, Any] = {"max_position_embeddings": LONGEST}
    if model_type in PLACED:
        return common
    if model_type == "gpt_neox":
        return {**common, "rope_parameters": {**parameters(rope, 4), "partial_rotary_factor": 0.25}}
    if model_type == "phi":
        return {**common, "rope_parameters": {**parameters(rope, 8), "partial_rotary_factor": 0.5}}
    if model_type == "gemma3_text":
        kinds = ["sliding_attention", "full_attention"]
        turned = {kinds[0]: parameters("default"), kinds[1]: parameters(rope)}
        return {**common, "layer_types": kinds, "rope_parameters": turned}
    common |= {"head_dim": HEAD_DIM, "rope_parameters": parameters(rope)}
    if model_type == "phi3" and rope == "longrope":
        common["original_max_position_embeddings"] = BOUND
    return common


def told(model: torch.nn.Module, tokens: Sequence[int]) -> list[float]:
    """Log-probability of every token but the first, by one pass over all but the last."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([tokens[:-1]])).logits[0].float()
    found = torch.log_softmax(logits, -1).gather(1, torch.tensor(tokens[1:])[:, None])
    return found[:, 0].tolist()


def answered(model: torch.nn.Module, prompt: Sequence[int], answer: Sequence[int]) -> list[float]:
    """Log-probability of each token of an answer, by a pass over the whole text before it.

    All texts up to `BOUND` turn alike, and all longer ones: so one pass of each kind says it.
    """
    text = [*prompt, *answer]
    found, short = told(model, text), told(model, text[: BOUND + 1])
    found[: len(short)] = short
    return found[len(prompt) - 1 :]
