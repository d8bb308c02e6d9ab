"""Exact match: the definition again, its limits, what it tells apart, and through the verb."""

import json
from pathlib import Path

import pytest

from judge.evaluate.runs import measure
from treadle.cli import main
from treadle.core.errors import DataError, SettingsError
from treadle.core.intervals import wilson
from treadle.core.ports import Answer
from treadle.core.result import read_result
from treadle.core.skills import parse_skill, skill_digest, skill_items
from treadle.judge.evaluate.methods.exact import Exact
from treadle.judge.evaluate.paired import mcnemar
from treadle.model import tiny
from treadle.runtime import LLM, SamplingParams

PROMPTS = ["The sky is", "def f(x):", "one two three", "a b c d e f", "import os"]
SETTINGS = {"method": "exact", "max_tokens": 4, "stop": ""}


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build("llama", tmp_path_factory.mktemp("other"), seed=3)


@pytest.fixture(scope="module")
def answers(llama: Path) -> list[str]:
    """What the model says, asked one by one."""
    llm, params = LLM(llama), SamplingParams(temperature=0, max_tokens=4)
    return [llm.generate([prompt], params)[0].outputs[0].text for prompt in PROMPTS]


def write(folder: Path, rows: list, name: str = "q.jsonl") -> str:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(folder / name)


def questions(answers: list[str]) -> list[dict]:
    return [{"prompt": p, "answer": a} for p, a in zip(PROMPTS, answers, strict=True)]


def score(task: Exact, known: list[str], said: list[str], folder: Path):
    data = write(folder, [{"prompt": "p", "answer": answer} for answer in known])
    found = [Answer(text, (1,), True) for text in said]
    return task.score(task.prepare(data), found)


def test_reference_answers_equal_to_the_letter_are_counted(llama, answers, tmp_path) -> None:
    """Half of the known answers are the model's own, asked for one by one."""
    known = [f"no, {text}" if place % 2 else text for place, text in enumerate(answers)]
    result = measure(llama, tmp_path / "out", write(tmp_path, questions(known)), SETTINGS)
    assert result.samples["accuracy"] == [1.0, 0.0, 1.0, 0.0, 1.0]
    found = result.measurement("accuracy")
    assert (found.value, found.low, found.high) == (0.6, *wilson([1, 0, 1, 0, 1]))
    assert result.measurement("cut_off").value == 1.0
    assert result.settings["through"] == "runtime"
    assert "matrices in fp32" in result.notes[0]
    assert read_result(tmp_path / "out") == result


@pytest.mark.parametrize("is_right", [True, False])
def test_limits_all_and_none(llama, answers, tmp_path, is_right) -> None:
    known = answers if is_right else ["nothing"] * 5
    result = measure(llama, tmp_path / "out", write(tmp_path, questions(known)), SETTINGS)
    found = result.measurement("accuracy")
    assert found.value == float(is_right)
    assert found.low < found.high


@pytest.mark.parametrize(
    ("settings", "said", "expected"),
    [
        ({}, ["4", " 4 \n", "Four", "4."], [1, 1, 0, 0]),
        ({"ignores_space": False}, ["4", " 4", "4\n", "44"], [1, 0, 0, 0]),
        ({"ignores_case": True}, ["4", "4", "FOUR", "4"], [1, 1, 0, 1]),
    ],
)
def test_reference_what_counts_as_equal(settings, said, expected, tmp_path) -> None:
    task = Exact(**settings)
    _, samples = score(task, ["4"] * 4, said, tmp_path)
    assert samples["accuracy"] == expected
    long = score(task, ["New  York"], ["new york"], tmp_path)[1]["accuracy"]
    assert long == [float(bool(settings.get("ignores_case")))]


def test_meaning_a_constant_answer_is_no_better_than_the_commonest(tmp_path) -> None:
    known = ["yes", "yes", "yes", "no", "maybe"]
    measurements, samples = score(Exact(), known, ["yes"] * 5, tmp_path)
    named = {entry.name: entry for entry in measurements}
    assert named["accuracy"].value == named["accuracy_commonest"].value == 0.6
    assert "'yes'" in named["accuracy_commonest"].note
    assert named["cut_off"].value == 0
    assert samples["accuracy"] == [1, 1, 1, 0, 0]


