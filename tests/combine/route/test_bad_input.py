"""What a user may do wrong, and what is said then."""

import json

import numpy as np
import pytest

from combine.route.made import MODELS, records, table, written
from treadle import route
from treadle.combine.route import route_evaluate
from treadle.combine.route.split import split
from treadle.core.errors import CheckpointError, DataError, SettingsError
from treadle.runtime.routed.queries import load_router

TRAINED = ("mlp", "routerdc", "matrix")
LEARNING = ["knn", "ridge", "clusters", "task_prior", *TRAINED]
QUICK = {"steps": 40, "every": 40, "rate": 1e-2}
HELD_OUT = [
    number
    for number, row in enumerate(records(30))
    if row["question"] in split(table(records(30)), 0.1, seed=0).dev.questions
]


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    return written(tmp_path_factory.mktemp("scores") / "train.jsonl", records(60))


@pytest.fixture(scope="module")
def router(train, tmp_path_factory):
    out = tmp_path_factory.mktemp("routers") / "knn"
    route(train, out, "knn", k=5, directions=8)
    return out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"directions": 0}, "directions = 0; give at least 1"),
        ({"dev_fraction": 1.0}, "dev_fraction = 1; give 0 or more"),
        ({"per_task": 0}, "per_task = 0"),
        ({"cost_rate": -1.0}, "cost_rate = -1; give 0 or more"),
        ({"encoder": "words"}, "'words' names no encoder of texts"),
        ({"k": 0}, "k = 0 is refused"),
        ({"kk": 3}, "has no setting 'kk'"),
    ],
)
def test_settings_out_of_bounds_are_refused_and_leave_nothing(train, tmp_path, settings, message):
    with pytest.raises(SettingsError, match=message):
        route(train, tmp_path / "out", "knn", **settings)
    assert not any(tmp_path.iterdir())


def test_costs_that_are_weighed_have_to_be_there(train, tmp_path):
    with pytest.raises(DataError, match=r"cost_rate = 1 weighs the cost .*leave cost_rate out"):
        route(train, tmp_path / "out", "knn", cost_rate=1.0)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["cost_rate", "latency_rate"])
@pytest.mark.parametrize(
    ("rate", "message"),
    [
        (float("nan"), "= nan; give 0 or more"),
        (float("inf"), "= inf; give 0 or more"),
        (1e308, r"= 1e\+308 takes inf off a score"),
        (1e7, r"= 1e\+07 takes 1e\+09 off a score of at most 1.*give a smaller one"),
    ],
)
def test_rates_that_leave_nothing_of_scores_are_refused(tmp_path, name, rate, message):
    key = name.removesuffix("_rate")
    rows = [{**row, key: dict.fromkeys(MODELS, 100.0)} for row in records(20)]
    data = written(tmp_path / "priced.jsonl", rows)
    with pytest.raises(SettingsError, match=f"{name} {message}"):
        route(data, tmp_path / "out", "knn", **{name: rate})
    assert not (tmp_path / "out").exists()


def test_choices_of_models_without_a_score_are_told(tmp_path):
    """The middling one is best of all wherever it was asked, which was on sums alone."""
    rows = records(60)
    for number, row in enumerate(rows):
        row["scores"]["middling"] = 1.0
        if number % 2:
            del row["scores"]["middling"]
    data = written(tmp_path / "holes.jsonl", rows)
    result = route(data, tmp_path / "out", "best_single")
    told = [note for note in result.notes if "would go to a model that has no score there" in note]
    assert [note.split(" questions")[0].split(" ")[-1] for note in told] == ["training", "dev"]
    whole = written(tmp_path / "whole.jsonl", records(60))
    result = route(whole, tmp_path / "other", "best_single")
    assert not any("would go to a model" in note for note in result.notes)


