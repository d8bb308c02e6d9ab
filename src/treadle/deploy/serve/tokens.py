"""/tokenize and /detokenize: the tokens of a text or a conversation, and back."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from treadle.core.errors import TreadleError
from treadle.deploy.http.asked import AskedDetokenize, AskedTokenize, parse
from treadle.deploy.http.bodies import read_body
from treadle.deploy.http.errors import ApiError, from_treadle
from treadle.deploy.serve.catalogue import ServedModel
from treadle.deploy.serve.chat.conversation import Talk, written
from treadle.deploy.serve.chat.endpoint import check_continued
from treadle.deploy.serve.chat.talking import template_values
from treadle.deploy.serve.preparing import Wanted
from treadle.deploy.serve.routed.choosing import choose, said_first
from treadle.deploy.serve.serving import Serving

__all__ = ["detokenize", "tokenize"]

_OF_PROMPTS = ["add_special_tokens"]
_OF_MESSAGES = [
    *("tools", "chat_template_kwargs", "add_generation_prompt", "continue_final_message")
]
"""Parameters that mean something beside one or the other only."""


async def tokenize(request: Request) -> Response:
    """Return the tokens of a prompt or a conversation."""
    serving: Serving = request.app.state.serving
    asked = parse(AskedTokenize, await read_body(request, serving.limits))
    if (asked.prompt is None) == (asked.messages is None):
        raise ApiError(
            400, "Give either prompt or messages, and leave the other out.", "contradiction"
        )
    _check_tokenize(asked)
    found = (await choose(serving, request, asked.model, lambda: _routed_by(asked))).models[0]

    def read(wanted: Wanted) -> list[int]:
        return _tokens(found, asked)

    length = int(request.scope.get("treadle.body_bytes", 0))
    ids = await serving.prepared(request, length, read)
    answer = {"tokens": ids, "count": len(ids), "max_model_len": found.max_length}
    answer |= {"model": found.name}
    if asked.return_token_strs:
        answer["token_strs"] = [found.vocabulary.text_of(token) for token in ids]
    return JSONResponse(answer)


def _check_tokenize(asked: AskedTokenize) -> None:
    others = _OF_PROMPTS if asked.messages is not None else _OF_MESSAGES
    for name in others:
        if getattr(asked, name) is not None:
            given, wanted = ("messages", "a prompt") if asked.messages else ("a prompt", "messages")
            raise ApiError(
                400,
                f"Found {name} with {given}, but it is for {wanted}; leave it out.",
                "contradiction",
                name,
            )
    if asked.messages is not None:
        check_continued(asked)


def _routed_by(asked: AskedTokenize) -> list[str]:
    return [str(asked.prompt)] if asked.messages is None else said_first(asked.messages)


def _tokens(model: ServedModel, asked: AskedTokenize) -> list[int]:
    try:
        if asked.messages is None:
            return _plain_tokens(model, str(asked.prompt), asked.add_special_tokens is not False)
        talk = Talk(
            asked.messages,
            asked.tools or [],
            template_values(asked.chat_template_kwargs or {}, None, model),
            asked.add_generation_prompt is not False,
            asked.continue_final_message is True,
        )
        return _plain_tokens(model, written(model, talk), False)
    except TreadleError as error:
        raise from_treadle(error) from error


def _plain_tokens(model: ServedModel, text: str, adds_special: bool) -> list[int]:
    """Return the tokens of a text of any length."""
    tokenizer = model.llm.prompts.reader
    return list(tokenizer(text, add_special_tokens=adds_special, verbose=False).input_ids)


async def detokenize(request: Request) -> Response:
    """Return the text of tokens."""
    serving: Serving = request.app.state.serving
    asked = parse(AskedDetokenize, await read_body(request, serving.limits))
    found = serving.catalogue.find(asked.model)
    size = found.llm.shape.vocab_size
    for place, token in enumerate(asked.tokens):
        if token >= size:
            raise ApiError(
                400,
                f"Token {place} is {token}, and '{found.name}' knows 0 to {size - 1}; use its own "
                f"tokenizer.",
                "invalid_value",
                "tokens",
            )
    try:
        tokenizer = found.llm.prompts.reader
    except TreadleError as error:
        raise from_treadle(error) from error

    def read(wanted: Wanted) -> str:
        return str(tokenizer.decode(asked.tokens))

    text = await serving.prepared(request, len(asked.tokens), read)
    return JSONResponse({"prompt": text})
