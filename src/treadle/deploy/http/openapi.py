"""Our own OpenAPI document, made from the models of the bodies."""

from functools import cache
from importlib.metadata import version
from typing import Any

from pydantic.json_schema import models_json_schema

from treadle.deploy.http import asked

__all__ = ["bodies", "document"]

Plain = dict[str, Any]
"""JSON values."""

_BODIES: dict[str, tuple[type[Any], str]] = {
    "/v1/completions": (asked.AskedCompletion, "Continue a text."),
    "/v1/chat/completions": (asked.AskedChat, "Continue a conversation."),
    "/v1/responses": (asked.AskedResponse, "Answer items of a conversation; what agents use."),
    "/v1/messages": (asked.AskedMessages, "Continue a conversation, as Anthropic's clients ask."),
    "/v1/messages/count_tokens": (asked.AskedCount, "Count the tokens of a conversation."),
    "/v1/embeddings": (asked.AskedEmbedding, "Return texts as vectors of length one."),
    "/v1/score": (asked.AskedScore, "Say how alike texts are, or how likely one is."),
    "/tokenize": (asked.AskedTokenize, "Return the tokens of a text or a conversation."),
    "/detokenize": (asked.AskedDetokenize, "Return the text of tokens."),
}
_PAGES = {
    "/v1/models": ("List the models and adapters.", "application/json"),
    "/health": ("Say whether requests are taken.", "application/json"),
    "/metrics": ("Return metrics for Prometheus.", "text/plain"),
    "/version": ("Return treadle's version.", "application/json"),
    "/status": ("Return what the status page shows.", "application/json"),
    "/openapi.json": ("Return this document.", "application/json"),
    "/": ("Show the status page.", "text/html"),
}
_NAMED = {
    "/v1/models/{name}": ("Say what a model or adapter is.", ""),
    "/v1/responses/{name}": ("Return a response that was stored.", "Forget a response."),
    "/v1/responses/{name}/input_items": ("Return what came with its request.", ""),
}
"""Path -> what GET does, and what DELETE does."""
_NAME: Plain = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
_REFUSALS = {
    "400": "The body is wrong.",
    "401": "The API key is missing or wrong.",
    "403": "A page of another origin asks, or the server does not go by that name.",
    "404": "There is no such model.",
    "405": "The path takes another method.",
    "408": "The body took too long to come.",
    "413": "The body is too long.",
    "415": "The body does not say that it is JSON in UTF-8, or is packed in an unknown way.",
    "429": "Too many requests wait.",
    "503": "The server is shutting down.",
    "504": "The answer took too long.",
}
_ERROR: Plain = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_ANTHROPIC: Plain = {
    "type": "object",
    "required": ["type", "error"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
        },
    },
}


def bodies() -> dict[str, type[Any]]:
    """Return path -> model of its body."""
    return {path: kind for path, (kind, _) in _BODIES.items()}


@cache
def document() -> Plain:
    """Return the document."""
    kinds = [(kind, "validation") for kind, _ in _BODIES.values()]
    _, definitions = models_json_schema(
        kinds,  # type: ignore[arg-type]  # the literal "validation" widens to str
        ref_template="#/components/schemas/{model}",
    )
    paths = {
        path: {"post": _post(path, kind.__name__, text)} for path, (kind, text) in _BODIES.items()
    }
    pages: Plain = {path: {"get": _get(*entry)} for path, entry in _PAGES.items()}
    for path, (text, gone) in _NAMED.items():
        pages[path] = {"parameters": [_NAME], "get": _found(text)}
        if gone:
            pages[path]["delete"] = _found(gone)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "treadle serve",
            "version": version("treadle"),
            "description": "OpenAI's interface, and some of vLLM's, over models of this machine.",
        },
        "paths": {**paths, **pages},
        "components": {
            "schemas": {**definitions["$defs"], "Error": _ERROR, "AnthropicError": _ANTHROPIC},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _post(path: str, body: str, text: str) -> Plain:
    error = "AnthropicError" if path.startswith("/v1/messages") else "Error"
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{body}"}}}
    answers: Plain = {
        "200": {
            "description": "The answer.",
            "content": {
                "application/json": {"schema": {"type": "object"}},
                "text/event-stream": {},
            },
        }
    }
    return {
        "summary": text,
        "requestBody": {"required": True, "content": content},
        "responses": {
            **answers,
            **{s: _refusal(meaning, error) for s, meaning in _REFUSALS.items()},
        },
    }


def _refusal(meaning: str, error: str = "Error") -> Plain:
    schema = {"schema": {"$ref": f"#/components/schemas/{error}"}}
    return {"description": meaning, "content": {"application/json": schema}}


def _found(text: str) -> Plain:
    entry = _get(text, "application/json")
    return {**entry, "responses": {**entry["responses"], "404": _refusal("There is no such.")}}


def _get(text: str, media_type: str) -> Plain:
    schema: Plain = {} if media_type == "application/json" else {"type": "string"}
    answer = {"description": "The answer.", "content": {media_type: {"schema": schema}}}
    refusals = {status: _refusal(_REFUSALS[status]) for status in ("401", "403", "405")}
    return {"summary": text, "responses": {"200": answer, **refusals}}
