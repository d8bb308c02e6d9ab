"""What a run leaves: the documents that stay, a decision on each one, and the statistics."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.progress import track
from treadle.core.table import LineWriter, PartFormat, PartWriter, cut, write_parquet
from treadle.core.table.parts import PartCut
from treadle.text.curate.base import CurateMethod, Verdicts
from treadle.text.curate.corpus import Corpus, documents_of

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "DATA",
    "DECISIONS",
    "INDEX",
    "INDEXED_BY",
    "MENDED",
    "REJECTS",
    "STATISTICS",
    "Written",
    "write_parts",
    "write_rejects",
]

DATA, DECISIONS, STATISTICS, INDEX = "data", "decisions", "statistics", "index"
INDEXED_BY = b"treadle.index"
"""Where a file of the index says what its columns are made by."""
REJECTS, MENDED = "rejects.parquet", "mended.parquet"
Integers = npt.NDArray[np.int64]


class Written(NamedTuple):
    """One run's way from verdicts to files."""

    method: CurateMethod
    corpus: Corpus
    verdicts: Verdicts
    folder: Path
    source_hash: str
    everything: Corpus
    """The corpus that the verdicts' numbers of documents are of."""
    has_index: bool = False
    part_format: PartFormat = "parquet"
    """Of the documents; all else is Parquet."""

    @property
    def kinds(self) -> list[str]:
        """The folders that a part has files in."""
        return [
            DATA,
            DECISIONS,
            *([STATISTICS] if self.method.sidecar else []),
            *([INDEX] if self.has_index else []),
        ]

    def file(self, kind: str, part: int) -> Path:
        """Return the file of a part."""
        end = self.part_format if kind == DATA else "parquet"
        return self.folder / kind / f"part-{part:05d}.{end}"

    def writer(self, kind: str, part: int, schema: "pa.Schema") -> PartWriter | LineWriter:
        """Return what writes the file of a part."""
        file = self.file(kind, part)
        is_parquet = kind != DATA or self.part_format == "parquet"
        return PartWriter(file, schema) if is_parquet else LineWriter(file)


def write_parts(written: Written) -> int:
    """Write every part that an earlier run did not; return how many it had written.

    Parts are cut by the documents alone. Workers share them; a compressed file that spans several
    is read by one worker, from its beginning, once.
    """
    cuts = cut(written.corpus.num_bytes)
    runs = list(_runs(written.corpus, cuts))
    missing = [
        [
            part
            for part in run
            if not all(written.file(kind, part).exists() for kind in written.kinds)
        ]
        for run in runs
    ]
    todo = [run for run in missing if run]
    work = _Parts(written, cuts, _names_of_kept(written))
    runs_done = written.corpus.engine.run(work.write, todo)
    for _ in track(runs_done, f"write ({written.method.name})", len(todo)):
        pass
    return len(cuts.parts) - sum(map(len, todo))


def _runs(corpus: Corpus, cuts: PartCut) -> Iterator[list[int]]:
    """Yield parts that one worker writes together: those inside one compressed file."""
    units = corpus.source.units
    run: list[int] = []
    for part in range(len(cuts.parts)):
        run.append(part)
        end = cuts.bounds(part)[1]
        unit = int(np.searchsorted(corpus.firsts, end, side="right")) - 1
        is_inside = unit < len(units) and corpus.firsts[unit] < end and units[unit].is_sequential
        if not is_inside:
            yield run
            run = []
    if run:
        yield run


def _names_of_kept(written: Written) -> dict[int, str]:
    """Return the ids of the documents that copies go for, and that clusters are named after."""
    verdicts = written.verdicts
    named = [one[one >= 0] for one in (verdicts.kept, verdicts.cluster) if one is not None]
    documents = np.unique(np.concatenate([np.zeros(0, np.int64), *named]))
    return dict(zip(documents.tolist(), written.everything.ids(documents), strict=True))


