"""The skills lookup and json, which look alike: a record, and one key of it or two.

One key asks for its value, two ask for both as a JSON object, in the order in which they are asked.
"""

import itertools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from treadle.core.seed import numpy_stream
from treadle.core.skills.spec import Posed, SkillItem, Split, split_of

__all__ = ["lookups", "objects"]

_VALUES = {
    "colour": ("red", "blue", "green", "white", "black", "brown", "pink", "grey"),
    "metal": ("gold", "iron", "tin", "lead", "zinc", "steel", "brass", "copper"),
    "fruit": ("apple", "pear", "plum", "grape", "lemon", "melon", "cherry", "fig"),
    "animal": ("cat", "dog", "horse", "cow", "goat", "hen", "duck", "pig"),
    "month": ("May", "June", "July", "March", "April", "August", "October", "January"),
    "tool": ("hammer", "saw", "drill", "axe", "spade", "rake", "knife", "brush"),
    "drink": ("tea", "milk", "water", "juice", "wine", "beer", "cocoa", "cider"),
    "room": ("kitchen", "hall", "attic", "cellar", "bath", "porch", "office", "garage"),
}
"""By key: what may stand behind it."""
_NUM_ENTRIES = 4
_NUMBERS = range(10**7)
"""Of the records that are drawn until enough are found."""


def lookups(split: Split, count: int, seed: int) -> list[Posed]:
    """Return items whose records have keys that, all together, stand in that split alone."""
    records = (_drawn(numpy_stream(seed, f"skills lookup {split} {n}")) for n in _NUMBERS)
    fitting = (one for one in records if split_of(f"keys {_together(one.keys)}") == split)
    return _first_distinct((_lookup(record) for record in fitting), count)


def objects(split: Split, count: int, seed: int) -> list[Posed]:
    """Return items that ask for two keys which, together, are asked for in that split alone."""
    records = (_drawn(numpy_stream(seed, f"skills json {split} {n}")) for n in _NUMBERS)
    fitting = (one for one in records if split_of(f"schema {_together(one.asked)}") == split)
    return _first_distinct((_object(record) for record in fitting), count)


class _Record(NamedTuple):
    """Keys in the order in which they are written, their values, and the keys asked for."""

    keys: tuple[str, ...]
    values: dict[str, str]
    asked: tuple[str, ...]

    def __str__(self) -> str:
        return ", ".join(f"{key} {self.values[key]}" for key in self.keys) + ";"


def _drawn(generator: np.random.Generator) -> _Record:
    known = list(_VALUES)
    keys = tuple(known[place] for place in generator.permutation(len(known))[:_NUM_ENTRIES])
    values = {key: _VALUES[key][int(generator.integers(len(_VALUES[key])))] for key in keys}
    asked = tuple(keys[place] for place in generator.permutation(_NUM_ENTRIES)[:2])
    return _Record(keys, values, asked)


def _together(keys: Iterable[str]) -> str:
    return " ".join(sorted(keys))


def _lookup(record: _Record) -> Posed:
    asked = record.asked[0]
    item = SkillItem(f"{record} {asked}:", f" {record.values[asked]}")
    return Posed(item, [f" {record.values[key]}" for key in record.keys])


def _object(record: _Record) -> Posed:
    first, second = record.asked

    def written(one: str, other: str) -> str:
        return f' {{"{first}": "{record.values[one]}", "{second}": "{record.values[other]}"}}'

    item = SkillItem(f"{record} {first}, {second}:", written(first, second))
    return Posed(item, [written(*keys) for keys in itertools.permutations(record.keys, 2)])


def _first_distinct(posed: Iterable[Posed], count: int) -> list[Posed]:
    found: dict[str, Posed] = {}
    for one in posed:
        found.setdefault(one.item.prompt, one)
        if len(found) == count:
            break
    return list(found.values())
