"""Drafters compared on questions: what is drawn, counted and refused; and through a real model."""

import json
import shutil
from pathlib import Path

import pytest

from treadle.core.errors import DataError, SettingsError
from treadle.core.ports import Answer, Decoded
from treadle.judge.bench import bench
from treadle.judge.bench.methods.speculation import Speculated


@pytest.fixture
def questions(tmp_path) -> Path:
    kinds = [*["writing", "stem", "math"], *["rag"] * 4]
    lines = [
        json.dumps({"question_id": n, "category": kind, "turns": [f"{kind} {n}?", "And?"]})
        for n, kind in enumerate(kinds)
    ]
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return file


class Told:
    """Takes a second for 10 tokens, half of it with the drafter "twice"."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str]]] = []

    def decoded(self, prompts, asked, speculate):
        if asked.max_tokens > 4:
            self.asked.append((speculate, list(prompts)))
        factor = 2 if speculate == "twice" else 1
        count = len(prompts) * (asked.max_tokens - 1)
        tokens = (1,) * asked.max_tokens
        answers = [Answer("", tokens if speculate != "wrong" else (2,), False) for _ in prompts]
        return Decoded(answers, count / 10 / factor, count / 5, count, 9, 8, count // factor)


def test_classes_are_drawn_compared_and_take_turns(questions):
    method = Speculated(
        questions=questions, num_questions=2, new_tokens=11, drafters=("twice", "wrong")
    )
    told = Told()
    found = method.measure(told, 0)
    values = {entry.name: entry.value for entry in found.measurements}
    assert values["rag: none"] == pytest.approx(10)
    assert values["rag: twice, times none"] == pytest.approx(2)
    assert values["rag: twice by_cpu, times none"] == pytest.approx(1)
    assert values["multi-turn chat: twice, tokens per pass"] == 2
    assert values["rag: twice, other answers"] == 0
    assert values["rag: wrong, other answers"] == 1
    by_text: dict[str, list[str]] = {}
    for name, (text,) in told.asked:
        by_text.setdefault(text, []).append(name)
    assert len(by_text) == 4
    assert all(sorted(names) == ["none", "twice", "wrong"] for names in by_text.values())
    assert len({names[0] for names in by_text.values()}) == 3
    (figure,) = found.figures
    assert figure.series[0].x == ["multi-turn chat", "rag"]
    again = Told()
    method.measure(again, 0)
    assert again.asked == told.asked


def test_questions_are_asked_in_batches(questions):
    told = Told()
    method = Speculated(
        questions=questions, classes=("rag",), new_tokens=5, batch=3, drafters=("x",)
    )
    method.measure(told, 0)
    assert [len(texts) for name, texts in told.asked if name == "x"] == [3, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no questions"),
        ("[1]\n", "Line 1 of .* is no question"),
        ('{"category": "a", "turns": []}\n', "Line 1 of .* turns"),
    ],
)
def test_files_that_hold_no_questions_are_refused(tmp_path, content, message):
    file = tmp_path / "file.jsonl"
    file.write_text(content)
    with pytest.raises(DataError, match=message):
        Speculated(questions=file).measure(Told(), 0)
    with pytest.raises(DataError, match="There is no file"):
        Speculated(questions=tmp_path / "none.jsonl").measure(Told(), 0)


def test_a_class_that_is_not_there_is_refused(questions):
    with pytest.raises(DataError, match="'code'; choose among multi-turn chat, rag"):
        Speculated(questions=questions, classes=("code",)).measure(Told(), 0)


@pytest.fixture
def model(llama, tmp_path) -> Path:
    """A model with a chat template."""
    found = Path(shutil.copytree(llama, tmp_path / "model"))
    file = found / "tokenizer_config.json"
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": template}))
    return found


def test_a_real_model_answers_the_same_with_every_drafter(model, tmp_path, questions):
    method = Speculated(questions=questions, num_questions=1, new_tokens=20)
    result = bench(model, tmp_path / "out", method, kv_dtype="fp32", weights="fp32")
    for name in method.drafters:
        assert result.measurement(f"rag: {name}, other answers").value == 0
        assert result.measurement(f"rag: {name}, tokens per pass").value >= 1
    assert result.figures[0].kind == "bar"


def test_a_drafter_that_is_none_is_refused(model, tmp_path, questions):
    with pytest.raises(SettingsError, match="Did you mean 'suffix'"):
        bench(model, tmp_path / "out", Speculated(questions=questions, drafters=("sufix",)))
