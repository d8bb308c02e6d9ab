"""The endpoints that generate nothing: models, tokens, health, metrics, status."""

import asyncio
import time
from importlib import metadata
from importlib.resources import files
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from treadle.deploy.serve.serving import Serving

__all__ = [
    "health",
    "metrics",
    "model",
    "models",
    "page",
    "status",
    "version",
]


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


async def health(request: Request) -> Response:
    """Say whether requests are taken."""
    serving = _serving(request)
    if not serving.engine.is_alive:
        return JSONResponse({"status": "failed"}, 503)
    if serving.is_draining:
        return JSONResponse({"status": "draining"}, 503)
    return JSONResponse({"status": "ok"})


async def version(request: Request) -> Response:
    """Return treadle's version, as vLLM does its own."""
    return JSONResponse({"version": metadata.version("treadle")})


async def metrics(request: Request) -> Response:
    """Return the metrics in Prometheus' text format."""
    text = await asyncio.to_thread(_serving(request).metrics.text)
    return Response(text, media_type="text/plain; version=0.0.4")


async def status(request: Request) -> Response:
    """Return what the status page shows."""
    serving = _serving(request)
    engines = await asyncio.to_thread(_engines, serving)
    return JSONResponse(
        {
            "time": time.time(),
            "is_draining": serving.is_draining,
            "models": [found.to_dict() for found in serving.catalogue],
            "engines": engines,
            "tokens_read": serving.metrics.num_read,
            "tokens_generated": serving.metrics.num_generated + serving.num_tokens_open,
            "max_requests": serving.limits.max_requests,
            "recent": list(serving.metrics.recent),
        }
    )


def _engines(serving: Serving) -> list[dict[str, Any]]:  # Any: JSON values
    found = []
    for name, llm in serving.catalogue.llms.items():
        report = llm.load_report()
        held = report.num_pages - report.num_free_pages - report.num_cached_pages
        found.append(
            {
                "model": name,
                "running": report.num_running,
                "waiting": report.num_waiting,
                "held_fraction": held / report.num_pages,
                "cached_fraction": report.num_cached_pages / report.num_pages,
                "cache_tokens": report.num_pages * report.page_size,
                "preemptions": report.num_preemptions,
                "rows": report.num_rows,
            }
        )
    return found


async def page(request: Request) -> Response:
    """Return the status page."""
    return HTMLResponse(files("treadle.deploy.serve").joinpath("page.html").read_text())
