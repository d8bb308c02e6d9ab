"""The models, adapters and routers of one server, by the names that clients use."""

import copy
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from treadle.core.checkpoint.layered import DENSE
from treadle.core.errors import TreadleError
from treadle.core.registry import near
from treadle.deploy.http.errors import ApiError, from_treadle
from treadle.deploy.serve.template import Shown, shown_by
from treadle.deploy.serve.vocabulary import ServedVocabulary
from treadle.runtime.llm import LLM
from treadle.runtime.routed.layers import LayeredLLM

if TYPE_CHECKING:
    from treadle.model.classes import Tokenizer
    from treadle.model.tokens.plain_tokenizer import PlainTokenizer

__all__ = ["AUTO", "Catalogue", "Chooser", "ServedModel", "ServedRouter", "dense_name"]

AUTO = "auto"
"""The name of a router that was given none."""
_CHARACTERS = 8
"""Of a text for each token of the context before it is read in parts: twice what texts have."""
_UNSURE = 64
"""Tokens by which a part of a text may have more than they are in the whole."""


class ServedModel:
    """A model, or an adapter beside one, that clients may ask for."""

    def __init__(self, name: str, llm: LLM, adapter: str | None = None, root: str = "") -> None:
        self.name, self.llm, self.adapter, self.root = name, llm, adapter, root or name
        self._shown: dict[tuple[str, bool], Shown] = {}
        self.created = int(time.time())
        report = llm.load_report()
        # The last token is chosen but never run.
        self.max_length = min(llm.shape.max_positions, report.num_pages * report.page_size + 1)
        """Tokens of a prompt and its answer together."""

    def mixed(self, shares: Mapping[str, float]) -> "ServedModel":
        """Return the model with a mixture of the experts beside it, as one that answers."""
        found = copy.copy(self)
        found.adapter = next(iter(shares), DENSE)
        if len(shares) > 1:
            found.adapter = ",".join(f"{name}={share:g}" for name, share in shares.items())
        found.name = dense_name(self.root) if found.adapter == DENSE else found.adapter
        return found

    @cached_property
    def vocabulary(self) -> ServedVocabulary:
        """What the model's tokens stand for."""
        return ServedVocabulary(self.llm.prompts.reader)

    @property
    def chat_template(self) -> str:
        """The template of conversations, or all of them; empty where the model has none."""
        if not self.llm.prompts.has_tokenizer:
            return ""
        found: Any = self.llm.prompts.reader.chat_template  # Any: text, several by name, None
        return "\n".join(found.values()) if isinstance(found, dict) else found or ""

    def shown(self, has_tools: bool) -> Shown:
        """Return what its template makes of a conversation, with tools or without."""
        key = (self.chat_template, has_tools)
        if key not in self._shown:
            self._shown[key] = shown_by(self.llm.prompts.reader, has_tools)
        return self._shown[key]

    def tokens(self, prompt: str | list[int], adds_special: bool = True) -> list[int]:
        """Return the tokens of a prompt that leaves place for an answer.

        Args:
            prompt: Text, or token ids.
            adds_special: Whether the tokenizer's special tokens go around a text; a template writes
                its own.

        Raises:
            ApiError: It is empty, too long, or has ids that the model does not know.
        """
        try:
            ids = prompt if isinstance(prompt, list) else self._read(prompt, adds_special)
            self._require_length(len(ids))
            return self.llm.prompts.tokens(ids)
        except TreadleError as error:
            raise from_treadle(error) from error

    def _read(self, text: str, adds_special: bool) -> list[int]:
        """Return the tokens of a text; of one that is far too long only a part is read."""
        tokenizer = self.llm.prompts.reader
        length = _CHARACTERS * self.max_length
        while length < len(text):
            ids = _ids(tokenizer, text[:length], adds_special)
            if len(ids) > self.max_length + _UNSURE:
                raise self._too_long(f"{len(ids)} tokens in its first {length} characters alone")
            # As long as the limit asks for where the rest is like this, and half of that more.
            length = max(2 * length, int(1.5 * length * self.max_length / max(1, len(ids))))
        return _ids(tokenizer, text, adds_special)

    def _require_length(self, num_tokens: int) -> None:
        if num_tokens >= self.max_length:
            raise self._too_long(f"{num_tokens} tokens")

    def _too_long(self, found: str) -> ApiError:
        # litellm and others know this error by its first words.
        return ApiError(
            400,
            f"This model's maximum context length is {self.max_length} tokens, for the prompt and "
            f"at least one more, and the prompt has {found}; shorten the prompt, or ask a model "
            f"with a longer context than '{self.name}'.",
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
                f"This model's maximum context length is {self.max_length} tokens, and {asked} "
                f"(max_tokens) were asked for behind a prompt of {num_prompt}; lower max_tokens to "
                f"{left}, or shorten the prompt.",
                "context_length_exceeded",
                "max_tokens",
            )
        return left if asked is None else max(1, asked)

    def to_dict(self) -> dict[str, Any]:  # Any: JSON values
        """Return the entry of /v1/models."""
        return {**_entry(self), "parent": self.root if self.adapter else None}


