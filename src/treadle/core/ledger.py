"""The exact order of training data: what any step saw is computed, whoever trains on it.

The tokens of all documents stand one after the other. Row w is the tokens from w * seq_len on,
seq_len + 1 of them: inputs, and targets shifted by one, so that neighbouring rows share a token.
Step s takes the places s * rows, s * rows + 1, ... of an endless order: all rows once, shuffled by
seed and epoch, then all of them once more in another order.
"""

from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from treadle.core.errors import DataError, SettingsError
from treadle.core.pack import TokenFile, open_tokens
from treadle.core.permutation import Permutation

__all__ = ["DOCUMENTS", "ORDER", "TOKENS", "Ledger", "RowOrder", "Seen", "open_ledger"]

ORDER, TOKENS, DOCUMENTS = "order.json", "tokens", "documents.parquet"
"""Files of a packed folder: how rows are ordered, the tokens, and the documents' ids."""
Integers = npt.NDArray[np.int64]


class RowOrder(BaseModel):
    """How rows are made of tokens, and steps of rows."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    seq_len: int = Field(ge=1)
    """Tokens that a row predicts; it has one more."""
    rows: int = Field(ge=1)
    """Rows of a step, over all devices."""
    seed: int = Field(ge=0)
    """Of the shuffles."""
    is_shuffled: bool
    """Whether rows are shuffled; without it they come as they stand, epoch after epoch."""
    vocab_size: int = Field(ge=1)
    """Tokens are below it."""
    end_token: int
    """What stands after each document."""
    tokenizer_hash: str
    """Of the tokenizer's file."""


class Seen(NamedTuple):
    """The pieces of documents in a step, row by row; the arrays are equally long."""

    slot: Integers
    """The row's place in the step."""
    row: Integers
    """The row's number in the folder."""
    document: Integers
    document_start: Integers
    """The piece's first token in the document."""
    num_tokens: Integers
    row_start: Integers
    """The piece's first token in the row."""


