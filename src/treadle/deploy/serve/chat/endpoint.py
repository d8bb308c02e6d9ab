"""/v1/chat/completions: a conversation goes on."""

import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from treadle.deploy.http.asked import AllowedTools, AskedChat, NamedTool, parse
from treadle.deploy.http.bodies import read_body, unless_gone
from treadle.deploy.http.errors import ApiError
from treadle.deploy.http.events import stream
from treadle.deploy.serve.chat.answer import ChatAnswer
from treadle.deploy.serve.chat.pieces import ChatPiece, Plain
from treadle.deploy.serve.chat.talking import Talking, begin
from treadle.deploy.serve.serving import Serving

__all__ = ["chats", "check", "check_continued"]


async def chats(request: Request) -> Response:
    """Answer a request for the next message of a conversation."""
    serving: Serving = request.app.state.serving
    asked = parse(AskedChat, await read_body(request, serving.limits))
    check(asked)

    async def answer() -> Response:
        talking = await begin(serving, request, asked)
        reply = _Reply(serving.new_id("chatcmpl"), asked, talking)
        return stream(talking.answers, reply.chunks()) if asked.stream else await reply.whole()

    return await unless_gone(request, answer)


def check(asked: AskedChat) -> None:
    """Refuse what contradicts itself.

    Raises:
        ApiError: Something does.
    """
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
    check_continued(asked)
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
    for place, name in enumerate(names):
        if name in names[:place]:
            raise _contradiction(
                "tools",
                f"tools[{names.index(name)}] and tools[{place}] are both called '{name}'; rename "
                f"one.",
            )
    choice = asked.tool_choice
    if choice not in (None, "none", "auto") and not names:
        raise _contradiction("tool_choice", "Found tool_choice without tools; leave it out.")
    for name in _chosen(asked):
        if name not in names:
            raise _contradiction(
                "tool_choice",
                f"tool_choice names '{name}', and the tools are {', '.join(names)}; choose among "
                f"them.",
            )


def _chosen(asked: AskedChat) -> list[str]:
    choice = asked.tool_choice
    if isinstance(choice, AllowedTools):
        return [tool.name for tool in choice.allowed_tools.tools]
    return [choice.name] if isinstance(choice, NamedTool) else []


def check_continued(asked: Any) -> None:  # Any: an AskedChat or an AskedTokenize with messages
    """Refuse to go on with a message that cannot be gone on with.

    Raises:
        ApiError: The last message is none of the assistant's text, or a new one is asked for, too.
    """
    if not asked.continue_final_message:
        return
    if asked.add_generation_prompt:
        raise _contradiction(
            "continue_final_message",
            "Found continue_final_message and add_generation_prompt, but an answer either goes on "
            "or begins; leave one out.",
        )
    last = asked.messages[-1]
    if last.role != "assistant" or last.tool_calls or not last.text:
        raise _contradiction(
            "continue_final_message",
            "Found continue_final_message, but the last message is not the assistant's text; put "
            "there what the answer is to go on with.",
        )


def _contradiction(param: str, message: str) -> ApiError:
    return ApiError(400, message, "contradiction", param)


class _Reply:
    """What is sent back."""

    def __init__(self, reply_id: str, asked: AskedChat, talking: Talking) -> None:
        self._asked, self._talking = asked, talking
        self._head = {"id": reply_id, "created": int(time.time()), "model": talking.model.name}

    async def whole(self) -> Response:
        """Return all answers at once."""
        talking = self._talking
        async with talking.answers.closing():
            choices: list[Plain] = [{} for _ in talking.chats]
            async for place, delta, _ in talking.pieces():
                answer = talking.chats[place]
                choices[place] = {
                    "index": place,
                    "message": _message(answer),
                    "logprobs": self._logprobs(delta.token_ids, delta.logprobs),
                    "finish_reason": answer.finish_reason,
                }
            return JSONResponse(
                {
                    **self._head,
                    "object": "chat.completion",
                    "choices": choices,
                    "usage": talking.usage(),
                }
            )

    def _logprobs(self, tokens: list[int], entries: Any) -> Plain | None:  # Any: TokenLogprobs
        if not self._asked.logprobs or not tokens:
            return None
        count, words = self._asked.top_logprobs or 0, self._talking.model.vocabulary
        return {"content": words.places(tokens, entries, count), "refusal": None}

    async def chunks(self) -> AsyncIterator[Plain]:
        """Give the pieces that are streamed."""
        options, talking = self._asked.stream_options, self._talking
        counts = bool(options and options.include_usage)
        more: Plain = {"usage": None} if counts else {}
        for place in range(len(talking.chats)):
            yield self._chunk(place, {"role": "assistant", "content": ""}, more)
        async for place, delta, pieces in talking.pieces():
            logprobs = self._logprobs(delta.token_ids, delta.logprobs)
            said = [_delta(piece) for piece in pieces]
            if logprobs is not None and not said:
                said = [{"content": ""}]
            for number, piece in enumerate(said):
                yield self._chunk(place, piece, more, None if number else logprobs)
            if delta.finish_reason is not None:
                yield self._chunk(place, {}, more, None, talking.chats[place].finish_reason)
        if counts:
            head = {**self._head, "object": "chat.completion.chunk"}
            yield {**head, "choices": [], "usage": talking.usage()}

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


def _message(answer: ChatAnswer) -> Plain:
    """Return a whole answer as a message."""
    found: Plain = {"role": "assistant", "content": answer.content, "refusal": None}
    if answer.thought:
        found["reasoning_content"] = answer.thought
    if answer.calls:
        found["content"] = answer.content or None
        found["tool_calls"] = [call.to_dict() for call in answer.calls]
    return found


def _delta(piece: ChatPiece) -> Plain:
    if piece.kind == "text":
        return {"content": piece.text}
    if piece.kind == "thought":
        return {"reasoning_content": piece.text}
    function = {"arguments": piece.text}
    call: Plain = {"index": piece.place}
    if piece.kind == "call":
        function = {"name": piece.text, "arguments": ""}
        call |= {"id": piece.id, "type": "function"}
    return {"tool_calls": [{**call, "function": function}]}
