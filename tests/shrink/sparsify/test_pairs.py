"""Pairs that a user brings: read, cut to size, shuffled; learned instead of samples of a text."""

import json

import pytest

from treadle import sparsify
from treadle.core.errors import DataError, SettingsError
from treadle.model.load import load_tokenizer
from treadle.shrink.sparsify.pairs import pairs_in


@pytest.fixture
def file(tmp_path):
    """Twelve pairs of texts and ids; two are long."""
    lines = [{"prompt": f"word {n} " * 9, "answer": f" {n}"} for n in range(6)]
    lines += [{"prompt": list(range(4, 44)), "answer": [5, 6, n + 4]} for n in range(4)]
    lines += [{"prompt": list(range(4, 304)), "answer": [9]}] * 2
    found = tmp_path / "pairs.jsonl"
    found.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return found


def test_long_pairs_are_left_out_and_the_rest_is_shuffled(file, tiny_model):
    tokenizer = load_tokenizer(tiny_model("llama"))
    pairs, _ = pairs_in(file, tokenizer, 200, 10, 3, 0)
    assert (len(pairs.learned), len(pairs.held)) == (7, 3)
    every = [*pairs.learned, *pairs.held]
    assert max(len(sample.tokens) for sample in every) <= 200
    ids = [s.tokens.tolist() for s in every if s.tokens[:3].tolist() == [4, 5, 6]]
    assert sorted(own[-1] for own in ids) == [4, 5, 6, 7]
    assert all(sample.num_prompt == 40 for sample in every if len(sample.tokens) == 43)
    other, _ = pairs_in(file, tokenizer, 200, 10, 3, 1)
    assert [s.tokens.tolist() for s in other.learned] != [s.tokens.tolist() for s in pairs.learned]


def test_what_is_no_pair_is_named(file, tiny_model, tmp_path):
    tokenizer = load_tokenizer(tiny_model("llama"))
    with pytest.raises(DataError, match=r"has 10 pairs of at most 200 tokens \(of 12; the longest"):
        pairs_in(file, tokenizer, 200, 11, 3, 0)
    for line in (
        '{"prompt": "a"}',
        '{"prompt": "a", "answer": ""}',
        '{"prompt": 3, "answer": "b"}',
    ):
        other = tmp_path / "other.jsonl"
        other.write_text(line + "\n")
        with pytest.raises(DataError, match=r"other.jsonl"):
            pairs_in(other, tokenizer, 200, 1, 1, 0)


def test_heads_learn_on_pairs(file, tiny_model, tmp_path):
    options = {"num_samples": 10, "sample_tokens": 200, "local_tokens": 4, "heldout_fraction": 0.2}
    out = sparsify(tiny_model("llama"), tmp_path / "out", "locret", pairs=file, **options)
    assert out.measurement("training_samples").value == 8
    with pytest.raises(SettingsError, match=r"either --text FILE.txt or --pairs"):
        sparsify(tiny_model("llama"), tmp_path / "none", "locret", **options)
    options |= {"text": "stdlib:calibration", "pairs": file}
    with pytest.raises(SettingsError, match=r"either --text FILE.txt or --pairs"):
        sparsify(tiny_model("llama"), tmp_path / "both", "locret", **options)
