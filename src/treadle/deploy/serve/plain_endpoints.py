"""The endpoints that generate nothing: models, tokens, health, metrics, status."""

import asyncio
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from treadle.core.errors import TreadleError
from treadle.deploy.http.asked import AskedDetokenize, AskedTokenize, parse
from treadle.deploy.http.bodies import read_body
from treadle.deploy.http.errors import ApiError, from_treadle
from treadle.deploy.serve.serving import Serving
from treadle.deploy.serve.templates import conversation

__all__ = [
    "detokenize",
    "health",
    "metrics",
    "model",
    "models",
    "page",
    "page_text",
    "tokenize",
]

_PAGE_RULES = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
"""Nothing comes from elsewhere, and nothing goes there."""


def _serving(request: Request) -> Serving:
    serving: Serving = request.app.state.serving
    return serving


async def models(request: Request) -> Response:
    """List the models and adapters."""
    data = [found.to_dict() for found in _serving(request).catalogue]
    return JSONResponse({"object": "list", "data": data})


async def model(request: Request) -> Response:
    """Return one entry of the list."""
    found = _serving(request).catalogue.find(request.path_params["name"])
    return JSONResponse(found.to_dict())


async def tokenize(request: Request) -> Response:
    """Return the tokens of a prompt or a conversation."""
    serving = _serving(request)
    asked = parse(AskedTokenize, await read_body(request, serving.limits))
    found = serving.catalogue.find(asked.model)
    if (asked.prompt is None) == (asked.messages is None):
        raise ApiError(
            400, "Give either prompt or messages, and leave the other out.", "contradiction"
        )
    if asked.messages is not None:
        ids = await asyncio.to_thread(conversation, found, asked.messages, [])
    else:
        try:
            tokenizer = found.llm.prompts.tokenizer
        except TreadleError as error:
            raise from_treadle(error) from error
        ids = await asyncio.to_thread(
            lambda: tokenizer(asked.prompt, add_special_tokens=asked.add_special_tokens).input_ids
        )
    return JSONResponse({"tokens": ids, "count": len(ids), "max_model_len": found.max_length})


async def detokenize(request: Request) -> Response:
    """Return the text of tokens."""
    serving = _serving(request)
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
        tokenizer = found.llm.prompts.tokenizer
    except TreadleError as error:
        raise from_treadle(error) from error
    text = await asyncio.to_thread(tokenizer.decode, asked.tokens)
    return JSONResponse({"prompt": text})


async def health(request: Request) -> Response:
    """Say whether requests are taken."""
    serving = _serving(request)
    if not serving.engine.is_alive:
        return JSONResponse({"status": "failed"}, 503)
    if serving.is_draining:
        return JSONResponse({"status": "draining"}, 503)
    return JSONResponse({"status": "ok"})


async def metrics(request: Request) -> Response:
    """Return the metrics in Prometheus' text format."""
    text = await asyncio.to_thread(_serving(request).metrics.text)
    return Response(text, media_type="text/plain; version=0.0.4")


async def page(request: Request) -> Response:
    """Return the status page, which runs its own code only and stands in no other page's frame."""
    return HTMLResponse(page_text(), headers=_PAGE_RULES)


def page_text() -> str:
    """Return the status page as it stands in the package."""
    return files("treadle.deploy.serve").joinpath("page.html").read_text(encoding="utf-8")
