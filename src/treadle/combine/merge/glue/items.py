"""What a search is judged by: questions with known answers, and others for the claim."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from treadle.core.errors import DataError, SettingsError
from treadle.core.result import digest
from treadle.core.seed import numpy_stream
from treadle.core.skills import Split, is_skill, parse_skill, skill_items
from treadle.core.table.questions import (
    CHOICE_FORM,
    QUESTION_FORM,
    choice_in,
    question_in,
    read_lines,
)
from treadle.model.text import puts_bos

if TYPE_CHECKING:
    from treadle.model.classes import Tokenizer

__all__ = ["AnswerRow", "Item", "ItemSet", "Items", "encoded", "read_items"]


class Item(NamedTuple):
    """A question, and its answers by plain concatenation."""

    prompt: str
    answers: tuple[str, ...]
    """One, or all that can be chosen."""
    gold: int = 0
    """Index of the right one."""


class ItemSet(NamedTuple):
    """Items of one kind."""

    name: str
    items: list[Item]

    @property
    def content_hash(self) -> str:
        """The hash of all items."""
        return digest([list(item) for item in self.items])


class Items(NamedTuple):
    """All that is asked."""

    dev: list[ItemSet]
    """What the search sees."""
    test: list[ItemSet]
    """What it does not."""


class AnswerRow(NamedTuple):
    """One answer of an item, in a model's tokens."""

    item: int
    tokens: list[int]
    first: int
    """Index of the answer's first token."""


def read_items(
    data: Sequence[str], test: Sequence[str] | None, seed: int, num_items: int | None
) -> Items:
    """Read what is searched on and what is claimed on.

    Skills have splits of their own; a file is halved by the seed, unless `test` names others. A
    question that stands in a file twice counts once.

    Args:
        data: Files as `treadle evaluate exact` or `choice` reads them, or skills:NAME.
        test: The same, in place of the second halves and of the skills' own test splits.
        seed: Of the halves, and of what is drawn of them.
        num_items: Most items of each set to search on, drawn by the seed.

    Raises:
        DataError: A file is missing, damaged or too short; or an item stands on both sides.
        SettingsError: A set is named twice.
    """
    _require_named(data, "data")
    if test is not None:
        _require_named(test, "test")
    dev, held = [], []
    for name in data:
        mine, theirs = _split(name, seed, is_halved=test is None)
        dev.append(ItemSet(name, _shuffled(mine, seed)[:num_items]))
        held.append(ItemSet(name, theirs))
    if test is not None:
        held = [ItemSet(name, _whole(name, "test")) for name in test]
    _require_apart(dev, held)
    return Items(dev, held)


def encoded(
    tokenizer: "Tokenizer", items: Sequence[Item], max_positions: int | None
) -> list[AnswerRow]:
    """Return every answer of every item in a model's tokens.

    Raises:
        DataError: An item is longer than the model's context, or an answer adds no token.
    """
    begins = [tokenizer.bos_token_id] if puts_bos(tokenizer, "auto") else []

    def ids(text: str) -> list[int]:
        found = tokenizer(text, add_special_tokens=False, verbose=False)
        return [*begins, *(int(token) for token in found["input_ids"])]

    rows = []
    for number, item in enumerate(items):
        before = ids(item.prompt)
        for answer in item.answers:
            tokens = ids(item.prompt + answer)
            first = _num_common(before, tokens)
            if first == len(tokens):
                raise DataError(
                    f"The answer {answer!r} to {item.prompt[-40:]!r} adds no token to it; change "
                    f"it, or leave the item out."
                )
            if max_positions is not None and len(tokens) > max_positions:
                raise DataError(
                    f"The item {item.prompt[:40]!r}... has {len(tokens)} tokens, and a model's "
                    f"context holds {max_positions}; shorten it, or leave it out."
                )
            rows.append(AnswerRow(number, tokens, max(1, first)))
    return rows


def _split(name: str, seed: int, is_halved: bool) -> tuple[list[Item], list[Item]]:
    if is_skill(name):
        return _whole(name, "dev"), _whole(str(parse_skill(name, "dev")._replace(split="test")))
    items = _whole(name)
    if not is_halved:
        return items, []
    if len(items) < 2:
        raise DataError(
            f"'{name}' holds one item, which cannot be halved into some to search on and others "
            f"to claim on; give more, or name others with --test."
        )
    shuffled = _shuffled(items, seed)
    half = (len(items) + 1) // 2
    return shuffled[:half], shuffled[half:]


def _shuffled(items: list[Item], seed: int) -> list[Item]:
    stream = numpy_stream(seed, f"items {digest([list(item) for item in items])}")
    return [items[place] for place in stream.permutation(len(items))]


def _whole(name: str, split: Split = "test") -> list[Item]:
    if is_skill(name):
        return [Item(item.prompt, (item.answer,)) for item in skill_items(parse_skill(name, split))]
    items, _ = read_lines(Path(name), _item, f"{QUESTION_FORM} or {CHOICE_FORM}")
    once: dict[str, Item] = {}
    for item in items:
        once.setdefault(_key(item), item)
    return list(once.values())


def _item(row: dict[str, Any]) -> Item:  # Any: JSON values
    if "choices" in row:
        choice = choice_in(row)
        answers = tuple(f" {text.strip()}" for text in choice.choices)
        return Item(choice.query.rstrip(), answers, choice.gold)
    question = question_in(row)
    return Item(question.prompt, (question.answer,))


def _num_common(left: list[int], right: list[int]) -> int:
    pairs = enumerate(zip(left, right, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(left), len(right)))


def _require_named(names: Sequence[str], what: str) -> None:
    if not names:
        raise SettingsError(f"{what} names no items; name files or skills, such as skills:json.")
    places = [one if is_skill(one) else str(Path(one).resolve()) for one in names]
    for name, place in zip(names, places, strict=True):
        if places.count(place) > 1:
            raise SettingsError(f"'{name}' is named twice; name each set once.")


def _require_apart(dev: Sequence[ItemSet], test: Sequence[ItemSet]) -> None:
    """Check that nothing is claimed on what was searched on.

    Raises:
        DataError: An item stands on both sides.
    """
    asked = {_key(item): one.name for one in dev for item in one.items}
    both = [(one.name, item) for one in test for item in one.items if _key(item) in asked]
    if both:
        name, item = both[0]
        more = f" and {len(both) - 1} more" if len(both) > 1 else ""
        raise DataError(
            f"The item {item.prompt[:60]!r} of '{name}'{more} is searched on, too (in "
            f"'{asked[_key(item)]}'), so that nothing could be claimed on it; take it out of one."
        )


def _key(item: Item) -> str:
    """Return what makes two items one: the question, however it is set."""
    return " ".join(item.prompt.split())
