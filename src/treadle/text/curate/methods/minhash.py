"""Near-duplicates by MinHash and locality-sensitive hashing."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from treadle.core.method import Paper
from treadle.core.result import Figure, Measurement, Series
from treadle.core.seed import numpy_stream
from treadle.native.text import Unit, minhash_documents
from treadle.text.curate.base import Columns, CurateMethod, Documents, Verdicts
from treadle.text.curate.hashing import hash_texts
from treadle.text.curate.similarity import Copies, Likeness, copies_of
from treadle.text.curate.survivors import Keep, best_of, clusters, join, preference, unranked

if TYPE_CHECKING:
    from treadle.text.curate.corpus import Corpus

__all__ = ["MinHash"]


class _Preset(NamedTuple):
    unit: Unit
    shingle: int
    bands: int
    rows: int
    threshold: float


# preset   shingles           bands x rows   knee    verified   source
# fineweb  5 words            14 x 8         0.72    no         Penedo et al. 2024, section 3.4
# pythia   5 words            8 x 16         0.88    0.87       Biderman et al. 2023 say only 0.87
# map-cc   13 characters      9 x 13         0.84    no         Du et al. 2024, released code
_PRESETS = {
    "fineweb": _Preset("words", 5, 14, 8, 0.0),
    "pythia": _Preset("words", 5, 8, 16, 0.87),
    "map-cc": _Preset("characters", 13, 9, 13, 0.0),
}


_ROUNDING = 1e-6
"""Similarities are written in float32."""


class MinHash(CurateMethod):
    """Keep one of documents that share most of their shingles.

    Slot p of a document is the least h_p over its shingles, so that two documents agree in it with
    the probability of their Jaccard similarity s; they are found together if all r slots of any of
    b bands agree, P(s) = 1 - (1 - s^r)^b. h_p(x) = (a_p x + c_p mod 2^64) >> 32 on 32-bit hashes of
    shingles. Clusters are what bands connect, over any number of documents between; of each the
    preferred one stays, and each copy is compared with it by the true Jaccard similarity of shingle
    sets. With a threshold a copy goes only for a kept one to which it reaches it; in stars only for
    one with which it shares a band itself. What stays for want of one is kept, too.
    A document shorter than a shingle is a copy of equal ones only. Words are runs of letters and
    digits in lower case; an ideograph is a word.

    Paper: Broder, On the resemblance and containment of documents, 1997.
    """

    name: ClassVar[str] = "minhash"
    paper: ClassVar[Paper] = Paper(
        "On the resemblance and containment of documents",
        1997,
        "https://doi.org/10.1109/SEQUEN.1997.666900",
    )

    preset: Literal["fineweb", "pythia", "map-cc"] = "fineweb"
    """Shingles, bands and threshold of a published corpus; the settings below change them."""
    shingle: Annotated[int, Field(ge=1, le=64)] | None = None
    """Words in a shingle (map-cc: characters)."""
    bands: Annotated[int, Field(ge=1, le=256)] | None = None
    """Groups of slots, any of which may agree; each costs 8 bytes a document on disk."""
    rows: Annotated[int, Field(ge=1, le=256)] | None = None
    """Slots in a group, all of which must agree."""
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    """Jaccard similarity to the kept document from which on a copy goes; 0 takes all found."""
    clusters: Literal["linked", "stars"] = "linked"
    """linked: what bands connect, in chains of any length, is one cluster; stars: each copy shares
    a band with the one that is kept."""
    keep: Keep = "longest"
    """Which copy stays: longest, first (by id), best:COLUMN or earliest:COLUMN; ties by id."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the hash functions."""

    @property
    def chosen(self) -> _Preset:
        """The preset with the settings that change it."""
        given = {name: getattr(self, name) for name in ("shingle", "bands", "rows", "threshold")}
        changed = {name: value for name, value in given.items() if value is not None}
        return _PRESETS[self.preset]._replace(**changed)

    @property
    def index(self) -> tuple[str, ...]:
        """The keys of the bands."""
        return (*(f"key_{band}" for band in range(self.chosen.bands)), "is_short")

    @property
    def indexed_by(self) -> str:
        """What decides the keys."""
        unit, shingle, bands, rows, _ = self.chosen
        return f"minhash, {shingle} {unit}, {bands} x {rows}, seed {self.seed}"

    def probability(self, similarity: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return how likely two documents of a similarity are found together by a band."""
        found: npt.NDArray[np.float64] = 1 - (1 - similarity**self.chosen.rows) ** self.chosen.bands
        return found

    def measure(self, documents: Documents) -> Columns:
        """Return the keys of the bands, and how much the document is preferred."""
        unit, shingle, bands, rows, _ = self.chosen
        generator = numpy_stream(self.seed, "minhash")
        multiply, add = generator.integers(0, 1 << 64, (2, bands * rows), np.uint64)
        keys, found = minhash_documents(documents.texts, unit, shingle, multiply, add, bands)
        is_short = found == 0
        whole = hash_texts(documents.texts)[:, 0]
        keys[is_short] = whole[is_short, None] + np.arange(bands, dtype=np.uint64)
        by_band = {f"key_{band}": keys[:, band] for band in range(bands)}
        return {**by_band, "is_short": is_short, **preference(self.keep, documents)}

    def decide(self, corpus: "Corpus") -> Verdicts:
        """Return the copies of each cluster."""
        bands = self.chosen.bands
        notes = unranked(self.keep, corpus)
        parent = np.arange(len(corpus), dtype=np.int64)
        for band in range(bands):
            join(parent, corpus.column(f"key_{band}").astype(np.uint64, copy=False))
        ranking = best_of(corpus, clusters(parent))
        is_short = corpus.column("is_short").astype(np.bool_, copy=False)
        copies = copies_of(corpus, ranking, is_short, self._likeness(corpus))
        cluster = np.full(len(corpus), -1, np.int64)
        cluster[ranking.order] = ranking.best
        return Verdicts(
            ("near copy",),
            np.where(copies.kept >= 0, 0, -1).astype(np.int16),
            cluster=cluster,
            kept=copies.kept,
            jaccard=copies.jaccard,
            figures=(self._curve(), _similarities(copies)),
            notes=(*notes, *self._notes(copies)),
            measurements=_reach(copies, self._knee),
        )

    def _likeness(self, corpus: "Corpus") -> Likeness:
        unit, shingle, bands, _, threshold = self.chosen

        def keys(documents: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
            columns = (corpus.column(f"key_{band}")[documents] for band in range(bands))
            return np.stack([one.astype(np.uint64, copy=False) for one in columns], axis=1)

        return Likeness(unit, shingle, threshold, keys if self.clusters == "stars" else None)

    @property
    def _knee(self) -> float:
        """The threshold, or where there is none the similarity about which bands find pairs."""
        bands, rows = self.chosen.bands, self.chosen.rows
        return float(self.chosen.threshold or (1 / bands) ** (1 / rows)) - _ROUNDING

    def _curve(self) -> Figure:
        places = np.linspace(0, 1, 41)
        series = Series(name="theory", x=places.tolist(), y=self.probability(places).tolist())
        bands, rows = self.chosen.bands, self.chosen.rows
        return Figure(
            kind="line",
            title=f"Chance that {bands} bands of {rows} find a pair",
            x_label="Jaccard similarity",
            y_label="probability",
            series=[series],
        )

    def _notes(self, copies: Copies) -> tuple[str, ...]:
        found = copies.jaccard[copies.kept >= 0]
        if not len(found):
            return ()
        low, knee = float((found < 0.5).mean()), self._knee
        beyond = float((found < knee).mean())
        notes = [f"Of {len(found)} copies, {low:.1%} are less than half similar to what was kept."]
        if beyond:
            mend = (
                "; --clusters stars takes only what was found together with what is kept, "
                f"--threshold {knee:.2f} only what is so similar"
            )
            notes.append(
                f"Clusters reached down to a similarity of {float(found.min()):.2f} to the kept "
                f"document; {beyond:.1%} of the copies are below {knee:.2f}, about which bands "
                f"find pairs{mend if self.clusters == 'linked' else ''}."
            )
        return tuple(notes)


def _reach(copies: Copies, knee: float) -> tuple[Measurement, ...]:
    """Return how far copies are from what was kept for them."""
    found = copies.jaccard[copies.kept >= 0]
    if not len(found):
        return ()
    note = f"of copies, below a similarity of {knee:.2f} to the kept document"
    return (
        Measurement(
            name="least_similarity",
            value=float(found.min()),
            unit="Jaccard, of a copy to the kept document",
            better="higher",
        ),
        Measurement(
            name="distant_copies_fraction",
            value=float((found < knee).mean()),
            unit="of the copies",
            note=note,
            better="lower",
        ),
    )


def _similarities(copies: Copies) -> Figure:
    counts, edges = np.histogram(copies.jaccard[copies.kept >= 0], 20, (0, 1))
    middles = (edges[1:] + edges[:-1]) / 2
    series = Series(name="copies", x=middles.tolist(), y=counts.astype(float).tolist())
    return Figure(
        kind="bar",
        title="How similar copies are to what was kept",
        x_label="Jaccard similarity",
        y_label="copies",
        series=[series],
    )
