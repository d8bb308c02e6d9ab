"""Everything that was measured of a source: written unit by unit, so that a killed run goes on.

What a unit yields is one folder of arrays, renamed into place when it is whole. Nothing else is
kept of a document, and texts are read again where they are needed.
"""

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.disk import save_array
from treadle.core.progress import track
from treadle.core.table import Source, Unit, batches_of
from treadle.native.text import Texts
from treadle.text.curate.documents import Columns, Documents
from treadle.text.curate.engines import WorkEngine
from treadle.text.curate.hashing import hash_texts
from treadle.text.curate.ids import Repeats, repeats_of
from treadle.text.curate.shards import Shard

if TYPE_CHECKING:
    import pyarrow as pa

    from treadle.core.table.batches import Mended, Reject

__all__ = ["Corpus", "Measured", "documents_of", "measure"]

_HEADERS = threading.Lock()
"""numpy reads a header as Python's source, which two threads of Python 3.11 cannot do at once."""

_REJECTS, _MENDED = "rejects.json", "mended.json"
Said = tuple[str, int, str]
"""Of a record: file, row, and what there is to say of it."""
Integers = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]


class Corpus:
    """The measured columns of all documents, in the order of the source."""

    def __init__(self, source: Source, folder: Path, engine: WorkEngine, loaded: Columns) -> None:
        self.source, self.engine = source, engine
        self._folder, self._loaded = folder, loaded

    def __len__(self) -> int:
        return int(self.firsts[-1])

    @property
    def num_known(self) -> int:
        """How many of the documents, from the first on, were kept by earlier runs."""
        return 0

    @cached_property
    def firsts(self) -> Integers:
        """The number of each unit's first document, and of the one after the last."""
        sizes = [len(self.unit_column(unit, "num_bytes")) for unit in self.source.units]
        return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    @cached_property
    def num_bytes(self) -> Integers:
        """UTF-8 bytes of each text."""
        return self.column("num_bytes").astype(np.int64, copy=False)

    def column(self, name: str, band: int | None = None) -> npt.NDArray[np.generic]:
        """Return a measured column of all documents, or one band of it."""
        index = slice(None) if band is None else (slice(None), band)
        if name in self._loaded:
            return self._loaded[name][index]
        return np.concatenate([self.unit_column(unit, name)[index] for unit in self.source.units])

    def rows(self, name: str, first: int, stop: int) -> npt.NDArray[np.generic]:
        """Return a measured column of the documents from `first` to `stop`."""
        if name in self._loaded:
            return self._loaded[name][first:stop]
        found = [
            self.unit_column(unit, name)[max(first - start, 0) : stop - start]
            for unit, start, end in self._units()
            if start < stop and end > first
        ]
        return np.concatenate(found)

    @cached_property
    def repeats(self) -> Repeats:
        """The documents whose id an earlier one has."""
        return repeats_of(self.column("id_hash").astype(np.uint64, copy=False), self._plain_ids)

    def ids(self, documents: Integers) -> list[str]:
        """Return the ids of documents, given in rising order."""
        return self.repeats.told_apart(self._plain_ids(documents), documents)

    def _plain_ids(self, documents: Integers) -> list[str]:
        found: list[str] = []
        for unit, first, stop in self._units():
            inside = documents[(documents >= first) & (documents < stop)] - first
            if len(inside):
                ends, text = self.unit_column(unit, "id_ends"), self.unit_column(unit, "id_bytes")
                starts = np.concatenate([[0], ends[:-1]])
                found += [text[starts[i] : ends[i]].tobytes().decode() for i in inside]
        return found

    def read(self, first: int, stop: int) -> "Iterator[tuple[int, pa.Table]]":
        """Yield the documents from `first` to `stop`, batch by batch, each with its first one."""
        for unit, start, end in self._units():
            if end <= first or start >= stop:
                continue
            place = start
            for table, _, _ in batches_of(self.source, unit):
                low, high = max(first - place, 0), min(stop - place, len(table))
                if low < high:
                    inside = table.slice(low, high - low)
                    yield place + low, self.repeats.renamed(inside, place + low)
                place += len(table)
                if place >= stop:
                    break

    def wanted_texts(self, documents: Integers) -> Iterator[tuple[Integers, Texts]]:
        """Yield the texts of documents, given in rising order, a batch of a unit at a time."""
        import pyarrow as pa

        for unit, first, stop in self._units():
            inside = documents[(documents >= first) & (documents < stop)]
            place = first
            for table, _, _ in batches_of(self.source, unit) if len(inside) else ():
                some = inside[(inside >= place) & (inside < place + len(table))]
                if len(some):
                    taken = table.take(pa.array(some - place))
                    yield some, documents_of(taken).texts
                place += len(table)

    def rejects(self) -> list[Said]:
        """Return the records that are no documents, each with the reason."""
        return self._said(_REJECTS)

    def mended(self) -> list[Said]:
        """Return the records of which something was replaced, each with what it was."""
        return self._said(_MENDED)

    def _said(self, name: str) -> list[Said]:
        found: list[Said] = []
        for unit in self.source.units:
            content = (self._place(unit) / name).read_text()
            found += [(file, row, what) for file, row, what in json.loads(content)]
        return found

    def state_bytes(self) -> int:
        """Return what all units keep on disk."""
        files = (file for unit in self.source.units for file in self._place(unit).iterdir())
        return sum(file.stat().st_size for file in files)

    def _units(self) -> Iterator[tuple[Unit, int, int]]:
        for unit in self.source.units:
            yield unit, int(self.firsts[unit.number]), int(self.firsts[unit.number + 1])

    def unit_column(self, unit: Unit, name: str) -> npt.NDArray[np.generic]:
        """Return a measured column of a unit's documents, mapped and not read."""
        file = self._place(unit) / f"{name}.npy"
        with _HEADERS:
            found: npt.NDArray[np.generic] = np.load(file, mmap_mode="r")
        return found

    def _place(self, unit: Unit) -> Path:
        return _folder_of(unit, self._folder)


