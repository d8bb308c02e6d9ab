"""Every quantizer on one architecture, every architecture with one, through the whole verb."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from products import each_kind
from treadle.core.checkpoint import CheckpointReader, content_hash
from treadle.core.errors import SettingsError, UnsupportedModelError
from treadle.core.result import read_result
from treadle.model.blockwise import layers_of
from treadle.model.facts import ARCHITECTURES
from treadle.model.source import open_model
from treadle.runtime import LLM, SamplingParams
from treadle.shrink.quantize import QUANTIZERS, quantize

TEXT = {"num_windows": 2, "window_tokens": 32}


def refuses(model_type: str) -> bool:
    facts = ARCHITECTURES[model_type]
    return bool(facts.expert_linears) or any(fact.transposed for fact in facts.linears)


@pytest.mark.parametrize("method", QUANTIZERS.table)
def test_every_method_gives_the_same_bytes_with_and_without_text(method, llama, text, tmp_path):
    plain = quantize(llama, tmp_path / "a", method, group=16, seed=1)
    ran = quantize(llama, tmp_path / "b", method, group=16, seed=1, text=text, **TEXT)
    assert content_hash(tmp_path / "a") == content_hash(tmp_path / "b")
    assert 0 < plain.measurement("weight_error").value < 0.5
    assert ran.measurement("drift").value > 0
    assert ran.figures[0].series[0].y[-1] == ran.measurement("drift").value
    other = quantize(llama, tmp_path / "c", method, group=16, seed=2)
    is_same = content_hash(tmp_path / "a") == content_hash(tmp_path / "c")
    assert is_same == (method != "random")
    assert other.is_control == (method == "random")


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [16, "row"])
def test_the_codes_read_back_and_all_else_is_as_it_was(bits, symmetric, group, llama, tmp_path):
    result = quantize(llama, tmp_path / "q", "rtn", bits=bits, group=group, symmetric=symmetric)
    groups = "rows" if group == "row" else "groups of 16"
    assert result.deed == f"weights rounded to {bits} bits, in {groups}"
    with CheckpointReader(llama) as before, open_model(tmp_path / "q") as after:
        matrices = [matrix.tensor for found in layers_of(before) for matrix in found]
        error = power = 0.0
        for name in before.tensors:
            own = np.asarray(before.array(name), np.float32)
            found = np.asarray(after.array(name), np.float32)
            if name in matrices:
                assert 0 < np.abs(found - own).max() < np.abs(own).max()
                error += float(np.square(found - own, dtype=np.float64).sum())
                power += float(np.square(own, dtype=np.float64).sum())
            else:
                assert np.array_equal(own, found), name
    found = result.measurement("weight_error").value
    assert found == pytest.approx((error / power) ** 0.5, rel=1e-4)
    assert result.measurement("bits_per_weight").value > bits


def test_the_runtime_computes_with_the_codes_what_the_decoded_model_does(llama, tmp_path):
    quantize(llama, tmp_path / "q", "rtn", group=32)
    tokens = list(range(3, 25))
    params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)
    (answer,) = LLM(tmp_path / "q", weights="fp32", kv_dtype="fp32").generate([tokens], params)
    mine = [next(iter(entry.values())) for entry in answer.prompt_logprobs[1:]]
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    with open_model(tmp_path / "q") as reader, torch.no_grad():
        for name in reader.tensors:
            values = torch.tensor(np.asarray(reader.array(name), np.float32))
            model.get_parameter(name).copy_(values)
        logits = model(torch.tensor([tokens])).logits[0, :-1].log_softmax(dim=-1)
    expected = logits.gather(1, torch.tensor(tokens)[1:, None])[:, 0]
    assert torch.allclose(torch.tensor(mine), expected, atol=1e-4)


@pytest.mark.parametrize("model_type", each_kind(sorted(ARCHITECTURES)))
def test_every_architecture_is_packed_or_refused_by_name(model_type, tiny_model, tmp_path):
    folder = tiny_model(model_type)
    if refuses(model_type):
        with pytest.raises(UnsupportedModelError, match="does not pack yet; quantise a dense"):
            quantize(folder, tmp_path / "q", "rtn", group=8)
        assert not (tmp_path / "q").exists()
        return
    quantize(folder, tmp_path / "q", "rtn", bits=8, group=8)
    with CheckpointReader(folder) as before, open_model(tmp_path / "q") as after:
        assert set(before.tensors) == set(after.tensors)
        for name in before.tensors:
            own = np.asarray(before.array(name), np.float32)
            assert np.abs(np.asarray(after.array(name), np.float32) - own).max() < 0.02


def test_the_config_says_what_was_done(llama, tmp_path):
    quantize(llama, tmp_path / "q", "rtn", bits=8, group="row")
    said = json.loads((tmp_path / "q" / "config.json").read_text())["quantization_config"]
    (group,) = said["config_groups"].values()
    assert said["quant_method"] == "compressed-tensors"
    assert (group["weights"]["num_bits"], group["weights"]["strategy"]) == (8, "channel")
    assert "lm_head" in said["ignore"]


def test_a_killed_run_goes_on_with_the_same_bytes(llama, text, tmp_path, monkeypatch):
    from treadle.shrink.quantize import run

    whole = quantize(llama, tmp_path / "whole", "rtn", group=16, text=text, **TEXT)
    started = run._Quantizing.open

    def crash(self, layer, view):
        if layer == 1:
            raise KeyboardInterrupt
        return started(self, layer, view)

    with monkeypatch.context() as patch:
        patch.setattr(run._Quantizing, "open", crash)
        with pytest.raises(KeyboardInterrupt):
            quantize(llama, tmp_path / "q", "rtn", group=16, text=text, **TEXT)
    done = quantize(llama, tmp_path / "q", "rtn", group=16, text=text, **TEXT)
    assert done.is_resumed
    assert content_hash(tmp_path / "q") == content_hash(tmp_path / "whole")
    assert done.figures == whole.figures
    assert done.measurements == whole.measurements


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"group": 24}, r"group = 24 does not divide the 64 columns .* such as 64, or row"),
        ({"group": 0}, "group = 0; give a number of columns such as 64, or row"),
        ({"group": -8}, "group = -8; give a number"),
        ({"group": 16, "num_windows": 3}, "num_windows = 3 has no effect without a text"),
        ({"group": 16, "text": "stdlib:heldout", "num_windows": 0}, "give no tokens to measure on"),
        ({"group": 32.5}, "group = 32.5 is refused: expected a whole number or 'row'"),
        ({"group": "rows"}, "expected a whole number or 'row'"),
        ({"bits": 3}, "bits = 3 is refused: expected 4, 8"),
        ({"bits": True}, "bits = True is refused"),
        ({"bits": 8.0}, "bits = 8.0 is refused"),
        ({"symmetric": "no"}, "symmetric = 'no' is refused: expected True or False"),
        ({"seed": "x"}, "seed = 'x' is refused: expected a whole number"),
    ],
)
def test_settings_that_cannot_be(settings, says, llama, tmp_path):
    with pytest.raises(SettingsError, match=says):
        quantize(llama, tmp_path / "q", "rtn", **settings)
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_exists_stays(llama, tmp_path):
    quantize(llama, tmp_path / "q", "rtn", group=16)
    before = read_result(tmp_path / "q")
    with pytest.raises(SettingsError, match="already exists"):
        quantize(llama, tmp_path / "q", "rtn", group=32)
    with pytest.raises(SettingsError, match="is the model's own folder"):
        quantize(llama, llama, "rtn", group=16, overwrite=True)
    assert read_result(tmp_path / "q") == before


def test_what_is_quantised_already_is_refused(llama, tmp_path):
    quantize(llama, tmp_path / "q", "rtn", group=16)
    with pytest.raises(UnsupportedModelError, match="has a quantization_config"):
        quantize(tmp_path / "q", tmp_path / "again", "rtn", group=16)
