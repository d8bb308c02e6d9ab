"""What a form of weights costs a model, measured before it answers anyone.

Some models bear 4 bits and some do not, and neither their weights nor a few random tokens tell. So
the native step reads a page of text, and what it foresees of each next token is compared with what
the floats foresee. The measure is the Kullback-Leibler divergence: it is never negative, so that
gains and losses of single tokens cannot cancel, and it needs few tokens.
"""

import logging
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.model.source import open_model
from treadle.runtime.cache.pages import KeyValues
from treadle.runtime.executor import Floats, Ints, ModelShape, StepRows
from treadle.runtime.linear.held import HeldWeights
from treadle.runtime.native_step.llama import LlamaStep
from treadle.runtime.prompts import Prompts

__all__ = ["MOST_NATS", "NOTED_NATS", "Price", "RoundedWeightsWarning", "price_of", "tell_price"]

NOTED_NATS, MOST_NATS = 0.05, 0.2
"""A divergence that is noted in the log, and one that a user is warned of: about 5 and 22 % of
perplexity. SmolLM2 has 0.004 in q8, 0.065 in q4_1 and 0.39 in q4_0 (256 tokens); these cost it 0.3,
7 and 35 % of perplexity (benchmarks/rounded_activations.py)."""
_CHUNK_TOKENS = 32
"""Tokens whose logits are in memory at once."""
_MOST_TOKENS = 256
logger = logging.getLogger(__name__)
_TEXT = """\
The river had risen overnight. By six in the morning the lower field was a lake, and the two boys
who had been sent to bring in the sheep stood on the wall and argued about who should go first.
"You can swim," said the elder, "so it is only fair." Their mother, who heard this from the kitchen,
did not agree.

A kettle of 1.5 litres takes about four minutes to boil on a stove of two kilowatts. Fill it to the
mark, close the lid, and wait until the switch moves. If the water is hard, boil it once with a cup
of vinegar every month: 1. pour the vinegar in, 2. let it stand for an hour, 3. rinse twice.

def mean(values):
    if not values:
        raise ValueError("no values")
    return sum(values) / len(values)

In 1969 the town counted 4,212 people; ten years later there were fewer than three thousand, because
the mill had closed and the young had moved to the coast. What remained was a school, a church with
a leaning tower, and a market that is held on the first Saturday of every month.
"""


class RoundedWeightsWarning(UserWarning):
    """A model loses more by the form in which its weights are held than most do."""


class Price(NamedTuple):
    """What a form of weights costs."""

    nats: float
    """Mean divergence of what follows a token, from the floats to the step."""
    num_tokens: int
    is_text: bool
    """Whether the tokens were those of a text: without a tokenizer they are random."""


def price_of(folder: Path, native: LlamaStep) -> Price:
    """Measure what the forms of a step's weights cost, activations of 8 bits among them.

    The model is read once more, a block at a time; peak memory is a block in float32 and the logits
    of some tokens.
    """
    import torch

    from treadle.model.layers import LayeredModel

    tokens, is_text = _tokens(folder, native.shape)
    rows, total = torch.from_numpy(tokens.astype(np.int64))[None], 0.0
    pool = KeyValues(native.shape.kv_heads, native.shape.head_dim, 1, len(tokens), "fp32")
    with open_model(folder) as reader, torch.no_grad():
        model = LayeredModel(reader)
        hidden = model.embed(rows)
        for layer in range(model.num_layers):
            with model.block(layer) as block:
                model.run(block, layer, hidden)
        for first in range(0, len(tokens), _CHUNK_TOKENS):
            part = slice(first, first + _CHUNK_TOKENS)
            own = model.logits(rows[:, part], hidden[:, part])[0].float().numpy()
            total += _divergence(own, _found(native, pool, tokens, first))
    return Price(total / len(tokens), len(tokens), is_text)


def _tokens(folder: Path, shape: ModelShape) -> tuple[Ints, bool]:
    """Return the tokens to be read, none of them beyond where positions turn otherwise."""
    most = shape.rope_lengths.within_first(min(_MOST_TOKENS, shape.max_positions))
    prompts = Prompts(folder, shape)
    if prompts.has_tokenizer:
        found = prompts.reader(_TEXT).input_ids[:most]
        if max(found) < shape.vocab_size:
            return np.asarray(found, np.int32), True
    return np.random.default_rng(0).integers(0, shape.vocab_size, most, np.int32), False


def _found(native: LlamaStep, pool: KeyValues, tokens: Ints, first: int) -> Floats:
    """Return the step's logits of the tokens of a chunk; those before it are cached."""
    places = np.arange(first, min(first + _CHUNK_TOKENS, len(tokens)), dtype=np.int32)
    rows = StepRows(
        *(tokens[places], places, places, np.asarray([0, len(places)], np.int32)),
        *(places[-1:] + np.int32(1), np.asarray([0, 1], np.int32), np.zeros(1, np.int32)),
        places - np.int32(first),
        text_lengths=np.asarray([len(tokens)], np.int32),
    )
    return native.forward(rows, pool)


def _divergence(expected: Floats, found: Floats) -> float:
    """Return the sum over rows of the divergence of what they foresee; accumulated in float64."""
    one, other = (_log_softmax(logits.astype(np.float64)) for logits in (expected, found))
    return float((np.exp(one) * (one - other)).sum())


def _log_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    logs: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return logs


def tell_price(price: Price, folder: Path, weights: HeldWeights) -> None:
    """Log what the form of its weights costs a model; warn where that is more than `MOST_NATS`."""
    read = "tokens of a text" if price.is_text else "random tokens, for want of a tokenizer"
    cost = (
        f"what it foresees diverges from what its floats foresee by {price.nats:.2g} nats a token, "
        f"about {np.expm1(price.nats):.1%} of perplexity (on {price.num_tokens} {read})"
    )
    forms = ", ".join(sorted(weights.forms))
    if price.nats <= MOST_NATS:
        level = logging.WARNING if price.nats > NOTED_NATS else logging.INFO
        logger.log(level, "'%s' with weights in %s: %s.", folder, forms, cost)
        return
    is_coarse = weights.is_rounded and any(form.startswith("q4") for form in weights.forms)
    better = "q8" if is_coarse else "fp16"
    warnings.warn(
        f"'{folder}' does not bear weights in {forms}, which meet activations of 8 bits: {cost}. "
        f"Use weights='{better}', or measure it on your own text by treadle evaluate perplexity "
        f"with --through runtime.",
        RoundedWeightsWarning,
        stacklevel=4,
    )
