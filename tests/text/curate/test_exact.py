"""Exact duplicates, and which of them stays."""

import pytest
from tests.text.curate import corpora

from treadle import curate
from treadle.core.errors import DataError

ROWS = [
    {"id": "b", "text": "Same text", "score": 1, "date": "2020-01-02"},
    {"id": "a", "text": "same  TEXT ", "score": 5, "date": "2021-01-01T00:00:00Z"},
    {"id": "c", "text": "Same text", "score": 7, "date": "2019-05-01"},
    {"id": "d", "text": "other", "score": 0},
    {"id": "e", "text": "Same text", "score": None, "date": None},
]


def run(tmp_path, rows=ROWS, **settings):
    data = corpora.write_lines(tmp_path / "a.jsonl", rows)
    curate(data, tmp_path / "out", {"method": "exact", **settings}, overwrite=True)
    return corpora.decisions(tmp_path / "out")


@pytest.mark.parametrize(
    ("keep", "best"),
    [("longest", "b"), ("first", "b"), ("best:score", "c"), ("earliest:date", "c")],
)
def test_one_copy_stays_by_the_policy(tmp_path, keep, best):
    found = run(tmp_path, keep=keep)
    assert {name for name, row in found.items() if row["is_kept"]} == {"a", "d", best}
    for name in {"b", "c", "e"} - {best}:
        row = found[name]
        assert (row["kept_id"], row["cluster_id"], row["jaccard"]) == (best, best, 1.0)
        assert row["drop_reason"] == "exact copy"
    assert found[best]["cluster_id"] == best
    assert found[best]["kept_id"] is None
    assert found["d"]["cluster_id"] is None


def test_case_and_space_may_be_ignored(tmp_path):
    found = run(tmp_path, ignore_case_and_space=True, keep="longest")
    assert {name for name, row in found.items() if row["is_kept"]} == {"a", "d"}


def test_survivors_do_not_depend_on_the_order_of_documents(tmp_path):
    forward = {n: r["kept_id"] for n, r in run(tmp_path, keep="first").items()}
    backward = {n: r["kept_id"] for n, r in run(tmp_path, ROWS[::-1], keep="first").items()}
    assert forward == backward


def test_policy_by_an_absent_column_is_refused(tmp_path):
    data = corpora.write_parquet(tmp_path / "a.parquet", ROWS)
    with pytest.raises(DataError, match=r"no column 'rank' to keep copies by \(they have: id"):
        curate(data, tmp_path / "out", {"method": "exact", "keep": "best:rank"})


@pytest.mark.parametrize("method", ["exact", "minhash"])
@pytest.mark.parametrize("policy", ["best", "earliest"])
def test_policy_by_a_field_of_no_line_is_refused(tmp_path, method, policy):
    data = corpora.write_lines(tmp_path / "a.jsonl", [{"id": "z", "text": "bare"}, *ROWS])
    with pytest.raises(DataError, match=r"in 'scor' .* mean 'score'\? Choose one of: sc"):
        curate(data, tmp_path / "out", {"method": method, "keep": f"{policy}:scor"})
    assert not (tmp_path / "out").exists()


def test_documents_that_a_policy_cannot_rank_are_counted(tmp_path):
    data = corpora.write_lines(tmp_path / "a.jsonl", ROWS)
    for column, num_unranked in (("score", 1), ("date", 2)):
        settings = {"method": "exact", "keep": f"best:{column}"}
        notes = curate(data, tmp_path / "out", settings, overwrite=True).notes
        told = f"{num_unranked} of 5 documents have no number or date in '{column}'"
        assert any(told in note for note in notes)
    notes = curate(data, tmp_path / "out", {"method": "exact"}, overwrite=True).notes
    assert not any("no number" in note for note in notes)


def test_texts_that_share_half_of_the_hash_are_no_copies():
    import numpy as np

    from treadle.text.curate.keys import pairs_of_equal_keys

    keys = np.array([[1, 2], [1, 3], [1, 2], [2, 2]], np.uint64)
    left, right = pairs_of_equal_keys(keys)
    assert (left.tolist(), right.tolist()) == ([0], [2])


def test_sorting_in_ranges_finds_the_same_pairs(monkeypatch):
    import numpy as np

    from treadle.text.curate import keys as sorting

    keys = np.random.Generator(np.random.Philox(1)).integers(0, 1 << 64, 500, np.uint64)
    keys = np.concatenate([keys, keys[::3], np.array([0, 0, (1 << 64) - 1], np.uint64)])
    whole = sorting.pairs_of_equal_keys(keys)
    monkeypatch.setattr(sorting, "_SORT_BYTES", 1000)
    cut = sorting.pairs_of_equal_keys(keys)
    pairs = [set(zip(left.tolist(), right.tolist(), strict=True)) for left, right in (whole, cut)]
    assert len(pairs[0]) == 168
    assert pairs[0] == pairs[1]
