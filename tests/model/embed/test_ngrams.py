"""Hashed n-grams against loops, character by character."""

import zlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.core.checkpoint.routed import NgramFeatures
from treadle.model.embed.ngrams import NgramEmbedder, ngram_counts

TEXTS = st.text(st.characters(exclude_categories=[]), max_size=40)
"""Of every plane, and with halves of surrogate pairs."""


def naive(text, spec):
    halves = []
    for part in (text, text[-spec.tail_characters :] + "\0"):
        half = np.zeros(spec.width)
        for order in spec.orders:
            grams = Counter(part[n : n + order] for n in range(len(part) - order + 1))
            for gram, count in grams.items():
                place = zlib.crc32(gram.encode("utf-8", "surrogatepass")) % spec.width
                half[place] += 1 + np.log(count)
        norm = np.linalg.norm(half)
        halves.append(half / (norm * np.sqrt(2)) if norm else half)
    return np.concatenate(halves)


@given(st.lists(TEXTS, max_size=4), st.sampled_from([(1, 2, 3), (2,), (5, 1), (3, 16)]))
def test_counts_are_those_of_every_piece_of_the_text(texts, orders):
    spec = NgramFeatures(width=64, orders=orders)
    found = ngram_counts(texts, spec)
    assert found.shape == (len(texts), 128)
    for row, text in zip(found, texts, strict=True):
        assert row == pytest.approx(naive(text, spec), abs=1e-6)


def test_a_text_has_the_same_vector_whoever_stands_beside_it():
    embedder = NgramEmbedder(NgramFeatures(width=128))
    texts = ["", "a", "what is 12 + 30?", "é日本😀"]
    together = embedder.embed(texts)
    assert all(
        np.array_equal(embedder.embed([t])[0], v) for t, v in zip(texts, together, strict=True)
    )
    assert embedder.dim == together.shape[1] == 256
    assert not together[0, :128].any()
    assert np.linalg.norm(together[1:], axis=1) == pytest.approx(1)


def test_the_hash_says_the_settings():
    hashes = {NgramEmbedder(NgramFeatures(width=w)).hash for w in (64, 64, 128)}
    assert len(hashes) == 2
