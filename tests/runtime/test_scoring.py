"""The runtime as a scorer and a generator: the losses of blocks, and answers in their order."""

import numpy as np
import pytest
import torch

from naive import plain_losses, plain_model
from runtime.adapters import merged, write_adapter
from treadle.core.checkpoint import CheckpointReader
from treadle.core.errors import DataError, SettingsError
from treadle.core.ports import Asked
from treadle.model.scoring import BlockScorer
from treadle.runtime import LLM
from treadle.runtime.answering import RuntimeGenerator
from treadle.runtime.scoring import RuntimeScorer

LENGTHS = (2, 128, 37, 3, 37, 64)
"""Of the rows that are scored; the models have 128 positions."""


def rows_of(seed=0):
    draw = np.random.default_rng(seed)
    return [draw.integers(0, 320, length).tolist() for length in LENGTHS]


def expected_of(folder, rows):
    model = plain_model(folder)
    return [plain_losses(model, torch.tensor([row]))[0] for row in rows]


def largest_gap(found, expected):
    assert [len(row) for row in found] == [len(row) for row in expected]
    return max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "gemma2", "gpt2", "mistral", "qwen3_moe"])
@pytest.mark.filterwarnings("ignore::treadle.native.SlowPathWarning")
def test_both_scorers_give_the_losses_of_transformers(model_type, tiny_model):
    folder, rows = tiny_model(model_type), rows_of()
    expected = expected_of(folder, rows)
    with CheckpointReader(folder) as reader:
        assert largest_gap(BlockScorer(reader).token_losses(rows), expected) < 1e-5
    found = RuntimeScorer(LLM(folder, kv_dtype="fp32")).token_losses(rows)
    assert {row.dtype for row in found} == {torch.float32}
    assert largest_gap(found, expected) < 2e-5  # softmax in float64 here, logits to 1e-5


@pytest.mark.parametrize(
    ("settings", "least", "most"),
    [
        ({"kv_dtype": "fp16"}, 1e-6, 1e-2),
        ({"kv_dtype": "int8"}, 1e-3, 0.5),
        ({"weights": "q8"}, 1e-3, 1.5),
        ({"max_num_batched_tokens": 8, "page_size": 1, "max_num_seqs": 2}, 0, 2e-5),
    ],
)
def test_what_is_measured_is_what_a_request_would_see(settings, least, most, llama):
    rows = rows_of()
    gap = largest_gap(
        RuntimeScorer(LLM(llama, **{"kv_dtype": "fp32", **settings})).token_losses(rows),
        expected_of(llama, rows),
    )
    assert least <= gap < most


def test_an_adapter_is_scored_as_if_it_were_merged(llama, tmp_path):
    adapter = write_adapter(tmp_path / "adapter", llama, size=0.1)
    whole, rows = merged(tmp_path / "merged", llama, adapter, 2.0), rows_of()
    llm = LLM(llama, adapters={"one": adapter}, kv_dtype="fp32")
    expected = expected_of(whole, rows)
    assert largest_gap(RuntimeScorer(llm, "one").token_losses(rows), expected) < 1e-4
    assert largest_gap(RuntimeScorer(llm).token_losses(rows), expected) > 0.1


def test_rows_longer_than_the_context_are_refused(llama):
    llm = LLM(llama)
    with pytest.raises(SettingsError, match="A row of 129 tokens is longer than the model's 128"):
        RuntimeScorer(llm).token_losses([[1] * 129])
    with pytest.raises(DataError, match="Token 1 of the prompt is 320"):
        RuntimeScorer(llm).token_losses([[1, 320, 2]])
    assert RuntimeScorer(llm).token_losses([]) == []


def test_answers_come_in_the_order_of_their_prompts(llama):
    generator = RuntimeGenerator(LLM(llama))
    prompts = [row[:20] for row in rows_of()[1:4]] + ["def f(x):"]
    found = generator.answer(prompts, Asked(6, ignores_end=True))
    for prompt, answer in zip(prompts, found, strict=True):
        (alone,) = generator.answer([prompt], Asked(6, ignores_end=True))
        assert alone == answer
        assert len(answer.token_ids) == 6
        assert not answer.is_whole
    assert generator.vocab_size == 320
    assert generator.max_positions == 128


def test_an_answer_ends_at_a_stop_string(llama):
    generator = RuntimeGenerator(LLM(llama))
    (whole,) = generator.answer(["def f(x):"], Asked(12))
    middle = whole.text[3]
    (cut,) = generator.answer(["def f(x):"], Asked(12, stop=(middle,)))
    assert cut.text == whole.text[: whole.text.index(middle)]
    assert cut.is_whole


def test_drawn_answers_follow_the_seed(llama):
    generator = RuntimeGenerator(LLM(llama))
    asked = [Asked(8, temperature=1.0, seed=seed) for seed in (1, 1, 2)]
    one, again, other = (generator.answer(["a b c"], way)[0] for way in asked)
    assert one == again != other


@pytest.mark.parametrize(
    ("prompts", "asked", "error", "says"),
    [
        (["fine", ""], Asked(3), DataError, r"Prompt 2 cannot be answered\. The prompt is empty"),
        (["fine", [1] * 128], Asked(3), DataError, "Prompt 2 cannot be .* has 128 tokens"),
        (["fine"], Asked(3, is_chat=True), DataError, "has no chat template"),
        ([[1, 2]], Asked(3, is_chat=True), DataError, "Token ids have no place in a chat template"),
        ([[1] * 120], Asked(9, ignores_end=True), SettingsError, "129 tokens are longer than the"),
    ],
)
def test_a_prompt_that_cannot_be_answered_is_named(prompts, asked, error, says, llama):
    with pytest.raises(error, match=says):
        RuntimeGenerator(LLM(llama)).answer(prompts, asked)
