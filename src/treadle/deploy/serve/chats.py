"""/v1/chat/completions: a conversation goes on."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from treadle.core.errors import TreadleError
from treadle.deploy.http.asked import AskedChat, NamedTool, parse
from treadle.deploy.http.bodies import read_body, unless_gone
from treadle.deploy.http.errors import ApiError, from_treadle
from treadle.deploy.http.events import stream
from treadle.deploy.serve.catalogue import ServedModel
from treadle.deploy.serve.chat_answer import ChatAnswer, Plain, Turn
from treadle.deploy.serve.sampling import sampling_params
from treadle.deploy.serve.serving import Answers, Serving
from treadle.deploy.serve.templates import conversation
from treadle.deploy.serve.tools import forced_schema, format_of
from treadle.runtime.request import SamplingParams
from treadle.runtime.structured import StructuredOutputs

__all__ = ["chats"]


async def chats(request: Request) -> Response:
    """Answer a request for the next message of a conversation."""
    serving: Serving = request.app.state.serving
    asked = parse(AskedChat, await read_body(request, serving.limits))
    _check(asked)
    model = serving.catalogue.find(asked.model)
    turn = _turn(asked, serving.tool_format, model)
    tools = asked.tools or [] if turn.reads_calls or turn.is_forced else []
    tokens = await model.tokens(await asyncio.to_thread(conversation, model, asked.messages, tools))
    params = _params(asked, model, turn, len(tokens))
    answers = await serving.ask(request, asked, model, [(tokens, params)])
    reply = _Reply(serving.new_id("chatcmpl"), model, asked, answers, turn)
    if asked.stream:
        return stream(request, answers, reply.chunks())
    return await unless_gone(request, reply.whole)


def _check(asked: AskedChat) -> None:
    if asked.stream_options is not None and not asked.stream:
        raise _contradiction(
            "stream_options", "Found stream_options without stream; leave it out, or set stream."
        )
    if asked.top_logprobs and not asked.logprobs:
        raise _contradiction(
            "top_logprobs", "Found top_logprobs without logprobs; set logprobs to true."
        )
    given = {asked.max_tokens, asked.max_completion_tokens} - {None}
    if len(given) > 1:
        raise _contradiction(
            "max_tokens",
            f"Found max_tokens={asked.max_tokens} and max_completion_tokens="
            f"{asked.max_completion_tokens}, which mean the same; leave one out.",
        )
    if 0 in given:
        raise _contradiction("max_tokens", "max_tokens=0 asks for nothing; raise it.")
    _check_tools(asked)
    form = asked.response_format
    if form and (form.type == "json_schema") != (form.json_schema is not None):
        raise _contradiction(
            "response_format",
            f"Found response_format of type '{form.type}' "
            f"{'with' if form.json_schema else 'without'} json_schema; give the schema with type "
            f"'json_schema' only.",
        )


def _check_tools(asked: AskedChat) -> None:
    names = [tool.function.name for tool in asked.tools or []]
    for name in names:
        if names.count(name) > 1:
            raise _contradiction("tools", f"Two tools are called '{name}'; rename one.")
    choice = asked.tool_choice
    if choice not in (None, "none") and not names:
        raise _contradiction("tool_choice", "Found tool_choice without tools; leave it out.")
    if isinstance(choice, NamedTool) and choice.function.name not in names:
        raise _contradiction(
            "tool_choice",
            f"tool_choice names '{choice.function.name}', and the tools are {', '.join(names)}; "
            f"choose one of them.",
        )
    form = asked.response_format
    if names and choice != "none" and form and form.type != "text":
        raise _contradiction(
            "response_format",
            "Found a response_format beside tools, but a call would break it; leave one out, or "
            "set tool_choice to 'none'.",
        )


def _contradiction(param: str, message: str) -> ApiError:
    return ApiError(400, message, "contradiction", param)


def _turn(asked: AskedChat, tool_format: str, model: ServedModel) -> Turn:
    """Return how the answer is to be read."""
    choice = asked.tool_choice or "auto"
    if not asked.tools or choice == "none":
        return Turn()
    only = choice.function.name if isinstance(choice, NamedTool) else None
    name = format_of(model.chat_template) if tool_format == "auto" else tool_format
    is_single = asked.parallel_tool_calls is False
    return Turn(name, choice == "auto", choice != "auto", only, is_single)


def _params(asked: AskedChat, model: ServedModel, turn: Turn, num_prompt: int) -> SamplingParams:
    most = asked.max_completion_tokens or asked.max_tokens
    try:
        return sampling_params(
            asked,
            model.max_tokens(num_prompt, most),
            logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
            form=_form(asked, turn),
            shows_special_tokens=turn.reads_calls,  # they may mark a call
        )
    except TreadleError as error:
        raise from_treadle(error) from error


def _form(asked: AskedChat, turn: Turn) -> StructuredOutputs | None:
    if turn.is_forced:
        schema = forced_schema(asked.tools or [], turn.only, turn.is_single)
        return StructuredOutputs(json=schema)
    form = asked.response_format
    if form is None or form.type == "text":
        return None
    schema = {"type": "object"}
    if form.json_schema is not None and form.json_schema.schema_ is not None:
        schema = form.json_schema.schema_
    return StructuredOutputs(json=schema)


class _Reply:
    """What is sent back."""

    def __init__(
        self, reply_id: str, model: ServedModel, asked: AskedChat, answers: Answers, turn: Turn
    ) -> None:
        self._model, self._asked, self._answers = model, asked, answers
        self._head = {"id": reply_id, "created": int(time.time()), "model": model.name}
        num_answers = len(answers.parts[0].requests)
        self._texts = [ChatAnswer(turn) for _ in range(num_answers)]

    async def whole(self) -> Response:
        """Return all answers at once."""
        async with self._answers.closing():
            choices: list[Plain] = [{} for _ in self._texts]
            async for place, delta in self._answers.pieces():
                answer = self._texts[place]
                answer.take(delta)
                choices[place] = {
                    "index": place,
                    "message": answer.message(),
                    "logprobs": self._logprobs(delta.token_ids, delta.logprobs),
                    "finish_reason": answer.finish_reason,
                }
            return JSONResponse(
                {
                    **self._head,
                    "object": "chat.completion",
                    "choices": choices,
                    "usage": self._usage(),
                }
            )

    def _usage(self) -> Plain:
        return self._answers.usage([answer.tokens for answer in self._texts])

    def _logprobs(self, tokens: list[int], entries: Any) -> Plain | None:  # Any: TokenLogprobs
        if not self._asked.logprobs or not tokens:
            return None
        count = self._asked.top_logprobs or 0
        return {"content": self._model.vocabulary.places(tokens, entries, count), "refusal": None}

    async def chunks(self) -> AsyncIterator[Plain]:
        """Give the pieces that are streamed."""
        options = self._asked.stream_options
        counts = bool(options and options.include_usage)
        more: Plain = {"usage": None} if counts else {}
        for place in range(len(self._texts)):
            yield self._chunk(place, {"role": "assistant", "content": ""}, more)
        async for place, delta in self._answers.pieces():
            answer = self._texts[place]
            logprobs = self._logprobs(delta.token_ids, delta.logprobs)
            pieces = answer.take(delta)
            if logprobs is not None and not pieces:
                pieces = [{"content": ""}]
            for number, piece in enumerate(pieces):
                yield self._chunk(place, piece, more, None if number else logprobs)
            if delta.finish_reason is not None:
                yield self._chunk(place, {}, more, None, answer.finish_reason)
        if counts:
            head = {**self._head, "object": "chat.completion.chunk"}
            yield {**head, "choices": [], "usage": self._usage()}

    def _chunk(
        self,
        place: int,
        piece: Plain,
        more: Plain,
        logprobs: Plain | None = None,
        finish_reason: str | None = None,
    ) -> Plain:
        choice = {
            "index": place,
            "delta": piece,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice], **more}
