"""Multiple choice, one question at a time, and what a bad question is."""

import json
from pathlib import Path

import pytest
import torch

from judge.evaluate.runs import measure
from naive import plain_losses, plain_model
from treadle.core.errors import DataError, SettingsError
from treadle.judge.evaluate.paired import mcnemar
from treadle.model import scoring, tiny
from treadle.model.load import load_tokenizer


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build("llama", tmp_path_factory.mktemp("other"), seed=3)


def write_questions(folder: Path, *rows: object, name: str = "q.jsonl") -> str:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(folder / name)


QUESTIONS = [
    {"query": "The sky is", "choices": ["blue", "made of old bricks", "x"], "gold": 0},
    {"query": "def f(x):\n    return ", "choices": ["x ** 2", "banana"], "gold": 1},
    {"query": "Größe: ", "choices": ["naïve", "日本語", "ok then"], "gold": 2},
    {"query": "one two three", "choices": ["four", "5"], "gold": 0},
]


def naive_scores(folder: Path, question: dict) -> tuple[list[float], list[float]]:
    """Negative log-likelihoods of the choices, raw and a byte, one forward pass each."""
    model, tokenizer = plain_model(folder), load_tokenizer(folder)
    raw, normalised = [], []
    for answer in question["choices"]:
        query = question["query"].rstrip()
        encoded = tokenizer(
            f"{query} {answer}", add_special_tokens=False, return_offsets_mapping=True
        )
        losses = plain_losses(model, torch.tensor([encoded["input_ids"]]))[0]
        places = [i for i, (_, end) in enumerate(encoded["offset_mapping"]) if end > len(query)]
        loss = sum(float(losses[i - 1]) for i in places)
        raw.append(loss)
        normalised.append(loss / len(answer.encode()))
    return raw, normalised


