"""Pieces that almost repeat: the rule naively, its limits, what the released code gets wrong."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.text.curate import corpora

from treadle import curate
from treadle.core.errors import SettingsError
from treadle.native import text as kernels
from treadle.native import text_twins as twins
from treadle.native.text import Texts
from treadle.text.curate import METHODS


def run(tmp_path, texts, **options):
    rows = [{"id": f"{n}", "text": text} for n, text in enumerate(texts)]
    data = corpora.write_lines(tmp_path / "a.jsonl", rows)
    curate(data, tmp_path / "out", {"method": "similar_lines", **options}, overwrite=True)
    return {row["id"]: row["text"] for row in corpora.kept(tmp_path / "out")}


LETTERS = st.text("ab中", max_size=12)
NEAR = st.builds(
    lambda base, tail: "abcabcabcabcabcabcabc"[: 8 + base] + tail, st.integers(0, 13), LETTERS
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.lists(LETTERS | NEAR, max_size=8), max_size=4),
    st.sampled_from([0.0, 0.1, 0.2, 0.29]),
    st.integers(0, 16),
    st.integers(1, 5),
)
def test_the_kernel_finds_what_the_whole_table_finds(documents, fraction, short, window):
    flat = Texts.of([piece for pieces in documents for piece in pieces])
    starts = np.cumsum([0, *map(len, documents)]).astype(np.int64)
    found = kernels.similar_pieces(flat, starts, fraction, short, window)
    assert found.tolist() == twins.similar_pieces(flat, starts, fraction, short, window).tolist()


def levenshtein(one, other):
    """Return the distance, by its definition."""
    if not one or not other:
        return len(one) + len(other)
    return min(
        levenshtein(one[1:], other) + 1,
        levenshtein(one, other[1:]) + 1,
        levenshtein(one[1:], other[1:]) + (one[0] != other[0]),
    )


@settings(max_examples=60, deadline=None)
@given(st.text("ab", min_size=1, max_size=6), st.text("ab", min_size=1, max_size=6))
def test_the_twin_follows_the_definition(one, other):
    longer = max(len(one), len(other))
    expected = one == other or levenshtein(one, other) <= int(0.25 * longer)
    found = twins.similar_pieces(Texts.of([one, other]), np.array([0, 2]), 0.25, 0, 9)
    assert found.tolist() == [False, expected]


def test_a_repeated_chinese_sentence_goes_with_its_mark(tmp_path):
    one = "今天天气非常好我们一起去公园散步看花吃饭。"
    near = "今天天气非常好我们一起去公园散步看花喝饭！"
    other = "明天可能会下雨所以大家最好留在家里读书写字。"
    assert run(tmp_path, [one + other + near + "完了"]) == {"0": one + other + "完了"}


def test_short_pieces_must_be_equal_and_tiny_ones_stay(tmp_path):
    text = "value one two.value one twx.value one two.pi is 3.14 and 3.14!"
    assert run(tmp_path, [text]) == {"0": "value one two.value one twx.pi is 3.14 and 3.14!"}


def test_other_documents_do_not_count(tmp_path):
    text = "the very same sentence stands in both of these documents."
    assert run(tmp_path, [text, text]) == {"0": text, "1": text}


def test_a_chain_does_not_pull_its_far_end_along(tmp_path):
    base = "abcdefghijklmnopqrstuvwxyz0123456789ABCD"
    chain = [base, "####" + base[4:], "########" + base[8:]]
    assert run(tmp_path, ["\n".join(chain)]) == {"0": f"{chain[0]}\n{chain[2]}"}


def test_a_document_of_which_little_is_left_goes(tmp_path):
    assert run(tmp_path, ["same words.same words.same words.", "short"]) == {"1": "short"}


def test_marks_and_what_stays_are_untouched(tmp_path):
    text = "  。。Full stops。 and…… [brackets]【too】 3.14 stay\r\nas they are？！  "
    assert run(tmp_path, [text]) == {"0": text}


def test_settings_given_are_obeyed(tmp_path):
    one, near = "a sentence of some thirty letters", "a sentence of zome thirty lettors"
    assert len(run(tmp_path, [f"{one}\n{near}"], distance=0.0)["0"]) == len(one) + len(near) + 1
    assert run(tmp_path, [f"{one}\n{near}"], distance=0.1) == {"0": f"{one}\n"}
    far = "\n".join([one, "something else that stands between", one])
    assert run(tmp_path, [far], window=1) == {"0": far}
    with pytest.raises(SettingsError, match="distance"):
        METHODS.resolve({"method": "similar_lines", "distance": 0.3})


def test_it_beats_equality_on_numbered_templates(tmp_path):
    lines = [f"Posted on page {n} of this forum, please read the rules first" for n in range(40)]
    near = run(tmp_path, ["\n".join(lines)])["0"]
    equal = run(tmp_path, ["\n".join(lines)], distance=0.0)["0"]
    assert near.count("\n") <= 1 < equal.count("\n")
