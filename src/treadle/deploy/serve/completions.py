"""/v1/completions: text goes on."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from treadle.core.errors import TreadleError
from treadle.deploy.http.asked import AskedCompletion, parse
from treadle.deploy.http.bodies import read_body, unless_gone
from treadle.deploy.http.errors import ApiError, from_treadle
from treadle.deploy.http.events import stream
from treadle.deploy.serve.catalogue import ServedModel
from treadle.deploy.serve.preparing import Wanted
from treadle.deploy.serve.routed.choosing import choose, texts_of
from treadle.deploy.serve.routed.turns import ask_in_turn
from treadle.deploy.serve.sampling import sampling_params
from treadle.deploy.serve.serving import Answers, Prepared, Serving
from treadle.runtime.answer.outputs import Delta
from treadle.runtime.answer.text import offsets_in
from treadle.runtime.request import TokenLogprobs

__all__ = ["completions"]

_MAX_TOKENS = 16
"""OpenAI's, where max_tokens is left out."""
_MAX_PROMPTS = 1024


@dataclass
class _Text:
    """One answer so far."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    """Of each token in the text."""
    finish_reason: str | None = None

    def take(self, delta: Delta) -> None:
        self.text += delta.text
        self.tokens += delta.token_ids
        self.logprobs += delta.logprobs or []
        self.offsets += delta.text_offsets
        self.finish_reason = delta.finish_reason


async def completions(request: Request) -> Response:
    """Answer a request for completions."""
    serving: Serving = request.app.state.serving
    asked = parse(AskedCompletion, await read_body(request, serving.limits))
    _check(asked)
    prompts = _prompts(asked)

    def prepare(model: ServedModel, wanted: Wanted) -> list[Prepared]:
        found = [_prompt(model, asked, prompt) for prompt in prompts if wanted]
        if found and found[0][1].structured_outputs is not None:
            model.llm.check(found[0][1])
        return found

    async def answer() -> Response:
        num_answers = len(prompts) * (asked.n or 1)
        read = partial(texts_of, prompts)
        chosen = await choose(serving, request, asked.model, read, num_answers)
        model, answers = await ask_in_turn(serving, request, asked, chosen, num_answers, prepare)
        reply = _Reply(serving.new_id("cmpl"), model, asked, answers)
        return stream(answers, reply.chunks()) if asked.stream else await reply.whole()

    return await unless_gone(request, answer)


def _check(asked: AskedCompletion) -> None:
    if asked.stream_options is not None and not asked.stream:
        raise ApiError(
            400,
            "Found stream_options without stream; leave it out, or set stream to true.",
            "contradiction",
            "stream_options",
        )
    if asked.best_of not in (None, asked.n or 1):
        raise ApiError(
            400,
            f"Found best_of={asked.best_of} with n={asked.n or 1}, expected them equal; leave "
            f"best_of out.",
            "contradiction",
            "best_of",
        )
    if asked.max_tokens == 0 and not asked.echo:
        raise ApiError(
            400,
            "max_tokens=0 without echo asks for nothing; set echo, or raise max_tokens.",
            "contradiction",
            "max_tokens",
        )
    if asked.echo and asked.stream:
        raise ApiError(
            400,
            "echo is not streamed: the client has the prompt; leave echo or stream out.",
            "contradiction",
            "echo",
        )


def _prompts(asked: AskedCompletion) -> list[str | list[int]]:
    """Return each prompt of a body: a text, or a list of ids."""
    given = asked.prompt
    if isinstance(given, str):
        return [given]
    if not given:
        raise ApiError(400, "The prompt is empty; give at least one token.", "empty", "prompt")
    if isinstance(given[0], int):
        return [[token for token in given if isinstance(token, int)]]
    if len(given) > _MAX_PROMPTS:
        raise ApiError(
            400,
            f"Found {len(given)} prompts, expected at most {_MAX_PROMPTS}; send several requests.",
            "invalid_value",
            "prompt",
        )
    return [prompt for prompt in given if not isinstance(prompt, int)]


def _prompt(model: ServedModel, asked: AskedCompletion, prompt: str | list[int]) -> Prepared:
    tokens = model.tokens(prompt)
    most = model.max_tokens(
        len(tokens), _MAX_TOKENS if asked.max_tokens is None else asked.max_tokens
    )
    try:
        return tokens, sampling_params(
            asked,
            most,
            logprobs=asked.logprobs,
            prompt_logprobs=asked.logprobs if asked.echo else None,
        )
    except TreadleError as error:
        raise from_treadle(error) from error


class _Reply:
    """What is sent back."""

    def __init__(
        self, reply_id: str, model: ServedModel, asked: AskedCompletion, answers: Answers
    ) -> None:
        self._model, self._asked, self._answers = model, asked, answers
        self._head = {
            "id": reply_id,
            "object": "text_completion",
            "created": int(time.time()),
            "model": model.name,
        }
        num_answers = sum(len(part.requests) for part in answers.parts)
        self._texts = [_Text() for _ in range(num_answers)]

    async def whole(self) -> Response:
        """Return all answers at once."""
        async with self._answers.closing():
            async for place, delta in self._answers.pieces():
                self._texts[place].take(delta)
            choices = [self._choice(place) for place in range(len(self._texts))]
            return JSONResponse({**self._head, "choices": choices, "usage": self._usage()})

    def _usage(self) -> dict[str, Any]:  # Any: JSON values
        is_unseen = self._asked.max_tokens == 0
        return self._answers.usage([] if is_unseen else [text.tokens for text in self._texts])

    def _choice(self, place: int) -> dict[str, Any]:  # Any: JSON values
        found = self._texts[place]
        if self._asked.max_tokens == 0:
            found = _Text(finish_reason="length")
        text = self._prompt_text(place) + found.text if self._asked.echo else found.text
        return {
            "index": place,
            "text": text,
            "logprobs": self._logprobs(place, found),
            "finish_reason": found.finish_reason,
        }

    def _prompt_text(self, place: int) -> str:
        if isinstance(self._asked.prompt, str):
            return self._asked.prompt
        number = place // (self._asked.n or 1)
        given = self._asked.prompt[number]
        if isinstance(given, str):
            return given
        request = self._answers.parts[number].requests[0]
        tokens = request.tokens[: request.num_prompt]
        return str(self._model.llm.prompts.reader.decode(tokens))

    def _logprobs(self, place: int, found: _Text) -> dict[str, list[Any]] | None:  # Any: JSON
        if self._asked.logprobs is None:
            return None
        tokens, offsets = found.tokens, found.offsets
        entries: list[TokenLogprobs | None] = list(found.logprobs)
        if self._asked.echo:
            request = self._answers.parts[place // (self._asked.n or 1)].requests[0]
            prompt = request.tokens[: request.num_prompt]
            skips = self._asked.skip_special_tokens is not False
            before = offsets_in(self._model.llm.prompts.reader, prompt, skips)
            length = len(self._prompt_text(place))
            offsets = before + [length + offset for offset in offsets]
            tokens = prompt + tokens
            entries = [None, *request.prompt_logprobs, *entries]
        return self._model.vocabulary.lists(tokens, entries, offsets)

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:  # Any: JSON values
        """Give the pieces that are streamed."""
        options = self._asked.stream_options
        counts = bool(options and options.include_usage)
        more: dict[str, Any] = {"usage": None} if counts else {}  # Any: JSON values
        async for place, delta in self._answers.pieces():
            logprobs = self._piece_logprobs(delta)
            self._texts[place].take(delta)
            if delta.text or logprobs or delta.finish_reason:
                choice = {
                    "index": place,
                    "text": delta.text,
                    "logprobs": logprobs,
                    "finish_reason": delta.finish_reason,
                }
                yield {**self._head, "choices": [choice], **more}
        if counts:
            yield {**self._head, "choices": [], "usage": self._usage()}

    def _piece_logprobs(self, delta: Delta) -> dict[str, list[Any]] | None:  # Any: JSON
        if self._asked.logprobs is None or not delta.token_ids:
            return None
        entries = delta.logprobs or []
        return self._model.vocabulary.lists(delta.token_ids, entries, delta.text_offsets)
