"""Samples made of plain text by rule: a context, a question about it, and its answer.

Each kind is a function of the table `KINDS`. Numbers and cue words apart, all that stands in a
sample is the text itself, so that any language will do.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.errors import DataError
from treadle.core.seed import numpy_stream
from treadle.model.text import puts_bos

if TYPE_CHECKING:
    from treadle.model.classes import Tokenizer

__all__ = ["KINDS", "Passages", "Sample", "draw_sample", "passages_of"]

_LEAST_SENTENCES = 4
_SENTENCE_TOKENS = 24
"""Of a text in which no sentence ends."""
_LEAST_CONTEXT_FRACTION = 0.25
_SENTENCE_END = re.compile(r"(?<=[.!?。！？।۔])\s*|\n+")
_WORD = re.compile(r"[^\W\d_]{4,12}")
_MOST_WORDS = 4096


class Sample(NamedTuple):
    """A text whose last part answers what stands before it."""

    kind: str
    tokens: npt.NDArray[np.int32]
    num_prompt: int
    """Context and question; the rest is the answer."""


class Passages(NamedTuple):
    """A text as tokens, and what samples are made of it with."""

    tokens: list[int]
    sentences: npt.NDArray[np.int64]
    """Ascending tokens with which sentences begin."""
    words: list[str]
    encode: Callable[[str], list[int]]
    bos: list[int]
    """What each sample begins with: one token or none."""


class _Parts(NamedTuple):
    context: Sequence[int]
    question: Sequence[int]
    answer: Sequence[int]


def passages_of(
    text: str, tokenizer: "Tokenizer", heldout_fraction: float
) -> tuple[Passages, Passages]:
    """Return what samples to learn are made of, and those that are held out: the text's end."""

    def encode(part: str) -> list[int]:
        return list(tokenizer.encode(part, add_special_tokens=False))

    bos = [int(tokenizer.bos_token_id)] if puts_bos(tokenizer, "auto") else []
    cut = round(len(text) * (1 - heldout_fraction))
    learned, held = (_passages(part, tokenizer, encode, bos) for part in (text[:cut], text[cut:]))
    return learned, held


def _passages(
    text: str,
    tokenizer: "Tokenizer",
    encode: Callable[[str], list[int]],
    bos: list[int],
) -> Passages:
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    begins = np.asarray(encoded["offset_mapping"], np.int64).reshape(-1, 2)[:, 0]
    ends = [found.end() for found in _SENTENCE_END.finditer(text)]
    sentences = np.unique(np.searchsorted(begins, [0, *ends]))
    if len(sentences) < _LEAST_SENTENCES:  # a script whose sentences have no mark that is known
        sentences = np.arange(0, max(1, len(begins)), _SENTENCE_TOKENS)
    words = sorted({found[0] for found in _WORD.finditer(text)})[:_MOST_WORDS]
    tokens = [int(token) for token in encoded["input_ids"]]
    return Passages(tokens, sentences[sentences < len(tokens)], words, encode, bos)


def draw_sample(passages: Passages, number: int, num_tokens: int, seed: int, share: str) -> Sample:
    """Return sample `number` of a share of the text, at most `num_tokens` long; kinds take turns.

    Raises:
        DataError: The text is too short, or the tokens are too few for a question.
    """
    room = num_tokens - len(passages.bos)
    found, least = len(passages.tokens), 2 * room
    if found < least or len(passages.sentences) < _LEAST_SENTENCES:
        raise DataError(
            f"The {share} part of the text has {found} tokens in {len(passages.sentences)} "
            f"sentences, expected at least {least} in {_LEAST_SENTENCES}; give more text, or "
            f"fewer --sample-tokens, or another --heldout-fraction."
        )
    kind = list(KINDS)[number % len(KINDS)]
    parts = KINDS[kind](passages, numpy_stream(seed, f"{share} sample {number}"), room)
    is_over = sum(map(len, parts)) > room
    if is_over or len(parts.context) < _LEAST_CONTEXT_FRACTION * room:
        raise DataError(
            f"A sample of {room} tokens has no room for a question of kind {kind} beside its "
            f"context ({', '.join(str(len(part)) for part in parts)} tokens of context, question "
            f"and answer); raise --sample-tokens."
        )
    prompt = [*passages.bos, *parts.context, *parts.question]
    tokens = np.asarray([*prompt, *parts.answer], np.int32)
    return Sample(kind, tokens, len(prompt))