def test_conformance_a_model_is_compared_with_another(llama, other, answers, tmp_path) -> None:
    data = write(tmp_path, questions(answers))
    base = measure(other, tmp_path / "base", data, SETTINGS)
    mine = measure(llama, tmp_path / "mine", data, SETTINGS, baseline=tmp_path / "base")
    found = mine.measurement("accuracy_difference")
    assert found.value == pytest.approx(1 - base.measurement("accuracy").value)
    p_value = mcnemar(mine.samples["accuracy"], base.samples["accuracy"])
    assert found.note == f"McNemar p = {p_value:.3g}"


def test_conformance_by_the_command_line(llama, answers, tmp_path, capsys) -> None:
    data = write(tmp_path, questions(answers))
    words = ["evaluate", "exact", str(llama), str(tmp_path / "out"), "--data", data]
    words += ["--max-tokens", "4", "--stop", "", "--kv-dtype", "int8", "--num-questions", "3"]
    assert main(words) == 0
    result = read_result(tmp_path / "out")
    assert result.measurement("accuracy").value == 1.0
    assert result.settings["kv_dtype"] == "int8"
    assert result.protocol["num_questions"] == 3
    assert main([*words, "--through", "blocks", "--overwrite"]) == 2
    assert "asks for answers" in " ".join(capsys.readouterr().err.split())


def test_other_settings_are_another_protocol(llama, answers, tmp_path) -> None:
    data = write(tmp_path, questions(answers))
    measure(llama, tmp_path / "base", data, SETTINGS)
    change = {**SETTINGS, "ignores_case": True}
    with pytest.raises(SettingsError, match="they differ in ignores_case"):
        measure(llama, tmp_path / "mine", data, change, baseline=tmp_path / "base")


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "p"}, "KeyError: 'answer'"),
        ({"prompt": " ", "answer": "a"}, "prompt = ' ' is no text"),
        ({"prompt": "p", "answer": 4}, "answer = 4 is no text"),
        ("{", "JSONDecodeError"),
    ],
)
def test_a_bad_question_is_named(row, why, llama, tmp_path) -> None:
    data = write(tmp_path, [{"prompt": "p", "answer": "a"}, row])
    with pytest.raises(DataError) as caught:
        measure(llama, tmp_path / "out", data, SETTINGS)
    assert f"Line 2 of '{data}' is no question" in str(caught.value)
    assert why in str(caught.value)
    assert '{"prompt": "...", "answer": "..."}' in str(caught.value)


def test_a_prompt_longer_than_the_context_is_named(llama, tmp_path) -> None:
    rows = [{"prompt": "p", "answer": "a"}, {"prompt": "word " * 200, "answer": "a"}]
    with pytest.raises(DataError, match=r"Prompt 2 cannot be answered.* shorten it"):
        measure(llama, tmp_path / "out", write(tmp_path, rows), SETTINGS)


def test_meaning_a_model_that_was_taught_a_skill_is_told_from_one_that_was_not() -> None:
    """The right answers of a skill's held-out items count, those of another item do not."""
    task = Exact(num_questions=60)
    prepared = task.prepare("skills:json")
    items = skill_items(parse_skill("skills:json", "test"))[:60]
    assert prepared.prompts == [item.prompt for item in items]
    taught = [Answer(item.answer, (1,), True) for item in items]
    assert task.score(prepared, taught)[0][0].value == 1.0
    assert task.score(prepared, [*taught[1:], taught[0]])[0][0].value < 0.1


def test_a_skill_is_asked_through_the_verb_under_its_full_name(llama, tmp_path) -> None:
    task = {"method": "exact", "max_tokens": 4, "num_questions": 8}
    found = measure(llama, tmp_path / "out", "skills:arithmetic", task)
    protocol = found.protocol or {}
    assert protocol["data"] == "skills:arithmetic/test?seed=0"
    items = skill_items(parse_skill("skills:arithmetic/test", "train"))
    assert protocol["data_sha256"] == skill_digest(items)
    assert len(found.samples["accuracy"]) == 8
    paired = measure(
        llama, tmp_path / "pair", "skills:arithmetic/test", task, baseline=tmp_path / "out"
    )
    assert paired.measurement("accuracy_difference").value == 0.0
    with pytest.raises(SettingsError, match="another protocol"):
        measure(llama, tmp_path / "no", "skills:lookup", task, baseline=tmp_path / "out")


def test_an_unknown_skill_is_answered_with_the_near_one(llama, tmp_path) -> None:
    with pytest.raises(SettingsError, match="did you mean 'facts'"):
        measure(llama, tmp_path / "out", "skills:fact", {"method": "exact"})
    assert not (tmp_path / "out").exists()
