"""The models and adapters of one server, by the names that clients use."""

import asyncio
import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from treadle.core.errors import TreadleError
from treadle.core.registry import near
from treadle.deploy.http.errors import ApiError, from_treadle
from treadle.deploy.serve.vocabulary import ServedVocabulary
from treadle.runtime.llm import LLM

__all__ = ["Catalogue", "ServedModel"]


class ServedModel:
    """A model, or an adapter beside one, that clients may ask for."""

    def __init__(self, name: str, llm: LLM, adapter: str | None = None, root: str = "") -> None:
        self.name, self.llm, self.adapter, self.root = name, llm, adapter, root or name
        self.created = int(time.time())
        report = llm.load_report()
        # The last token is chosen but never run.
        self.max_length = min(llm.shape.max_positions, report.num_pages * report.page_size + 1)
        """Tokens of a prompt and its answer together."""

    @cached_property
    def vocabulary(self) -> ServedVocabulary:
        """What the model's tokens stand for."""
        return ServedVocabulary(self.llm.prompts.tokenizer)

    @property
    def chat_template(self) -> str:
        """The template of conversations; empty where the model has none."""
        if not self.llm.prompts.has_tokenizer:
            return ""
        found = self.llm.prompts.tokenizer.chat_template
        return found if isinstance(found, str) else ""

    async def tokens(self, prompt: str | list[int]) -> list[int]:
        """Return the tokens of a prompt that leaves place for an answer.

        Raises:
            ApiError: It is empty, too long, or has ids that the model does not know.
        """
        if isinstance(prompt, list):
            self._require_length(len(prompt))
        try:
            found = await self._tokenised(prompt)
        except TreadleError as error:
            raise from_treadle(error) from error
        self._require_length(len(found))
        return found

    async def _tokenised(self, prompt: str | list[int]) -> list[int]:
        prompts = self.llm.prompts
        if isinstance(prompt, list):
            return prompts.tokens(prompt)
        ids = await asyncio.to_thread(lambda: prompts.tokenizer(prompt).input_ids)
        self._require_length(len(ids))
        return prompts.tokens(ids)

    def _require_length(self, num_tokens: int) -> None:
        if num_tokens >= self.max_length:
            raise ApiError(
                400,
                f"The prompt has {num_tokens} tokens, and the context of '{self.name}' is "
                f"{self.max_length} tokens, which must hold it and at least one more; shorten the "
                f"prompt.",
                "context_length_exceeded",
                "prompt",
            )

    def max_tokens(self, num_prompt: int, asked: int | None) -> int:
        """Return how many tokens an answer may have.

        Raises:
            ApiError: More are asked for than the context has left.
        """
        left = self.max_length - num_prompt
        if asked is not None and asked > left:
            raise ApiError(
                400,
                f"The prompt has {num_prompt} tokens and max_tokens is {asked}, and the context of "
                f"'{self.name}' is {self.max_length} tokens; lower max_tokens to {left} or shorten "
                f"the prompt.",
                "context_length_exceeded",
                "max_tokens",
            )
        return left if asked is None else max(1, asked)

    def to_dict(self) -> dict[str, Any]:  # Any: JSON values
        """Return the entry of /v1/models."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "treadle",
            "root": self.root,
            "parent": self.root if self.adapter else None,
            "max_model_len": self.max_length,
        }


class Catalogue:
    """Finds what a client asks for."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._models = {model.name: model for model in models}

    def __iter__(self) -> Any:  # Any: an iterator of ServedModel
        """Go through all models and adapters."""
        return iter(self._models.values())

    @property
    def llms(self) -> dict[str, LLM]:
        """The loaded models, without adapters, by name."""
        return {m.name: m.llm for m in self._models.values() if m.adapter is None}

    def find(self, name: str | None) -> ServedModel:
        """Return the model or adapter called `name`.

        Raises:
            ApiError: There is none, or the name is missing where there are several.
        """
        if name is None and len(self.llms) == 1:
            return next(iter(self._models.values()))
        if name is None or name not in self._models:
            what = "No model is named" if name is None else f"No model '{name[:80]}' here"
            raise ApiError(
                404 if name is not None else 400,
                f"{what}. {near(name or '', dict(self._models))}",
                "model_not_found",
                "model",
            )
        return self._models[name]