def _start(text: Passages, draw: np.random.Generator, count: int) -> int:
    """Return a place with `count` tokens behind it, at the begin of a sentence if there is one."""
    last = max(0, len(text.tokens) - count)
    fitting = text.sentences[text.sentences <= last]
    return int(draw.choice(fitting)) if len(fitting) else 0


def _window(text: Passages, draw: np.random.Generator, count: int) -> list[int]:
    first = _start(text, draw, count)
    return text.tokens[first : first + max(0, count)]


def _hidden(
    text: Passages, draw: np.random.Generator, room: int, needles: Sequence[Sequence[int]]
) -> list[int]:
    """Return `room` tokens of text with needles between them, at places drawn evenly."""
    filler = _window(text, draw, room - sum(map(len, needles)))
    places = np.sort(draw.integers(0, len(filler) + 1, len(needles)))
    found: list[int] = []
    before = 0
    for place, needle in zip(places.tolist(), needles, strict=True):
        found += [*filler[before:place], *needle]
        before = place
    return found + filler[before:]


def _passkey(text: Passages, draw: np.random.Generator, room: int) -> _Parts:
    number = int(draw.integers(10_000, 100_000))
    needle = text.encode(f"\nThe pass key is {number}. Remember it.\n")
    question, answer = text.encode("\nThe pass key is"), text.encode(f" {number}.")
    return _Parts(
        _hidden(text, draw, room - len(question) - len(answer), [needle]), question, answer
    )


def _key_value(text: Passages, draw: np.random.Generator, room: int) -> _Parts:
    words = text.words or ["alpha", "beta", "gamma", "delta"]
    keys = draw.choice(words, min(len(words), max(2, room // 128)), replace=False).tolist()
    values = draw.integers(1000, 10_000, len(keys)).tolist()
    needles = [text.encode(f"\n{key}: {value}\n") for key, value in zip(keys, values, strict=True)]
    asked = int(draw.integers(len(keys)))
    question, answer = text.encode(f"\n{keys[asked]}:"), text.encode(f" {values[asked]}\n")
    return _Parts(
        _hidden(text, draw, room - len(question) - len(answer), needles), question, answer
    )


def _repeated(
    text: Passages, draw: np.random.Generator, room: int, cue: str, num_cue: int, num_answer: int
) -> _Parts:
    """Return a context of which a stretch comes again: its begin is shown, the rest asked for."""
    said = text.encode(cue)
    context = _window(text, draw, room - len(said) - num_cue - num_answer)
    first = int(draw.integers(0, max(1, len(context) - num_cue - num_answer + 1)))
    stretch = context[first : first + num_cue + num_answer]
    return _Parts(context, [*said, *stretch[:num_cue]], stretch[num_cue:])


def _quote(text: Passages, draw: np.random.Generator, room: int) -> _Parts:
    return _repeated(text, draw, room, '\n"', min(12, room // 16), min(64, room // 8))


def _stretch(text: Passages, draw: np.random.Generator, room: int) -> _Parts:
    return _repeated(text, draw, room, "\nAgain:\n", min(8, room // 16), room // 5)


def _next_sentence(text: Passages, draw: np.random.Generator, room: int) -> _Parts:
    most = min(48, room // 6)
    said = text.encode("\nAfter: "), text.encode("\nFollows: ")
    count = room - 2 * most - len(said[0]) - len(said[1])
    first = _start(text, draw, count)
    own = text.sentences[(text.sentences >= first) & (text.sentences < first + count)]
    if len(own) < 3:  # a sentence, the next, and where that ends
        return _quote(text, draw, room)
    which = int(draw.integers(len(own) - 2))
    begin, middle, end = own[which : which + 3].tolist()
    question = [*said[0], *text.tokens[begin:middle][:most], *said[1]]
    context = text.tokens[first : first + count]
    return _Parts(context, question, text.tokens[middle:end][:most])


def _continuation(text: Passages, draw: np.random.Generator, room: int) -> _Parts:
    found, num_answer = _window(text, draw, room), min(64, room // 8)
    return _Parts(found[:-num_answer], (), found[-num_answer:])


KINDS: Mapping[str, Callable[[Passages, np.random.Generator, int], _Parts]] = MappingProxyType(
    {
        "passkey": _passkey,
        "key_value": _key_value,
        "quote": _quote,
        "next_sentence": _next_sentence,
        "stretch": _stretch,
        "continuation": _continuation,
    }
)
"""Kind -> what makes a sample of that many tokens, from a text and a stream."""
