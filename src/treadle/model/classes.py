"""transformers' classes as the house names them: only this floor imports that package."""

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    CausalLM: TypeAlias = PreTrainedModel
    Tokenizer: TypeAlias = PreTrainedTokenizerBase
else:
    CausalLM = Tokenizer = Any

__all__ = ["CausalLM", "Tokenizer"]
