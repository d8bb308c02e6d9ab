"""The cascade: against naive loops, at its limits, with its guarantee, and worth its while."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from treadle import route
from treadle.combine.route import route_evaluate
from treadle.combine.route.base import RouteData
from treadle.combine.route.methods.cascade import Cascade
from treadle.core.errors import DataError, SettingsError
from treadle.runtime.routed.queries import QueryRouter, load_router
from treadle.runtime.routed.queries.folder import save_router
from treadle.runtime.routed.queries.record import RouterRecord
from treadle.runtime.routed.queries.scorers import CascadeScores

MODELS = ("large", "small", "odd")


def drawn(count: int, seed: int) -> RouteData:
    """Return a small model that is right as often as it is sure, and a large one right at 0.9.

    The third costs most and is worst.
    """
    source = np.random.default_rng(seed)
    sure = source.random(count)
    small = (source.random(count) < sure).astype(float)
    large = (source.random(count) < 0.9).astype(float)
    odd = (source.random(count) < 0.1).astype(float)
    scores = np.stack([large, small, odd], axis=1)
    cost = np.stack([np.full(count, 10.0), np.ones(count), np.full(count, 20.0)], axis=1)
    confidence = np.stack([source.random(count), sure, source.random(count)], axis=1)
    vectors = np.zeros((count, 0), np.float32)
    return RouteData(vectors, scores, scores, cost, None, None, confidence)


def test_who_can_never_be_sure_enough_is_not_asked(tmp_path: Path):
    scorer = CascadeScores(np.float32([2, 0, 1, -1]), np.float32([0, 2, 0.8, 0]))
    assert scorer.turns == [2, 0]
    assert scorer.scores(["a"], np.zeros((1, 0), np.float32)).argmax() == 2
    sure = np.asarray([[0.1, 1, 0.9, 1], [0.1, 1, 0.7, 1]])
    assert scorer.decide([""] * 2, np.zeros((2, 0), np.float32), sure).argmax(1).tolist() == [2, 0]
    for name, seed in (("train", 0), ("test", 1)):
        text = "".join(json.dumps(row) + "\n" for row in records(30, seed))
        (tmp_path / f"{name}.jsonl").write_text(text)
    made = route(tmp_path / "train.jsonl", tmp_path / "out", "cascade", max_loss=0.001)
    told = "at 1.000 of its cost. That is no cheaper than the best model alone; serve that one"
    assert any(told in note for note in made.notes)
    found = route_evaluate(tmp_path / "out", tmp_path / "test.jsonl", tmp_path / "result")
    assert found.measurement("cost").value == 10
    assert found.measurement("cost_fraction").value == 1
    assert found.measurement("loss").value == 0


def test_a_cascade_that_is_worth_it_is_not_told_of():
    (found,) = Cascade(max_loss=0.2).learn(drawn(600, 0), 0)
    assert "no cheaper" not in found.note


@pytest.mark.parametrize("rate", ["cost_rate", "latency_rate"])
def test_rates_have_no_effect_and_are_refused(tmp_path: Path, rate):
    text = "".join(json.dumps(row) + "\n" for row in records(30, 0))
    (tmp_path / "train.jsonl").write_text(text)
    with pytest.raises(SettingsError, match=rf"{rate} = 0\.1 has no effect on cascade"):
        route(tmp_path / "train.jsonl", tmp_path / "out", "cascade", **{rate: 0.1})
    assert not (tmp_path / "out").exists()


def times(data: RouteData, count: int) -> RouteData:
    """Return data in which every question stands so many times."""
    rows = np.repeat(np.arange(len(data.scores)), count)
    return data._replace(
        vectors=data.vectors[rows],
        worth=data.worth[rows],
        scores=data.scores[rows],
        cost=data.cost[rows],
        confidence=data.confidence[rows],
        keys=tuple(rows.tolist()),
    )


def learned(data: RouteData, seed: int = 0, **settings) -> CascadeScores:
    (found,) = Cascade(**settings).learn(data, seed)
    assert isinstance(found.scorer, CascadeScores)
    return found.scorer


def outcome(scorer: CascadeScores, data: RouteData) -> tuple[float, float]:
    """Return the mean loss and the mean relative cost, question by question."""
    loss = cost = 0.0
    *before, last = scorer.turns
    for scores, paid, sure in zip(data.scores, data.cost, data.confidence, strict=True):
        spent = 0.0
        for place in [*before, last]:
            spent += paid[place]
            if place == last or sure[place] >= scorer.thresholds[place]:
                break
        loss += max(0.0, scores[last] - scores[place])
        cost += spent / paid[last]
    return loss / len(data.scores), cost / len(data.scores)


def test_models_that_cost_more_and_are_no_better_are_never_asked():
    scorer = learned(drawn(400, 0))
    assert scorer.turns == [1, 0]
    assert scorer.ranks.tolist() == [1, 0, -1]
    assert scorer.scores(["a"], np.zeros((1, 0), np.float32)).argmax() == 1


def test_who_answers_is_who_is_sure_first():
    scorer = CascadeScores(np.float32([2, 0, 1, -1]), np.float32([0, 0.5, 0.8, 0]))
    sure = np.asarray([[0.1, 0.6, 0.9, 1], [0.1, 0.4, 0.9, 1], [0.1, 0.4, 0.7, 1], [1, 0.5, 0, 1]])
    texts, vectors = [""] * 4, np.zeros((4, 0), np.float32)
    found = scorer.decide(texts, vectors, sure)
    naive = []
    for row in sure:
        naive.append(next((p for p in (1, 2) if row[p] >= scorer.thresholds[p]), 0))
    assert found.argmax(axis=1).tolist() == naive == [1, 2, 0, 1]
    with pytest.raises(DataError, match="goes by how sure models were"):
        scorer.decide(texts, vectors, None)


def test_the_level_is_the_cheapest_that_every_test_down_to_it_certifies():
    """The whole calibration again, in loops."""
    data = drawn(600, 3)
    scorer = learned(data, max_loss=0.1, delta=0.1)
    from treadle.combine.route.maths.certified import chance
    from treadle.core.seed import numpy_stream

    order = numpy_stream(0, "cascade halves").permutation(600)
    rest, first = order[:300], order[300:]
    chosen = None
    for level in np.linspace(0, 1, 101)[::-1]:
        threshold = np.float32(2 * level)
        if level not in (0.0, 1.0):
            threshold = np.float32(np.quantile(data.confidence[first, 1], level))
        total = 0.0
        for question in rest:
            is_sure = data.confidence[question, 1] >= threshold
            own = data.scores[question, 1 if is_sure else 0]
            total += max(0.0, data.scores[question, 0] - own)
        if level < 1 and chance(total / 300, 300, 0.1) > 0.1:
            break
        chosen = threshold
    assert scorer.thresholds[1] == chosen
    assert 0 < chosen < 1


@pytest.mark.parametrize(
    ("settings", "most_loss", "most_cost"),
    [
        ({"max_loss": 0.1, "delta": 0.1}, 0.1, np.inf),
        ({"max_cost": 0.6, "delta": 0.1}, np.inf, 0.6),
        ({"max_loss": 0.25, "max_cost": 0.8, "delta": 0.1}, 0.25, 0.8),
    ],
)
def test_bounds_hold_as_often_as_they_say(settings, most_loss, most_cost):
    """Each of 150 draws claims its bounds of all questions; at most delta of them may be wrong."""
    everything = drawn(20_000, 99)
    sure, scores = everything.confidence, everything.scores
    wrong, costs, tested = 0, [], 150
    for seed in range(tested):
        scorer = learned(drawn(400, seed), seed, **settings)
        who = np.where(sure[:, 1] >= scorer.thresholds[1], 1, 0)
        assert scorer.turns[-1] == 0
        loss = np.maximum(scores[:, 0] - scores[np.arange(len(who)), who], 0).mean()
        cost = (0.1 + (who == 0)).mean()
        wrong += loss > most_loss or cost > most_cost
        costs.append(cost)
    assert wrong / tested <= 0.1
    assert np.mean(costs) < 0.95  # and they are worth something


def test_bounds_hold_where_every_question_stands_in_many_rows():
    """100 questions of 10 rows each say no more than 100 questions do."""
    everything = drawn(20_000, 99)
    sure, scores = everything.confidence, everything.scores
    wrong, tested = {True: 0, False: 0}, 60
    for seed in range(tested):
        many = times(drawn(100, seed), 10)
        for has_keys in wrong:
            given = many if has_keys else many._replace(keys=None)
            scorer = learned(given, seed, max_loss=0.1, delta=0.1)
            who = np.where(sure[:, 1] >= scorer.thresholds[1], 1, 0)
            loss = np.maximum(scores[:, 0] - scores[np.arange(len(who)), who], 0).mean()
            wrong[has_keys] += loss > 0.1
    assert wrong[True] / tested <= 0.1
    assert wrong[False] / tested > 0.1  # what the keys are for


def test_rows_of_one_question_count_as_their_mean():
    once = drawn(300, 5)
    thrice = times(once, 3)
    (alone,) = Cascade(max_loss=0.2).learn(once, 0)
    (many,) = Cascade(max_loss=0.2).learn(thrice, 0)
    assert many.note == alone.note
    assert "Calibrated on 150 questions" in many.note
    assert many.scorer.thresholds[1] == pytest.approx(alone.scorer.thresholds[1], abs=0.01)


def test_cascades_beat_the_same_number_of_questions_drawn_at_random():
    data, test = drawn(2000, 0), drawn(4000, 1)
    scorer = learned(data, max_loss=0.05)
    loss, cost = outcome(scorer, test)
    assert cost < 0.9
    share = np.mean(test.confidence[:, 1] >= scorer.thresholds[1])
    chosen = np.random.default_rng(2).random(4000) < share
    blind = np.maximum(test.scores[:, 0] - test.scores[:, 1], 0)[chosen].sum() / 4000
    assert loss < 0.5 * blind


def test_the_limits():
    data = drawn(400, 0)
    assert learned(data, max_loss=1.0).thresholds[1] == 0  # the small one's answer always stands
    assert learned(drawn(20, 0), max_loss=0.001).thresholds[1] == 2  # nothing can be claimed
    assert learned(data, max_cost=5.0).thresholds[1] == 2
    with pytest.raises(DataError, match=r"costs 0\.1 of the best one, and max_cost is 0\.05"):
        learned(data, max_cost=0.05)
    with pytest.raises(DataError, match="raise one of the bounds"):
        learned(data, max_loss=0.01, max_cost=0.11)
    with pytest.raises(DataError, match="no cost"):
        learned(data._replace(cost=None))
    with pytest.raises(DataError, match="no confidence"):
        learned(data._replace(confidence=None))
    with pytest.raises(DataError, match="too few"):
        learned(drawn(1, 0))
    best = data._replace(scores=data.scores[:, [1, 0, 2]])
    with pytest.raises(DataError, match="nobody to hand on to"):
        learned(best)
    partly = data.confidence.copy()
    partly[5, 1] = np.nan
    with pytest.raises(DataError, match="do not say the confidence of all"):
        learned(data._replace(confidence=partly))


def records(count: int, seed: int) -> list[dict]:
    data = drawn(count, seed)
    rows = zip(data.scores, data.cost, data.confidence, strict=True)
    return [
        {
            "question": f"question {seed} {number}",
            "scores": dict(zip(MODELS, map(float, scores), strict=True)),
            "cost": dict(zip(MODELS, map(float, cost), strict=True)),
            "confidence": dict(zip(MODELS, map(float, sure), strict=True)),
        }
        for number, (scores, cost, sure) in enumerate(rows)
    ]


def test_from_records_to_a_folder_and_its_account(tmp_path: Path):
    files = {"train": records(600, 0), "test": records(300, 1)}
    for name, rows in files.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = route(tmp_path / "train.jsonl", tmp_path / "out", "cascade", max_loss=0.1)
    route(tmp_path / "train.jsonl", tmp_path / "again", "cascade", max_loss=0.1)
    for name in ("router.json", "router.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert any(note.startswith("Calibrated on 2") for note in made.notes)
    router = load_router(tmp_path / "out")
    assert isinstance(router.scorer, CascadeScores)
    found = route_evaluate(tmp_path / "out", tmp_path / "test.jsonl", tmp_path / "result")
    test = drawn(300, 1)
    loss = cost = 0.0
    for scores, paid, sure in zip(test.scores, test.cost, test.confidence, strict=True):
        is_sure = sure[1] >= router.scorer.thresholds[1]
        loss += scores[0] - scores[1 if is_sure else 0]
        cost += paid[1] + (0 if is_sure else paid[0])
    assert found.measurement("loss").value == pytest.approx(loss / 300)
    assert found.measurement("cost").value == pytest.approx(cost / 300)
    assert found.measurement("cost_fraction").value == pytest.approx(cost / 3000)
    (table,) = [one for one in found.tables if one.title.startswith("The cascade")]
    assert [row[0].value for row in table.rows] == ["small", "large", "the cascade"]
    alone = route_evaluate(
        tmp_path / "out", tmp_path / "test.jsonl", tmp_path / "gone", without=["small"]
    )
    assert alone.measurement("loss").value == 0
    for row in files["test"]:
        del row["confidence"]
    (tmp_path / "bare.jsonl").write_text("".join(json.dumps(row) + "\n" for row in files["test"]))
    with pytest.raises(DataError, match="goes by how sure models were"):
        route_evaluate(tmp_path / "out", tmp_path / "bare.jsonl", tmp_path / "other")


def test_records_that_ask_the_same_count_as_one_question(tmp_path: Path):
    rows = [row for row in records(400, 0) for _ in range(3)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = route(
        tmp_path / "train.jsonl", tmp_path / "out", "cascade", max_loss=0.2, dev_fraction=0.0
    )
    assert any(note.startswith("Calibrated on 200 questions") for note in made.notes)


@pytest.mark.parametrize(("gone", "last"), [("large", "middle"), ("middle", "large")])
def test_without_a_model_the_last_one_that_is_there_answers(tmp_path: Path, gone, last):
    models = ("large", "middle", "odd", "small")
    record = RouterRecord.model_validate(
        {
            **{"method": "cascade", "settings": {}, "features": {"kind": "ngrams"}},
            **{"scorer": {"kind": "cascade"}, "trained_on": {"questions": 1, "hash": "x"}},
            **{"models": models, "best_single": "large"},
        }
    )
    scorer = CascadeScores(np.float32([2, 1, -1, 0]), np.float32([0, 0.5, 0, 0.5]))
    save_router(QueryRouter(record, scorer, None), tmp_path / "router")
    costs = dict(zip(models, (10.0, 3.0, 1.0, 1.0), strict=True))
    rows = [
        {
            "question": f"question {sure}",
            "scores": {"large": 1.0, "middle": 0.75, "odd": 0.0, "small": 0.25},
            "cost": costs,
            "confidence": {"large": 0.9, "middle": 0.1, "odd": 1.0, "small": sure},
        }
        for sure in (0.1, 0.2, 0.3, 0.6)
    ]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged = partial(route_evaluate, tmp_path / "router", tmp_path / "test.jsonl")
    found = judged(tmp_path / "result", without=[gone])
    assert found.samples["score"] == [*[rows[0]["scores"][last]] * 3, 0.25]
    assert found.measurement("cost").value == pytest.approx(1 + 0.75 * costs[last])
    (table,) = [one for one in found.tables if one.title.startswith("The cascade")]
    shares = [(row[0].value, row[1].value) for row in table.rows]
    assert shares == [("small", 0.25), (last, 0.75), ("the cascade", 1.0)]
    with pytest.raises(SettingsError, match="asks small, middle, large, and would have no"):
        judged(tmp_path / "other", without=["large", "middle", "small"])
