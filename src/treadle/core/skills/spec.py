"""What names a skill's items: skills:NAME/SPLIT?seed=N&count=N, and the item itself."""

import hashlib
from difflib import get_close_matches
from typing import Literal, NamedTuple, get_args

from treadle.core.errors import SettingsError

__all__ = [
    "NAMES",
    "Posed",
    "SkillItem",
    "SkillSpec",
    "Split",
    "is_skill",
    "parse_skill",
    "split_of",
]

Split = Literal["train", "dev", "test"]
Name = Literal["arithmetic", "lookup", "json", "facts"]
NAMES: tuple[Name, ...] = get_args(Name)
_SPLITS: tuple[Split, ...] = get_args(Split)
_PREFIX = "skills:"
_KEYS = ("seed", "count")
_FORM = "skills:NAME/SPLIT?seed=N&count=N"
_DEV_FRACTION, _TEST_FRACTION = 0.1, 0.2
"""Of what is held out: operands, keys, schemas."""
_MOST = 2**31
"""Seeds and counts are below it."""


class SkillItem(NamedTuple):
    """A question and its one right answer, which follows it by plain concatenation.

    An answer begins with a digit behind an equals sign, else with a blank: there tokenizers part
    words, so that prompt and answer are the same tokens together as apart.
    """

    prompt: str
    answer: str
    """One line; with the blank that it begins with."""


class Posed(NamedTuple):
    """An item, and what somebody would answer who knows the form and not the skill."""

    item: SkillItem
    plausible: list[str]
    """Answers of the right form, all alike likely; the right one is among them."""


class SkillSpec(NamedTuple):
    """Which items of which skill."""

    name: Name
    split: Split
    seed: int = 0
    """Draws the items; of facts also the people. What is held out does not depend on it."""
    num_items: int | None = None
    """Items from the beginning of the split; None for its usual number."""

    def __str__(self) -> str:
        """Return the spec as it would be written, with nothing left to a default but the count."""
        counted = "" if self.num_items is None else f"&count={self.num_items}"
        return f"{_PREFIX}{self.name}/{self.split}?seed={self.seed}{counted}"


def is_skill(data: str) -> bool:
    """Whether `data` means a skill and no file."""
    return str(data).startswith(_PREFIX)


def parse_skill(data: str, default_split: Split) -> SkillSpec:
    """Read a spec such as skills:json, skills:json/dev or skills:facts/train?seed=1&count=64.

    Raises:
        SettingsError: A name, a split, a key or a number is none; the near word is named.
    """
    where, _, asked = str(data).removeprefix(_PREFIX).partition("?")
    name, _, split = where.partition("/")
    if name not in NAMES:
        raise SettingsError(_unknown(data, "skill", name, NAMES))
    if split and split not in _SPLITS:
        raise SettingsError(_unknown(data, "split", split, _SPLITS))
    parts = [_number(data, part) for part in asked.split("&") if part]
    numbers = dict(parts)
    if len(numbers) < len(parts):
        raise SettingsError(f"'{data}' gives a key twice; give each once. The form is {_FORM}.")
    chosen: Split = split or default_split
    return SkillSpec(name, chosen, numbers.get("seed", 0), numbers.get("count"))


def split_of(held_out: str) -> Split:
    """Return the one split in which something may stand, whatever the seed."""
    found = int.from_bytes(hashlib.sha256(f"skills {held_out}".encode()).digest()[:4], "little")
    place = found / 2**32
    if place < _TEST_FRACTION:
        return "test"
    return "dev" if place < _TEST_FRACTION + _DEV_FRACTION else "train"


def _number(data: str, part: str) -> tuple[str, int]:
    key, _, value = part.partition("=")
    if key not in _KEYS:
        raise SettingsError(_unknown(data, "key", key, _KEYS))
    least = 1 if key == "count" else 0
    is_number = value.isascii() and value.isdigit() and len(value) < len(str(_MOST))
    if not is_number or int(value) < least:
        raise SettingsError(
            f"'{data}' says {key} = '{value}', but a whole number of at least {least} and of at "
            f"most nine digits was expected; write {_FORM}."
        )
    return key, int(value)


def _unknown(data: str, kind: str, found: str, known: tuple[str, ...]) -> str:
    near = get_close_matches(found, known, n=1)
    hint = f"did you mean '{near[0]}'" if near else f"give one of {', '.join(known)}"
    return f"'{data}' names no {kind} ('{found}'); {hint}? The form is {_FORM}."
