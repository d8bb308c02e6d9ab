"""Preparing the records of routers: scores, splits, what is kept and what is left out."""

import json
from pathlib import Path

import numpy as np
import pytest

from combine.route.prepare.endpoints import completion, endpoint
from treadle.combine.route.prepare import route_prepare
from treadle.combine.route.prepare.base import PoolQuestion, Reply
from treadle.combine.route.prepare.scores import score_of
from treadle.combine.route.prepare.tasks import Fractions, id_of, read_tasks, side_of
from treadle.core.errors import DataError, SettingsError
from treadle.model import tiny

ONE = {"samples": 1, "temperature": 0.0, "max_tokens": 4, "retries": 0}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("pool")
    return [str(tiny.build("llama", folder / name, seed)) for seed, name in enumerate(("a", "b"))]


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    file = tmp_path / "sums.jsonl"
    rows = [{"prompt": f"{n} + 1 =", "answer": f" {n + 1}"} for n in range(30)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def records_of(out: Path) -> dict[str, list[dict]]:
    files = {side: out / f"{side}.jsonl" for side in ("train", "dev", "test")}
    return {
        side: [json.loads(line) for line in file.read_text().splitlines()]
        for side, file in files.items()
        if file.is_file()
    }


def answering(right: bool, told: list[str] | None = None):
    """Return an endpoint's answers, all right or all wrong, that notes what it was asked."""

    def answer(path: str, body: dict):
        prompt = body["prompt"]
        if told is not None:
            told.append(prompt)
        number = int(prompt.split()[0]) + (1 if right else 2)
        return 200, completion(body, *[f" {number}"] * body.get("n", 1))

    return answer


def test_scores_of_written_answers_are_the_share_of_right_ones():
    posed = PoolQuestion("1", "t", "train", "q", (" 4 2",))
    reply = Reply("1", ("4  2", "42", " 4 2\n", ""), (0.5, 0.1, 0.9, 0.0), (), 1.0, 3, 2.0)
    found = score_of(posed, reply)
    assert found.score == 0.5
    assert found.confidence == pytest.approx(0.375)
    assert score_of(posed, reply._replace(sureness=())).confidence is None


@pytest.mark.parametrize("gold", [0, 1, 2])
def test_a_choices_score_is_its_probability_if_it_is_right(gold):
    values = (-1.0, -0.5, -700.0)
    posed = PoolQuestion("1", "t", "train", "q", (" a", " b", " c"), gold)
    found = score_of(posed, Reply("1", (), (), values, 1.0, 3, 1.0))
    total = sum(np.exp(value) for value in values)
    assert found.score == pytest.approx(np.exp(-0.5) / total if gold == 1 else 0.0)
    assert found.confidence == pytest.approx(np.exp(-0.5) / total)


def test_records_hold_what_routers_read(models, sums, tmp_path):
    with endpoint(answering(True)) as url:
        pool = [*models, f"far={url}/m"]
        found = route_prepare(pool, tmp_path / "out", data=(str(sums),), **ONE)
    records = records_of(tmp_path / "out")
    every = [one for own in records.values() for one in own]
    assert len(every) == 30
    assert {one["id"] for one in every} == {id_of(f"{n} + 1 =") for n in range(30)}
    for side, own in records.items():
        assert own
        for one in own:
            assert one["task"] == "sums"
            assert side_of(one["id"], Fractions(0.1, 0.2)) == side
            assert list(one["scores"]) == ["a", "b", "far"]
            assert one["scores"]["far"] == 1.0
            assert set(one["confidence"]) == {"a", "b", "far"}
            assert set(one["cost"]) == {"a", "b"}
            assert all(value > 0 for value in one["latency"].values())
    values = {one.name: one.value for one in found.measurements}
    assert values["score of far"] == values["score of the query oracle"] == 1.0
    assert any("cost of far is not known" in note for note in found.notes)


def test_a_price_list_says_what_tokens_cost(models, sums, tmp_path):
    prices = tmp_path / "prices.json"
    prices.write_text('{"a": {"input": 1, "output": 2}, "far": {"input": 0, "output": 3e6}}')
    with endpoint(answering(False)) as url:
        pool = [models[0], f"far={url}/m"]
        route_prepare(pool, tmp_path / "out", data=(str(sums),), prices=prices, **ONE)
    (one, *_) = records_of(tmp_path / "out")["train"]
    assert one["cost"]["far"] == 6.0
    assert 0 < one["cost"]["a"] < 1e-3
    prices.write_text('{"a": {"input": -1, "output": 2}}')
    with pytest.raises(SettingsError, match="below 0"):
        route_prepare(models, tmp_path / "other", data=(str(sums),), prices=prices, **ONE)
    prices.write_text('{"a": 5}')
    with pytest.raises(SettingsError, match="no file of prices"):
        route_prepare(models, tmp_path / "other", data=(str(sums),), prices=prices, **ONE)


def test_a_run_goes_on_and_a_further_model_costs_its_own(sums, tmp_path):
    told: dict[str, list[str]] = {"x": [], "y": [], "z": []}
    out, is_up = tmp_path / "out", []

    def failing(path: str, body: dict):
        if len(told["y"]) == 7 and not is_up:
            return 500, {"error": {"message": "out of memory"}}
        return answering(False, told["y"])(path, body)

    with (
        endpoint(answering(True, told["x"])) as x,
        endpoint(failing) as y,
        endpoint(answering(False, told["z"])) as z,
    ):

        def prepare(*names: str, **more):
            places = {"x": x, "y": y, "z": z}
            pool = [f"{name}={places[name]}/m" for name in names]
            return route_prepare(pool, out, data=(str(sums),), **{**ONE, **more})

        with pytest.raises(DataError, match="1 models of the pool answered"):
            prepare("x", "y")
        assert [len(own) for own in told.values()] == [30, 7, 0]
        assert not (out / "result.json").exists()
        is_up.append(True)
        assert prepare("x", "y").is_resumed
        assert [len(own) for own in told.values()] == [30, 30, 0]
        assert len(set(told["y"])) == 30
        found = prepare("x", "y", "z", overwrite=True)
        assert [len(own) for own in told.values()] == [30, 30, 30]
        again = prepare("x", "y", "z", overwrite=True)
        assert again.measurements == found.measurements
        prepare("x", "z", overwrite=True, max_tokens=5)
        assert [len(own) for own in told.values()] == [60, 30, 60]


def test_a_line_that_was_cut_off_is_asked_again(sums, tmp_path):
    told: list[str] = []
    out = tmp_path / "out"
    with endpoint(answering(True, told)) as x, endpoint(answering(True)) as y:
        pool = [f"x={x}/m", f"y={y}/m"]
        route_prepare(pool, out, data=(str(sums),), **ONE)
        for file in (out / "answers").iterdir():
            file.write_bytes(file.read_bytes()[:-9])
        whole = records_of(out)
        route_prepare(pool, out, data=(str(sums),), overwrite=True, **ONE)
        assert len(told) == 31
        for one, other in zip(whole["train"], records_of(out)["train"], strict=True):
            assert one["scores"] == other["scores"]
        file.write_text(file.read_text().replace('"texts"', '"words"'))
        with pytest.raises(DataError, match="is damaged"):
            route_prepare(pool, out, data=(str(sums),), overwrite=True, **ONE)


def test_a_dead_endpoint_is_left_out_with_a_note(models, sums, tmp_path):
    with endpoint(answering(True)) as gone:
        pass
    pool = [*models, f"dead={gone}/m"]
    found = route_prepare(pool, tmp_path / "out", data=(str(sums),), **ONE)
    (note,) = [one for one in found.notes if one.startswith("Left out: 'dead'.")]
    assert "cannot be reached" in note
    (one, *_) = records_of(tmp_path / "out")["train"]
    assert list(one["scores"]) == ["a", "b"]


def test_rubbish_leaves_an_endpoint_out(models, sums, tmp_path):
    with endpoint(lambda path, body: (200, {"choices": 3})) as url:
        pool = [*models, f"odd={url}/m"]
        found = route_prepare(pool, tmp_path / "out", data=(str(sums),), **ONE)
    assert any("'odd'" in note and "no completion" in note for note in found.notes)


def test_splits_stay_whatever_else_is_asked(sums, tmp_path):
    fractions = Fractions(0.1, 0.2)
    (alone,), _ = read_tasks([str(sums)], None, fractions)
    both, _ = read_tasks(["skills:arithmetic", str(sums)], 20, fractions)
    assert [one.side for one in both[1].posed] == [one.side for one in alone.posed[:20]]
    counts = [sum(one.side == side for one in both[0].posed) for side in ("train", "dev", "test")]
    assert counts == [14, 2, 4]
    many = [side_of(id_of(str(n)), fractions) for n in range(4000)]
    assert many.count("test") / 4000 == pytest.approx(0.2, abs=0.02)
    assert many.count("dev") / 4000 == pytest.approx(0.1, abs=0.02)


def test_a_question_in_two_splits_is_refused(sums, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text('{"prompt": "3  + 1 =", "answer": " 4"}\n')
    data = [f"dev={sums}", f"test={other}"]
    with pytest.raises(DataError, match=r"'other' is in test, and in dev by 'sums'.*calibrated"):
        read_tasks(data, None, Fractions(0.1, 0.2))
    sets, num_twice = read_tasks([f"dev={sums}", f"dev={other}"], None, Fractions(0.1, 0.2))
    assert num_twice == 1
    assert not sets[1].posed
    other.write_text('{"prompt": "3 + 1 =", "answer": " 5"}\n')
    with pytest.raises(DataError, match=r"has the answer ' 5', and elsewhere ' 4'"):
        read_tasks([f"dev={sums}", f"dev={other}"], None, Fractions(0.1, 0.2))
    with pytest.raises(SettingsError, match="named twice"):
        read_tasks([str(sums), str(sums)], None, Fractions(0.1, 0.2))


def test_choices_are_read_and_scored(models, tmp_path):
    file = tmp_path / "picked.jsonl"
    rows = [{"query": f"pick {n}", "choices": ["aa", "bb"], "gold": n % 2} for n in range(4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    route_prepare(models, tmp_path / "out", data=(f"train={file}",), **ONE)
    for one in records_of(tmp_path / "out")["train"]:
        for score, sure in zip(one["scores"].values(), one["confidence"].values(), strict=True):
            assert 0.5 <= sure < 1
            assert score in (0.0, pytest.approx(sure))


@pytest.mark.parametrize(
    ("pool", "given", "says"),
    [
        ([], {}, "neither a pool .* NAME=FILE.jsonl"),
        (["a", "b"], {}, "names no questions"),
        ([], {"data": ("skills:json",)}, "The pool is empty"),
        (["http://h:1/m"], {"data": ("skills:json",)}, "without a name; write NAME=http"),
        (["m=x", "m=y"], {"data": ("skills:json",)}, "Two members of the pool are called 'm'"),
        (["a"], {"data": ("skills:json",), "temperature": 0.0, "samples": 2}, "all are alike"),
        (["a"], {"data": ("skills:json",), "dev_fraction": 0.5, "test_fraction": 0.5}, "leave so"),
        (["a"], {"data": ("skills:json",), "retries": -1}, "retries = -1; give 0 or more"),
        (["a"], {"data": ("skills:json",), "concurrency": 0}, "concurrency = 0; give at least 1"),
        (["a"], {"data": ("skills:json",), "timeout_seconds": 0.0}, "timeout_seconds = 0; give"),
        (["a"], {"data": ("skills:json",), "timeout_seconds": float("nan")}, "timeout_seconds = n"),
        (["a"], {"data": ("skills:json",), "num_questions": 0}, "num_questions = 0; give at leas"),
    ],
)
def test_settings_that_make_no_sense(pool, given, says, tmp_path):
    with pytest.raises(SettingsError, match=says):
        route_prepare(pool, tmp_path / "out", **given)
    assert not (tmp_path / "out" / "result.json").exists()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(one): one.read_bytes() for one in folder.rglob("*") if one.is_file()}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("names", [("train", "dev", "test"), ("notes",)])
def test_a_folder_of_others_is_left_as_it_is(names, overwrite, models, sums, tmp_path):
    own = tmp_path / "mydata"
    own.mkdir()
    for name in names:
        (own / f"{name}.jsonl").write_bytes(sums.read_bytes())
    before = contents(own)
    with pytest.raises(SettingsError, match="is no folder that route prepare made"):
        route_prepare(models, own, data=(str(sums),), overwrite=overwrite, **ONE)
    given = f"train={own / names[0]}.jsonl"
    with pytest.raises(SettingsError, match="which is read, are one place or lie in each other"):
        route_prepare(models, own, data=(given,), overwrite=overwrite, **ONE)
    (own / "result.json").write_text("{}")
    with pytest.raises(SettingsError, match="is no folder that route prepare made"):
        route_prepare(models, own, data=(str(sums),), overwrite=overwrite, **ONE)
    assert contents(own) == {**before, str(own / "result.json"): b"{}"}


def test_records_do_not_go_into_a_model_or_over_samples(models, sums, tmp_path):
    inside = Path(models[0]) / "out"
    with pytest.raises(SettingsError, match="which is read"):
        route_prepare([f"x={models[0]}", models[1]], inside, data=(str(sums),), **ONE)
    samples = tmp_path / "out" / "test.jsonl"
    samples.parent.mkdir()
    samples.write_text("{}")
    with pytest.raises(SettingsError, match="which is read"):
        route_prepare([], tmp_path / "out", lm_eval=(f"m={samples}",), overwrite=True)
    assert samples.read_text() == "{}"


def test_a_run_that_was_killed_as_it_wrote_is_done_again(sums, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with endpoint(answering(True)) as x, endpoint(answering(False)) as y:
        pool = [f"x={x}/m", f"y={y}/m"]

        def broken(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr("treadle.combine.route.prepare.apply.account_for", broken)
            with pytest.raises(KeyboardInterrupt):
                route_prepare(pool, out, data=(str(sums),), **ONE)
        before = records_of(out)
        with monkeypatch.context() as patched:
            patched.setattr("treadle.combine.route.prepare.records._record", broken)
            with pytest.raises(KeyboardInterrupt):
                route_prepare(pool, out, data=(str(sums),), **ONE)
        assert records_of(out) == before
        route_prepare(pool, out, data=(str(sums),), **ONE)
    assert sum(len(own) for own in records_of(out).values()) == 30
    names = {one.name for one in out.iterdir()}
    assert names == {"answers", "result.json", "train.jsonl", "dev.jsonl", "test.jsonl"}


def test_who_was_left_out_is_named_where_too_few_remain(sums, tmp_path):
    refused = {"error": {"message": "n is beyond me"}}
    with (
        endpoint(lambda path, body: (400, refused)) as x,
        endpoint(lambda path, body: (200, {"choices": 3})) as y,
        pytest.raises(DataError) as caught,
    ):
        route_prepare([f"x={x}/m", f"y={y}/m"], tmp_path / "out", data=(str(sums),), **ONE)
    said = str(caught.value)
    assert said.startswith("0 models of the pool answered")
    assert "Left out: 'x'." in said
    assert "n is beyond me" in said
    assert "Left out: 'y'. What http" in said
    assert said.endswith("Mend what was left out, and run this again (what was answered is kept).")


def test_a_pool_of_one_is_told_to_grow(sums, tmp_path):
    says = r"1 models .* Name further ones, and run this again"
    with endpoint(answering(True)) as x, pytest.raises(DataError, match=says):
        route_prepare([f"x={x}/m"], tmp_path / "out", data=(str(sums),), **ONE)
