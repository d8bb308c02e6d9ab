"""What is learned and what is held out: groups of documents, the former first."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from treadle.core.errors import DataError
from treadle.core.run import Recording
from treadle.core.seed import numpy_stream
from treadle.learn.tune.encoding import Encoder
from treadle.learn.tune.lessons import Encoded, Group, encoded, shuffled, windows
from treadle.learn.tune.request import TuneRequest
from treadle.learn.tune.rows import Row, Text, read_rows, text_rows

__all__ = ["Material", "material_of"]

_MOST_HELD = 64
"""Of rows that are held out of the data themselves."""


class Material(NamedTuple):
    """Groups of documents."""

    groups: list[Group]
    num_learned: int
    """The first ones are learned, the others held out."""

    @property
    def heldout(self) -> range:
        """The numbers of those that are held out."""
        return range(self.num_learned, len(self.groups))


def material_of(request: TuneRequest, folder: Path, run: Recording) -> Material:
    """Read what a run learns, and note what was cut or dropped.

    Raises:
        DataError: Something cannot be read or learned; the row is named.
    """
    from treadle.core.checkpoint.described import read_config
    from treadle.model import facts
    from treadle.model.load import load_tokenizer

    encoder = Encoder(load_tokenizer(folder), request.chat)
    config = facts.base_config(read_config(folder / "config.json"))
    most = request.settings.max_tokens or facts.context_length(config) or 1 << 30
    if request.settings.max_tokens:
        facts.require_positions(config, most)
    of_pairs = request.method.takes == "pairs"
    source = text_rows(request.text) if request.text else read_rows(str(request.data), of_pairs)
    run.read("data", str(request.text or request.data), source.content_hash, "data")
    if encoder.end is None and request.text is None:
        run.notes.append(
            "The tokenizer names no token that ends a text, so that answers do not learn to end."
        )
    if source.unused:
        run.notes.append(f"Not read of the rows: {', '.join(source.unused)}.")
    rows = list(source.rows)
    own, held = _split(rows, request)
    if request.shuffle_answers:
        own = shuffled(own, request.seed)
    learned = _groups(own, request, encoder, most, run)
    if request.heldout is not None:
        is_text = request.text is not None
        place = request.heldout
        other = text_rows(place) if is_text else read_rows(place, of_pairs, "dev")
        if other.content_hash == source.content_hash:
            raise DataError(
                f"'{place}' holds the very rows that are learned, so that nothing would be held "
                f"out; give others, or --heldout-fraction 0.1."
            )
        run.read("heldout", place, other.content_hash, "data")
        held = list(other.rows)
    kept = _groups(held, request, encoder, most, run, "held-out ") if held else []
    run.notes += encoder.notes
    return Material([*learned, *kept], len(learned))


def _split(rows: list[Row], request: TuneRequest) -> tuple[list[Row], list[Row]]:
    """Return what is learned, and what is held out of the rows themselves."""
    if not request.held_fraction or request.text is not None:
        return rows, []
    num_held = min(_MOST_HELD, round(len(rows) * request.held_fraction))
    if len(rows) > 1:
        num_held = max(1, num_held)
    order = numpy_stream(request.seed, "held out").permutation(len(rows))
    chosen = set(order[:num_held].tolist())
    own = [row for number, row in enumerate(rows) if number not in chosen]
    if not own:
        raise DataError(
            f"All {len(rows)} rows would be held out; give more, a smaller --heldout-fraction, or "
            f"--heldout-fraction 0."
        )
    return own, [rows[number] for number in sorted(chosen)]


def _groups(
    rows: Sequence[Row],
    request: TuneRequest,
    encoder: Encoder,
    most: int,
    run: Recording,
    what: str = "",
) -> list[Group]:
    """Return rows as groups: a text in windows, all else row by row."""
    if request.text is not None:
        size = min(request.settings.window_tokens, most)
        found = [
            group
            for row in rows
            if isinstance(row, Text)
            for group in windows(encoder.documents(row)[0], size, encoder.begin)
        ]
        if not found:
            raise DataError(f"'{request.text}' has less than two tokens; give more text.")
        return found
    done: Encoded = encoded(rows, encoder, most, request.settings.too_long)
    if done.num_cut:
        run.notes.append(f"{done.num_cut} {what}rows were cut to {most} tokens.")
    if done.num_dropped:
        run.notes.append(f"{done.num_dropped} {what}rows were dropped, as they are too long.")
    return done.groups
