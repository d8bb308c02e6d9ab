"""Corpora that were curated before: their keys are kept, so that copies of them are found later.

A run with an index writes what its method compares of every document that stays, row by row as the
texts. A later run puts those rows before its own: what was kept once stays, and goes no more.
"""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from treadle.core.errors import DataError, SettingsError
from treadle.core.result import Input, digest
from treadle.native.text import Texts
from treadle.text.curate.base import CurateMethod
from treadle.text.curate.corpus import Corpus, documents_of
from treadle.text.curate.verdicts import Verdicts
from treadle.text.curate.writing import DATA, INDEX, INDEXED_BY

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["Joined", "Known", "known_inputs", "open_known", "sliced"]

Integers = npt.NDArray[np.int64]


class Known:
    """The documents that an earlier run kept, with the keys it found them by."""

    def __init__(self, folder: Path, method: CurateMethod) -> None:
        self._folder = folder
        self._files = sorted((folder / INDEX).glob("part-*.parquet"))
        if not self._files:
            raise DataError(
                f"No index in '{folder}'; curate that corpus again with --index and this method."
            )
        heads = [_head(file) for file in self._files]
        self._edges = np.cumsum([0, *(head.num_rows for head in heads)])
        found = (heads[0].metadata or {}).get(INDEXED_BY, b"").decode()
        if found != method.indexed_by:
            raise SettingsError(
                f"The index in '{folder}' is of '{found}', and this run compares "
                f"'{method.indexed_by}'; give both the same method and settings."
            )

    def __len__(self) -> int:
        return int(self._edges[-1])

    @cached_property
    def content_hash(self) -> str:
        """Of the keys and ids."""
        from xxhash import xxh3_128_hexdigest

        return digest([xxh3_128_hexdigest(file.read_bytes()) for file in self._files])

    @cached_property
    def num_bytes(self) -> Integers:
        """UTF-8 bytes of each text."""
        return self.column("num_bytes").astype(np.int64, copy=False)

    def column(self, name: str) -> npt.NDArray[np.generic]:
        """Return a column of the index."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = [n for n in pq.read_schema(self._files[0]).names if n.rpartition(".")[0] == name]
        whole = pa.concat_tables([pq.read_table(file, columns=names) for file in self._files])
        parts = [whole[one].to_numpy() for one in names]
        return parts[0] if len(parts) == 1 else np.stack(parts, axis=1)

    @cached_property
    def _ids(self) -> "pa.ChunkedArray":
        import pyarrow as pa
        import pyarrow.parquet as pq

        read = [pq.read_table(file, columns=["id"]) for file in self._files]
        return pa.concat_tables(read)["id"]

    def ids(self, documents: Integers) -> list[str]:
        """Return the ids of documents."""
        import pyarrow as pa

        found: list[str] = self._ids.take(pa.array(documents)).to_pylist()
        return found

    def wanted_texts(self, documents: Integers) -> Iterator[tuple[Integers, Texts]]:
        """Yield the texts of documents, given in rising order, a row group at a time."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        for file, first, stop in zip(self._files, self._edges[:-1], self._edges[1:], strict=True):
            inside = documents[(documents >= first) & (documents < stop)]
            if not len(inside):
                continue
            with pq.ParquetFile(self._folder / DATA / file.name) as opened:
                place = int(first)
                for group in range(opened.num_row_groups):
                    end = place + opened.metadata.row_group(group).num_rows
                    some = inside[(inside >= place) & (inside < end)]
                    if len(some):
                        table = opened.read_row_group(group, columns=["text"])
                        table = table.cast(pa.schema([("text", pa.large_string())]))
                        yield some, documents_of(table.take(pa.array(some - place))).texts
                    place = end


def _head(file: Path) -> "pq.FileMetaData":
    from treadle.core.table.parquet import open_parquet

    with open_parquet(file) as opened:
        return opened.metadata


def open_known(folders: list[Path] | None, method: CurateMethod) -> list[Known]:
    """Open the indexes of earlier outputs.

    Raises:
        SettingsError: The method has no index, or theirs is of another method.
        DataError: A folder has none.
    """
    if folders and not method.index:
        raise SettingsError(f"'{method.name}' compares no documents; leave --known out.")
    return [Known(Path(folder), method) for folder in folders or ()]


class Joined(Corpus):
    """A corpus behind those that are known: what a method decides about sees all of them."""

    def __init__(self, known: list[Known], corpus: Corpus) -> None:
        self._known, self._new = known, corpus
        self._edges = np.cumsum([0, *map(len, known), len(corpus)])
        self.source, self.engine = corpus.source, corpus.engine

    def __len__(self) -> int:
        return int(self._edges[-1])

    @property
    def num_known(self) -> int:
        """How many documents stand before the new ones."""
        return int(self._edges[-2])

    @cached_property
    def num_bytes(self) -> Integers:
        """UTF-8 bytes of each text."""
        return np.concatenate([*(part.num_bytes for part in self._known), self._new.num_bytes])

    def column(self, name: str, band: int | None = None) -> npt.NDArray[np.generic]:
        """Return a column of all; the known ones are preferred to any other."""
        assert band is None
        new = self._new.column(name)
        if name == "preference":
            return np.concatenate([np.full(self.num_known, np.inf), new])
        return np.concatenate([*(part.column(name) for part in self._known), new])

    def ids(self, documents: Integers) -> list[str]:
        """Return the ids of documents, given in rising order."""
        return [name for part, some, _ in self._inside(documents) for name in part.ids(some)]

    def wanted_texts(self, documents: Integers) -> Iterator[tuple[Integers, Texts]]:
        """Yield the texts of documents, given in rising order."""
        for part, some, first in self._inside(documents):
            for places, texts in part.wanted_texts(some):
                yield places + first, texts

    def _inside(self, documents: Integers) -> Iterator[tuple[Known | Corpus, Integers, int]]:
        parts: list[Known | Corpus] = [*self._known, self._new]
        for part, first, stop in zip(parts, self._edges[:-1], self._edges[1:], strict=True):
            inside = documents[(documents >= first) & (documents < stop)] - first
            if len(inside):
                yield part, inside, int(first)


def sliced(verdicts: Verdicts, num_known: int) -> Verdicts:
    """Return the verdicts on the new documents; numbers of documents stay those of all."""
    if not num_known:
        return verdicts
    assert verdicts.kept is not None
    reason, kept = verdicts.reason[num_known:].copy(), verdicts.kept[num_known:]
    is_old = (kept >= 0) & (kept < num_known)
    reason[is_old] = len(verdicts.reasons)
    note = f"{int(is_old.sum())} documents are copies of {num_known} known ones."
    return verdicts._replace(
        reasons=(*verdicts.reasons, "copy of a known document"),
        reason=reason,
        cluster=None if verdicts.cluster is None else verdicts.cluster[num_known:],
        kept=kept,
        jaccard=None if verdicts.jaccard is None else verdicts.jaccard[num_known:],
        notes=(*verdicts.notes, note),
    )


def known_inputs(known: list[Known], folders: list[Path] | None) -> list[Input]:
    """Return what the result says of earlier outputs."""
    return [
        Input(name=f"known {folder}", path=str(folder), content_hash=one.content_hash, role="data")
        for one, folder in zip(known, folders or (), strict=True)
    ]
