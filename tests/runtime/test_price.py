"""What a form of weights costs is measured against floats, remembered, and told if it is much."""

import logging
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from naive import plain_model
from runtime.flat import EXECUTORS, pool_of, rows_of
from treadle.model.load import load_tokenizer
from treadle.runtime import LLM, choice, price
from treadle.runtime.native_step.llama import LlamaStep
from treadle.runtime.price import MOST_NATS, RoundedWeightsWarning, price_of

pytestmark = pytest.mark.skipif("native" not in EXECUTORS, reason="no native step here")
ONE = {"cache_bytes": 2**20, "num_threads": 1}


@pytest.fixture
def uneven(llama, tmp_path):
    """A model with one large weight in every block of 32: a scale for 16 levels that fits no other
    weight, and one for 256 that does."""
    folder = shutil.copytree(llama, tmp_path / "uneven")
    weights = load_file(folder / "model.safetensors")
    for name, weight in weights.items():
        if "mlp" in name or "self_attn" in name:
            weight[:, ::32] *= 25
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("form", ["fp32", "q8", "q4_0", "q4_1"])
def test_the_price_is_the_divergence_from_transformers(llama, form):
    step = LlamaStep(llama, form, 1)
    found = price_of(llama, step)
    tokens = load_tokenizer(llama)(price._TEXT).input_ids[:128]
    assert (found.num_tokens, found.is_text) == (128, True)
    logits = step.forward(rows_of([(tokens, 0, range(16))]), pool_of(step))
    with torch.no_grad():
        own = plain_model(llama)(input_ids=torch.tensor([tokens])).logits[0].double()
    total = 0.0
    for row, values in zip(own, torch.from_numpy(logits).double(), strict=True):
        p, q = torch.softmax(row, 0), torch.softmax(values, 0)
        total += float((p * (p / q).log()).sum())
    assert found.nats == pytest.approx(total / 128, rel=1e-3, abs=1e-6)
    least, most = {"fp32": (-1e-9, 1e-6), "q8": (1e-5, 0.01)}.get(form, (0.02, MOST_NATS))
    assert least < found.nats < most
    step.close()


def test_a_model_that_does_not_bear_4_bits_says_so_each_time(uneven, monkeypatch):
    match = r"does not bear weights in q4_0.*by \d\.\d+ nats.*128 tokens of a text.*weights='q8'"
    with pytest.warns(RoundedWeightsWarning, match=match):
        LLM(uneven, weights="q4_0", **ONE)
    LLM(uneven, weights="q8", **ONE)
    monkeypatch.setattr(choice, "price_of", lambda *_: pytest.fail("measured again"))
    with pytest.warns(RoundedWeightsWarning, match=match):
        LLM(uneven, weights="q4_0", **ONE)


def test_without_a_tokenizer_the_tokens_are_random(uneven):
    for file in uneven.glob("tokenizer*"):
        file.unlink()
    with pytest.warns(RoundedWeightsWarning, match="on 128 random tokens, for want of a"):
        LLM(uneven, weights="q4_1", **ONE)


def test_what_costs_little_is_noted_and_floats_are_not_measured(llama, monkeypatch, caplog):
    with caplog.at_level(logging.INFO, "treadle.runtime.price"):
        LLM(llama, weights="q8", **ONE)
        LLM(llama, weights="q4_1", **ONE)
    notes = [(r.levelno, r.message) for r in caplog.records if r.name == "treadle.runtime.price"]
    assert [level for level, _ in notes] == [logging.INFO, logging.WARNING]
    assert "with weights in q4_1: what it foresees diverges" in notes[1][1]
    monkeypatch.setattr(choice, "price_of", lambda *_: pytest.fail("measured"))
    for form in ("auto", "fp32", "fp16"):
        LLM(llama, weights=form, **ONE)


def test_texts_are_read_up_to_where_positions_turn_otherwise(tiny_model):
    factors = np.linspace(1, 4, 8).tolist()
    rope = {
        **{"rope_type": "longrope", "rope_theta": 1e4, "factor": 2.0},
        **{"short_factor": factors, "long_factor": factors[::-1]},
        "original_max_position_embeddings": 40,
    }
    step = LlamaStep(tiny_model("llama", rope_parameters=rope), "q8", 1)
    found = price_of(tiny_model("llama", rope_parameters=rope), step)
    assert found.num_tokens == 40
    assert found.nats < 0.01
    step.close()
