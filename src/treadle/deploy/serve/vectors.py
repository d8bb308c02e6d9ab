"""/v1/embeddings and /v1/score: texts as vectors, and how alike they are."""

import base64
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from treadle.core.errors import TreadleError
from treadle.deploy.http.asked import AskedEmbedding, AskedGeneration, AskedScore, parse
from treadle.deploy.http.bodies import read_body, unless_gone
from treadle.deploy.http.errors import ApiError, from_treadle
from treadle.deploy.serve.catalogue import ServedModel
from treadle.deploy.serve.preparing import Wanted
from treadle.deploy.serve.serving import Prepared, Serving
from treadle.runtime.executor import Floats
from treadle.runtime.request import SamplingParams

__all__ = ["embeddings", "score"]

_MAX_TEXTS = 1024


async def embeddings(request: Request) -> Response:
    """Answer a request for vectors of length one: the mean of the last hidden states."""
    serving: Serving = request.app.state.serving
    asked = parse(AskedEmbedding, await read_body(request, serving.limits))
    model = serving.catalogue.find(asked.model)
    texts = _texts(asked.input)

    def read(wanted: Wanted) -> list[list[int]]:
        return [model.tokens(text) for text in texts if wanted]

    async def work() -> Response:
        tokens = await serving.prepared(request, _num_characters(texts), read)
        vectors = await _vectors(serving, model, tokens)
        is_packed = asked.encoding_format == "base64"
        data = [
            {
                "object": "embedding",
                "index": place,
                "embedding": _packed(vector) if is_packed else vector.tolist(),
            }
            for place, vector in enumerate(vectors)
        ]
        return JSONResponse(
            {"object": "list", "data": data, "model": model.name, "usage": _usage(tokens)}
        )

    return await unless_gone(request, work)


def _texts(given: str | list[str] | list[int] | list[list[int]]) -> list[str | list[int]]:
    if isinstance(given, str):
        return [given]
    if not given:
        raise ApiError(400, "The input is empty; give at least one text.", "empty", "input")
    if isinstance(given[0], int):
        return [[token for token in given if isinstance(token, int)]]
    _require_few(len(given), "input")
    return [text for text in given if not isinstance(text, int)]


def _require_few(num_texts: int, param: str) -> None:
    if num_texts > _MAX_TEXTS:
        raise ApiError(
            400,
            f"Found {num_texts} texts, expected at most {_MAX_TEXTS}; send several requests.",
            "invalid_value",
            param,
        )


async def _vectors(serving: Serving, model: ServedModel, tokens: list[list[int]]) -> list[Floats]:
    """Return a vector of length one for each text; others run on between two of them."""
    serving.require_room(1)
    serving.num_generating += 1
    try:
        found = []
        for ids in tokens:
            vector = await _vector(serving, model, ids)
            found.append(vector / max(float(np.linalg.norm(vector)), 1e-12))
        return found
    except TreadleError as error:
        raise from_treadle(error) from error
    finally:
        serving.num_generating -= 1


async def _vector(serving: Serving, model: ServedModel, ids: list[int]) -> Floats:
    """Return the mean hidden state of a text, a chunk of it between any two steps of others."""
    engine = serving.engine
    make = partial(model.llm.embedding, ids, model.adapter)
    mean = await engine.take(make, lambda made: engine.hand_over(made.close))
    try:
        while (vector := await engine.call(mean.step)) is None:
            pass
        return vector
    finally:
        engine.hand_over(mean.close)


def _num_characters(texts: Sequence[str | list[int]]) -> int:
    return sum(len(text) for text in texts if isinstance(text, str))


def _packed(vector: Floats) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _usage(tokens: list[list[int]]) -> dict[str, int]:
    count = sum(map(len, tokens))
    return {"prompt_tokens": count, "total_tokens": count}


async def score(request: Request) -> Response:
    """Answer a request for the likeness of texts, or the likelihood of one behind the other."""
    serving: Serving = request.app.state.serving
    asked = parse(AskedScore, await read_body(request, serving.limits))
    model = serving.catalogue.find(asked.model)
    pairs = _pairs(asked)

    async def work() -> Response:
        by_kind = _cosines if asked.kind == "cosine" else _loglikelihoods
        values, tokens = await by_kind(serving, request, asked, model, pairs)
        data = [
            {"index": place, "object": "score", "score": value}
            for place, value in enumerate(values)
        ]
        head: dict[str, Any] = {"id": serving.new_id("score"), "object": "list"}  # Any: JSON
        return JSONResponse({**head, "model": model.name, "data": data, "usage": _usage(tokens)})

    return await unless_gone(request, work)


def _pairs(asked: AskedScore) -> list[tuple[str, str]]:
    first = [asked.text_1] if isinstance(asked.text_1, str) else asked.text_1
    second = [asked.text_2] if isinstance(asked.text_2, str) else asked.text_2
    if not second or len(first) not in (1, len(second)):
        raise ApiError(
            400,
            f"Found {len(first)} text_1 and {len(second)} text_2, expected one text_1 or as many "
            f"as text_2; mend the lists.",
            "invalid_value",
            "text_1",
        )
    _require_few(len(second), "text_2")
    return list(zip(first * (len(second) // len(first)), second, strict=True))


async def _cosines(
    serving: Serving,
    request: Request,
    asked: AskedScore,
    model: ServedModel,
    pairs: list[tuple[str, str]],
) -> tuple[list[float], list[list[int]]]:
    unique = list(dict.fromkeys(text for pair in pairs for text in pair))

    def read(wanted: Wanted) -> dict[str, list[int]]:
        return {text: model.tokens(text) for text in unique if wanted}

    tokens = await serving.prepared(request, _num_characters(unique), read)
    vectors = await _vectors(serving, model, list(tokens.values()))
    found = dict(zip(unique, vectors, strict=True))
    return [float(found[a] @ found[b]) for a, b in pairs], list(tokens.values())


async def _loglikelihoods(
    serving: Serving,
    request: Request,
    asked: AskedScore,
    model: ServedModel,
    pairs: list[tuple[str, str]],
) -> tuple[list[float], list[list[int]]]:
    """Return the log-probability of each second text behind the first, in natural units."""
    contexts: list[list[int]] = []
    wholes: list[list[int]] = []

    def prepare(wanted: Wanted) -> list[Prepared]:
        for first, second in pairs:
            if wanted:
                contexts.append(model.tokens(first))
                wholes.append(_joined(model, second, contexts[-1]))
        # What stands before the second text needs no logits, and may come from the cache.
        params = [
            SamplingParams(max_tokens=1, prompt_logprobs=0, prompt_logprobs_start=len(context))
            for context in contexts
        ]
        return list(zip(wholes, params, strict=True))

    generation = AskedGeneration(user=asked.user)
    answers = await serving.ask(request, generation, model, len(pairs), prepare)
    async with answers.closing():
        async for _ in answers.pieces():
            pass
        found = []
        for part, context in zip(answers.parts, contexts, strict=True):
            scored = part.requests[0]
            ids = scored.tokens[len(context) : scored.num_prompt]
            found.append(
                sum(e[token] for token, e in zip(ids, scored.prompt_logprobs, strict=True))
            )
        return found, wholes


def _joined(model: ServedModel, text: str, context: list[int]) -> list[int]:
    """Return the tokens of a pair; the second text is encoded by itself, without specials."""
    ids = model.tokens(text, adds_special=False) if text else []
    if not ids:
        raise ApiError(400, "A text_2 is empty; give at least one token.", "empty", "text_2")
    return model.tokens([*context, *ids])
