"""What other programs load, as data: read from their sources on 2026-11-23.

Each source is named with its version. None of these programs was run.
"""

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["FOREIGN", "LOOKED_FOR", "OWN_HEAD_WIDTH", "Loader"]

_COMMON = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "GemmaForCausalLM",
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "GraniteForCausalLM",
    "Cohere2ForCausalLM",
    "Starcoder2ForCausalLM",
    "PhiForCausalLM",
    "Phi3ForCausalLM",
    "GPTNeoXForCausalLM",
    "GPT2LMHeadModel",
    "MixtralForCausalLM",
    "Qwen3MoeForCausalLM",
)
LOOKED_FOR = frozenset(
    (
        *_COMMON,
        *("OPTForCausalLM", "Qwen2MoeForCausalLM", "SmolLM3ForCausalLM", "OlmoeForCausalLM"),
    )
)
"""The classes (`architectures` of config.json) of treadle's facts, each looked for in each list."""
OWN_HEAD_WIDTH = frozenset(
    (
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "Qwen3ForCausalLM",
        "GemmaForCausalLM",
        "Gemma2ForCausalLM",
        "Gemma3ForCausalLM",
        "Qwen3MoeForCausalLM",
    )
)
"""Classes with published models whose heads are not as wide as hidden size / heads (both programs
load llama by the same module as mistral, of which Mistral-Nemo is one)."""


class Loader(NamedTuple):
    """A program that is not installed with treadle, and what its source says that it loads."""

    name: str
    source: str
    """Where `listed` was read, and in which version."""
    listed: frozenset[str]
    """Which of `LOOKED_FOR` it lists."""
    others: str
    """What it does with a class that is not in its list."""
    refuses_others: bool
    builds_modules: bool
    """Whether it computes with the model, so that heads of unusual width matter to it."""
    needs_tokenizer: bool
    """Whether it refuses a folder without a tokenizer."""
    adapters: str
    """How it takes a PEFT adapter."""
    fails: Mapping[str, str] = {}  # never changed
    """Classes that its source lists, and why it does not take them all the same."""


FOREIGN = (
    Loader(
        name="vLLM",
        source="models/registry.py of its repository at commit 0002bff",
        listed=LOOKED_FOR,
        others="it may fall back to transformers' own module",
        refuses_others=False,
        builds_modules=True,
        needs_tokenizer=False,
        adapters="serve the base with --enable-lora",
    ),
    Loader(
        name="llama.cpp",
        source="conversion/__init__.py of its repository at commit 00bdaa1",
        listed=LOOKED_FOR - {"OPTForCausalLM"},
        others="convert_hf_to_gguf refuses classes that it does not list",
        refuses_others=True,
        builds_modules=True,
        needs_tokenizer=True,
        adapters="convert_lora_to_gguf converts it",
    ),
    Loader(
        name="mergekit",
        source="the architecture files of its package 0.1.5",
        listed=frozenset(_COMMON),
        others="it infers the layout from the tensors' names",
        refuses_others=False,
        builds_modules=False,
        needs_tokenizer=False,
        adapters="name it BASE+FOLDER",
        fails={
            "GPTNeoXForCausalLM": "its list of tensors requires attention.masked_bias and other "
            "buffers, which transformers no longer saves"
        },
    ),
)
"""In the order in which they are shown."""
