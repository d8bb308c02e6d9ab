"""Which rows come when, how they are cut into parts, and what a part holds."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learn.tune.cases import QUESTIONS
from treadle.core.errors import DataError
from treadle.learn.tune.encoding import Encoder, TaughtDocument
from treadle.learn.tune.lessons import Lessons, collate, encoded, parts_of, shuffled, windows
from treadle.learn.tune.rows import Prompted, Text
from treadle.model.load import load_tokenizer


def document(length, num_answers=1):
    is_answer = np.arange(length) >= length - num_answers
    return TaughtDocument(f"of {length}", np.arange(length), is_answer, 2 * num_answers)


def test_all_rows_come_once_before_one_comes_again():
    lessons = Lessons([(document(3),)] * 5, rows=2, seed=1)
    places = [number for step in range(5) for number in lessons.chosen(step)]
    assert sorted(places[:5]) == sorted(places[5:]) == [0, 1, 2, 3, 4]
    assert places[:5] != places[5:]
    assert lessons.seen(2) == sorted({*lessons.chosen(0), *lessons.chosen(1)})
    assert lessons.seen(9) == [0, 1, 2, 3, 4]
    assert Lessons(lessons.groups, 2, seed=2).chosen(0) != lessons.chosen(0)
    assert Counter(Lessons(lessons.groups, 12, seed=1).chosen(0)).most_common()[-1][1] == 2


@given(st.lists(st.integers(2, 30), min_size=1, max_size=20), st.integers(1, 40))
def test_parts_hold_all_rows_and_no_more_than_they_may(lengths, most):
    groups = [(document(length),) for length in lengths]
    parts = parts_of(groups, range(len(groups)), most)
    assert sorted(number for part in parts for number in part) == list(range(len(groups)))
    for part in parts:
        size = sum(lengths[number] - 1 for number in part)
        assert size <= most or len(part) == 1


def test_an_epoch_ends_with_what_is_left():
    lessons = Lessons([(document(3),)] * 5, rows=2, seed=1, limit=5)
    assert sorted(n for step in range(3) for n in lessons.chosen(step)) == [0, 1, 2, 3, 4]
    assert len(lessons.chosen(2)) == 1


def test_a_row_that_comes_twice_is_there_twice():
    parts = parts_of([(document(4),)] * 2, [1, 0, 1], 4)
    assert sorted(number for part in parts for number in part) == [0, 1, 1]


def test_a_part_names_places_targets_and_documents():
    part = collate([(document(4, 2), document(3, 1))], [0])
    assert part["input_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert part["lengths"].tolist() == [[3, 2]]
    assert part["wanted"].tolist() == [[1, 2, 4]]
    assert part["targets"].tolist() == [[2, 3, 2]]
    assert part["documents"].tolist() == [[0, 0, 1]]


def test_a_text_is_cut_into_windows_of_which_the_last_is_shorter():
    found = windows(TaughtDocument("t", np.arange(10), np.arange(10) > 0, 30), 4)
    assert [group[0].tokens.tolist() for group in found] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert sum(group[0].answer_bytes for group in found) == 30
    assert not any(group[0].is_answer[0] for group in found)
    begun = windows(TaughtDocument("t", np.arange(7), np.arange(7) > 0, 6), 4, first=0)
    assert [group[0].tokens.tolist() for group in begun] == [[0, 1, 2, 3], [0, 4, 5, 6]]
    assert len(windows(TaughtDocument("t", np.arange(5), np.arange(5) > 0, 9), 4)) == 1


def test_long_rows_are_refused_cut_or_dropped(llama):
    encoder = Encoder(load_tokenizer(llama), False)
    rows = [
        Prompted("line 1", "a", "b"),
        Prompted("line 2", "a", "b" * 50),
        Text("line 3", "c " * 99),
    ]
    with pytest.raises(DataError, match=r"2 rows have more than 20 tokens \(line 2, line 3\)"):
        encoded(rows, encoder, 20, "refuse")
    cut = encoded(rows, encoder, 20, "cut")
    assert (len(cut.groups), cut.num_cut, cut.num_dropped) == (3, 2, 0)
    assert max(len(group[0].tokens) for group in cut.groups) == 20
    dropped = encoded(rows, encoder, 20, "drop")
    assert (len(dropped.groups), dropped.num_cut, dropped.num_dropped) == (1, 0, 2)
    with pytest.raises(DataError, match="No row is left of 1"):
        encoded(rows[1:2], encoder, 20, "drop")
    prompt = [Prompted("line 1", "a " * 50, "b")]
    with pytest.raises(DataError, match="No row is left"):  # cut, it would have no answer
        encoded(prompt, encoder, 20, "cut")


def test_shuffled_answers_are_those_of_others():
    rows = [Prompted(str(n), row["prompt"], row["answer"]) for n, row in enumerate(QUESTIONS)]
    found = shuffled(rows, seed=0)
    assert [row.prompt for row in found] == [row.prompt for row in rows]
    assert sorted(row.answer for row in found) == sorted(row.answer for row in rows)
    assert all(a.answer != b.answer for a, b in zip(rows, found, strict=True))
    assert [row.answer for row in shuffled(rows[:2], seed=0)] == [rows[1].answer, rows[0].answer]
    with pytest.raises(DataError, match="One row has no other"):
        shuffled(rows[:1], seed=0)
    with pytest.raises(DataError, match="is a text, whose answers cannot be shuffled"):
        shuffled([Text("line 1", "a"), rows[0]], seed=0)
