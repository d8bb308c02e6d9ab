"""/status: what a server does and has, for its status page and for people."""

import asyncio
import time
from importlib import metadata
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from treadle.deploy.http.errors import ApiError
from treadle.deploy.serve.catalogue import ServedModel, ServedRouter
from treadle.deploy.serve.history import Busy, History
from treadle.deploy.serve.serving import Serving
from treadle.runtime.answer.talk import TALK
from treadle.runtime.linear.held import held_bytes, held_forms
from treadle.runtime.request import RequestState

__all__ = ["busy_of", "status", "version"]

Plain = dict[str, Any]
"""JSON values."""
_RUNNING = (RequestState.PREFILL, RequestState.RUNNING)


def busy_of(serving: Serving) -> Busy:
    """Say how busy a server is, by what the event loop knows: no model is asked."""
    states = [
        request.state
        for answers in serving.open
        for part in answers.parts
        for request in part.requests
    ]
    running = sum(state in _RUNNING for state in states)
    ended = states.count(RequestState.FINISHED)
    generated = serving.metrics.num_generated + serving.num_tokens_open
    return Busy(generated, running, len(states) - running - ended)


async def version(request: Request) -> Response:
    """Return treadle's version, as vLLM does its own."""
    return JSONResponse({"version": metadata.version("treadle")})


async def status(request: Request) -> Response:
    """Return what the status page shows; `?since=TIME` leaves out what it has of the history."""
    serving: Serving = request.app.state.serving
    history: History = request.app.state.history
    since = _since(request.query_params.get("since", "0"))
    engines = await asyncio.to_thread(_engines, serving)
    now = time.time()
    return JSONResponse(
        {
            "time": now,
            "version": metadata.version("treadle"),
            "uptime_seconds": now - history.started,
            "is_draining": serving.is_draining,
            "has_keys": "treadle.key" in request.scope,
            "models": [_model(found) for found in serving.catalogue],
            "routers": [_router(serving, found) for found in serving.catalogue.routers],
            "engines": engines,
            "tokens_read": serving.metrics.num_read,
            "tokens_generated": serving.metrics.num_generated + serving.num_tokens_open,
            "max_requests": serving.limits.max_requests,
            "recent": list(serving.metrics.recent),
            "history": history.since(since),
            "talk": dict(TALK),
        }
    )


def _since(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ApiError(
            400,
            f"Found since={text[:40]!r}, expected the time of an earlier answer; give that number.",
            "invalid_value",
            "since",
        ) from error


def _model(found: ServedModel) -> Plain:
    executor = found.llm.executor
    weights = {"form": held_forms(executor), "bytes": held_bytes(executor)}
    return {
        **found.to_dict(),
        "context_tokens": found.max_length,
        "has_chat_template": bool(found.chat_template),
        "weights": weights,
    }


def _router(serving: Serving, found: ServedRouter) -> Plain:
    return {
        **found.to_dict(),
        **serving.metrics.routed.of(found.name),
        "context_tokens": found.max_length,
        "has_chat_template": all(model.chat_template for model in found.models),
    }


def _engines(serving: Serving) -> list[Plain]:
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
                "drafted": report.drafted.num_drafted,
                "accepted": report.drafted.num_accepted,
                "tokens_per_pass": report.drafted.tokens_per_pass,
            }
        )
    return found
