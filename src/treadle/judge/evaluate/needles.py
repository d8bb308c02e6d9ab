"""Needles in real text: facts drawn by rule, the texts they stand in, and how they are asked for.

A text is put together of tokens, so that it is as long as it shall be to the token.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from treadle.core.errors import DataError, SettingsError

if TYPE_CHECKING:
    from treadle.model.classes import Tokenizer

__all__ = [
    "KINDS",
    "Codec",
    "Context",
    "Kind",
    "Needle",
    "codec_of",
    "context",
    "drawn",
    "pieces_of",
]

_PIECE_TOKENS = 32
"""Most tokens of the text between two places where a needle may stand."""
_KEYS = (
    *("amber", "badge", "candle", "drum", "engine", "feather", "garden", "harbor", "island"),
    *("jacket", "kettle", "ladder", "marble", "needle", "orchard", "pencil", "quilt", "ribbon"),
    *("saddle", "temple", "umbrella", "valley", "window", "anchor", "basket", "carpet", "dragon"),
    *("forest", "guitar", "hammer", "iron", "jungle"),
)
_WORDS = (
    *("apple", "bear", "corn", "deer", "eagle", "fish", "goat", "horse", "ink", "lamp", "moon"),
    *("nest", "olive", "pearl", "rice", "salt", "tiger", "wolf", "bread", "cloud", "duck"),
    *("flame", "glass", "honey", "ivory", "juice", "lemon", "milk", "ocean", "paper", "river"),
    *("stone",),
)
_PLACES = (
    *("Lima", "Oslo", "Cairo", "Delhi", "Paris", "Tokyo", "Quito", "Rome", "Berlin", "Dublin"),
    *("Geneva", "Havana", "Lisbon", "Madrid", "Milan", "Moscow", "Munich", "Naples", "Nairobi"),
    *("Ottawa", "Prague", "Seoul", "Sydney", "Vienna", "Warsaw", "Zurich", "Athens", "Boston"),
    *("Chicago", "Denver", "Dallas", "London"),
)
_PEOPLE = (
    *("Hugo", "Anna", "Boris", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Irene"),
    *("Jack", "Karen", "Laura", "Martin", "Nina", "Oscar", "Paul", "Rosa", "Simon", "Thomas"),
    *("Victor", "Walter", "Alice", "Bruno", "Carlo", "Diana", "Edgar", "Felix", "George", "Helen"),
    *("Julia", "Peter"),
)
_NUM_DIGITS = 5


class Kind(NamedTuple):
    """How facts of one kind look."""

    cue: str
    """How a fact begins; the answer follows."""
    end: str
    """What follows the answer in the text."""
    question: str
    """What asks for it, without the words that the answer stands behind: they alone shall match."""
    keys: tuple[str, ...] = ()
    """What facts are about, each once in a text; none: there is one fact, about nothing."""
    values: tuple[str, ...] = ()
    """Answers, each once in a text; none: a number whose digits all differ."""
    heading: str = ""
    """Stands where a needle's part of the text begins."""

    @property
    def most_needles(self) -> int:
        """The most facts of a text."""
        return min(len(self.keys), len(self.values)) if self.keys else 1

    @property
    def num_answers(self) -> int:
        """Answers that are alike likely before the text was read."""
        digits = range(10, 10 - _NUM_DIGITS, -1)
        return len(self.values) if self.values else int(np.prod(list(digits)))


KINDS: dict[str, Kind] = {
    "passkey": Kind("The pass key is", ". Remember it.", "What is the pass key?"),
    "keys": Kind("{key}:", "", "Which word has this key?\n{key}", _KEYS, _WORDS),
    "documents": Kind(
        "The keeper of {key} is",
        ".",
        "Who is the keeper of {key}?",
        _PLACES,
        _PEOPLE,
        "Document {number}",
    ),
}
"""By name: one number in a text, lines of key and value, and facts of which each document has one.
"""


class Needle(NamedTuple):
    """A fact, and how it is asked for."""

    cue: str
    answer: str
    """With the blank that it begins with."""
    end: str
    asked: str

    @property
    def line(self) -> str:
        """The fact as it stands in the text."""
        return f"\n{self.cue}{self.answer}{self.end}\n"

    @property
    def question(self) -> str:
        """What is read before the cue, and the answer after it."""
        return f"\n{self.asked}\n"


class Context(NamedTuple):
    """A text, and what stands in it."""

    tokens: list[int]
    needles: list[Needle]


