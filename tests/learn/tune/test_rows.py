"""Rows as they lie in files, of every form, and what is said of those that are of none."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from learn.tune.cases import CHATS, PAIRS, QUESTIONS, written
from treadle.core.errors import DataError
from treadle.learn.tune.rows import Conversation, Prompted, Text, read_rows, text_rows
from treadle.text.curate import curate

ROWS = [QUESTIONS[0], CHATS[0], {"text": "A text."}]


def kinds(data, of_pairs=False):
    return [type(row) for row in read_rows(str(data), of_pairs).rows]


def test_each_form_is_known(tmp_path):
    data = written(tmp_path / "rows.jsonl", ROWS)
    source = read_rows(data, False)
    assert [type(row) for row in source.rows] == [Prompted, Conversation, Text]
    assert source.rows[0].where == f"line 1 of '{data}'"
    assert source.rows[0].answer == " 1."
    other = written(tmp_path / "other.jsonl", [*ROWS[:2], {"text": "Another."}])
    assert read_rows(other, False).content_hash != source.content_hash


@pytest.mark.parametrize(
    "row",
    [
        {"question": "a", "answer": "b"},
        {"prompt": "a", "completion": "b"},
        {"prompt": [{"role": "user", "content": "a"}], "completion": "b"},
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "answer": "b"},
        {"messages": json.dumps(CHATS[0]["messages"])},
    ],
)
def test_other_words_for_the_same(row, tmp_path):
    (found,) = read_rows(written(tmp_path / "rows.jsonl", [row]), False).rows
    assert isinstance(found, Prompted | Conversation)


def test_pairs_are_texts_or_messages(tmp_path):
    said = [{"role": "assistant", "content": "b"}]
    asked = [{"role": "user", "content": "a"}]
    rows = [
        PAIRS[0],
        {"prompt": asked, "chosen": said, "rejected": [{**said[0], "content": "c"}]},
        {"chosen": asked + said, "rejected": [*asked, {**said[0], "content": "c"}]},
        {"prompt": "a", "chosen": asked + said, "rejected": [{**said[0], "content": "c"}]},
    ]
    found = read_rows(written(tmp_path / "pairs.jsonl", rows), True).rows
    for pair in found[1:]:
        assert [one["content"] for one in pair.chosen.messages] == ["a", "b"]
        assert [one["content"] for one in pair.rejected.messages] == ["a", "c"]


def test_files_of_all_kinds_hold_the_same_rows(tmp_path):
    plain = tmp_path / "rows.jsonl"
    expected = read_rows(written(plain, QUESTIONS), False)
    (tmp_path / "zip.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    pq.write_table(pa.Table.from_pylist(QUESTIONS), tmp_path / "rows.parquet")
    for name in ("zip.jsonl.gz", "rows.parquet"):
        found = read_rows(str(tmp_path / name), False)
        assert [row[1:] for row in found.rows] == [row[1:] for row in expected.rows]
        assert found.content_hash == expected.content_hash


def test_what_curate_writes_is_read(tmp_path):
    rows = [{"text": f"{row['prompt']}{row['answer']} " * 3, **row} for row in QUESTIONS]
    written(tmp_path / "in.jsonl", rows)
    curate(tmp_path / "in.jsonl", tmp_path / "out", "exact")
    found = read_rows(str(tmp_path / "out"), False).rows
    assert sorted(row.prompt for row in found) == sorted(row["prompt"] for row in rows)
    assert "part-00000.parquet" in found[0].where


def test_a_skill_is_its_training_items():
    source = read_rows("skills:arithmetic", False)
    assert len(source.rows) > 100
    assert source.rows[0].where == "item 1 of skills:arithmetic"
    with pytest.raises(DataError, match="one answer for each prompt"):
        read_rows("skills:arithmetic", True)


@pytest.mark.parametrize(
    ("line", "of_pairs", "says"),
    [
        ("{", False, r"Line 2 of '.*' is no JSON"),
        ("3", False, "Line 2 of .* is no object"),
        ('{"prompt": "a"}', False, "Line 2 of .* has the keys prompt; write"),
        ('{"promt": "a", "answer": "b"}', False, r"\(Did you mean 'prompt'\?"),
        ('{"prompt": 3, "answer": "b"}', False, "prompt is int '3', and a text was expected"),
        ('{"prompt": "a", "answer": "\\ud800"}', False, "half of a surrogate pair"),
        ('{"messages": []}', False, "messages is no list of messages"),
        (
            '{"messages": [{"role": "user", "content": "a"}], "tools": "x"}',
            False,
            "tools is no list",
        ),
        ('{"messages": [{"role": "usr", "content": "a"}]}', False, "Did you mean 'user'"),
        (json.dumps(PAIRS[0]), False, "is a pair; use dpo"),
        (json.dumps(QUESTIONS[0]), True, "has the keys prompt, answer; write .*chosen"),
        ('{"prompt": "a", "chosen": "b", "rejected": "b"}', True, "prefers nothing"),
        ('{"chosen": "a", "rejected": "b"}', True, "has no prompt"),
    ],
)
def test_a_bad_row_is_named(line, of_pairs, says, tmp_path):
    good = PAIRS[0] if of_pairs else QUESTIONS[0]
    (tmp_path / "rows.jsonl").write_text(json.dumps(good) + "\n" + line + "\n")
    with pytest.raises(DataError, match=says):
        read_rows(str(tmp_path / "rows.jsonl"), of_pairs)


def test_what_is_no_data_is_named(tmp_path):
    with pytest.raises(DataError, match=r"No data at 'nowhere\.jsonl'"):
        read_rows("nowhere.jsonl", False)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="holds no rows"):
        read_rows(str(tmp_path / "empty.jsonl"), False)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="no whole Parquet file"):
        read_rows(str(tmp_path / "bad.parquet"), False)
    (tmp_path / "bad.jsonl.gz").write_bytes(b"no")
    with pytest.raises(DataError, match="cannot be unpacked"):
        read_rows(str(tmp_path / "bad.jsonl.gz"), False)
    (tmp_path / "blank.txt").write_text(" \n")
    with pytest.raises(DataError, match="holds no text"):
        text_rows(str(tmp_path / "blank.txt"))


def test_gaps_in_columns_of_parquet_are_no_words(tmp_path):
    call = {"function": {"name": "f", "arguments": {"x": 1}}}
    other = {"function": {"name": "g", "arguments": {"city": "Ulm"}}}
    rows = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [one]}]}
        for one in (call, other)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    plain = read_rows(written(tmp_path / "rows.jsonl", rows), False)
    found = read_rows(str(tmp_path / "rows.parquet"), False)
    assert [row.messages for row in found.rows] == [row.messages for row in plain.rows]


def test_system_prompts_beside_a_row_come_first_and_other_keys_are_named(tmp_path):
    rows = [
        {"system": "Be brief.", "prompt": "a", "answer": "b", "source": "here"},
        {"system_prompt": "Be brief.", **CHATS[0]},
        {"system": "Be brief.", "messages": CHATS[0]["messages"][1:]},
    ]
    source = read_rows(written(tmp_path / "rows.jsonl", rows), False)
    assert source.rows[0].system == "Be brief."
    assert source.rows[1].messages[0]["content"] == "Count."  # its own
    assert source.rows[2].messages[0] == {"role": "system", "content": "Be brief."}
    assert source.unused == ("source",)


def test_a_prompt_that_the_messages_hold_comes_once(tmp_path):
    chosen = [{"role": r, "content": c} for r, c in (("system", "S"), ("user", "Hi"))]
    answers = [{"role": "assistant", "content": c} for c in ("b", "c")]
    row = {"prompt": "Hi", "chosen": [*chosen, answers[0]], "rejected": [*chosen, answers[1]]}
    (pair,) = read_rows(written(tmp_path / "rows.jsonl", [row]), True).rows
    assert [one["content"] for one in pair.chosen.messages] == ["S", "Hi", "b"]
