"""The endpoints that generate nothing: models, health, metrics, the status page."""

import asyncio
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from treadle.deploy.serve.serving import Serving

__all__ = [
    "health",
    "metrics",
    "model",
    "models",
    "page",
    "page_text",
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
    """List the models, adapters and routers, for OpenAI's clients and Anthropic's alike."""
    catalogue = _serving(request).catalogue
    data = [found.to_dict() for found in (*catalogue, *catalogue.routers)]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"], "has_more": False}
    return JSONResponse({"object": "list", "data": data, **ends})


async def model(request: Request) -> Response:
    """Return one entry of the list."""
    found = _serving(request).catalogue.entry(request.path_params["name"])
    return JSONResponse(found.to_dict())


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