Measure = Callable[[Documents], Columns]
"""What to remember of some documents; no closure, so that it can be sent to another process."""


class Measured(NamedTuple):
    """What there is when the measuring is done."""

    corpus: "Corpus"
    num_resumed: int
    """Units that an earlier run had measured."""
    num_missing: int
    """Units that other shares of the work still have to measure."""


def measure(
    title: str,
    measures: tuple[Measure, ...],
    source: Source,
    folder: Path,
    engine: WorkEngine,
    loaded: Columns,
    reference: Keys | None = None,
    shard: Shard | None = None,
) -> Measured:
    """Measure the units that no earlier run did, or a share of them."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [unit for unit in source.units if not _folder_of(unit, folder).exists()]
    todo = [unit for unit in missing if shard is None or shard.takes(unit.number)]

    work = _Measuring(measures, source, folder, reference)
    for _ in track(engine.run(work.measure, todo), title, len(todo)):
        pass
    corpus = Corpus(source, folder, engine, loaded)
    return Measured(corpus, len(source.units) - len(missing), len(missing) - len(todo))


def _folder_of(unit: Unit, folder: Path) -> Path:
    return folder / f"{unit.number:05d}"


class _Measuring(NamedTuple):
    """The work on a unit; no closure, so that it can be sent to another process."""

    measures: tuple[Measure, ...]
    source: Source
    folder: Path
    reference: Keys | None

    def measure(self, unit: Unit) -> None:
        """Write what is to be remembered of a unit's documents."""
        runs: dict[str, list[npt.NDArray[np.generic]]] = {}
        rejects: list[Reject] = []
        mends: list[Mended] = []
        nothing: tuple[pa.Table, list[Reject], list[Mended]] = (
            self.source.schema.empty_table(),
            [],
            [],
        )  # so that every unit has every column
        for table, refused, mended in chain([nothing], batches_of(self.source, unit)):
            rejects += refused
            mends += mended
            for name, column in self._columns(table).items():
                runs.setdefault(name, []).append(column)
        beside = self.folder / f".{unit.number:05d}"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        for name, parts in runs.items():
            whole = np.concatenate(parts)
            if name == "id_ends":
                whole = np.cumsum(whole, dtype=np.int64)
            with (beside / f"{name}.npy").open("wb") as stream:
                save_array(stream, whole)
        (beside / _REJECTS).write_text(json.dumps(rejects))
        (beside / _MENDED).write_text(json.dumps(mends))
        os.rename(beside, _folder_of(unit, self.folder))

    def _columns(self, table: "pa.Table") -> Columns:
        documents = documents_of(table)._replace(reference=self.reference)
        found = _identity(documents)
        for measured in self.measures:
            found |= measured(documents)
        return found


def _identity(documents: Documents) -> Columns:
    """Return the sizes of texts and ids, and the ids."""
    ids = _buffers(documents.table["id"])
    return {
        "id_hash": hash_texts(ids)[:, 0],
        "num_bytes": np.diff(documents.texts.offsets),
        "id_ends": np.diff(ids.offsets),
        "id_bytes": ids.data[: ids.offsets[-1]],
    }


def documents_of(table: "pa.Table") -> Documents:
    """Return a table of documents with its texts as one buffer."""
    return Documents(_buffers(table["text"]), table)


def _buffers(column: "pa.ChunkedArray") -> Texts:
    """Return strings as one buffer and offsets from 0."""
    import pyarrow as pa

    whole = pa.concat_arrays(column.chunks) if column.num_chunks != 1 else column.chunk(0)
    if len(whole) == 0:
        return Texts(np.zeros(1, np.uint8), np.zeros(1, np.int64))
    _, offsets, data = whole.buffers()
    found = np.frombuffer(offsets, np.int64)[whole.offset : whole.offset + len(whole) + 1]
    content = np.frombuffer(data, np.uint8) if data is not None else np.zeros(1, np.uint8)
    if found[0] == 0:
        return Texts(content, found)
    return Texts(content[found[0] : max(found[-1], found[0] + 1)], found - found[0])