class Chooser(Protocol):
    """A frozen scorer of texts."""

    def choose(self, texts: Sequence[str]) -> list[int]:
        """Return the index of the model that answers each text."""


def dense_name(bundle: str) -> str:
    """Return what clients call the model of a bundle that stands beside its experts."""
    return f"{bundle}/{DENSE}"


class ServedRouter:
    """A name that clients may ask for as for a model: another one answers, as the text suggests."""

    def __init__(
        self,
        name: str,
        root: str,
        chooser: Chooser | LayeredLLM,
        models: Sequence[ServedModel],
        thresholds: Sequence[float] = (),
    ) -> None:
        """Take what decides among models.

        Args:
            name: For clients.
            root: Where it lies.
            chooser: What decides.
            models: In its order; where experts are mixed, the model beside them is the last.
            thresholds: Of a cascade: how sure each model but the last must be of its answer.
        """
        self.name, self.root, self.chooser, self.models = name, root, chooser, tuple(models)
        self.thresholds = tuple(thresholds)
        self.created = int(time.time())
        self.max_length = min(model.max_length for model in models)
        """Tokens of a prompt and its answer, whichever model is chosen."""

    def answering(self, texts: Sequence[str]) -> list[ServedModel]:
        """Return who answers each text."""
        if isinstance(self.chooser, LayeredLLM):
            return [self.models[-1].mixed(shares) for shares in self.chooser.route(texts)]
        return [self.models[place] for place in self.chooser.choose(texts)]

    def to_dict(self) -> dict[str, Any]:  # Any: JSON values
        """Return the entry of /v1/models."""
        behind = [model.name for model in self.models]
        return {**_entry(self), "parent": None, "routes_to": behind}


def _entry(found: "ServedModel | ServedRouter") -> dict[str, Any]:  # Any: JSON values
    """Return what /v1/models says of every name: OpenAI's words, vLLM's and Anthropic's."""
    return {
        "id": found.name,
        "object": "model",
        "type": "model",
        "display_name": found.name,
        "created": found.created,
        "created_at": datetime.fromtimestamp(found.created, UTC).isoformat(),
        "lifecycle": "active",
        "max_input_tokens": found.max_length,
        "owned_by": "treadle",
        "root": found.root,
        "max_model_len": found.max_length,
    }


def _ids(tokenizer: "Tokenizer | PlainTokenizer", text: str, adds_special: bool) -> list[int]:
    found = tokenizer(text, add_special_tokens=adds_special, verbose=False).input_ids
    return [int(token) for token in found]


class Catalogue:
    """Finds what a client asks for."""

    def __init__(self, models: Sequence[ServedModel], routers: Sequence[ServedRouter] = ()) -> None:
        self._models = {model.name: model for model in models}
        self._routers = {router.name: router for router in routers}

    def __iter__(self) -> Any:  # Any: an iterator of ServedModel
        """Go through all models and adapters."""
        return iter(self._models.values())

    @property
    def routers(self) -> list[ServedRouter]:
        """All routers, by each of their names."""
        return list(self._routers.values())

    @property
    def llms(self) -> dict[str, LLM]:
        """The loaded models by their first name, without adapters."""
        found: dict[LLM, str] = {}
        for model in self._models.values():
            if model.adapter in (None, DENSE):
                found.setdefault(model.llm, model.name)
        return {name: llm for llm, name in found.items()}

    def find(self, name: str | None) -> ServedModel:
        """Return the model or adapter called `name`.

        Raises:
            ApiError: There is none, or the name is missing where there are several, or is a
                router's.
        """
        found = self.entry(name)
        if isinstance(found, ServedRouter):
            behind = ", ".join(model.name for model in found.models)
            raise ApiError(
                400,
                f"'{found.name}' chooses among several models, and what is asked for is one "
                f"model's own; ask one of {behind}.",
                "one_model_needed",
                "model",
            )
        return found

    def entry(self, name: str | None) -> ServedModel | ServedRouter:
        """Return the model, adapter or router called `name`; without one, the one that there is.

        Raises:
            ApiError: There is none, or the name is missing where there are several.
        """
        known: dict[str, ServedModel | ServedRouter] = {**self._models, **self._routers}
        if name is None:
            alone = self._alone()
            if alone is not None:
                return alone
        if name is None or name not in known:
            what = "No model is named" if name is None else f"No model '{name[:80]}' here"
            raise ApiError(
                404 if name is not None else 400,
                f"{what}. {near(name or '', known)}",
                "model_not_found",
                "model",
            )
        return known[name]

    def _alone(self) -> ServedModel | ServedRouter | None:
        """Return whom those mean who name nobody: the only router, else the only model."""
        if self._routers:
            only = next(iter(self._routers.values())) if len(self._routers) == 1 else None
            return self._routers.get(AUTO, only)
        return next(iter(self._models.values())) if len(self.llms) == 1 else None
