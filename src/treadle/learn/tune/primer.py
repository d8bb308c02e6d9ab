"""What a fresh base is taught: running text, and skills by their looks."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from treadle.core.errors import DataError, SettingsError
from treadle.core.result import digest
from treadle.core.seed import numpy_stream
from treadle.core.skills import SkillItem, SkillSpec, is_skill, parse_skill, skill_forms

if TYPE_CHECKING:
    import torch

    from treadle.model.classes import Tokenizer

__all__ = ["Primer", "primed_tokens", "read_primer"]

_SOURCES = "stdlib:sources"
_PASSAGE_TOKENS = 48
"""Of a piece of text between forms."""
_ITEMS_AT_ONCE = 4
_WORLDS = 900_000_000
"""First seed of the forms: other people than those whom anybody is taught."""
_TOKENIZER_CHARACTERS = 20_000
"""Of a document that a tokenizer is made from."""


class Primer(NamedTuple):
    """Documents, and the skills whose forms stand between them."""

    documents: list[str]
    specs: list[SkillSpec]
    content_hash: str

    def samples(self) -> Iterator[str]:
        """Yield what a tokenizer is made from: the beginnings of documents, and some forms."""
        for document in self.documents:
            yield document[:_TOKENIZER_CHARACTERS]
        for spec in self.specs:
            for item in skill_forms(_world(spec, 0)):
                yield item.prompt + item.answer


def read_primer(text: Sequence[str], skills: Sequence[str]) -> Primer:
    """Read texts and find the skills.

    Raises:
        DataError: A text is missing or empty.
        SettingsError: A skill is none, or names more than itself.
    """
    documents = [document for source in text for document in _documents(source)]
    if not any(map(str.strip, documents)):
        raise DataError(f"There is no text in {', '.join(text) or 'nothing'}; give some to read.")
    return Primer(documents, [_spec(name) for name in skills], digest(documents))


def _documents(source: str) -> list[str]:
    from treadle.model.text import read_text

    if source != _SOURCES:
        return [read_text(source)[0]]
    from treadle.core.table.source import batches_of, open_source

    found = open_source(source)
    tables = (batch.table for unit in found.units for batch in batches_of(found, unit))
    return [text for table in tables for text in table.column("text").to_pylist()]


def _spec(name: str) -> SkillSpec:
    spec = parse_skill(name if is_skill(name) else f"skills:{name}", "train")
    if spec != SkillSpec(spec.name, "train"):
        raise SettingsError(
            f"'{name}' says more than the name of a skill, but a base learns forms of its own "
            f"making; write {spec.name}."
        )
    return spec


def primed_tokens(
    primer: Primer, tokenizer: "Tokenizer", num_tokens: int, skill_fraction: float, seed: int
) -> "torch.Tensor":
    """Return about so many tokens: passages and groups of forms in an order that `seed` draws.

    Forms have answers that are drawn at random: what is asked in them is not taught.
    """
    import torch

    end = tokenizer.eos_token_id
    assert end is not None
    share = skill_fraction / len(primer.specs) if primer.specs else 0.0
    pieces = _taken(
        _passages(primer, tokenizer, end, seed), num_tokens * (1 - share * len(primer.specs))
    )
    for spec in primer.specs:
        pieces += _taken(_groups(spec, tokenizer, end), num_tokens * share)
    order = numpy_stream(seed, "primer order").permutation(len(pieces))
    return torch.from_numpy(np.concatenate([pieces[place] for place in order]))


def _taken(pieces: "Iterator[np.ndarray]", num_tokens: float) -> list[np.ndarray]:
    """Return pieces until they are so many tokens together."""
    found, count = [], 0
    while count < num_tokens and (piece := next(pieces, None)) is not None:
        found.append(piece)
        count += len(piece)
    return found


def _passages(
    primer: Primer, tokenizer: "Tokenizer", end: int, seed: int
) -> "Iterator[np.ndarray]":
    """Yield passages of all documents, these in an order that is drawn, without an end."""
    number = 0
    while True:
        for place in numpy_stream(seed, f"primer documents {number}").permutation(
            len(primer.documents)
        ):
            tokens = np.array([*_ids(tokenizer, primer.documents[place]), end], dtype=np.int64)
            for start in range(0, len(tokens), _PASSAGE_TOKENS):
                yield tokens[start : start + _PASSAGE_TOKENS]
        number += 1


def _groups(spec: SkillSpec, tokenizer: "Tokenizer", end: int) -> "Iterator[np.ndarray]":
    """Yield a few forms at a time, each with its end, world after world."""
    world = 0
    while True:
        items = skill_forms(_world(spec, world))
        for start in range(0, len(items), _ITEMS_AT_ONCE):
            yield np.array(
                [
                    token
                    for item in items[start : start + _ITEMS_AT_ONCE]
                    for token in (*_of_item(tokenizer, item), end)
                ],
                dtype=np.int64,
            )
        world += 1


def _world(spec: SkillSpec, number: int) -> SkillSpec:
    return spec._replace(seed=_WORLDS + number)


def _of_item(tokenizer: "Tokenizer", item: SkillItem) -> list[int]:
    """Return prompt and answer as tokens, which they are each on their own, too."""
    return _ids(tokenizer, item.prompt + item.answer)


def _ids(tokenizer: "Tokenizer", text: str) -> list[int]:
    found: list[int] = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    return found