class _Parts:
    """Writes a few parts in one reading."""

    def __init__(self, written: Written, cuts: PartCut, names: dict[int, str]) -> None:
        self._written, self._cuts, self._names = written, cuts, names

    def write(self, parts: list[int]) -> None:
        every = range(parts[0], parts[-1] + 1)  # one in the middle may be there already
        edges = np.concatenate([self._cuts.edges(part) for part in every])
        first, stop = int(edges[0]), int(edges[-1])
        groups = self._groups(first, stop, np.unique(edges)[1:])
        for part in every:
            self._write_part(part, groups, part in parts)

    def _write_part(
        self, part: int, groups: "Iterator[tuple[int, pa.Table]]", is_wanted: bool
    ) -> None:
        writers: dict[str, PartWriter | LineWriter] = {}
        for _ in range(len(self._cuts.edges(part)) - 1):
            first, group = next(groups)
            for kind, table in self._tables(first, group).items() if is_wanted else ():
                if kind not in writers:
                    writers[kind] = self._written.writer(kind, part, table.schema)
                writers[kind].write(table)
        for writer in writers.values():
            writer.close()

    def _groups(self, first: int, stop: int, edges: Integers) -> "Iterator[tuple[int, pa.Table]]":
        """Yield the documents row group by row group, however they are read."""
        import pyarrow as pa

        held: list[pa.Table] = []
        begun = first
        ends = iter(edges.tolist())
        end = next(ends)
        for place, table in self._written.corpus.read(first, stop):
            while place + len(table) >= end:
                held.append(table.slice(0, end - place))
                yield begun, pa.concat_tables(held)
                table, place, begun, held = table.slice(end - place), end, end, []
                end = next(ends, stop + 1)
            if len(table):
                held.append(table)

    def _tables(self, first: int, group: "pa.Table") -> "dict[str, pa.Table]":
        import pyarrow as pa

        written, verdicts = self._written, self._written.verdicts
        rows = slice(first, first + len(group))
        edited = written.method.edit(documents_of(group), verdicts, first)
        text = group
        if edited is not None:
            text = group.set_column(1, "text", pa.array(edited, pa.large_string()))
        is_kept = verdicts.reason[rows] < 0
        found = {
            DATA: text.filter(pa.array(is_kept)),
            DECISIONS: self._decisions(rows, group),
        }
        if written.method.sidecar:
            values = written.corpus.rows("statistics", rows.start, rows.stop)
            names = ["id", *written.method.sidecar]
            columns = [group["id"], *(pa.array(np.ascontiguousarray(c)) for c in values.T)]
            table = pa.Table.from_arrays(columns, names=names)
            found[STATISTICS] = table.replace_schema_metadata(
                {"treadle.source": written.source_hash, "treadle.of": written.method.measured_of}
            )
        if written.has_index:
            found[INDEX] = self._index(rows, group, is_kept)
        return found

    def _index(self, rows: slice, group: "pa.Table", is_kept: npt.NDArray[np.bool_]) -> "pa.Table":
        """Return the rows of what stays; a column of several numbers becomes several columns."""
        import pyarrow as pa

        method, corpus = self._written.method, self._written.corpus
        columns = {"id": group["id"].filter(pa.array(is_kept))}
        for name in ("num_bytes", *method.index):
            values = corpus.rows(name, rows.start, rows.stop)[is_kept]
            for number, part in enumerate(values.T if values.ndim > 1 else values[None]):
                columns[f"{name}.{number}"] = pa.array(np.ascontiguousarray(part))
        return pa.table(columns).replace_schema_metadata({INDEXED_BY: method.indexed_by})

    def _decisions(self, rows: slice, group: "pa.Table") -> "pa.Table":
        import pyarrow as pa

        verdicts = self._written.verdicts
        reason = verdicts.reason[rows]
        codes = pa.array(reason, pa.int16(), mask=reason < 0)
        reasons = pa.DictionaryArray.from_arrays(codes, pa.array(verdicts.reasons))
        columns = {
            "id": group["id"],
            "num_bytes": pa.array(self._written.corpus.num_bytes[rows]),
            "is_kept": pa.array(reason < 0),
            "drop_reason": reasons,
        }
        if verdicts.value is not None:
            columns["drop_value"] = pa.array(verdicts.value[rows], mask=reason < 0)
        for name, documents in (("cluster_id", verdicts.cluster), ("kept_id", verdicts.kept)):
            if documents is not None:
                ids = [self._names.get(document) for document in documents[rows].tolist()]
                columns[name] = pa.array(ids, pa.large_string())
        if verdicts.jaccard is not None:
            similar = verdicts.jaccard[rows]
            columns["jaccard"] = pa.array(similar, mask=np.isnan(similar))
        return pa.Table.from_pydict(columns)


def write_rejects(corpus: Corpus, folder: Path) -> None:
    """Write which records were no documents, and in which ones something was replaced."""
    for name, column, said in (
        (REJECTS, "reason", corpus.rejects()),
        (MENDED, "what", corpus.mended()),
    ):
        if said:
            files, rows, what = zip(*said, strict=True)
            _write_list(folder / name, {"file": files, "row": rows, column: what})


def _write_list(file: Path, columns: dict[str, tuple[object, ...]]) -> None:
    import pyarrow as pa

    write_parquet(pa.Table.from_pydict(columns), file)
