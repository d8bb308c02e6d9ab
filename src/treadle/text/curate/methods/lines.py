"""Lines and paragraphs that stand in several documents, and lines of one that are almost alike."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from treadle.core.method import Paper
from treadle.text.curate.base import Columns, CurateMethod, Documents, Pieces, Verdicts
from treadle.text.curate.hashing import hash_strings
from treadle.text.curate.keys import ranges_of

if TYPE_CHECKING:
    from treadle.text.curate.corpus import Corpus

__all__ = ["Lines"]


class Lines(CurateMethod):
    """Remove a line wherever it stands again, in its document or in another.

    The place to keep is that of the smallest (hash of the document's id, position), whatever order
    the documents come in; all other places lose the line. A document of which fewer than
    `min_chars` characters are left goes. Paragraphs are the lines between blank ones. Lines shorter
    than `min_piece_chars` and blank ones stay: braces, bullets and dates are no copies.

    Paper: Wenzek et al., CCNet: Extracting High Quality Monolingual Datasets from Web Crawl Data,
    2020; it hashes paragraphs and keeps the first in the order of reading.
    """

    name: ClassVar[str] = "lines"
    paper: ClassVar[Paper] = Paper(
        "CCNet: Extracting High Quality Monolingual Datasets from Web Crawl Data",
        2020,
        "https://arxiv.org/abs/1911.00359",
    )

    unit: Literal["line", "paragraph"] = "line"
    """What is compared."""
    min_piece_chars: Annotated[int, Field(ge=1)] = 20
    """Shorter lines or paragraphs are left alone."""
    min_chars: Annotated[int, Field(ge=1)] = 20
    """A document with fewer characters left goes; Matrix has 20."""

    def measure(self, documents: Documents) -> Columns:
        """Return the hash and the size of each long piece, and how many each document has."""
        texts = [documents.texts.text(number) for number in range(len(documents.texts))]
        pieces = [[one for one in self._split(text) if self._is_long(one)] for text in texts]
        flat = [piece.strip() for long in pieces for piece in long]
        return {
            "piece_hash": hash_strings(flat),
            "piece_chars": np.array([len(piece) for piece in flat], np.int64),
            "num_pieces": np.array([len(long) for long in pieces], np.int64),
            "num_chars": np.array([len(text) for text in texts], np.int64),
        }

    def decide(self, corpus: "Corpus") -> Verdicts:
        """Return which pieces go, and the documents of which too little is left."""
        counts, chars, lengths = (
            corpus.column(name).astype(np.int64, copy=False)
            for name in ("num_pieces", "piece_chars", "num_chars")
        )
        goes = _copies(corpus, counts)
        ends = np.cumsum(counts)
        lost = np.concatenate([[0], np.cumsum(chars * goes)])
        lost = lost[ends] - lost[ends - counts]
        left = lengths - lost
        is_short = (lost > 0) & (left < self.min_chars)
        return Verdicts(
            ("too little left",),
            np.where(is_short, 0, -1).astype(np.int16),
            left.astype(np.float32),
            pieces=Pieces(goes, ends - counts),
            notes=(
                f"{int(goes.sum())} of {len(goes)} {self.unit}s of {self.min_piece_chars} "
                f"characters or more stood before; {int(lost.sum())} characters in them.",
            ),
        )

    def edit(self, documents: Documents, verdicts: Verdicts, first: int) -> list[str]:
        """Return the texts without the pieces that go."""
        assert verdicts.pieces is not None
        goes, starts = verdicts.pieces
        found = []
        for number in range(len(documents.texts)):
            text, place, kept = documents.texts.text(number), int(starts[first + number]), []
            for piece in self._split(text):
                is_long = self._is_long(piece)
                if not (is_long and goes[place]):
                    kept.append(piece)
                place += is_long
            found.append(self._separator.join(kept))
        return found

    @property
    def _separator(self) -> str:
        return {"line": "\n", "paragraph": "\n\n"}[self.unit]

    def _split(self, text: str) -> list[str]:
        return text.split(self._separator)

    def _is_long(self, piece: str) -> bool:
        return len(piece) >= self.min_piece_chars and len(piece.strip()) >= self.min_piece_chars


def _copies(corpus: "Corpus", counts: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return which pieces stand elsewhere under a smaller (hash of the document's id, place)."""
    keys = corpus.column("piece_hash").astype(np.uint64, copy=False)
    owner = np.repeat(corpus.column("id_hash"), counts)
    goes = np.zeros(len(keys), np.bool_)
    for inside in ranges_of(keys[:, 0]):
        some = keys[inside]
        # The sort is stable, so that places decide inside a document, and between equal ids.
        order = np.lexsort((owner[inside], some[:, 1], some[:, 0]))
        same = (some[order[1:]] == some[order[:-1]]).all(axis=1)
        goes[inside[order[1:][same]]] = True
    return goes
