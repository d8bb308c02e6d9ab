"""The text kernels give the numbers of their twins, and those that a naive loop gives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.native import text, text_twins
from treadle.native.text import Texts

STOP = ("the", "be", "to", "of")
ALPHABET = st.sampled_from("aab bTHE the to #{}【】.!?…。-*12\n\n  é中文中文，“”\u3000ßİ😀")
DOCUMENTS = st.lists(st.one_of(st.text(ALPHABET, max_size=120), st.text(max_size=40)), max_size=4)
rng = np.random.Generator(np.random.Philox(3))
MULTIPLY, ADD = (rng.integers(0, 1 << 64, 12, np.uint64) for _ in range(2))


@pytest.mark.parametrize("unit", ["words", "characters"])
@given(DOCUMENTS)
def test_counts_equal_the_twin(unit, documents):
    texts = Texts.of([d.encode(errors="ignore").decode() for d in documents])
    counts, entropy = text.count_documents(texts, unit, STOP, STOP[:2])
    expected, expected_entropy = text_twins.count_documents(texts, unit, STOP, STOP[:2])
    for column, name in enumerate(text.COUNTS):
        assert counts[:, column].tolist() == expected[:, column].tolist(), name
    assert entropy.tolist() == expected_entropy.tolist()


@pytest.mark.parametrize(("unit", "size"), [("words", 1), ("words", 3), ("characters", 5)])
@given(DOCUMENTS)
def test_minhash_and_shingles_equal_the_twin(unit, size, documents):
    texts = Texts.of([d.encode(errors="ignore").decode() for d in documents])
    keys, found = text.minhash_documents(texts, unit, size, MULTIPLY, ADD, 4)
    expected, expected_found = text_twins.minhash_documents(texts, unit, size, MULTIPLY, ADD, 4)
    assert keys.tolist() == expected.tolist()
    assert found.tolist() == expected_found.tolist()
    sets, naive = (m.shingle_documents(texts, unit, size) for m in (text, text_twins))
    assert sets.values.tolist() == naive.values.tolist()
    assert sets.starts.tolist() == naive.starts.tolist()
    runs, expected = (m.run_documents(texts, unit, size) for m in (text, text_twins))
    assert runs.values.tolist() == expected.values.tolist()
    assert runs.starts.tolist() == expected.starts.tolist()
    pairs = np.arange(len(texts)), np.arange(len(texts))[::-1].copy()
    found = text.jaccard(sets, *pairs).tolist()
    assert found == text_twins.jaccard(sets, *pairs).tolist()


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_unite_finds_the_components(pairs):
    left, right = (np.array([p[side] for p in pairs], np.int64) for side in (0, 1))
    trees = [np.arange(10), np.arange(10)]
    text.unite(trees[0], left, right)
    text_twins.unite(trees[1], left, right)
    group = list(range(10))
    for _ in range(10):
        for a, b in pairs:
            group[a] = group[b] = min(group[a], group[b])
    for tree in trees:
        roots = [text_twins._root(tree, i) for i in range(10)]
        assert roots == group


def test_counts_by_hand():
    texts = Texts.of(["The cat.\nThe cat.\n\n- a # b...\nREAD MORE", "【广告】好。好"])
    counts, _ = text.count_documents(texts, "words", STOP, STOP)
    rows = [dict(zip(text.COUNTS, row, strict=True)) for row in counts.tolist()]
    english, chinese = rows
    assert (english["lines"], english["duplicate_lines"], english["paragraphs"]) == (4, 1, 2)
    assert (english["bullet_lines"], english["ellipsis_lines"]) == (1, 1)
    assert (english["read_more_lines"], english["ellipsis_runs"]) == (1, 1)
    assert (english["words"], english["capital_words"], english["stop_words"]) == (10, 2, 2)
    assert english["duplicate_line_chars"] == len("The cat.")
    assert english["top_2_gram_chars"] == 2 * len("Thecat.")
    assert (english["sentences"], english["hash_runs"]) == (4, 1)
    assert (chinese["bracketed_chars"], chinese["chars"], chinese["sentences"]) == (2, 7, 2)