def test_costs_send_queries_to_cheaper_models(tmp_path):
    data = written(tmp_path / "priced.jsonl", records(60, has_cost=True))
    route(data, tmp_path / "out", "ridge", cost_rate=1000.0, directions=8)
    found = load_router(tmp_path / "out")
    assert set(found.choose([row["question"] for row in records(20, seed=3)])) == {2}
    assert found.record.cost == pytest.approx({"adder": 0.004, "speller": 0.002, "middling": 0.001})


def test_what_is_there_is_not_replaced_unasked(train, router, tmp_path):
    with pytest.raises(SettingsError, match="already exists"):
        route(train, router, "knn")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("x")
    with pytest.raises(SettingsError, match="is no router"):
        route(train, tmp_path / "notes", "knn", overwrite=True)
    route(train, tmp_path / "out", "best_single")
    route(train, tmp_path / "out", "random", overwrite=True)
    assert load_router(tmp_path / "out").record.method == "random"


def test_one_question_makes_a_router(tmp_path):
    data = written(tmp_path / "one.jsonl", records(1))
    result = route(data, tmp_path / "out", "knn")
    assert result.measurement("train_questions").value == 1
    assert load_router(tmp_path / "out").choose(["anything"]) == [0]


@pytest.mark.parametrize("method", LEARNING)
def test_scores_that_are_missing_are_left_out_pair_by_pair(method, tmp_path):
    rows = records(60)
    for number, row in enumerate(rows):
        if number % 5 == 0:
            del row["scores"][MODELS[number % 3]]
    data = written(tmp_path / "holes.jsonl", rows)
    given = QUICK if method in TRAINED else {}
    result = route(data, tmp_path / "out", method, directions=8, **given)
    assert any("scores are not there: those pairs" in note for note in result.notes)
    router = load_router(tmp_path / "out")
    chosen = router.choose([row["question"] for row in records(40, seed=5)])
    wanted = [MODELS[number % 2] for number in range(40)]
    assert np.mean([router.models[n] == one for n, one in zip(chosen, wanted, strict=True)]) > 0.8


@pytest.mark.parametrize("method", LEARNING)
def test_a_model_without_a_training_score_makes_no_nonsense(method, tmp_path):
    """The one question that it was asked is held out, as it happens."""
    rows = [
        {**row, "scores": {**row["scores"], "stranger": 1.0}} if number in HELD_OUT else row
        for number, row in enumerate(records(30))
    ]
    data = written(tmp_path / "train.jsonl", rows)
    given = QUICK if method in TRAINED else {}
    route(data, tmp_path / "out", method, directions=8, **given)
    router = load_router(tmp_path / "out")
    assert router.models[3] == "stranger"
    assert router.record.worth is not None
    assert router.record.worth["stranger"] == 0
    assert np.isfinite(router.scores([row["question"] for row in rows])).all()


@pytest.mark.parametrize("method", ["best_single", "knn", "ridge", "clusters", "task_prior"])
def test_a_model_without_a_training_score_is_not_the_best_where_all_cost_much(method, tmp_path):
    cost = dict.fromkeys((*MODELS, "stranger"), 5.0)
    rows = [{**row, "cost": cost} for row in records(30)]
    for number in HELD_OUT:
        rows[number] = {**rows[number], "scores": {**rows[number]["scores"], "stranger": 1.0}}
    data = written(tmp_path / "train.jsonl", rows)
    settings = {} if method == "best_single" else {"directions": 8}
    route(data, tmp_path / "out", method, cost_rate=1.0, **settings)
    router = load_router(tmp_path / "out")
    assert 3 not in router.choose([row["question"] for row in rows])
    assert router.record.best_single != "stranger"


