"""/v1/responses: a request becomes a conversation, and its answer a response."""

import json
from collections.abc import AsyncIterator, Sequence

from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from treadle.deploy.http.asked import AskedResponse, parse
from treadle.deploy.http.asked.responses import Item
from treadle.deploy.http.bodies import read_body, unless_gone
from treadle.deploy.http.errors import ApiError
from treadle.deploy.http.events import Dialect, stream
from treadle.deploy.serve.chat.endpoint import check
from treadle.deploy.serve.chat.pieces import Plain
from treadle.deploy.serve.chat.talking import Talking, Words, begin
from treadle.deploy.serve.responses.items import as_chat, items_of
from treadle.deploy.serve.responses.kept import Kept, KeptResponse
from treadle.deploy.serve.responses.writing import ResponseWriter
from treadle.deploy.serve.serving import Serving

__all__ = ["input_items", "responses", "stored"]

_WORDS = Words("text", "text.format.schema", "tools[{}].parameters", is_capped=True)
_ITEMS: TypeAdapter[list[Item]] = TypeAdapter(list[Item])


async def responses(request: Request) -> Response:
    """Answer a request for a response."""
    serving: Serving = request.app.state.serving
    kept: Kept = request.app.state.kept
    asked = parse(AskedResponse, await read_body(request, serving.limits))
    owner = serving.client_of(request, None)
    before: Sequence[Item] = []
    if asked.previous_response_id is not None:
        before = kept.find(asked.previous_response_id, owner, "previous_response_id").items
    _check_include(asked.include or [])
    items = items_of(asked, before, lambda: kept.known(owner))
    chat = as_chat(asked, items)
    check(chat)

    async def answer() -> Response:
        talking = await begin(serving, request, chat, _WORDS)
        writer = ResponseWriter(asked, talking.model.name)
        events = _events(writer, talking)
        if asked.store is not False:
            events = _keeping(events, kept, owner, items, items[len(before) :])
        if asked.stream:
            return stream(talking.answers, events, _dialect(writer))
        async with talking.answers.closing():
            async for event in events:
                last = event
            return JSONResponse(last["response"])

    return await unless_gone(request, answer)


def _check_include(include: Sequence[str]) -> None:
    # What agents ask for of models that think; thoughts come in plain words here.
    known = ("message.output_text.logprobs", "reasoning.encrypted_content")
    for place, name in enumerate(include):
        if name not in known:
            raise ApiError(
                400,
                f"include[{place}] is '{name[:80]}', and responses here can hold "
                f"{' and '.join(known)}; leave it out.",
                "invalid_value",
                "include",
            )


def _dialect(writer: ResponseWriter) -> Dialect:
    return Dialect(True, b": still at work\n\n", b"", writer.failed)


async def _events(writer: ResponseWriter, talking: Talking) -> AsyncIterator[Plain]:
    for event in writer.begin():
        yield event
    (chat,) = talking.chats
    waiting: list[Plain] = []  # of tokens whose text has yet to come
    async for _, delta, pieces in talking.pieces():
        if delta.logprobs is not None:
            words, count = talking.model.vocabulary, _count(talking)
            waiting += words.places(delta.token_ids, delta.logprobs, count)
        for piece in pieces:
            taken, waiting = (waiting, []) if piece.kind == "text" else ([], waiting)
            for event in writer.take(piece, taken):
                yield event
    for event in writer.end(chat.finish_reason, talking.usage(), waiting):
        yield event


def _count(talking: Talking) -> int:
    params = talking.answers.parts[0].requests[0].params
    return params.logprobs or 0


async def _keeping(
    events: AsyncIterator[Plain],
    kept: Kept,
    owner: str,
    items: Sequence[Item],
    asked: Sequence[Item],
) -> AsyncIterator[Plain]:
    """Pass events on, and keep the response before the last one is sent."""
    async for event in events:
        if event["type"] in ("response.completed", "response.incomplete"):
            response = event["response"]
            own = _ITEMS.validate_python(json.loads(json.dumps(response["output"])))
            size = sum(len(item.model_dump_json()) for item in [*items, *own])
            kept.add(KeptResponse(owner, [*items, *own], asked, response, size))
        yield event


async def stored(request: Request) -> Response:
    """Return a response that was kept, or forget it."""
    kept: Kept = request.app.state.kept
    owner = request.app.state.serving.client_of(request, None)
    name = request.path_params["name"]
    if request.method == "DELETE":
        kept.drop(name, owner)
        return JSONResponse({"id": name, "object": "response", "deleted": True})
    return JSONResponse(kept.find(name, owner).response)


async def input_items(request: Request) -> Response:
    """Return what came with the request of a response that was kept."""
    kept: Kept = request.app.state.kept
    owner = request.app.state.serving.client_of(request, None)
    found = kept.find(request.path_params["name"], owner)
    data = [item.model_dump(exclude_none=True) for item in reversed(found.asked)]
    return JSONResponse({"object": "list", "data": data, "has_more": False})
