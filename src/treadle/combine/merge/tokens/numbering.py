"""How tokenizers number their tokens, compared: rows of one number may mean different tokens."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from treadle.combine.merge.inputs.models import Model
from treadle.combine.merge.tokens.tokenizer import Tokenizer, vocabulary_of
from treadle.model.facts import EMBEDDINGS

__all__ = ["Differences", "compared", "differing_ids", "numbering_notes"]


class Differences(NamedTuple):
    """How one vocabulary differs from another, in tokens that have a row."""

    num_extra: int
    num_missing: int
    num_moved: int
    """Tokens that both have under different ids."""

    @property
    def num_other(self) -> int:
        """How many tokens stand in rows of other tokens, at least."""
        return self.num_moved + max(self.num_extra, self.num_missing)


def compared(first: Mapping[str, int], other: Mapping[str, int], num_rows: int) -> Differences:
    """Compare two vocabularies; a token behind the last row of the embedding has none."""
    ours = {token: place for token, place in first.items() if place < num_rows}
    theirs = {token: place for token, place in other.items() if place < num_rows}
    num_moved = sum(ours.get(token, place) != place for token, place in theirs.items())
    return Differences(len(theirs.keys() - ours), len(ours.keys() - theirs), num_moved)


def differing_ids(
    names: Sequence[str], tokenizers: Sequence[Tokenizer | None], num_rows: int, option: str
) -> str | None:
    """Return a note on models whose rows mean other tokens than the first model's.

    Args:
        names: The models' names; the first lends its tokenizer.
        tokenizers: Theirs, or None for a model without.
        num_rows: Rows of the embedding of each.
        option: How the user asks for a tokenizer.
    """
    known = tokenizers[0]
    if known is None:
        owner = next((n for n, t in zip(names, tokenizers, strict=True) if t is not None), None)
        return owner and (
            f"The output has no tokenizer: '{names[0]}', which lends it, has no tokenizer.json; "
            f"'{owner}' has one. Copy its files into '{names[0]}', or into the output."
        )
    found = []
    for name, tokenizer in zip(names, tokenizers, strict=True):
        if tokenizer is not None and tokenizer is not known:
            count = compared(known.ids, tokenizer.ids, num_rows).num_other
            if count:
                found.append(f"{count} token{'s' * (count != 1)} of '{name}'")
    if not found:
        return None
    have = "has another id" if len(found) == 1 and found[0].startswith("1 ") else "have other ids"
    return (
        f"The vocabularies are equally large, but not equal: {', '.join(found)} {have} than in "
        f"'{names[0]}', so rows of different tokens are merged; give {option}union to align them."
    )


def numbering_notes(models: Sequence[Model]) -> Iterator[str]:
    """Yield notes on how models' vocabularies differ from the first one's."""
    first, *others = [vocabulary_of(model.reader.folder) for model in models]
    for model, other in zip(models[1:], others, strict=True):
        if first is None or other is None:
            lacking = model if other is None else models[0]
            yield f"'{lacking.ref}' has no tokenizer.json to compare."
            continue
        found = compared(first, other, _num_rows((models[0], model)))
        if any(found):
            tokens = f"{found.num_extra} token{'s' * (found.num_extra != 1)}"
            yield (
                f"The tokenizer of '{model.ref}' has {tokens} that the first model's lacks, lacks "
                f"{found.num_missing}, and numbers {found.num_moved} differently: merge with "
                f"--tokenizer union."
            )


def _num_rows(pair: Sequence[Model]) -> int:
    """Return how many rows the embeddings of two models have, at most."""
    sources = [m.source(name) for m in pair for name in m.names if name.endswith(EMBEDDINGS)]
    return max((s.shape[0] for s in sources if s is not None), default=sys.maxsize)
