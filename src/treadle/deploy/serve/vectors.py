"""/v1/embeddings and /v1/score: texts as vectors, and how alike they are."""

import asyncio
import base64
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
from treadle.deploy.serve.serving import Serving
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

    async def work() -> Response:
        tokens = [await model.tokens(text) for text in texts]
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
            embed = partial(model.llm.embed, [ids], model.adapter)
            vector = (await serving.engine.call(embed))[0]
            found.append(vector / max(float(np.linalg.norm(vector)), 1e-12))
        return found
    except TreadleError as error:
        raise from_treadle(error) from error
    finally:
        serving.num_generating -= 1


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
    tokens = {text: await model.tokens(text) for text in unique}
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
    contexts = [await model.tokens(first) for first, _ in pairs]
    wholes = [await _joined(model, pair, c) for pair, c in zip(pairs, contexts, strict=True)]
    generation = AskedGeneration(user=asked.user)
    # What stands before the second text needs no logits, and may come from the cache.
    params = [
        SamplingParams(max_tokens=1, prompt_logprobs=0, prompt_logprobs_start=len(context))
        for context in contexts
    ]
    asked_for = list(zip(wholes, params, strict=True))
    answers = await serving.ask(request, generation, model, asked_for)
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


async def _joined(model: ServedModel, pair: tuple[str, str], context: list[int]) -> list[int]:
    """Return the tokens of a pair; the second text is encoded by itself, without specials."""
    tokenizer = model.llm.prompts.tokenizer
    ids = await asyncio.to_thread(lambda: tokenizer(pair[1], add_special_tokens=False).input_ids)
    if not ids:
        raise ApiError(400, "A text_2 is empty; give at least one token.", "empty", "text_2")
    return await model.tokens([*context, *ids])
