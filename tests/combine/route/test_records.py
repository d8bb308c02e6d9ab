"""Records: every form that they come in, and every way to be wrong."""

import json

import numpy as np
import pytest

from combine.route.made import records, table, written
from treadle.combine.route.records import question_key, table_of
from treadle.combine.route.score_files import read_scores
from treadle.core.errors import DataError

GOOD = {"question": "1 + 1?", "scores": {"a": 1.0, "b": 0.25}}


def as_parquet(file, rows):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), file)


def test_all_forms_of_a_file_say_the_same(tmp_path):
    rows = records(6, has_cost=True)
    written(tmp_path / "a.jsonl", rows)
    (tmp_path / "b.json").write_text(json.dumps(rows))
    as_parquet(tmp_path / "c.parquet", rows)
    found = [
        read_scores(tmp_path / name, "train").table for name in ("a.jsonl", "b.json", "c.parquet")
    ]
    assert len({one.content_hash for one in found}) == 1
    assert found[0].models == ("adder", "speller", "middling")
    assert found[0].tasks == ("sums", "letters") * 3
    assert found[0].cost is not None
    assert found[0].cost[0].tolist() == [0.004, 0.002, 0.001]
    assert found[0].scores[0, 0] == rows[0]["scores"]["adder"]


def test_other_names_of_keys_mean_the_same():
    for key, task in (("query", "dataset"), ("prompt", "source")):
        found = table([{key: "1 + 1?", task: "sums", "scores": GOOD["scores"], "cluster_id": 4}])
        assert found.questions == ["1 + 1?"]
        assert found.tasks == ("sums",)
        assert found.clusters == (4,)


def test_who_was_not_asked_has_no_score():
    found = table([GOOD, {"question": "2?", "scores": {"a": 0.5, "c": 1, "b": None}}])
    assert found.models == ("a", "b", "c")
    assert np.isnan(found.scores).tolist() == [[False, False, True], [False, True, False]]


def test_ids_are_their_own_or_those_of_the_question():
    found = table([GOOD, {**GOOD, "scores": {"a": 0, "b": 0}}, {**GOOD, "id": 7}])
    assert found.ids[1] == f"{found.ids[0]}#2"
    assert found.ids[2] == "7"
    assert question_key("1  +\n1?") == question_key("1 + 1?")
    assert question_key("1 + 1") != question_key("1 + 1?")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scores": {"a": 1.2, "b": 0}}, r"score of 'a' is 1\.2, but 0 to 1 was expected; scale"),
        ({"scores": {"a": float("nan"), "b": 0}}, "of 'a' is nan, but a number"),
        ({"scores": {"a": -0.1, "b": 0}}, r"of 'a' is -0\.1, but a number from 0"),
        ({"scores": {"a": "1", "b": 0}}, "of 'a' is '1', but a number"),
        ({"scores": {"a": True, "b": 0}}, "of 'a' is True, but a number"),
        ({"scores": {}}, "has no scores"),
        ({"scores": [0.5, 0.5]}, "write a number for each model"),
        ({"question": " \n"}, "which is no question"),
        ({"question": 5}, "asks 5, which is no question"),
        ({"cost": {"a": -1}}, "cost of 'a' is -1"),
        ({"cluster_id": "x"}, "cluster_id is 'x'"),
    ],
)
def test_wrong_records_are_refused_by_their_place(wrong, message):
    with pytest.raises(DataError, match=message) as caught:
        table([GOOD, {**GOOD, **wrong}])
    assert "record 1" in str(caught.value)


def test_tables_that_compare_nothing_are_refused():
    with pytest.raises(DataError, match="There are no records"):
        table([])
    with pytest.raises(DataError, match="All scores are of one model"):
        table([{"question": "x", "scores": {"a": 1}}])
    apart = [{"question": "x", "scores": {"a": 1}}, {"question": "y", "scores": {"b": 1}}]
    with pytest.raises(DataError, match=r"No question has scores of two models .*same questions"):
        table(apart)
    with pytest.raises(DataError, match="record 2 and record 0 have the same id 'q'"):
        table([{**GOOD, "id": "q"}, GOOD, {**GOOD, "id": "q"}])
    with pytest.raises(DataError, match="is no record but"):
        table_of([("record 0", ["a"])])


def test_one_question_is_enough_to_be_read():
    assert table([GOOD]).scores.tolist() == [[1.0, 0.25]]


