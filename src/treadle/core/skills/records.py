"""The skills lookup and json, which look alike: a small table, and one key of it or two.

One key asks for its value, two ask for both as a JSON object, in the order in which they are asked.
"""

import itertools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from treadle.core.seed import numpy_stream
from treadle.core.skills.spec import Posed, SkillItem, Split, split_of

__all__ = ["lookups", "objects"]

_CONSONANTS, _VOWELS = "bdklmnprvz", "aeiou"
_WORDS = ["".join(word) for word in itertools.product(_CONSONANTS, _VOWELS, _CONSONANTS)]
"""Keys are no words that a model knows, and more than it could learn one by one."""
_NUM_ENTRIES = 4
_NUM_VALUES = 10
_NUMBERS = range(10**7)
"""Of the tables that are drawn until enough are found."""


def lookups(split: Split, count: int, seed: int) -> list[Posed]:
    """Return items whose tables hold only keys of that split."""
    words = [word for word in _WORDS if split_of(f"key {word}") == split]
    tables = (_table(words, numpy_stream(seed, f"skills lookup {split} {n}")) for n in _NUMBERS)
    return _first_distinct((_lookup(table) for table in tables), count)


def objects(split: Split, count: int, seed: int) -> list[Posed]:
    """Return items that ask for two keys which, together, are asked for in that split alone."""
    words = [word for word in _WORDS if split_of(f"key {word}") == "train"]
    tables = (_table(words, numpy_stream(seed, f"skills json {split} {n}")) for n in _NUMBERS)
    asked = (table for table in tables if split_of(_schema(table)) == split)
    return _first_distinct((_object(table) for table in asked), count)


class _Table(NamedTuple):
    """Keys and values in the order in which they are written, and the places asked for."""

    keys: list[str]
    values: list[int]
    asked: tuple[int, int]

    def __str__(self) -> str:
        pairs = (f"{key} {value}" for key, value in zip(self.keys, self.values, strict=True))
        return ", ".join(pairs) + ";"


def _table(words: list[str], generator: np.random.Generator) -> _Table:
    """Return a table in which no two keys and no two values are alike."""
    keys = [words[place] for place in generator.permutation(len(words))[:_NUM_ENTRIES]]
    values = [int(value) for value in generator.permutation(_NUM_VALUES)[:_NUM_ENTRIES]]
    first, second = (int(place) for place in generator.permutation(_NUM_ENTRIES)[:2])
    return _Table(keys, values, (first, second))


def _schema(table: _Table) -> str:
    return "schema " + " ".join(sorted(table.keys[place] for place in table.asked))


def _lookup(table: _Table) -> Posed:
    asked = table.asked[0]
    item = SkillItem(f"{table} {table.keys[asked]}", f" {table.values[asked]}")
    return Posed(item, [f" {value}" for value in table.values])


def _object(table: _Table) -> Posed:
    first, second = (table.keys[place] for place in table.asked)
    known = {
        pair: f' {{"{first}": {pair[0]}, "{second}": {pair[1]}}}'
        for pair in itertools.permutations(table.values, 2)
    }
    right = known[table.values[table.asked[0]], table.values[table.asked[1]]]
    return Posed(SkillItem(f"{table} {first}, {second}", right), list(known.values()))


def _first_distinct(posed: Iterable[Posed], count: int) -> list[Posed]:
    found: dict[str, Posed] = {}
    for one in posed:
        found.setdefault(one.item.prompt, one)
        if len(found) == count:
            break
    return list(found.values())
