"""Small corpora whose right answers are known."""

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Record = dict[str, object]


def words(generator: np.random.Generator, count: int, vocabulary: int = 5000) -> list[str]:
    """Return random words; two draws share no run of five of them."""
    return [f"w{number}" for number in generator.integers(0, vocabulary, count)]


def records(num_documents: int = 60, seed: int = 0) -> list[Record]:
    """Return documents of which some are exact and some near copies, in mixed order."""
    generator = np.random.Generator(np.random.Philox(seed))
    found: list[Record] = []
    for number in range(num_documents):
        base = words(generator, 60 + int(generator.integers(40)))
        texts = [" ".join(base)]
        if number % 5 == 0:
            texts.append(texts[0])
        if number % 7 == 0:
            texts.append(" ".join([*base, "and", "more"]))
        for copy, text in enumerate(texts):
            found.append({"id": f"doc-{number:03d}-{copy}", "text": text, "score": number % 3})
    order = generator.permutation(len(found))
    return [found[place] for place in order]


def write_lines(file: Path, rows: list[Record]) -> Path:
    """Write JSON lines, compressed as the name says."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if file.suffix == ".gz":
        content = gzip.compress(content, mtime=0)
    if file.suffix == ".zst":
        import zstandard

        content = zstandard.compress(content)
    file.write_bytes(content)
    return file


def write_parquet(file: Path, rows: list[Record], group: int = 7) -> Path:
    """Write a Parquet file of short row groups."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=group)
    return file


def kept(out: Path) -> list[Record]:
    """Return the documents that an output holds."""
    return read(out, "data")


def decisions(out: Path) -> dict[str, Record]:
    """Return what was decided of each id."""
    return {str(row["id"]): row for row in read(out, "decisions")}


def read(out: Path, kind: str) -> list[Record]:
    """Return the rows of one folder of an output."""
    files = sorted((out / kind).glob("part-*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def content(out: Path) -> dict[str, bytes]:
    """Return the bytes of all Parquet files of an output."""
    files = sorted(out.rglob("*.parquet"))
    return {file.relative_to(out).as_posix(): file.read_bytes() for file in files}
