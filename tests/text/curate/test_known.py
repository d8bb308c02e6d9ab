"""The index: a crawl cleaned after another one is what both are, cleaned together."""

import pytest
from tests.text.curate import corpora

from treadle import curate
from treadle.core.errors import DataError, SettingsError
from treadle.core.table import parts, source

ROWS = corpora.records(80)
FIRST, SECOND, THIRD = ROWS[:40], ROWS[40:75], ROWS[75:]


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(parts, "_GROUP_DOCUMENTS", 5)
    monkeypatch.setattr(parts, "_PART_GROUPS", 3)
    monkeypatch.setattr(source, "_UNIT_BYTES", 2000)


def run(tmp_path, name, rows, method, known=(), **options):
    data = corpora.write_lines(tmp_path / f"{name}.jsonl", rows)
    places = [tmp_path / one for one in known]
    result = curate(data, tmp_path / name, method, known=places, index=True, **options)
    return result, corpora.decisions(tmp_path / name)


METHODS = [
    {"method": "exact", "keep": "first"},
    {"method": "minhash", "keep": "first"},
    {"method": "minhash", "preset": "pythia", "keep": "first"},
]


@pytest.mark.parametrize("method", METHODS, ids=["exact", "fineweb", "pythia"])
def test_crawls_cleaned_in_turn_keep_one_of_each_cluster(tmp_path, method):
    whole = curate(corpora.write_lines(tmp_path / "all.jsonl", ROWS), tmp_path / "all", method)
    run(tmp_path, "one", FIRST, method)
    run(tmp_path, "two", SECOND, method, ["one"])
    result, third = run(tmp_path, "three", THIRD, method, ["one", "two"], workers=1)
    kept = [row for name in ("one", "two", "three") for row in corpora.kept(tmp_path / name)]
    assert len(kept) == whole.measurement("kept").value
    texts = {row["id"]: row["text"] for row in ROWS}
    old = {row["id"] for name in ("one", "two") for row in corpora.kept(tmp_path / name)}
    copies = [row for row in third.values() if row["drop_reason"] == "copy of a known document"]
    assert copies
    for row in copies:
        assert row["kept_id"] in old
        assert row["jaccard"] > 0.9
        assert texts[row["kept_id"]][:50] == texts[row["id"]][:50]
    assert any(
        f"{len(copies)} documents are copies of {len(old)} known ones" in n for n in result.notes
    )


@pytest.mark.parametrize("method", METHODS, ids=["exact", "fineweb", "pythia"])
def test_a_crawl_that_is_known_leaves_nothing(tmp_path, method):
    run(tmp_path, "one", FIRST, method)
    result, _ = run(tmp_path, "two", FIRST, method, ["one"])
    assert result.measurement("kept").value == 0
    again, _ = run(tmp_path, "three", SECOND, method, ["one", "two"])
    alone, _ = run(tmp_path, "four", SECOND, method, ["one"])
    assert again.measurement("kept").value == alone.measurement("kept").value


def test_known_documents_are_preferred_to_better_ones(tmp_path):
    base = " ".join(f"w{n}" for n in range(60))
    run(tmp_path, "one", [{"id": "old", "text": base}], "minhash")
    _, found = run(tmp_path, "two", [{"id": "new", "text": base + " more"}], "minhash", ["one"])
    assert found["new"]["kept_id"] == found["new"]["cluster_id"] == "old"


def test_bytes_do_not_depend_on_workers(tmp_path):
    run(tmp_path, "one", FIRST, "minhash")
    for workers in (1, 2, 4):
        run(tmp_path, f"two{workers}", SECOND, "minhash", ["one"], workers=workers)
    found = [corpora.content(tmp_path / f"two{workers}") for workers in (1, 2, 4)]
    assert found[0] == found[1] == found[2]
    assert any(name.startswith("index/") for name in found[0])


def test_indexes_of_other_keys_are_refused(tmp_path):
    run(tmp_path, "one", FIRST, "minhash")
    curate(tmp_path / "one", tmp_path / "bare", "exact")
    data = corpora.write_lines(tmp_path / "b.jsonl", SECOND)
    wrong = {"method": "minhash", "seed": 1}
    with pytest.raises(SettingsError, match=r"is of 'minhash, 5 words, 14 x 8, seed 0', and this"):
        curate(data, tmp_path / "out", wrong, known=[tmp_path / "one"])
    with pytest.raises(
        DataError, match=r"No index in .*bare'; curate that corpus again with --ind"
    ):
        curate(data, tmp_path / "out", "exact", known=[tmp_path / "bare"])
    with pytest.raises(SettingsError, match="'lines' compares no documents; leave --known out"):
        curate(data, tmp_path / "out", "lines", known=[tmp_path / "one"])
    with pytest.raises(SettingsError, match="'lines' compares no documents; leave --index out"):
        curate(data, tmp_path / "out", "lines", index=True)


def test_long_ids_join_by_every_digit(tmp_path):
    names = [10**30 + n for n in range(4)]
    texts = [f"document {n} says its own words" for n in (0, 1, 1, 2)]
    rows = [{"id": name, "text": text} for name, text in zip(names, texts, strict=True)]
    first = corpora.write_lines(tmp_path / "a.jsonl", rows)
    curate(first, tmp_path / "one", "exact", index=True)
    decided = corpora.decisions(tmp_path / "one")
    assert list(decided) == [str(name) for name in names]
    assert decided[str(names[2])]["kept_id"] == str(names[1])
    again = corpora.write_lines(tmp_path / "b.jsonl", [{"id": 2 * 10**30, "text": texts[3]}])
    curate(again, tmp_path / "two", "exact", known=[tmp_path / "one"])
    (row,) = corpora.decisions(tmp_path / "two").values()
    assert (row["id"], row["kept_id"]) == (str(2 * 10**30), str(names[3]))
