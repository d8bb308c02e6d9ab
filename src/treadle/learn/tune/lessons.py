"""What is learned, in which order: groups of documents, the rows of each step, its parts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from treadle.core.errors import DataError
from treadle.core.progress import track
from treadle.core.seed import numpy_stream
from treadle.learn.tune.encoding import Encoder, TaughtDocument
from treadle.learn.tune.rows import PreferredPair, Prompted, Row, Text

if TYPE_CHECKING:
    import torch

__all__ = ["Lessons", "TooLong", "collate", "encoded", "parts_of", "shuffled", "windows"]

TooLong = Literal["refuse", "cut", "drop"]
Group = tuple[TaughtDocument, ...]
"""What must stay together: one document, or the two of a pair."""
_NAMED = 3


class Encoded(NamedTuple):
    """Rows as groups of documents."""

    groups: list[Group]
    num_cut: int
    num_dropped: int


class Lessons:
    """Groups of documents in an endless order: all of them, shuffled; then again, in another one.

    Args:
        groups: At least one.
        rows: Groups of a step.
        seed: Of the shuffles.
        limit: Groups of all steps together, of which the last one has what is left.
    """

    def __init__(
        self, groups: Sequence[Group], rows: int, seed: int, limit: int | None = None
    ) -> None:
        self.groups, self.rows, self._seed, self._limit = groups, rows, seed, limit

    def chosen(self, step: int) -> list[int]:
        """Return the numbers of a step's groups."""
        size = len(self.groups)
        end = (step + 1) * self.rows
        places = range(step * self.rows, end if self._limit is None else min(end, self._limit))
        orders = {epoch: self._order(epoch) for epoch in {place // size for place in places}}
        return [int(orders[place // size][place % size]) for place in places]

    def seen(self, steps: int) -> list[int]:
        """Return the numbers of all groups that come in so many steps, ascending."""
        return sorted({number for step in range(steps) for number in self.chosen(step)})

    def _order(self, epoch: int) -> np.ndarray:
        return numpy_stream(self._seed, f"epoch {epoch}").permutation(len(self.groups))


def encoded(rows: Sequence[Row], encoder: Encoder, most_tokens: int, too_long: TooLong) -> Encoded:
    """Return rows as groups of documents that fit a context.

    Args:
        rows: What was read.
        encoder: Of the model's tokenizer.
        most_tokens: Of a document.
        too_long: What becomes of longer ones.

    Raises:
        DataError: A row has no answer; rows are too long, and shall be refused; or none is left.
    """
    groups: list[Group] = []
    long: list[str] = []
    num_dropped = 0
    for row in track(rows, "tokenise", len(rows)):
        documents = encoder.documents(row)
        some = (
            [tuple(documents)] if isinstance(row, PreferredPair) else [(one,) for one in documents]
        )
        for group in some:
            if max(len(one.tokens) for one in group) <= most_tokens:
                groups.append(group)
                continue
            long.append(row.where)
            cut = tuple(one.cut(most_tokens) for one in group)
            if too_long == "cut" and all(one.num_answers for one in cut):
                groups.append(cut)
            else:
                num_dropped += 1
    if long and too_long == "refuse":
        more = f" and {len(long) - _NAMED} more" if len(long) > _NAMED else ""
        raise DataError(
            f"{len(long)} rows have more than {most_tokens} tokens ({', '.join(long[:_NAMED])}"
            f"{more}); pass --too-long cut or --too-long drop, or a larger --max-tokens if the "
            f"model's context allows it."
        )
    if not groups:
        raise DataError(
            f"No row is left of {len(rows)}: all have more than {most_tokens} tokens before their "
            f"answers end; give shorter ones, or a larger --max-tokens."
        )
    return Encoded(groups, len(long) - num_dropped, num_dropped)


def windows(document: TaughtDocument, num_tokens: int, first: int | None = None) -> list[Group]:
    """Cut a text into windows of so many tokens; a last one that is shorter stays.

    Args:
        document: The text.
        num_tokens: Of a window.
        first: Token with which the text begins, and with which every window shall.
    """
    found: list[Group] = []
    begin = [] if first is None else [first]
    body = document.tokens[len(begin) :]
    size = num_tokens - len(begin)
    for start in range(0, len(body), size):
        tokens = np.concatenate([np.array(begin, np.int64), body[start : start + size]])
        is_answer = np.arange(len(tokens)) > 0
        if len(tokens) > 1:
            share = len(tokens) / len(document.tokens)
            num_bytes = round(document.answer_bytes * share)
            found.append((TaughtDocument(document.where, tokens, is_answer, num_bytes),))
    return found


def shuffled(rows: Sequence[Row], seed: int) -> list[Row]:
    """Return rows with the answers of other rows: a control, from which nothing can be learned.

    The answers go round one circle through all rows, so that none keeps its own.

    Raises:
        DataError: A row is none with a prompt and an answer, or there is one row alone.
    """
    if len(rows) < 2:
        raise DataError("One row has no other one's answer; give more, or no --shuffle-answers.")
    order = numpy_stream(seed, "shuffled answers").permutation(len(rows))
    after = dict(zip(order.tolist(), np.roll(order, -1).tolist(), strict=True))
    found: list[Row] = []
    for number, row in enumerate(rows):
        other = rows[after[number]]
        if not isinstance(row, Prompted) or not isinstance(other, Prompted):
            what = "text" if isinstance(row, Text) else "conversation"
            raise DataError(
                f"{row.where.capitalize()} is a {what}, whose answers cannot be shuffled; give "
                f"prompts and answers, or leave --shuffle-answers out."
            )
        found.append(row._replace(answer=other.answer))
    return found


def parts_of(groups: Sequence[Group], numbers: Sequence[int], most_tokens: int) -> list[list[int]]:
    """Sort a step's groups into parts of at most so many tokens; a longer group is alone.

    The longest go first, each into the first part that has room.
    """
    sizes = {n: sum(len(one.tokens) - 1 for one in groups[n]) for n in set(numbers)}
    parts: list[list[int]] = []
    room: list[int] = []
    for number in sorted(numbers, key=lambda n: (-sizes[n], n)):
        place = next((p for p, left in enumerate(room) if left >= sizes[number]), len(parts))
        if place == len(parts):
            parts.append([])
            room.append(max(most_tokens, sizes[number]))
        parts[place].append(number)
        room[place] -= sizes[number]
    return parts


def collate(groups: Sequence[Group], numbers: Sequence[int]) -> "dict[str, torch.Tensor]":
    """Return a part as tensors of one row.

    They are the documents' tokens without the last ones, which predict nothing (`input_ids`), the
    documents' `lengths`, the places that predict answers (`wanted`), what stands there (`targets`),
    the document of each such place (`documents`), and the groups' numbers (`groups`).
    """
    import torch

    documents = [one for number in numbers for one in groups[number]]
    tokens, wanted, targets, owners = [], [], [], []
    start = 0
    for owner, one in enumerate(documents):
        places = np.flatnonzero(one.is_answer)
        tokens.append(one.tokens[:-1])
        wanted.append(places - 1 + start)
        targets.append(one.tokens[places])
        owners.append(np.full(len(places), owner))
        start += len(one.tokens) - 1
    arrays = {
        "input_ids": np.concatenate(tokens),
        "lengths": np.array([len(one) for one in tokens]),
        "wanted": np.concatenate(wanted),
        "targets": np.concatenate(targets),
        "documents": np.concatenate(owners),
        "groups": np.array(numbers),
    }
    return {name: torch.from_numpy(array.astype(np.int64))[None] for name, array in arrays.items()}