def test_folders_are_read_by_side_and_named_by_file(tmp_path):
    for name in ("sums_train.json", "sums-test.json", "other.json", "letters.test.jsonl"):
        (tmp_path / name).write_text(json.dumps([{**GOOD, "question": name}]))
    train, test = (read_scores(tmp_path, side) for side in ("train", "test"))
    assert train.table.tasks == ("sums",)
    assert set(test.table.tasks or ()) == {"sums", "other", "letters"}
    assert "their names do not say train: other.json. Dev" in train.notes[0]
    (tmp_path / "sums_train.json").unlink()
    with pytest.raises(DataError, match=r"no score files to train on .*sums-test\.json"):
        read_scores(tmp_path, "train")


def test_a_prepared_folder_is_read_by_its_sides(tmp_path):
    for side in ("train", "dev", "test"):
        rows = [{**GOOD, "question": side, "task": "sums"}]
        written(tmp_path / f"{side}.jsonl", rows)
    (tmp_path / "result.json").write_text("{}")
    train, test = (read_scores(tmp_path, side).table for side in ("train", "test"))
    assert (train.questions, train.tasks) == (["train"], ("sums",))
    assert test.questions == ["test"]


def test_a_table_of_routerbench_brings_its_costs(tmp_path):
    file = tmp_path / "mmlu_test.csv"
    file.write_text(
        ",sample_id,prompt,eval_name,m/a,b,m/a|model_response,b|model_response,"
        "m/a|total_cost,b|total_cost,oracle_model_to_route_to\n"
        "0,x.1,\"['a, b']\",mmlu,1.0,0.25,yes,no,0.5,0.25,b\n"
    )
    found = read_scores(file, "test").table
    assert found.models == ("m/a", "b")
    assert found.questions == ["['a, b']"]
    assert found.tasks == ("mmlu",)
    assert found.cost is not None
    assert found.cost.tolist() == [[0.5, 0.25]]
    file.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no table of RouterBench"):
        read_scores(file, "test")


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(DataError, match="There is no file"):
        read_scores(tmp_path / "nothing.json", "train")
    (tmp_path / "a.json").write_text("[1, ")
    with pytest.raises(DataError, match="is no JSON"):
        read_scores(tmp_path / "a.json", "train")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="no whole Parquet file"):
        read_scores(tmp_path / "a.parquet", "train")


def test_scores_above_zero_count_as_one_where_that_is_asked():
    rows = records(4)
    found = table(rows).binarised(["sums"])
    assert found.scores[0].tolist() == [1, 1, 1]
    assert found.scores[1].tolist() == list(rows[1]["scores"].values())
    with pytest.raises(DataError, match=r"No question is of the task 'x'.*letters, sums"):
        table(rows).binarised(["x"])


def test_a_mark_of_byte_order_is_passed_over(tmp_path):
    lines = tmp_path / "a.jsonl"
    lines.write_text(json.dumps(GOOD) + "\n", encoding="utf-8-sig")
    assert read_scores(lines, "train").table.questions == ["1 + 1?"]
    bench = tmp_path / "b.csv"
    text = "sample_id,prompt,eval_name,a,b\n1,1 + 1?,sums,1.0,0.25\n"
    bench.write_text(text, encoding="utf-8-sig")
    found = read_scores(bench, "train").table
    assert found.models == ("a", "b")
    assert found.questions == ["1 + 1?"]


def test_columns_that_lack_values_hold_floats(tmp_path):
    rows = [{**GOOD, "question": f"{n}?", "cluster_id": float(n)} for n in range(3)]
    as_parquet(tmp_path / "a.parquet", rows)
    assert read_scores(tmp_path / "a.parquet", "train").table.clusters == (0, 1, 2)
    nan = float("nan")
    rows[1] |= {"cluster_id": nan, "id": nan, "task": nan}
    as_parquet(tmp_path / "b.parquet", rows)
    found = read_scores(tmp_path / "b.parquet", "train").table
    assert found.clusters is None
    assert found.tasks is None
    assert found.ids[1].startswith("question:")
    with pytest.raises(DataError, match=r"cluster_id is 1\.5; give a whole number"):
        table([{**GOOD, "cluster_id": 1.5}])
    with pytest.raises(DataError, match=r"cluster_id is inf; give a whole number"):
        table([{**GOOD, "cluster_id": float("inf")}])
