"""Random models of every architecture in facts, and a tokenizer: the tests' offline models."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from treadle.core.errors import SettingsError
from treadle.core.registry import near

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["CONFIGS", "WRAPPERS", "build", "build_wrapper", "tokenizer"]

VOCAB_SIZE = 320
_SHARED: dict[str, Any] = {  # Any: values of config.json
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_EXPERTS = {"moe_intermediate_size": 48, "num_experts": 4, "num_experts_per_tok": 2}

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "mistral": {"sliding_window": 24},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "gemma": {"head_dim": 16},
    "gemma2": {"head_dim": 16, "sliding_window": 24},
    "gemma3_text": {"head_dim": 16, "sliding_window": 24},
    "granite": {"residual_multiplier": 0.5, "logits_scaling": 2.0, "attention_multiplier": 0.2},
    "smollm3": {"no_rope_layers": [1, 0]},
    "cohere2": {"head_dim": 16, "sliding_window": 24},
    "starcoder2": {"use_bias": True},
    "phi": {"partial_rotary_factor": 0.5},
    "phi3": {},
    "gpt_neox": {},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "gpt2": {},
    "mixtral": {"num_local_experts": 4},
    "qwen2_moe": {**_EXPERTS, "shared_expert_intermediate_size": 48},
    "qwen3_moe": {**_EXPERTS, "head_dim": 16},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2, "clip_qkv": 1.5},
}
"""`model_type` -> what its config adds to the shared one."""


_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
WRAPPERS: dict[str, tuple[str, dict[str, Any]]] = {  # Any: values of config.json
    "gemma3": ("gemma3_text", {"mm_tokens_per_image": 4}),
    "llava": ("llama", {}),
    "smolvlm": ("llama", {}),
    "mistral3": ("mistral", {}),
}
"""`model_type` of a wrapper with a vision tower -> that of its text model, and what it adds."""


def tokenizer(folder: Path) -> None:
    """Write a byte-level BPE tokenizer of at most 320 tokens into `folder`.

    It is trained on a page of the standard library.
    """
    import inspect

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([inspect.getsource(inspect)[:20_000]], trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|end|>", pad_token="<|end|>"
    ).save_pretrained(folder)


def model(model_type: str, seed: int = 0, **overrides: Any) -> "PreTrainedModel":
    """Return a random model of `model_type` in float32, in evaluation mode.

    Weights are drawn wider than an initialisation would be, so that pruning them changes the output
    visibly.

    Raises:
        SettingsError: There is no tiny config of this architecture.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from treadle.core.seed import torch_stream

    if model_type not in CONFIGS:
        raise SettingsError(f"No tiny model of type '{model_type}'. {near(model_type, CONFIGS)}")
    config = AutoConfig.for_model(model_type, **{**_SHARED, **CONFIGS[model_type], **overrides})
    built = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.15, generator=torch_stream(seed, name))
            elif name.endswith("bias"):
                parameter.normal_(0.0, 0.05, generator=torch_stream(seed, name))
    result: PreTrainedModel = built
    return result


def build(
    model_type: str, folder: Path, seed: int = 0, is_stacked: bool = False, **overrides: Any
) -> Path:
    """Write a random model of `model_type` and its tokenizer into `folder` and return it.

    With `is_stacked` all experts of a block lie on each other in one tensor.
    """
    model(model_type, seed, **overrides).save_pretrained(
        folder, save_original_format=not is_stacked
    )
    tokenizer(folder)
    return folder


def build_wrapper(
    model_type: str, folder: Path, seed: int = 0, is_original: bool = True, **overrides: Any
) -> Path:
    """Write a random model with a vision tower of three layers and a text model of two.

    Args:
        model_type: One of `WRAPPERS`.
        folder: Where.
        seed: Of the weights.
        is_original: Whether tensors are called as in published folders, or as in the module.
        overrides: Of the text model's config.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from treadle.core.seed import torch_stream

    inner, own = WRAPPERS[model_type]
    text = {"model_type": inner, **_SHARED, **CONFIGS[inner], **overrides}
    vision = AutoConfig.for_model(model_type).vision_config
    tower = {key: value for key, value in _VISION.items() if hasattr(vision, key)}
    config = AutoConfig.for_model(
        model_type,
        text_config=text,
        vision_config={"model_type": vision.model_type, **tower},
        **own,
    )
    built = AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.15, generator=torch_stream(seed, name))
    built.save_pretrained(folder, save_original_format=is_original)
    tokenizer(folder)
    return folder
