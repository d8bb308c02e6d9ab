"""Damaged corpora: the right documents or a named refusal, and a bad record ends no run."""

import random
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from damage import text_files
from damage.runs import outcome
from products import few
from treadle import curate, curate_pack
from treadle.core.ledger import open_ledger
from treadle.core.result import Result
from treadle.core.table import packed, source

SAMPLE = (
    *("lines: NaN in a field", "lines: too deep", "lines: a torn line", "lines: a linked folder"),
    *("archives: members", "archives: a long window", "archives: garbage behind zstd"),
    *("parquet: two of one name", "parquet: a bad text in strings", "parquet: half"),
)


def _curated(folder: Path, out: Path) -> tuple[Result, dict[str, str]]:
    result = curate(folder, out, "exact", workers=1)
    parts = sorted((out / "data").glob("part-*.parquet"))
    rows = [row for part in parts for row in pq.read_table(part).to_pylist()]
    return result, {row["id"]: row["text"] for row in rows}


def _packed(folder: Path, out: Path) -> tuple[Result, dict[str, str]]:
    result = curate_pack(folder, out, tokenizer="bytes", seq_len=8, order="given", workers=1)
    ledger = open_ledger(out)
    starts = ledger.tokens.starts
    pieces = (ledger.tokens.tokens[a : b - 1] for a, b in pairwise(starts))
    texts = [bytes(piece.astype("uint8")).decode() for piece in pieces]
    return result, dict(zip(ledger.ids, texts, strict=True))


READERS: dict[str, Callable[[Path, Path], tuple[Result, dict[str, str]]]] = {
    "curate": _curated,
    "pack": _packed,
}
"""Every verb that reads a corpus."""


@pytest.mark.parametrize("name", few(text_files.DAMAGES, *SAMPLE))
@pytest.mark.parametrize("verb", READERS)
def test_a_damaged_corpus(name: str, verb: str, tmp_path: Path) -> None:
    right, read = text_files.DAMAGES[name], READERS[verb]
    folder = tmp_path / "damaged"
    folder.mkdir()
    right.write(folder)
    said: list[tuple[Result, dict[str, str]]] = []
    found = outcome(
        lambda given, out, *_: said.append(read(given, out)), folder, tmp_path / "out", "", folder
    )
    assert not found.fault, found.fault
    if right.refusal:
        assert re.search(right.refusal, found.error), found.error or said
        return
    assert not found.error
    ((result, documents),) = said
    assert documents == right.documents
    assert result.measurement("rejected").value == right.num_rejected
    assert result.measurement("mended").value == right.num_mended
    assert re.search(right.note, "\n".join(result.notes))


@pytest.mark.parametrize("kind", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
@pytest.mark.parametrize("seed", range(3))
def test_random_damage_is_named(
    kind: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "_UNIT_BYTES", 100)
    monkeypatch.setattr(packed, "_CHUNK_BYTES", 64)
    whole = {
        "a.jsonl": text_files.WHOLE,
        "a.jsonl.gz": text_files.PACKED,
        "a.jsonl.zst": text_files.zstandard.compress(text_files.WHOLE),
        "a.parquet": text_files.SOUND,
    }[kind]
    draw = random.Random(seed)
    folder = tmp_path / "damaged"
    folder.mkdir()
    for number in range(5):
        harmed = bytearray(whole)
        for _ in range(draw.choice((1, 1, 3))):
            harmed[draw.randrange(len(harmed))] = draw.randrange(256)
        del harmed[len(harmed) - draw.choice((0, 0, 7)) :]
        (folder / kind).write_bytes(harmed)
        out = tmp_path / f"out{number}"
        found = outcome(
            lambda given, out, *_: _curated(given, out) and None, folder, out, "", folder
        )
        assert not found.fault, found.fault