@pytest.mark.parametrize("batch_rows", [1, 3, 32])
def test_choices_equal_one_by_one(
    batch_rows: int, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padding and batching do not matter: rows of different lengths, in batches of any size."""
    monkeypatch.setattr(scoring, "_BATCH_ROWS", batch_rows)
    data = write_questions(tmp_path, *QUESTIONS)
    result = measure(other, tmp_path / "out", data, {"method": "choice"})
    for place, name in enumerate(("accuracy", "accuracy_normalised")):
        right = []
        for question in QUESTIONS:
            scores = naive_scores(other, question)[place]
            right.append(float(scores.index(min(scores)) == question["gold"]))
        assert result.samples[name] == right
        assert result.measurement(name).value == sum(right) / 4
    assert result.measurement("accuracy_random").value == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_known_answers_are_found(llama: Path, tmp_path: Path) -> None:
    """Gold by construction: the likeliest choice makes every answer right, another none."""
    right = [{**q, "gold": (s := naive_scores(llama, q)[0]).index(min(s))} for q in QUESTIONS]
    wrong = [{**q, "gold": (q["gold"] + 1) % len(q["choices"])} for q in right]
    for rows, expected in ((right, 1.0), (wrong, 0.0)):
        data = write_questions(tmp_path, *rows)
        out = tmp_path / str(expected)
        found = measure(llama, out, data, {"method": "choice"}).measurement("accuracy")
        assert found.value == expected
        assert found.low < found.high, "few answers leave the share open, however equal they are"
        assert expected in (found.low, found.high)


def test_normalising_takes_the_advantage_of_short_answers_away(llama: Path, tmp_path: Path) -> None:
    """A choice of one likely token against its own repetition: raw prefers the short one."""
    question = {"query": "a b c d", "choices": ["e e e e e e e e", "e"], "gold": 0}
    raw, normalised = naive_scores(llama, question)
    assert raw[1] < raw[0]
    result = measure(
        llama, tmp_path / "o", write_questions(tmp_path, question), {"method": "choice"}
    )
    assert result.samples["accuracy"] == [0.0]
    assert result.samples["accuracy_normalised"] == [float(normalised[0] < normalised[1])]


def test_ties_go_to_the_first_choice(llama: Path, tmp_path: Path) -> None:
    for gold, expected in ((0, 1.0), (1, 0.0)):
        data = write_questions(tmp_path, {"query": "q", "choices": ["a", "a"], "gold": gold})
        result = measure(llama, tmp_path / str(gold), data, {"method": "choice"})
        assert result.measurement("accuracy").value == expected


def test_a_comparison_of_choices(llama: Path, other: Path, tmp_path: Path) -> None:
    data = write_questions(tmp_path, *QUESTIONS)
    base = measure(llama, tmp_path / "base", data, {"method": "choice"})
    mine = measure(other, tmp_path / "mine", data, {"method": "choice"}, baseline=tmp_path / "base")
    for name in ("accuracy", "accuracy_normalised"):
        found = mine.measurement(f"{name}_difference")
        expected = mine.measurement(name).value - base.measurement(name).value
        assert found.value == pytest.approx(expected)
        assert found.low <= found.value <= found.high
        p_value = mcnemar(mine.samples[name], base.samples[name])
        assert found.note == f"McNemar p = {p_value:.3g}"


def test_perplexity_and_choice_do_not_compare(llama: Path, text: str, tmp_path: Path) -> None:
    measure(llama, tmp_path / "base", text)
    data = write_questions(tmp_path, *QUESTIONS)
    with pytest.raises(SettingsError, match="another protocol"):
        measure(llama, tmp_path / "m", data, {"method": "choice"}, baseline=tmp_path / "base")


def test_the_first_questions_only(llama: Path, tmp_path: Path) -> None:
    data = write_questions(tmp_path, *QUESTIONS)
    result = measure(llama, tmp_path / "o", data, {"method": "choice", "num_questions": 2})
    assert len(result.samples["accuracy"]) == 2
    with pytest.raises(DataError, match="has 4 questions, but 5 were asked for"):
        measure(llama, tmp_path / "p", data, {"method": "choice", "num_questions": 5})


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"query": "q", "choices": ["a", "b"], "gold": 2}, "gold = 2 of 2 choices"),
        ({"query": "q", "choices": ["a", "b"], "gold": -1}, "gold = -1 of 2 choices"),
        ({"query": "q", "choices": ["a", "b"], "gold": 0.7}, "gold = 0.7 of 2 choices"),
        ({"query": "q", "choices": ["a", "b"], "gold": True}, "gold = True of 2 choices"),
        ({"query": "q", "choices": ["a"], "gold": 0}, "gold = 0 of 1 choices"),
        ({"query": "q", "choices": "ab", "gold": 0}, "choices = 'ab' is no list of texts"),
        ({"query": "q", "choices": ["a", " "], "gold": 0}, "is no list of texts"),
        ({"query": " ", "choices": ["a", "b"], "gold": 0}, "query = ' ' is no text"),
        ({"query": "q", "choices": ["a", "b"]}, "KeyError: 'gold'"),
        (["q"], "TypeError"),
    ],
)
def test_a_bad_question(row: object, why: str, llama: Path, tmp_path: Path) -> None:
    data = write_questions(tmp_path, QUESTIONS[0], row)
    with pytest.raises(DataError) as caught:
        measure(llama, tmp_path / "out", data, {"method": "choice"})
    assert f"Line 2 of '{data}' is no question" in str(caught.value)
    assert why in str(caught.value)
    assert '{"query": "...", "choices": ["...", "..."], "gold": 0}' in str(caught.value)


def test_a_bad_task_file(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "latin.jsonl").write_bytes(b"\xe9")
    for name, message in (
        ("no.jsonl", "No task file at"),
        ("empty.jsonl", "holds no questions"),
        ("latin.jsonl", r"is not UTF-8 \(byte 0\)"),
    ):
        with pytest.raises(DataError, match=message):
            measure(llama, tmp_path / "out", str(tmp_path / name), {"method": "choice"})


def test_a_line_separator_inside_a_question(llama: Path, tmp_path: Path) -> None:
    row = json.dumps({"query": "a\u2028b", "choices": ["c", "d"], "gold": 0}, ensure_ascii=False)
    (tmp_path / "q.jsonl").write_text(row + "\n", encoding="utf-8")
    result = measure(llama, tmp_path / "out", str(tmp_path / "q.jsonl"), {"method": "choice"})
    assert len(result.samples["accuracy"]) == 1
