"""Tiny random models of the architectures that transformers knows; not a test itself."""

from contextlib import suppress
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

ARCHITECTURES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
_MOST_PARAMETERS = 20_000_000
_WIDTHS = {
    64: ("hidden_size", "n_embd", "d_model", "embed_dim", "word_embed_proj_dim"),
    96: ("intermediate_size", "ffn_dim", "decoder_ffn_dim", "dff", "shared_intermediate_size"),
    48: ("moe_intermediate_size", "shared_expert_intermediate_size"),
    16: ("head_dim", "kv_channels", "q_lora_rank", "kv_lora_rank", "v_head_dim", "mamba_d_head"),
    8: ("rotary_dim", "qk_rope_head_dim", "qk_nope_head_dim", "mamba_d_state", "mamba_n_heads"),
    4: (
        *("num_hidden_layers", "n_layer", "num_layers", "decoder_layers", "num_attention_heads"),
        *("n_head", "decoder_attention_heads", "num_experts", "num_local_experts"),
        "n_routed_experts",
    ),
    2: ("num_key_value_heads", "num_experts_per_tok"),
    1: ("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace", "mamba_n_groups"),
    0: ("pad_token_id", "bos_token_id", "eos_token_id"),
    24: ("sliding_window", "attention_chunk_size"),
    128: ("mamba_d_ssm", "max_position_embeddings", "n_positions"),
    320: ("vocab_size", "vocab_size_per_layer_input"),
}
"""Value -> the names by which configs of some architecture call what has it."""


def small(model_type: str, **overrides: Any) -> Any:
    """Return a small random model, or None where these few settings do not make one."""
    for left_out in ("", "head_dim"):  # some follow from others
        with suppress(Exception):  # whatever an architecture says of these settings
            return _made(model_type, left_out, overrides)
    return None


def _made(model_type: str, left_out: str, overrides: dict[str, Any]) -> Any:
    kind = CONFIG_MAPPING[model_type]
    known, called = kind().to_dict(), kind.attribute_map
    settings = {
        name: value
        for value, names in _WIDTHS.items()
        for name in names
        if (name in known or called.get(name) in known) and name != left_out
    } | overrides
    if "n_embd" in known:
        settings.pop("hidden_size", None)
    config = kind(**settings)
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    assert size <= _MOST_PARAMETERS
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    _draw(model)
    with torch.no_grad():
        assert bool(model(input_ids=torch.arange(1, 100)[None]).logits.isfinite().all())
    return model


def _draw(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.15, generator=generator)
