"""A bundle behind the Python door: each prompt goes to one model, whole, and stays there."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from treadle.core.checkpoint import require_understood
from treadle.core.checkpoint.routed import EXPERTS, read_routing
from treadle.core.errors import DataError, SettingsError
from treadle.model.load import resolve
from treadle.runtime.answer.branches import TreeOutput
from treadle.runtime.answer.outputs import Delta, RequestOutput
from treadle.runtime.conversation import Messages, asked_first
from treadle.runtime.executor import Executor
from treadle.runtime.llm import LLM
from treadle.runtime.prompts import Prompt, plain, text_in
from treadle.runtime.request import Request, RequestState, SamplingParams
from treadle.runtime.routed.router import PromptRouter, load_router
from treadle.runtime.routed.texts import require_texts
from treadle.runtime.schedule.search import TreeSearch
from treadle.runtime.settings import EngineSettings

if TYPE_CHECKING:
    from treadle.model.classes import Tokenizer

__all__ = ["RoutedLLM", "RoutedTokens"]


class RoutedTokens(list[int]):
    """Tokens of a prompt, and which model they are for."""

    def __init__(self, tokens: Sequence[int], expert: int) -> None:
        super().__init__(tokens)
        self.expert = expert


class RoutedPrompts:
    """Knows the bundle's tokenizers; stands where a model's own `Prompts` would."""

    def __init__(self, experts: Mapping[str, LLM], router: PromptRouter) -> None:
        self._experts, self._router = list(experts.values()), router
        self.has_tokenizer = True

    @property
    def tokenizer(self) -> "Tokenizer":
        """There is none for all.

        Raises:
            DataError: Always.
        """
        raise DataError(
            "A bundle has a tokenizer for each of its models; take llm.experts[NAME] for one."
        )

    @property
    def reader(self) -> "Tokenizer":
        """There is none for all, either.

        Raises:
            DataError: Always.
        """
        return self.tokenizer

    def tokens(self, prompt: Prompt, is_continued: bool = True) -> RoutedTokens:
        """Return the tokens of a text for the model that the router chooses.

        Raises:
            DataError: It is no text, or too long for that model.
        """
        if isinstance(prompt, RoutedTokens):
            return prompt
        text = plain(prompt)
        if not isinstance(text, str):
            raise DataError(
                "A bundle of several models takes texts: token ids are those of one model; give "
                "the text, or ask one of llm.experts."
            )
        (expert,) = self._router.choose([text])
        return RoutedTokens(self._experts[expert].prompts.tokens(text, is_continued), expert)

    def chat(self, messages: Messages) -> RoutedTokens:
        """Return the tokens of a conversation: the first message of the user decides.

        So a conversation stays with the model that began it, and what is cached of it counts.

        Raises:
            DataError: No message is the user's, or the model's template refuses them.
        """
        asked = asked_first(messages)
        (expert,) = self._router.choose([asked])
        return RoutedTokens(self._experts[expert].prompts.chat(messages), expert)

    def check(self, params: SamplingParams) -> None:
        """Check settings against every model, since any of them may be chosen."""
        for expert in self._experts:
            expert.prompts.check(params)


class RoutedLLM(LLM):
    """The models of a bundle and their router; `LLM(BUNDLE)` makes one.

    Which model answers is decided once, from the prompt's text (of a conversation, from the first
    message of the user), so that every cache holds one model's entries. All models are in memory;
    settings are each one's own, and `cache_bytes` is shared out evenly. Adapters, vectors and the
    moving of requests are the single models', in `experts`.

    Attributes:
        experts: Name -> model, in the order of the router.
        router: The frozen scorer.
    """

    experts: dict[str, LLM]
    router: PromptRouter

    def __init__(
        self,
        path: str | Path,
        *,
        adapters: Mapping[str, str | Path] | None = None,
        executor: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
        settings: EngineSettings | None = None,
        **fields: Any,  # Any: of EngineSettings, checked there
    ) -> None:
        """Load every model of a bundle; see `LLM`."""
        folder = resolve(path, takes_files=True)
        if adapters or executor is not None:
            self._refuse("takes no adapters and no executor")
        require_understood(folder)
        names = read_routing(folder).experts
        chosen = (settings or EngineSettings()).changed(fields)
        if chosen.cache_bytes is not None:
            chosen = chosen.changed({"cache_bytes": max(1, chosen.cache_bytes // len(names))})
        self.router = load_router(folder)
        self.experts = {
            name: LLM(folder / EXPERTS / name, clock=clock, settings=chosen) for name in names
        }
        self._list = list(self.experts.values())
        self.prompts = RoutedPrompts(self.experts, self.router)  # type: ignore[assignment]
        # For who asks about limits: those that hold whichever model is chosen.
        narrowest = min(self._list, key=lambda llm: llm.shape.max_positions)
        self.shape = narrowest.shape
        self._num_submitted = 0
        self._place: dict[str, int] = {}
        """Request id -> index of its model."""

    def route(self, prompts: Sequence[str]) -> list[str]:
        """Return the name of the model that would answer each text."""
        require_texts(prompts)
        names = list(self.experts)
        return [names[place] for place in self.router.choose(prompts)]

    @property
    def kv_dtype(self) -> str:
        """How keys and values are stored, of every model."""
        return self._list[0].kv_dtype

    @property
    def cache_tokens(self) -> int:
        """Tokens that the smallest of the models' caches holds."""
        return min(one.cache_tokens for one in self._list)

    @property
    def executor(self) -> Executor:
        """Of the first model."""
        return self._list[0].executor

    @property
    def num_rows(self) -> int:
        """Rows of all batches."""
        return sum(expert.num_rows for expert in self._list)

    @property
    def adapters(self) -> list[str]:
        """There are none."""
        return []

    def check(self, params: SamplingParams) -> None:
        """Refuse settings that one of the models does not fit."""
        for expert in self._list:
            expert.check(params)

    def submit(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams | None = None,
        *,
        request_id: str | None = None,
        adapter: str | None = None,
        **options: Any,  # Any: of `Engine.submit`
    ) -> list[Request]:
        """Let a prompt wait for its turn at the model that the router chooses; see `Engine`."""
        if adapter is not None:
            self._refuse("takes no adapters")
        tokens = self.prompts.tokens(prompt)
        assert isinstance(tokens, RoutedTokens)
        if request_id is None:
            self._num_submitted += 1
            request_id = f"request-{self._num_submitted}"
        if request_id in self._place:
            raise SettingsError(f"The request '{request_id}' is not finished; give another id.")
        requests = self._list[tokens.expert].submit(
            list(tokens), sampling_params, request_id=request_id, **options
        )
        self._place |= {request.id: tokens.expert for request in requests}
        return requests

    def search(
        self,
        prompt: Prompt,
        *args: Any,
        **options: Any,  # Any: of `LLM.search`
    ) -> TreeOutput:
        """Search at the model that the router chooses; see `LLM`."""
        tokens = self.prompts.tokens(prompt)
        assert isinstance(tokens, RoutedTokens)
        found = self._list[tokens.expert].search(list(tokens), *args, **options)
        return replace(found, prompt=text_in(prompt))

    def _begin(
        self, prompt: Prompt, params: SamplingParams | None, **options: Any
    ) -> list[Request] | TreeSearch:
        if isinstance(params, SamplingParams) and params.beam_width is not None:
            self._refuse("searches one prompt at a time, by search(PROMPT, 'beam')")
        return self.submit(prompt, params, **options)

    def log_probs(
        self, rows: Any, firsts: Any = None, adapter: str | None = None, params: Any = None
    ) -> NoReturn:
        """Refuse: token ids are those of one model."""
        self._refuse("scores no token ids, which are those of one model")

    def step(self) -> list[Any]:  # Any: TokenEvent
        """Run a step of every model that has requests."""
        return [event for expert in self._list for event in expert.step()]

    def close(self, requests: list[Request]) -> None:
        """End and forget requests."""
        for place, own in self._parted(requests).items():
            self._list[place].close(own)
        for request in requests:
            self._place.pop(request.id, None)

    def cancel(self, request_id: str) -> None:
        """End a request with what it has."""
        self._of(request_id).cancel(request_id)

    def forget(self, request_id: str) -> None:
        """Drop what is known of a finished request."""
        self._of(request_id).forget(request_id)
        self._place.pop(request_id, None)

    def pause(self, request_id: str) -> None:
        """Let a request wait."""
        self._of(request_id).pause(request_id)

    def resume(self, request_id: str) -> None:
        """Let a request go on."""
        self._of(request_id).resume(request_id)

    def delta(self, request: Request, index: int, seen: dict[str, int]) -> Delta | None:
        """Return what is new of an answer; see `LLM`."""
        return self._of(request.id).delta(request, index, seen)

    def output(self, requests: list[Request]) -> RequestOutput:
        """Return what the requests of one `submit` have become, ending those that are not."""
        found = self._of(requests[0].id).output(requests)
        self.close(requests)
        return found

    def embed(self, prompts: Any, adapter: str | None = None) -> NoReturn:  # Any: refused
        """Refuse: vectors of different models do not compare."""
        self._refuse("gives no vectors, which would be of different models")

    def embedding(self, prompt: Any, adapter: str | None = None) -> NoReturn:  # Any: refused
        """Refuse: vectors of different models do not compare."""
        self._refuse("gives no vectors, which would be of different models")

    def add_adapter(self, name: str, folder: str | Path) -> NoReturn:
        """Refuse: an adapter is one model's."""
        self._refuse("takes no adapters")

    def remove_adapter(self, name: str) -> NoReturn:
        """Refuse: an adapter is one model's."""
        self._refuse("takes no adapters")

    @cached_property
    def origin(self) -> NoReturn:
        """Refuse: requests move between copies of one model."""
        self._refuse("moves no requests")

    def export_pages(self, request_id: str, first_page: int = 0) -> NoReturn:
        """Refuse: requests move between copies of one model."""
        self._refuse("moves no requests")

    def import_pages(self, exported: Any) -> NoReturn:  # Any: refused
        """Refuse: requests move between copies of one model."""
        self._refuse("moves no requests")

    def commit(self, request_id: str) -> NoReturn:
        """Refuse: requests move between copies of one model."""
        self._refuse("moves no requests")

    def get_tokenizer(self) -> NoReturn:
        """Refuse: each model has its own."""
        self._refuse("has a tokenizer for each of its models")

    def load_report(self) -> NoReturn:
        """Refuse: each model reports for itself."""
        self._refuse("gives no report, for each model reports for itself")

    def _drive(self, requests: list[Request], seen: dict[str, int] | None) -> None:
        for place, own in self._parted(requests).items():
            if any(request.state is not RequestState.FINISHED for request in own):
                self._list[place]._drive(own, seen)

    def _output(self, group: list[Request], prompt: str | None) -> RequestOutput:
        return self._of(group[0].id)._output(group, prompt)

    def _parted(self, requests: Sequence[Request]) -> dict[int, list[Request]]:
        found: dict[int, list[Request]] = {}
        for request in requests:
            if request.id in self._place:
                found.setdefault(self._place[request.id], []).append(request)
        return found

    def _of(self, request_id: str) -> LLM:
        if request_id not in self._place:
            raise SettingsError(f"There is no request '{request_id}'; it may have been closed.")
        return self._list[self._place[request_id]]

    def _refuse(self, what: str) -> NoReturn:
        raise SettingsError(
            f"A bundle of several models {what}; take one of them: LLM(BUNDLE).experts[NAME], or "
            f"the folder BUNDLE/experts/NAME."
        )