def test_test_questions_without_a_score_are_left_out_and_counted(router, tmp_path):
    rows = records(6, seed=2)
    del rows[3]["scores"]["adder"]
    holes = written(tmp_path / "holes.jsonl", rows)
    result = route_evaluate(router, holes, tmp_path / "out")
    assert result.measurement("questions").value == 5
    assert any(note.startswith("1 of 6 test questions lack a score") for note in result.notes)
    without = route_evaluate(router, holes, tmp_path / "less", without=["adder"])
    assert without.measurement("questions").value == 6
    assert "The router had to go without adder." in without.notes
    for row in rows[:5]:
        row["scores"].pop("adder", None)
    del rows[5]["scores"]["speller"]
    none = written(tmp_path / "none.jsonl", rows)
    with pytest.raises(DataError, match=r"No question of .* has a score of each of adder"):
        route_evaluate(router, none, tmp_path / "none")


def test_routers_of_other_models_are_refused(router, tmp_path):
    other = written(tmp_path / "o.jsonl", [{"question": "x", "scores": {"p": 1, "q": 0}}])
    with pytest.raises(
        SettingsError, match=r"router is of other models \(adder, speller, middling\)"
    ):
        route_evaluate(router, other, tmp_path / "out")
    rows = [{**row, "scores": {**row["scores"], "new": 1.0}} for row in records(6, seed=2)]
    more = written(tmp_path / "more.jsonl", rows)
    result = route_evaluate(router, more, tmp_path / "out")
    assert any("Not choosable" in note and "new" in note for note in result.notes)
    for row in rows:
        del row["scores"]["middling"]
    fewer = written(tmp_path / "fewer.jsonl", rows)
    with pytest.raises(SettingsError, match="--without middling"):
        route_evaluate(router, fewer, tmp_path / "out2")


def test_models_to_go_without_have_to_be_known(router, train, tmp_path):
    with pytest.raises(SettingsError, match=r"no model 'ader' .*Did you mean 'adder'"):
        route_evaluate(router, train, tmp_path / "out", without=["ader"])
    with pytest.raises(SettingsError, match="no model left"):
        route_evaluate(router, train, tmp_path / "out", without=list(MODELS))


def test_what_is_no_router_is_refused(train, tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no router\.json"):
        route_evaluate(tmp_path, train, tmp_path / "out")


def test_development_questions_that_are_trained_on_are_left_out(train, tmp_path):
    dev = written(tmp_path / "dev.jsonl", [*records(2), *records(8, seed=6)])
    result = route(train, tmp_path / "out", "knn", dev=dev)
    assert result.measurement("dev_questions").value == 8
    assert any(
        note.startswith("2 development questions are training questions") for note in result.notes
    )
    rows = [{"question": "x", "scores": {"adder": 1, "speller": 0}}]
    with pytest.raises(SettingsError, match="no scores of 'middling'"):
        route(train, tmp_path / "out2", "knn", dev=written(tmp_path / "d.jsonl", rows))


def test_a_killed_run_leaves_nothing_in_the_way(train, tmp_path):
    (tmp_path / ".out.route").mkdir()
    (tmp_path / ".out.route" / "router.json").write_text("half")
    route(train, tmp_path / "out", "best_single")
    assert not (tmp_path / ".out.route").exists()
    assert json.loads((tmp_path / "out" / "router.json").read_text())["method"] == "best_single"


def test_nothing_is_written_where_a_router_or_its_questions_lie(train, router, tmp_path):
    before = sorted(router.iterdir())
    for out in (router, router / "score", train.parent, train):
        with pytest.raises(SettingsError, match="which is read, are one place or lie in each"):
            route_evaluate(router, train, out, overwrite=True)
    assert sorted(router.iterdir()) == before
    (tmp_path / "own").mkdir()
    own = written(tmp_path / "own" / "train.jsonl", records(20))
    route(own, own.parent / "router", "knn", k=5, directions=8)
    inner = written(own.parent / "router" / "more.jsonl", records(20))
    for given in ({"data": inner}, {"data": own, "dev": inner}):
        with pytest.raises(SettingsError, match="which is read, are one place or lie in each"):
            route(**given, out=inner.parent, method="knn", overwrite=True)
    assert inner.is_file()
    route(own.parent, own.parent / "router", "knn", k=5, directions=8, overwrite=True)