class Codec(NamedTuple):
    """How texts become tokens."""

    encode: Callable[[str], list[int]]
    """Of a text that has no special tokens."""
    encode_all: Callable[[list[str]], list[list[int]]]
    """Of several texts, in one go."""
    split: Callable[[str, str], tuple[list[int], list[int]]]
    """Of a text and what follows it, read together."""


def codec_of(tokenizer: "Tokenizer") -> Codec:
    """Return a tokenizer that remembers what it was given."""
    from functools import cache

    @cache
    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    @cache
    def parts(before: str, after: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        found = tokenizer(before + after, add_special_tokens=False, return_offsets_mapping=True)
        tokens, ends = tuple(found["input_ids"]), [end for _, end in found["offset_mapping"]]
        first = next(place for place, end in enumerate(ends) if end > len(before))
        return tokens[:first], tokens[first:]

    def split(before: str, after: str) -> tuple[list[int], list[int]]:
        first, second = parts(before, after)
        return list(first), list(second)

    def every(texts: list[str]) -> list[list[int]]:
        found: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
        return found

    return Codec(lambda text: list(ids(text)), every, split)


def pieces_of(text: str, codec: Codec) -> list[list[int]]:
    """Return the lines of a text as tokens, long ones in several pieces.

    Raises:
        DataError: It has none.
    """
    whole = [line for line in text.splitlines(keepends=True) if line.strip()]
    lines = codec.encode_all(whole) if whole else []
    size = _PIECE_TOKENS
    found = [line[at : at + size] for line in lines for at in range(0, len(line), size)]
    if not found:
        raise DataError("The text that needles hide in is empty; give some lines of it.")
    return found


def context(
    name: str,
    pieces: Sequence[list[int]],
    codec: Codec,
    num_tokens: int,
    num_needles: int,
    generator: np.random.Generator,
) -> Context:
    """Return a text of exactly so many tokens with facts of the kind `name`.

    The text goes on from a place that is drawn, and begins anew at its end. Each needle has its
    equal part of it, in which its place is drawn.

    Raises:
        SettingsError: So many needles do not fit.
    """
    kind = KINDS[name]
    needles = drawn(kind, min(num_needles, kind.most_needles), generator)
    lines = [codec.encode(needle.line) for needle in needles]
    heads = [codec.encode(_heading(kind, number)) for number in range(1, len(needles) + 1)]
    left = num_tokens - sum(map(len, [*lines, *heads]))
    if left < len(needles):
        raise SettingsError(
            f"{len(needles)} needles of kind '{name}' take {num_tokens - left} tokens, and a text "
            f"has {num_tokens}; raise context_tokens, or lower num_needles."
        )
    filler = _filler(pieces, left, generator)
    bounds = np.linspace(0, len(filler), len(needles) + 1).astype(int)
    tokens: list[int] = []
    for number, (line, head) in enumerate(zip(lines, heads, strict=True)):
        own = filler[bounds[number] : bounds[number + 1]]
        place = int(generator.integers(len(own) + 1))
        for part in (head, *own[:place], line, *own[place:]):
            tokens += part
    return Context(tokens, needles)


def _heading(kind: Kind, number: int) -> str:
    return f"\n{kind.heading.format(number=number)}\n" if kind.heading else ""


def _filler(
    pieces: Sequence[list[int]], num_tokens: int, generator: np.random.Generator
) -> list[list[int]]:
    """Return pieces that follow one another, of so many tokens; the last one lacks its end."""
    place, found, count = int(generator.integers(len(pieces))), list[list[int]](), 0
    while count < num_tokens:
        found.append(pieces[place % len(pieces)])
        place, count = place + 1, count + len(found[-1])
    found[-1] = found[-1][: len(found[-1]) - (count - num_tokens)]
    return found


def drawn(kind: Kind, count: int, generator: np.random.Generator) -> list[Needle]:
    """Return facts of a kind, no key and no value twice."""
    if not kind.keys:
        digits = generator.permutation(10)[:_NUM_DIGITS]
        return [Needle(kind.cue, " " + "".join(map(str, digits)), kind.end, kind.question)]
    keys, values = generator.permutation(len(kind.keys)), generator.permutation(len(kind.values))
    return [
        Needle(
            kind.cue.format(key=kind.keys[key]),
            f" {kind.values[value]}",
            kind.end,
            kind.question.format(key=kind.keys[key]),
        )
        for key, value in zip(keys[:count], values[:count], strict=True)
    ]
