"""Whatever architecture: over pages a text has the numbers of its own pass, or is refused."""

from contextlib import suppress

import numpy as np
import pytest
import torch

from runtime.flat import rows_of
from runtime.zoo import ARCHITECTURES, small
from treadle.core.errors import CheckpointError, UnsupportedModelError
from treadle.runtime.cache.pages import KeyValues
from treadle.runtime.transformers_step.generic import GenericExecutor

NUM_TOKENS, PAGE = 100, 8
CHUNKS = ((30, 50, 1), (1, 20, 33), (40, 29, 50), (29, 1, 16))
"""Rows of three texts in each step."""
MOST_APART = 1e-4
"""Of the logits' spread."""
PHIMOE_ROPE = {
    **{"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 40},
    **{"short_factor": [1.0] * 8, "long_factor": [2.0] * 8},
    **{"short_mscale": 1.1, "long_mscale": 1.4},
}


def apart(model: torch.nn.Module) -> float:
    """Largest difference of three texts in chunks beside each other, over the logits' spread."""
    tokens = np.random.default_rng(0).integers(1, 320, (3, NUM_TOKENS))
    with torch.no_grad():
        own = np.stack([model(input_ids=torch.tensor(t[None])).logits[0].numpy() for t in tokens])
    executor = GenericExecutor(model)
    shape, num_pages = executor.shape, -(-NUM_TOKENS // PAGE)
    pool = KeyValues(shape.kv_heads, shape.head_dim, 3 * num_pages, PAGE)
    found, done = np.zeros_like(own), [0, 0, 0]
    for chunk in CHUNKS:
        ends = [min(NUM_TOKENS, at + count) for at, count in zip(done, chunk, strict=True)]
        texts = [n for n in range(3) if ends[n] > done[n]]
        parts = [
            (tokens[n, done[n] : ends[n]], done[n], range(n * num_pages, (n + 1) * num_pages))
            for n in texts
        ]
        whole = np.full(len(texts), NUM_TOKENS, np.int32)
        logits = executor.forward(rows_of(parts, PAGE, text_lengths=whole), pool)
        at = 0
        for n in texts:
            count = ends[n] - done[n]
            found[n, done[n] : ends[n]], at = logits[at : at + count], at + count
        done = ends
    assert done == [NUM_TOKENS] * 3
    return float(np.abs(found - own).max() / own.std())


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("phimoe", {}),  # its window stands in its mask alone
        ("phimoe", {"rope_parameters": PHIMOE_ROPE}),  # turns and scales by a text's length
        ("cohere2", {}),  # some layers turn nothing, some have windows
        ("gemma3n_text", {"num_kv_shared_layers": 0}),
        ("deepseek_v2", {}),
    ],
)
def test_rows_have_the_numbers_of_their_text(model_type, settings):
    if model_type == "gemma3n_text":
        settings = {**settings, "layer_types": ["sliding_attention", "full_attention"] * 2}
    model = small(model_type, **settings)
    assert apart(model) < MOST_APART


@pytest.mark.parametrize(
    ("model_type", "flaw"),
    [
        ("bart", "other numbers in chunks"),  # counts its places by itself
        ("falcon_h1", "other numbers in chunks"),  # has a state beside its attention
        ("diffllama", "attends twice in layer 0"),
        ("doge", "makes masks of its own"),
        ("llama4_text", "neither all that stands before nor a sliding window"),  # sees chunks
        ("gpt_oss", "passes 's_aux'"),
        ("hy_v4", "passes 's_aux'|does not run over pages"),
        ("whisper", "no max_position_embeddings"),
        ("bert", "is not causal"),
        ("gptj", "in 0 of its"),
    ],
)
def test_what_pages_do_not_hold_is_refused(model_type, flaw):
    with pytest.raises(UnsupportedModelError, match=rf"({flaw}).*with transformers\."):
        GenericExecutor(small(model_type))


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_every_architecture_is_right_or_refused(model_type):
    model = small(model_type)
    if model is None:
        pytest.skip("these settings make no small model of it")
    with suppress(UnsupportedModelError):
        assert apart(model) < MOST_APART


def test_a_model_that_fails_by_itself_is_not_sent_to_transformers():
    model = small("mixtral")
    model.config.num_experts_per_tok = 9
    for module in model.modules():
        if hasattr(module, "top_k"):
            module.top_k = 9
    with pytest.raises(Exception, match="out of range") as own:
        model(input_ids=torch.zeros(1, 6, dtype=torch.int64))
    with pytest.raises(
        CheckpointError, match=r"fails in transformers, too.*compare config"
    ) as found:
        GenericExecutor(model)
    assert str(own.value).splitlines()[0] in str(found.value)
