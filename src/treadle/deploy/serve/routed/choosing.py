"""Who answers a request: the model that was asked for, or the one that a router chooses."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from starlette.requests import Request

from treadle.deploy.http.asked import Message
from treadle.deploy.http.errors import ApiError
from treadle.deploy.serve.catalogue import ServedModel
from treadle.deploy.serve.preparing import Wanted
from treadle.deploy.serve.routed.told import ROUTED, tell
from treadle.deploy.serve.serving import Serving

__all__ = ["Chosen", "choose", "said_first", "texts_of"]


class Chosen(NamedTuple):
    """Who is to answer a request."""

    models: tuple[ServedModel, ...]
    """One; or several, of which each that is unsure of its answer hands the request on."""
    thresholds: tuple[float, ...] = ()
    """Confidence from which an answer stands, of each model but the last."""
    router: str = ""
    """Who chose; empty where the client did."""


async def choose(
    serving: Serving,
    request: Request,
    name: str | None,
    read: Callable[[], Sequence[str]],
    num_answers: int = 0,
) -> Chosen:
    """Return who answers, and say so in the headers of the answer.

    A router decides once for each request, by the texts as the client wrote them.

    Args:
        serving: Who answers.
        request: Of the client.
        name: What it asks for: a model, an adapter, a router, or whatever there is.
        read: Returns the texts that a router reads.
        num_answers: For which there must be room before a router reads anything.

    Raises:
        ApiError: There is none of that name, or no text, its texts belong to several models, or the
            queue is full.
    """
    found = serving.catalogue.entry(name)
    if isinstance(found, ServedModel):
        return Chosen((found,))
    texts = read()
    if num_answers:
        serving.require_room(num_answers)
    tell(request, {ROUTED: found.name})
    if found.thresholds:
        return Chosen(found.models, found.thresholds, found.name)

    def work(wanted: Wanted) -> tuple[list[ServedModel], float]:
        start = time.perf_counter()
        return found.answering(texts), time.perf_counter() - start

    answering, seconds = await serving.prepared(request, sum(map(len, texts)), work)
    chosen = _same(answering)
    serving.metrics.routed.choose(found.name, chosen.name, seconds)
    return Chosen((chosen,), (), found.name)


def _same(answering: Sequence[ServedModel]) -> ServedModel:
    """Return the model that is chosen for every text."""
    names = sorted({model.name for model in answering})
    if len(names) > 1:
        raise ApiError(
            400,
            f"The prompts of this request would go to several models ({', '.join(names)}), and a "
            f"reply comes from one; send a request for each prompt, or name a model.",
            "several_models",
            "prompt",
        )
    return answering[0]


def texts_of(prompts: Iterable[str | list[int]]) -> list[str]:
    """Return prompts that a router can read.

    Raises:
        ApiError: One is of token ids.
    """
    found = []
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise ApiError(
                400,
                "Found token ids, which are one model's, and a router reads texts; send the text, "
                "or name the model that has these tokens.",
                "text_needed",
                "prompt",
            )
        found.append(prompt)
    return found


def said_first(messages: Sequence[Message]) -> list[str]:
    """Return what a conversation is routed by, so that it stays with one model as it grows.

    Raises:
        ApiError: The user says nothing.
    """
    for message in messages:
        if message.role == "user":
            return [message.text]
    raise ApiError(
        400,
        "The conversation has no message of the user to be routed by; add one, or name a model.",
        "text_needed",
        "messages",
    )
