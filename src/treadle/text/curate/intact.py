"""Whether packed tokens are those that were written: digests of pieces, checked where read."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from treadle.core.checkpoint.publish import write_text
from treadle.core.errors import DataError
from treadle.core.ledger import TOKENS, Ledger

__all__ = ["PIECES", "require_intact", "write_pieces"]

PIECES = "pieces.json"
"""File of a packed folder: the xxh3_128 of every so many tokens, as they stand in tokens.bin."""
_PIECE_TOKENS = 16 << 20


def write_pieces(ledger: Ledger) -> None:
    """Write the digests of all pieces."""
    size = _PIECE_TOKENS
    numbers = range(-(-len(ledger.tokens.tokens) // size))
    digests = [_digest(ledger, number, size) for number in numbers]
    write_text(ledger.folder / PIECES, {"piece_tokens": size, "digests": digests})


def require_intact(ledger: Ledger, steps: Iterable[int]) -> list[str]:
    """Check the pieces that steps read; a note says so where an older pack has no digests.

    Raises:
        DataError: A piece is not as it was written, or the digests cannot be read.
    """
    file = Path(ledger.folder) / PIECES
    if not file.is_file():
        return [f"Not checked: no {PIECES} says what the tokens were; pack again to have it."]
    try:
        read = json.loads(file.read_bytes())
        size, digests = int(read["piece_tokens"]), list(read["digests"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"'{file}' holds no digests ({error}); pack the corpus again.") from error
    first = np.concatenate([ledger.rows_of(step) for step in steps]) * ledger.order.seq_len
    touched = np.unique(np.concatenate([first, first + ledger.order.seq_len]) // size)
    for number in touched.tolist():
        if number >= len(digests) or _digest(ledger, number, size) != digests[number]:
            raise DataError(
                f"'{ledger.folder / TOKENS}.bin' is not as it was written: its tokens from "
                f"{number * size} on differ from {PIECES}; copy or pack it again."
            )
    return []


def _digest(ledger: Ledger, number: int, size: int) -> str:
    from xxhash import xxh3_128_hexdigest

    return xxh3_128_hexdigest(ledger.tokens.tokens[number * size : (number + 1) * size].tobytes())
