"""Statistics of documents that lie in a buffer of more bytes than theirs."""

import numpy as np

from treadle.native.text import Texts
from treadle.text.curate.statistics import STATISTICS, document_statistics


def lorem(texts):
    found = document_statistics(texts, "words", ())
    return found[:, list(STATISTICS).index("lorem_ipsum_per_char")] > 0


def test_what_lies_outside_the_documents_is_not_theirs():
    data = b"lorem ipsum|one text|Lorem Ipsum here|lorem ipsum"
    offsets = np.array([12, 20, 36], np.int64)
    texts = Texts(np.frombuffer(data, np.uint8), offsets)
    assert lorem(texts).tolist() == [False, True]


def test_a_phrase_across_two_documents_is_in_neither():
    whole = Texts.of(["it ends in lorem", " ipsum begins it", "lorem ipsum"])
    assert lorem(whole).tolist() == [False, False, True]
