"""Documents that hold parts of evaluation sets."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.text.curate import corpora

from treadle import curate
from treadle.core.errors import DataError, SettingsError

QUESTION = (
    "Which of the following planets in our solar system has the largest number of known moons"
)
FILLER = "This is some text that nobody ever asked a question about in any test of models."


def run(tmp_path, texts, against, **settings):
    rows = [{"id": str(n), "text": text} for n, text in enumerate(texts)]
    data = corpora.write_lines(tmp_path / "a.jsonl", rows)
    method = {"method": "decontaminate", **settings}
    curate(data, tmp_path / "out", method, against=[str(against)], overwrite=True)
    return [row["drop_value"] for row in corpora.decisions(tmp_path / "out").values()]


def evaluation_set(tmp_path, form):
    record = {"id": 3, "question": {"stem": QUESTION, "choices": ["Saturn", "Mars"]}}
    file = tmp_path / f"eval{form}"
    if form == ".parquet":
        pq.write_table(pa.Table.from_pylist([record]), file)
    elif form == ".txt":
        file.write_text(QUESTION)
    else:
        file.write_text(json.dumps(record if form == ".jsonl" else [record]) + "\n")
    return file


@pytest.mark.parametrize("form", [".jsonl", ".json", ".parquet", ".txt"])
def test_planted_question_is_found_in_any_form(tmp_path, form):
    texts = [FILLER, f"{FILLER} {QUESTION.upper().replace(' ', ', ')}? {FILLER}", QUESTION[:50]]
    assert run(tmp_path, texts, evaluation_set(tmp_path, form)) == [None, 4.0, None]


def test_runs_are_counted_as_a_naive_search_counts_them(tmp_path):
    words = QUESTION.split()
    texts = [" ".join([*words[n:], "end", *words[:n]]) for n in range(len(words))]
    found = run(tmp_path, texts, evaluation_set(tmp_path, ".txt"), run_words=4)
    runs = {tuple(words[n : n + 4]) for n in range(len(words) - 3)}
    for text, value in zip(texts, found, strict=True):
        mixed = text.split()
        assert value == sum(tuple(mixed[n : n + 4]) in runs for n in range(len(mixed) - 3))


def test_fewer_runs_than_asked_for_stay(tmp_path):
    against = evaluation_set(tmp_path, ".jsonl")
    assert run(tmp_path, [QUESTION], against, min_runs=5) == [None]
    assert run(tmp_path, [QUESTION], against, min_runs=4) == [4.0]


def test_a_folder_of_sets_is_read_whole(tmp_path):
    (tmp_path / "sets").mkdir()
    evaluation_set(tmp_path / "sets", ".jsonl")
    (tmp_path / "sets" / "b.txt").write_text(FILLER)
    assert run(tmp_path, [FILLER, QUESTION], tmp_path / "sets") == [4.0, 4.0]


def test_missing_and_useless_sets_are_refused(tmp_path):
    data = corpora.write_lines(tmp_path / "a.jsonl", [{"text": FILLER}])
    with pytest.raises(SettingsError, match="'decontaminate' needs texts to compare with"):
        curate(data, tmp_path / "out", "decontaminate")
    with pytest.raises(SettingsError, match="'exact' compares with no other texts"):
        curate(data, tmp_path / "out", "exact", against=[str(data)])
    with pytest.raises(DataError, match="No evaluation set at"):
        curate(data, tmp_path / "out", "decontaminate", against=["absent.jsonl"])
    (tmp_path / "short.txt").write_text("Two words")
    with pytest.raises(DataError, match="holds no text as long as a run"):
        curate(data, tmp_path / "out", "decontaminate", against=[str(tmp_path / "short.txt")])
    (tmp_path / "bad.jsonl").write_text("{")
    with pytest.raises(DataError, match="cannot be read as an evaluation set"):
        curate(data, tmp_path / "out", "decontaminate", against=[str(tmp_path / "bad.jsonl")])


def test_evaluation_sets_are_read_as_corpora_are(tmp_path):
    question = "which of these planets is the farthest one from our sun on a clear day"
    data = corpora.write_lines(tmp_path / "a.jsonl", [{"id": "q", "text": question}, {"text": "x"}])
    sets = tmp_path / "sets"
    (sets / "far").mkdir(parents=True)
    (sets / ".hidden").write_bytes(b"\xff")
    (sets / "a.jsonl").write_text(f'\ufeff{{"score": NaN, "q": ["{question}"]}}\n\n["list"]\n')
    result = curate(data, tmp_path / "one", "decontaminate", against=[str(sets)])
    assert result.measurement("dropped").value == 1
    (sets / "a.jsonl").write_text('{"q": "x"}\n{"q": "torn')
    with pytest.raises(DataError, match=r"a.jsonl' cannot be read .*line 2 of it is not JSON"):
        curate(data, tmp_path / "two", "decontaminate", against=[str(sets)])
    (sets / "a.jsonl").write_text(f'{{"a": {"[" * 900}"{question}"{"]" * 900}}}')
    with pytest.raises(DataError, match="holds no text as long as a run"):  # it lies too deep
        curate(data, tmp_path / "two", "decontaminate", against=[str(sets / "a.jsonl")])


def test_an_evaluation_set_that_is_none_is_named(tmp_path):
    data = corpora.write_lines(tmp_path / "a.jsonl", corpora.records(5))
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"
    for name in ("e.jsonl", "e.json", "e.txt", "e.parquet"):
        (tmp_path / name).write_bytes(pointer)
        with pytest.raises(DataError, match="is a Git LFS pointer, not the file of 12 bytes"):
            curate(data, tmp_path / "out", "decontaminate", against=[str(tmp_path / name)])


def test_an_evaluation_set_named_json_may_be_lines(tmp_path):
    rows = corpora.records(5)
    data = corpora.write_lines(tmp_path / "a.jsonl", rows)
    against = corpora.write_lines(tmp_path / "e.json", rows[:2])
    result = curate(data, tmp_path / "out", "decontaminate", against=[str(against)])
    assert result.measurement("dropped").value >= 2
