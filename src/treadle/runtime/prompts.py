"""From what a user asks to tokens that the model can take, and back to text."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treadle.core.errors import DataError
from treadle.model.gguf_file import GgufFile
from treadle.model.gguf_tokenizer import end_tokens, gguf_tokenizer, has_tokenizer
from treadle.model.load import load_tokenizer
from treadle.runtime.executor import ModelShape
from treadle.runtime.request import Request, SamplingParams
from treadle.runtime.text import TextStream

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Messages", "Prompt", "Prompts"]

Prompt = str | Sequence[int]
Messages = Sequence[Mapping[str, Any]]  # Any: what a chat template reads
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


class Prompts:
    """Knows a model's tokenizer, its end tokens and its limits."""

    def __init__(self, folder: Path, shape: ModelShape) -> None:
        self._folder, self._shape = folder, shape
        self._tokenizer, self.eos_tokens = _from_file(folder) if folder.is_file() else _from(folder)
        self.has_tokenizer = self._tokenizer is not None

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The model's tokenizer.

        Raises:
            DataError: It has none.
        """
        if self._tokenizer is None:
            raise DataError(
                f"'{self._folder}' has no tokenizer, so it takes and gives token ids only; copy "
                f"the tokenizer files of the original model into it, or give lists of ids."
            )
        return self._tokenizer

    def text_of(self, request: Request) -> TextStream:
        """Return the stream of a request's text."""
        return TextStream(self.tokenizer, request)

    def tokens(self, prompt: Prompt) -> list[int]:
        """Return the tokens of a prompt.

        Raises:
            DataError: It is empty, too long, or has ids that the model does not know.
        """
        found = self.tokenizer(prompt).input_ids if isinstance(prompt, str) else prompt
        tokens = [int(token) for token in found]
        if not tokens:
            raise DataError("The prompt is empty; give at least one token.")
        if len(tokens) >= self._shape.max_positions:
            raise DataError(
                f"The prompt has {len(tokens)} tokens, and the model's context of "
                f"{self._shape.max_positions} must hold it and at least one more; shorten it."
            )
        for place, token in enumerate(tokens):
            if not 0 <= token < self._shape.vocab_size:
                raise DataError(
                    f"Token {place} of the prompt is {token}, and the model knows 0 to "
                    f"{self._shape.vocab_size - 1}; use this model's own tokenizer."
                )
        return tokens

    def chat(self, messages: Messages) -> list[int]:
        """Return the tokens of a conversation, up to where the model answers.

        Raises:
            DataError: The tokenizer has no chat template, or it refuses the messages.
        """
        if not self.tokenizer.chat_template:
            raise DataError(
                f"The tokenizer of '{self._folder}' has no chat template; use generate with a "
                f"plain prompt, or a model that was tuned to chat."
            )
        try:
            text = self.tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=True, tokenize=False
            )
        except Exception as error:  # a template raises what it likes
            raise DataError(
                f"The chat template of '{self._folder}' refuses the messages ({error}); give each "
                f"a role and a content, in the order that the model was tuned on."
            ) from error
        # The template writes the special tokens itself.
        encoded = self.tokenizer(text, add_special_tokens=False).input_ids
        return [int(token) for token in encoded]

    def check(self, params: SamplingParams) -> None:
        """Check settings against the model.

        Raises:
            DataError: They name tokens that it does not know, or need a tokenizer that it lacks.
        """
        named = {"logit_bias": params.logit_bias or {}, "stop_token_ids": params.stop_token_ids}
        for name, tokens in named.items():
            for token in tokens:
                if not 0 <= token < self._shape.vocab_size:
                    raise DataError(
                        f"{name} names token {token}, and the model knows 0 to "
                        f"{self._shape.vocab_size - 1}; use this model's own tokenizer."
                    )
        if params.stop:
            _ = self.tokenizer


def _from_file(path: Path) -> "tuple[PreTrainedTokenizerBase | None, frozenset[int]]":
    """Return what a GGUF file knows: its tokenizer and its end tokens."""
    file = GgufFile(path)
    found = gguf_tokenizer(file) if has_tokenizer(file) else None
    file.close()
    return found, end_tokens(file)


def _from(folder: Path) -> "tuple[PreTrainedTokenizerBase | None, frozenset[int]]":
    has_files = any((folder / name).is_file() for name in _TOKENIZER_FILES)
    return load_tokenizer(folder) if has_files else None, _eos_tokens(folder)


def _eos_tokens(folder: Path) -> frozenset[int]:
    """Return the tokens that end a text, from where transformers' `generate` takes them."""
    for name in ("generation_config.json", "config.json"):
        file = folder / name
        if not file.is_file():
            continue
        found = json.loads(file.read_text()).get("eos_token_id")
        if found is not None:
            return frozenset(found if isinstance(found, list) else [found])
    return frozenset()