class Ledger:
    """A packed corpus in its exact order."""

    def __init__(self, tokens: TokenFile, order: RowOrder, folder: Path) -> None:
        self.tokens, self.order, self.folder = tokens, order, folder
        self.num_rows = max(0, (len(tokens.tokens) - 1) // order.seq_len)
        if not self.num_rows:
            raise DataError(
                f"'{folder}' has {len(tokens.tokens)} tokens, too few for a row of "
                f"{order.seq_len + 1}; pack more text, or shorter rows."
            )

    @property
    def steps_per_epoch(self) -> float:
        """How many steps it takes to see every row once."""
        return self.num_rows / self.order.rows

    @cached_property
    def ids(self) -> list[str]:
        """The id of each document, in the order of the tokens."""
        import pyarrow.parquet as pq

        found: list[str] = pq.read_table(self.folder / DOCUMENTS, columns=["id"])["id"].to_pylist()
        return found

    def rows_of(self, step: int, rank: int = 0, world: int = 1) -> Integers:
        """Return the numbers of a step's rows; of several ranks each takes every `world`-th slot.

        Raises:
            SettingsError: The step or the rank does not exist.
        """
        if step < 0 or not 0 <= rank < world:
            raise SettingsError(
                f"Step {step}, rank {rank} of {world} does not exist; steps and ranks count from 0."
            )
        places = np.arange(rank, self.order.rows, world, dtype=np.int64) + step * self.order.rows
        epochs, inside = places // self.num_rows, places % self.num_rows
        if not self.order.is_shuffled:
            return inside
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            inside[chosen] = self._permutation(int(epoch)).at(inside[chosen])
        return inside

    def batch(self, step: int, rank: int = 0, world: int = 1) -> npt.NDArray[np.generic]:
        """Return the tokens of a step: [rows, seq_len + 1]."""
        starts = (self.rows_of(step, rank, world) * self.order.seq_len).tolist()
        size = self.order.seq_len + 1
        found = np.empty((len(starts), size), self.tokens.tokens.dtype)
        for slot, start in enumerate(starts):
            found[slot] = self.tokens.tokens[start : start + size]
        return found

    def digest(self, step: int) -> str:
        """Return xxh3_128 of a step's tokens, slot after slot, little-endian as in the file."""
        from xxhash import xxh3_128_hexdigest

        return xxh3_128_hexdigest(self.batch(step).tobytes())

    def what_was_seen(self, step: int) -> Seen:
        """Return which pieces of which documents a step consists of."""
        rows = self.rows_of(step)
        begin = rows * self.order.seq_len
        end = begin + self.order.seq_len + 1
        starts = self.tokens.starts
        first = np.searchsorted(starts, begin, side="right") - 1
        counts = np.searchsorted(starts, end, side="left") - first
        slot = np.repeat(np.arange(len(rows)), counts)
        ahead = np.repeat(np.cumsum(counts) - counts, counts)
        document = first[slot] + np.arange(len(slot)) - ahead
        low = np.maximum(starts[document], begin[slot])
        high = np.minimum(starts[document + 1], end[slot])
        return Seen(
            slot, rows[slot], document, low - starts[document], high - low, low - begin[slot]
        )

    def where(self, document: int | str, epoch: int = 0) -> list[tuple[int, int]]:
        """Return the (step, slot) of all rows of an epoch that hold some of a document, in order.

        Raises:
            DataError: There is no such document.
        """
        places = self._places(self._number(document), epoch) + epoch * self.num_rows
        return [(place // self.order.rows, place % self.order.rows) for place in places.tolist()]

    def tokens_seen(self, document: int | str, step: int) -> int:
        """Return how many of a document's tokens were inputs in the steps before `step`.

        A token counts once an epoch; the last few of the folder, which fill no row, never count.
        """
        number, limit = self._number(document), step * self.order.rows
        start, stop = self.tokens.starts[number : number + 2].tolist()
        total = 0
        for epoch in range(-(-limit // self.num_rows)):
            places = self._places(number, epoch)
            seen = self._rows_at(places[places + epoch * self.num_rows < limit], epoch)
            begin = seen * self.order.seq_len
            inside = np.minimum(begin + self.order.seq_len, stop) - np.maximum(begin, start)
            total += int(np.maximum(inside, 0).sum())
        return total

    def _number(self, document: int | str) -> int:
        if isinstance(document, str):
            if document not in self._numbers:
                raise DataError(
                    f"'{self.folder}' has no document '{document}'; its ids stand in {DOCUMENTS}."
                )
            return self._numbers[document]
        if not 0 <= document < len(self.tokens):
            raise DataError(
                f"'{self.folder}' has no document {document}; it has {len(self.tokens)}, from 0 on."
            )
        return document

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in reversed(list(enumerate(self.ids)))}

    def _permutation(self, epoch: int) -> Permutation:
        return Permutation(self.num_rows, self.order.seed, f"rows {epoch}")

    def _places(self, number: int, epoch: int) -> Integers:
        """Return the places in an epoch's order of the rows that hold some of a document."""
        start, stop = self.tokens.starts[number : number + 2].tolist()
        first = max(0, (start - 1) // self.order.seq_len)
        last = min(self.num_rows - 1, (stop - 1) // self.order.seq_len)
        rows = np.arange(first, last + 1, dtype=np.int64)
        if self.order.is_shuffled:
            rows = self._permutation(epoch).places_of(rows)
        return np.sort(rows)

    def _rows_at(self, places: Integers, epoch: int) -> Integers:
        return self._permutation(epoch).at(places) if self.order.is_shuffled else places


def open_ledger(folder: Path) -> Ledger:
    """Open a packed corpus; nothing but the places of its documents is read.

    Raises:
        DataError: The folder is no output of treadle curate pack, or is damaged.
    """
    file = Path(folder) / ORDER
    if not file.is_file():
        raise DataError(f"No {ORDER} in '{folder}'; give the output of treadle curate pack.")
    try:
        order = RowOrder.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise DataError(f"'{file}' is not what treadle wrote; pack the corpus again.") from error
    return Ledger(open_tokens(Path(folder) / TOKENS), order, Path(folder))
