"""The paths of the server."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from treadle.core.errors import TreadleError
from treadle.deploy.http.errors import ApiError
from treadle.deploy.http.gate import Gate, on_api_error, on_failure, on_gone, on_http_error
from treadle.deploy.http.openapi import document
from treadle.deploy.http.visitors import Visitors
from treadle.deploy.serve import plain_endpoints as plain
from treadle.deploy.serve.chat.endpoint import chats
from treadle.deploy.serve.completions import completions
from treadle.deploy.serve.history import History
from treadle.deploy.serve.messages.endpoint import count_tokens, messages
from treadle.deploy.serve.responses.endpoint import input_items, responses, stored
from treadle.deploy.serve.responses.kept import Kept
from treadle.deploy.serve.routed.told import Told
from treadle.deploy.serve.serving import Serving
from treadle.deploy.serve.status import busy_of, status, version
from treadle.deploy.serve.tokens import detokenize, tokenize
from treadle.deploy.serve.vectors import embeddings, score

__all__ = ["make_app"]


async def openapi(request: Request) -> Response:
    """Return the description of all paths."""
    return JSONResponse(document())


def make_app(serving: Serving, keys: Sequence[str], visitors: Visitors | None = None) -> Starlette:
    """Return the application; it runs the engine thread as long as it lives.

    Args:
        serving: What is served.
        keys: One of them must be shown; none: nobody is asked for one.
        visitors: Who may ask; None for those who call it by an address of loopback.
    """
    history = History(lambda: busy_of(serving))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        serving.engine.start()
        keeping = asyncio.create_task(history.keep())
        try:
            yield
        finally:
            keeping.cancel()
            serving.preparing.close()
            await serving.engine.stop()

    app = Starlette(
        routes=[
            Route("/v1/models", plain.models),
            Route("/v1/models/{name:path}", plain.model),
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/chat/completions", chats, methods=["POST"]),
            Route("/v1/responses", responses, methods=["POST"]),
            Route("/v1/responses/{name}", stored, methods=["GET", "DELETE"]),
            Route("/v1/responses/{name}/input_items", input_items),
            Route("/v1/messages", messages, methods=["POST"]),
            Route("/v1/messages/count_tokens", count_tokens, methods=["POST"]),
            Route("/v1/embeddings", embeddings, methods=["POST"]),
            Route("/v1/score", score, methods=["POST"]),
            Route("/score", score, methods=["POST"]),
            Route("/tokenize", tokenize, methods=["POST"]),
            Route("/detokenize", detokenize, methods=["POST"]),
            Route("/health", plain.health),
            Route("/metrics", plain.metrics),
            Route("/status", status),
            Route("/version", version),
            Route("/openapi.json", openapi),
            Route("/", plain.page),
        ],
        middleware=[
            Middleware(Gate, served=serving, keys=keys, visitors=visitors or Visitors()),
            Middleware(Told),
        ],
        exception_handlers={
            ApiError: on_api_error,
            TreadleError: on_api_error,
            HTTPException: on_http_error,
            ClientDisconnect: on_gone,
            Exception: on_failure,
        },
        lifespan=lifespan,
    )
    app.state.serving = app.state.served = serving
    app.state.history = history
    app.state.kept = Kept()
    return app
