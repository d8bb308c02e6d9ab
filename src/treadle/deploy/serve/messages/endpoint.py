"""/v1/messages and /v1/messages/count_tokens."""

import secrets
from collections.abc import AsyncIterator, Iterator
from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from treadle.deploy.http.asked import AskedCount, AskedMessages, parse
from treadle.deploy.http.bodies import read_body, unless_gone
from treadle.deploy.http.events import Dialect, stream
from treadle.deploy.serve.chat.answer import ChatAnswer
from treadle.deploy.serve.chat.arguments import arguments_of
from treadle.deploy.serve.chat.conversation import written
from treadle.deploy.serve.chat.endpoint import check
from treadle.deploy.serve.chat.pieces import ChatPiece, Plain
from treadle.deploy.serve.chat.talking import Talking, Words, begin, talk_of
from treadle.deploy.serve.messages.reading import as_chat
from treadle.deploy.serve.preparing import Wanted
from treadle.deploy.serve.routed.choosing import choose, said_first
from treadle.deploy.serve.serving import Serving

__all__ = ["count_tokens", "messages"]

_WORDS = Words(
    "output_config", "output_config.format.schema", "tools[{}].input_schema", is_capped=True
)
_DIALECT = Dialect(
    True, b'event: ping\ndata: {"type": "ping"}\n\n', b"", lambda error: error.to_anthropic()
)
_GROWS = {"text": "text", "thought": "thinking", "arguments": "input"}
"""Kind of a piece -> what of its block it goes on with."""
_BLOCKS = {"text": "text", "thought": "thinking", "call": "tool_use", "arguments": "tool_use"}
"""Kind of a piece -> type of the block that it belongs to."""


async def messages(request: Request) -> Response:
    """Answer a request for the next message of a conversation."""
    serving: Serving = request.app.state.serving
    asked = parse(AskedMessages, await read_body(request, serving.limits))
    chat = as_chat(asked)
    check(chat)

    async def answer() -> Response:
        talking = await begin(serving, request, chat, _WORDS, partial(as_chat, asked))
        writer = _Writer(talking)
        if asked.stream:
            return stream(talking.answers, writer.events(), _DIALECT)
        async with talking.answers.closing():
            async for _ in writer.events():
                pass
            return JSONResponse(writer.message())

    return await unless_gone(request, answer)


async def count_tokens(request: Request) -> Response:
    """Return how many tokens a conversation has."""
    serving: Serving = request.app.state.serving
    asked = parse(AskedCount, await read_body(request, serving.limits))
    plain = as_chat(asked)
    check(plain)
    read = partial(said_first, plain.messages)
    model = (await choose(serving, request, asked.model, read)).models[0]

    def count(wanted: Wanted) -> int:
        chat = as_chat(asked, model)
        text = written(model, talk_of(chat, model))
        tokenizer = model.llm.prompts.reader
        return len(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    length = int(request.scope.get("treadle.body_bytes", 0))
    return JSONResponse({"input_tokens": await serving.prepared(request, length, count)})


class _Writer:
    """Puts a message together, block by block."""

    def __init__(self, talking: Talking) -> None:
        self._talking = talking
        self._id = f"msg_{secrets.token_hex(12)}"
        self._blocks: list[Plain] = []
        """As they were written; arguments of calls as text."""
        self._open = ""
        """Type of the block that grows."""

    @property
    def _chat(self) -> ChatAnswer:
        return self._talking.chats[0]

    async def events(self) -> AsyncIterator[Plain]:
        """Give the pieces that are streamed."""
        request = self._talking.answers.parts[0].requests[0]
        usage = {"input_tokens": request.num_prompt, "output_tokens": 0}
        head = {**self.message(), "content": [], "stop_reason": None, "stop_sequence": None}
        yield {"type": "message_start", "message": {**head, "usage": usage}}
        async for _, _, pieces in self._talking.pieces():
            for piece in pieces:
                for event in self._take(piece):
                    yield event
        if not self._blocks:
            for event in self._take(ChatPiece("text", "")):
                yield event
        for event in self._close():
            yield event
        found = self.message()
        change = {name: found[name] for name in ("stop_reason", "stop_sequence")}
        yield {"type": "message_delta", "delta": change, "usage": found["usage"]}
        yield {"type": "message_stop"}

    def _take(self, piece: ChatPiece) -> Iterator[Plain]:
        if self._open != _BLOCKS[piece.kind] or piece.kind == "call":
            yield from self._close()
            self._open = _BLOCKS[piece.kind]
            self._blocks.append(_empty(piece))
            yield {
                "type": "content_block_start",
                "index": len(self._blocks) - 1,
                "content_block": {**self._blocks[-1]},
            }
        deltas: dict[str, Plain] = {
            "text": {"type": "text_delta", "text": piece.text},
            "thought": {"type": "thinking_delta", "thinking": piece.text},
            "arguments": {"type": "input_json_delta", "partial_json": piece.text},
        }
        if piece.kind in deltas and piece.text:
            name = _GROWS[piece.kind]
            self._blocks[-1][name] = (self._blocks[-1][name] or "") + piece.text
            yield {
                "type": "content_block_delta",
                "index": len(self._blocks) - 1,
                "delta": deltas[piece.kind],
            }

    def _close(self) -> Iterator[Plain]:
        if self._open == "thinking":  # clients wait for one; nothing here signs
            delta = {"type": "signature_delta", "signature": ""}
            yield {"type": "content_block_delta", "index": len(self._blocks) - 1, "delta": delta}
        if self._open:
            self._open = ""
            yield {"type": "content_block_stop", "index": len(self._blocks) - 1}

    def message(self) -> Plain:
        """Return the whole message as it is."""
        chat = self._chat
        usage = self._talking.usage()
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        reason, stop = _reason(chat)
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._talking.model.name,
            "content": [_whole(block) for block in self._blocks],
            "stop_reason": reason,
            "stop_sequence": stop,
            "usage": {
                "input_tokens": usage["prompt_tokens"] - cached,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": cached,
                "output_tokens": usage["completion_tokens"],
            },
        }


def _empty(piece: ChatPiece) -> Plain:
    if piece.kind == "call":
        return {"type": "tool_use", "id": piece.id, "name": piece.text, "input": {}}
    if piece.kind == "thought":
        return {"type": "thinking", "thinking": "", "signature": ""}
    return {"type": "text", "text": ""}


def _whole(block: Plain) -> Plain:
    """Return a block whose call has its arguments as an object; what was cut off is closed."""
    return {**block, "input": arguments_of(block["input"])} if "input" in block else {**block}


def _reason(chat: ChatAnswer) -> tuple[str | None, str | None]:
    """Return why an answer ended in Anthropic's words, and the text that ended it."""
    if chat.finish_reason == "length":
        return "max_tokens", None
    if chat.finish_reason is None:
        return None, None
    if chat.calls:
        return "tool_use", None
    if isinstance(chat.stop_reason, str):
        return "stop_sequence", chat.stop_reason
    return "end_turn", None
