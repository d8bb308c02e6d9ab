"""Sentences and lines of one document that are almost alike."""

import re
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from treadle.core.method import Paper
from treadle.native.text import Texts, similar_pieces
from treadle.text.curate.base import Columns, CurateMethod, Documents, Pieces, Verdicts

if TYPE_CHECKING:
    from treadle.text.curate.corpus import Corpus

__all__ = ["SimilarLines"]

_MARKS = ".!?。！？…[]【】\n"
_PIECE = re.compile(f"[^{re.escape(_MARKS)}]*[{re.escape(_MARKS)}]*")


class SimilarLines(CurateMethod):
    """Remove sentences and lines that almost repeat an earlier one of the same document.

    Pieces end at . ! ? 。！？… brackets and line ends. Piece j goes if Levenshtein's distance to an
    earlier piece i that stays is at most p max(|i|, |j|); if the shorter one has at most 15
    characters, only if they are equal. The released code first asks for lengths less than 30 %
    apart and a Jaccard similarity of characters of 1/3; both follow from the distance if p < 0.3.
    We differ in three things: line ends end pieces, too; pieces shorter than `min_piece_chars` stay
    (else every decimal loses its repeated digits); and a piece is compared with the last `window`
    pieces, so that a long document takes no quadratic time.

    Paper: Du et al., Chinese Tiny LLM: Pretraining a Chinese-Centric Large Language Model, 2024.
    """

    name: ClassVar[str] = "similar_lines"
    paper: ClassVar[Paper] = Paper(
        "Chinese Tiny LLM: Pretraining a Chinese-Centric Large Language Model",
        2024,
        "https://arxiv.org/abs/2404.04167",
    )

    distance: Annotated[float, Field(ge=0, lt=0.3)] = 0.1
    """Edits, in parts of the longer piece, up to which two are alike."""
    short_chars: Annotated[int, Field(ge=0)] = 15
    """Pieces of so many characters or fewer must be equal."""
    min_piece_chars: Annotated[int, Field(ge=1)] = 6
    """Shorter pieces stay."""
    window: Annotated[int, Field(ge=1)] = 2000
    """Pieces before it, of those that stay, that a piece is compared with."""
    min_chars: Annotated[int, Field(ge=1)] = 20
    """A document with fewer characters left goes, if it lost any."""

    def measure(self, documents: Documents) -> Columns:
        """Return which long pieces of each document go, and how many characters are left."""
        texts = [documents.texts.text(number) for number in range(len(documents.texts))]
        pieces = [[one for one in _split(text) if self._is_long(one)] for text in texts]
        flat = [piece for long in pieces for piece in long]
        starts = np.array([0, *accumulate(map(len, pieces))], np.int64)
        goes = similar_pieces(
            Texts.of([_content(piece) for piece in flat]),
            starts,
            self.distance,
            self.short_chars,
            self.window,
        )
        lost = np.concatenate([[0], np.cumsum(np.array(list(map(len, flat)), np.int64) * goes)])
        return {
            "goes": goes,
            "num_pieces": np.diff(starts),
            "num_lost": np.diff(lost[starts]),
            "num_chars": np.array([len(text) for text in texts], np.int64),
        }

    def decide(self, corpus: "Corpus") -> Verdicts:
        """Return the pieces that go, and the documents of which too little is left."""
        counts, lost, chars = (
            corpus.column(name).astype(np.int64, copy=False)
            for name in ("num_pieces", "num_lost", "num_chars")
        )
        goes = corpus.column("goes").astype(np.bool_, copy=False)
        is_short = (lost > 0) & (chars - lost < self.min_chars)
        return Verdicts(
            ("too little left",),
            np.where(is_short, 0, -1).astype(np.int16),
            (chars - lost).astype(np.float32),
            pieces=Pieces(goes, np.cumsum(counts) - counts),
            notes=(
                f"{int(goes.sum())} of {len(goes)} pieces almost repeat one before; "
                f"{int(lost.sum())} characters in them.",
            ),
        )

    def edit(self, documents: Documents, verdicts: Verdicts, first: int) -> list[str]:
        """Return the texts without the pieces that go, and the marks behind those."""
        assert verdicts.pieces is not None
        goes, starts = verdicts.pieces
        found = []
        for number in range(len(documents.texts)):
            place, kept = int(starts[first + number]), []
            for piece in _split(documents.texts.text(number)):
                is_long = self._is_long(piece)
                if not (is_long and goes[place]):
                    kept.append(piece)
                place += is_long
            found.append("".join(kept))
        return found

    def _is_long(self, piece: str) -> bool:
        return len(_content(piece)) >= self.min_piece_chars


def _split(text: str) -> list[str]:
    """Return the pieces of a text, each with the marks behind it; joined they are the text."""
    places = [found.start() for found in _PIECE.finditer(text)]
    return [text[start:stop] for start, stop in pairwise([*places, len(text)]) if start < stop]


def _content(piece: str) -> str:
    return piece.rstrip(_MARKS).strip()
