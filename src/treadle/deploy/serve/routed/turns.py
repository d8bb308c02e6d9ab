"""Models that are asked one after the other, until one is sure of its answer."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from starlette.requests import Request

from treadle.deploy.http.asked import AskedGeneration
from treadle.deploy.http.errors import ApiError
from treadle.deploy.serve.catalogue import ServedModel
from treadle.deploy.serve.preparing import Wanted
from treadle.deploy.serve.routed.choosing import Chosen
from treadle.deploy.serve.routed.told import ASKED, tell
from treadle.deploy.serve.serving import Answers, Prepared, Serving
from treadle.runtime.answer.outputs import Delta
from treadle.runtime.answer.sureness import sureness

__all__ = ["ask_in_turn"]

_TOO_LONG = "context_length_exceeded"
Prepare = Callable[[ServedModel, Wanted], list[Prepared]]
"""Returns the prompts' tokens for a model, and how to answer each."""


async def ask_in_turn(
    serving: Serving,
    request: Request,
    asked: AskedGeneration,
    chosen: Chosen,
    num_answers: int,
    prepare: Prepare,
) -> tuple[ServedModel, Answers]:
    """Let prompts wait for their turn, and return who answers; see `Serving.ask`.

    Of several models each but the last is waited for: its answer is kept back until it is whole,
    and shown only if it is sure enough. The headers say who was asked, how sure each was, and how
    many tokens that took.

    Raises:
        ApiError: The queue is full, or an engine refuses one of the prompts.
    """
    before: list[str] = []
    for model, threshold in zip(chosen.models, chosen.thresholds, strict=False):
        held = asked.model_copy(update={"stream": False})
        work = partial(_with_logprobs, partial(prepare, model))
        try:
            answers = await serving.ask(request, held, model, num_answers, work)
        except ApiError as error:
            if error.code != _TOO_LONG:
                raise
            continue  # the next one may have a longer context
        found, sure = await _answered(answers, num_answers)
        is_sure = sure >= threshold
        before.append(_account(model, answers, found, sure))
        serving.metrics.routed.answer(chosen.router, model.name, is_sure)
        tell(request, {ASKED: ", ".join(before)})
        if is_sure:
            answers.held = _as_asked(found, asked)
            return model, answers
        answers.close()
    model = chosen.models[-1]
    if chosen.thresholds:
        serving.metrics.routed.answer(chosen.router, model.name, True)
        tell(request, {ASKED: ", ".join([*before, f'"{model.name}"'])})
    return model, await serving.ask(request, asked, model, num_answers, partial(prepare, model))


def _with_logprobs(prepare: Callable[[Wanted], list[Prepared]], wanted: Wanted) -> list[Prepared]:
    """Return prompts whose answers come with the likelihood of each token."""
    return [
        (tokens, params if params.logprobs is not None else replace(params, logprobs=0))
        for tokens, params in prepare(wanted)
    ]


async def _answered(answers: Answers, num_answers: int) -> tuple[list[tuple[int, Delta]], float]:
    """Return whole answers, and how sure the model was of them in the mean."""
    logprobs: list[list[float]] = [[] for _ in range(num_answers)]
    try:
        found = [piece async for piece in answers.pieces()]
    except BaseException:
        answers.close()
        raise
    for place, delta in found:
        pairs = zip(delta.token_ids, delta.logprobs or [], strict=False)
        logprobs[place] += [entry[token] for token, entry in pairs]
    return found, sum(map(sureness, logprobs)) / num_answers


def _as_asked(
    found: Sequence[tuple[int, Delta]], asked: AskedGeneration
) -> list[tuple[int, Delta]]:
    """Return pieces without the likelihoods that the client did not ask for."""
    if getattr(asked, "logprobs", None) not in (None, False):
        return list(found)
    return [(place, replace(delta, logprobs=None)) for place, delta in found]


def _account(
    model: ServedModel, answers: Answers, found: Sequence[tuple[int, Delta]], sure: float
) -> str:
    """Return who was asked, how sure it was, and the tokens that it took."""
    usage = answers.usage([delta.token_ids for _, delta in found])
    counts = ";".join(f"{name}={usage[name]}" for name in ("prompt_tokens", "completion_tokens"))
    return f'"{model.name}";confidence={sure:.4f};{counts}'
