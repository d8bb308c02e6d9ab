"""Samples as lm-eval writes them."""

import json
from pathlib import Path

import numpy as np
import pytest

from combine.route.prepare.test_prepare import records_of
from treadle.combine.route.prepare import route_prepare
from treadle.combine.route.prepare.lm_eval import read_samples
from treadle.combine.route.prepare.tasks import Fractions, id_of
from treadle.core.errors import DataError, SettingsError

FRACTIONS = Fractions(0.0, 0.0)


def written(file: Path, *rows: dict) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def picked(number: int, *values: float, gold: int = 0) -> dict:
    """Return a sample of a task of multiple choice, as lm-eval 0.4.9 has it."""
    asked = {f"gen_args_{n}": {"arg_0": f"q{number}", "arg_1": f" {n}"} for n in range(len(values))}
    return {
        "doc_id": number,
        "target": str(gold),
        "arguments": asked,
        "filtered_resps": [[str(value), "False"] for value in values],
        "filter": "none",
        "metrics": ["acc"],
        "acc": float(int(np.argmax(values)) == gold),
    }


def generated(number: int, score: float) -> dict:
    """Return a sample of a task of written answers, as lm-eval 0.4.2 has it."""
    return {
        "doc_id": number,
        "target": "5",
        "arguments": [[f"q{number}", {"until": ["\n"]}]],
        "resps": [["5"]],
        "filtered_resps": ["5"],
        "exact_match": score,
    }


def test_choices_and_written_answers_are_read(tmp_path):
    file = tmp_path / "samples_arc_easy_2026-11-30T10-11-12.345678.jsonl"
    written(file, picked(0, -1.0, -2.0), picked(1, -1.0, -3.0, gold=1))
    name, found = read_samples(f"m={file}", FRACTIONS)
    assert name == "m"
    sure = np.exp(-1) / (np.exp(-1) + np.exp(-2))
    assert [one.posed.task for one in found] == ["arc_easy", "arc_easy"]
    assert found[0].posed.id == id_of("q0")
    assert found[0].scored.score == found[0].scored.confidence == pytest.approx(sure)
    assert found[1].scored.score == 0
    assert found[1].scored.confidence == pytest.approx(1 / (1 + np.exp(-2)))
    file = written(tmp_path / "samples_gsm8k.jsonl", generated(7, 1.0))
    ((one,)) = read_samples(f"m={file}", FRACTIONS)[1]
    assert one.posed.task == "gsm8k"
    assert one.scored.score == 1
    assert one.scored.confidence is None


def test_models_are_merged_by_what_was_asked(tmp_path):
    rows = [generated(number, number % 2) for number in range(6)]
    first = written(tmp_path / "samples_a.jsonl", *rows)
    turned = [{**row, "exact_match": 1 - row["exact_match"]} for row in reversed(rows[1:])]
    second = written(tmp_path / "samples_b.jsonl", *turned)
    given = (f"m={first}", f"n={second}")
    found = route_prepare([], tmp_path / "out", lm_eval=given, dev_fraction=0, test_fraction=0)
    records = records_of(tmp_path / "out")["train"]
    assert len(records) == 5
    assert all(sum(one["scores"].values()) == 1 for one in records)
    assert any(note.startswith("1 questions that not every model") for note in found.notes)
    other = {"dev_fraction": 0, "test_fraction": 0, "overwrite": True}
    route_prepare(list(given), tmp_path / "out", **other)
    assert records_of(tmp_path / "out")["train"] == records
    assert {one["question"] for one in records} == {f"q{number}" for number in range(1, 6)}


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["{"], "no sample of lm-eval's"),
        (["[]"], "no sample of lm-eval's"),
        ([json.dumps({**generated(0, 1.0), "arguments": []})], "no sample of lm-eval's"),
        ([json.dumps({**generated(0, 1.0), "exact_match": 7})], "0 to 1 was expected"),
        ([json.dumps(generated(0, 1.0))] * 2, "stands in it before"),
        ([json.dumps(picked(0, float("nan"), -1.0))], "its likelihoods are"),
        ([json.dumps(picked(0, -float("inf"), -float("inf")))], "its likelihoods are"),
        ([json.dumps({**generated(0, 1.0), "exact_match": 10**400})], "no sample of lm-eval's"),
        (["[" * 100_000], "no sample of lm-eval's"),
        ([], "holds no samples"),
    ],
)
def test_what_is_no_sample_is_named(lines, says, tmp_path):
    file = tmp_path / "samples.jsonl"
    file.write_text("\n".join(lines))
    with pytest.raises(DataError, match=says):
        read_samples(f"m={file}", FRACTIONS)
    with pytest.raises(SettingsError, match="expected NAME=FILE"):
        read_samples(str(file), FRACTIONS)
    with pytest.raises(DataError, match="cannot be read"):
        read_samples(f"m={file}.none", FRACTIONS)


def test_signs_that_end_lines_may_stand_in_texts(tmp_path):
    file = tmp_path / "samples_gsm8k.jsonl"
    asked = "a\u2028b\u2029c\x85d"
    rows = [{**generated(0, 1.0), "arguments": [[asked, {}]]}, generated(1, 0.0)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    for start, end in (("", "\n"), ("\ufeff", "\r\n")):
        file.write_bytes((start + "".join(line + end for line in lines)).encode())
        _, found = read_samples(f"m={file}", FRACTIONS)
        assert [one.posed.question for one in found] == [asked, "q1"]
