"""The action: what is counted, told apart and compared."""

import numpy as np
import pytest

from combine.route.made import records, written
from treadle import route
from treadle.combine.route import route_evaluate
from treadle.core.errors import DataError, SettingsError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("scores")
    written(made / "train.jsonl", records(60, has_cost=True))
    written(made / "test.jsonl", [*records(10, has_cost=True), *records(30, 1, has_cost=True)])
    route(made / "train.jsonl", made / "ridge", "ridge", directions=8)
    route(made / "train.jsonl", made / "random", "random")
    return made


def test_questions_that_were_trained_on_are_told_apart(folder, tmp_path):
    result = route_evaluate(folder / "ridge", folder / "test.jsonl", tmp_path / "out")
    assert result.measurement("leaked").value == 10
    values = np.asarray(result.samples["score"])
    assert result.measurement("score").value == pytest.approx(values.mean())
    assert result.measurement("score_unseen").value == pytest.approx(values[10:].mean())
    (sets,) = [one for one in result.tables if "oracles" in one.title]
    assert [one.name for one in sets.columns[1:]] == ["all questions", "without training questions"]
    assert [row[0].value for row in sets.rows][3] == "router ridge"
    assert [one.value for one in sets.rows[3][1:]] == pytest.approx(
        [values.mean(), values[10:].mean()]
    )
    assert sets.losses == []
    other = written(tmp_path / "more.jsonl", records(30, 1)[:5])
    again = route_evaluate(folder / "ridge", folder / "test.jsonl", tmp_path / "o", train=other)
    assert again.measurement("leaked").value == 15


def test_random_is_the_exact_mean_and_a_drawn_router_is_near_it(folder, tmp_path):
    rows = records(600, seed=8)
    test = written(tmp_path / "test.jsonl", rows)
    result = route_evaluate(folder / "random", test, tmp_path / "out")
    mean = np.mean([list(row["scores"].values()) for row in rows])
    assert result.measurement("random").value == pytest.approx(mean, abs=1e-12)
    score = result.measurement("score")
    assert score.low < mean < score.high


def test_tasks_that_were_left_out_stand_by_themselves(folder, tmp_path):
    route(folder / "train.jsonl", tmp_path / "r", "knn", leave_out=["letters"], directions=8)
    result = route_evaluate(tmp_path / "r", folder / "test.jsonl", tmp_path / "out")
    assert result.measurement("score_trained_tasks").value > 0.8
    assert result.measurement("score_other_tasks").value < 0.3
    (tasks,) = [one for one in result.tables if one.title.startswith("Task by task")]
    assert [row[0].value for row in tasks.rows] == ["sums", "letters"]
    assert result.measurement("within_task_gain").value < 0


def test_a_model_that_is_gone_is_not_chosen(folder, tmp_path):
    test = folder / "test.jsonl"
    whole = route_evaluate(folder / "ridge", test, tmp_path / "a")
    result = route_evaluate(
        folder / "ridge", test, tmp_path / "b", without=["speller"], baseline=tmp_path / "a"
    )
    (shares,) = [one for one in result.figures if one.title.startswith("Who answers")]
    assert shares.series[0].x == ["adder", "middling"]
    difference = result.measurement("baseline_difference")
    wanted = result.measurement("score").value - whole.measurement("score").value
    assert difference.value == pytest.approx(wanted)
    assert difference.high < 0


def test_costs_make_a_frontier(folder, tmp_path):
    result = route_evaluate(folder / "ridge", folder / "test.jsonl", tmp_path / "out")
    assert 0.001 <= result.measurement("cost").value <= 0.004
    area, single = (result.measurement(name).value for name in ("aiq", "aiq_of_single_models"))
    assert single < area <= result.measurement("query_oracle").value
    assert any("Quality against cost" in one.title for one in result.figures)
    plain = written(tmp_path / "plain.jsonl", records(8, 3))
    without = route_evaluate(folder / "ridge", plain, tmp_path / "plain")
    assert not any(one.name == "aiq" for one in without.measurements)


def test_routers_are_stable_or_not_and_say_how_long_they_take(folder, tmp_path):
    found = {
        name: route_evaluate(folder / name, folder / "test.jsonl", tmp_path / name)
        for name in ("ridge", "random")
    }
    shares = {name: one.measurement("stability").value for name, one in found.items()}
    assert shares["ridge"] > 0.9 > 0.6 > shares["random"]
    assert found["ridge"].measurement("milliseconds_per_query").value > 0


def test_baselines_of_another_test_are_refused(folder, tmp_path):
    route_evaluate(folder / "ridge", folder / "test.jsonl", tmp_path / "a")
    other = written(tmp_path / "other.jsonl", records(40, 9))
    with pytest.raises(SettingsError, match="measured on another test"):
        route_evaluate(folder / "ridge", other, tmp_path / "b", baseline=tmp_path / "a")
    with pytest.raises(DataError, match="not of route evaluate"):
        route_evaluate(folder / "ridge", other, tmp_path / "c", baseline=folder / "ridge")
    assert not (tmp_path / "b").exists()
