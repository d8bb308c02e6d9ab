"""A GGUF file becomes a folder that transformers loads, and that computes the same."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from gguf_families import FAMILIES, family_to_gguf
from gguf_models import OVERRIDES, to_gguf
from treadle import evaluate, merge, prune
from treadle.app.compat import compat
from treadle.app.export import export
from treadle.cli import main
from treadle.core.checkpoint import CheckpointWriter, read_manifest
from treadle.core.errors import CheckpointError, SettingsError, UnsupportedModelError
from treadle.model.load import full
from treadle.model.source import open_model, source_hash

WIDE = {"hidden_size": 256, "intermediate_size": 512}
TOKENS = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])


def logits_of(model) -> np.ndarray:
    with torch.no_grad():
        return model(input_ids=TOKENS).logits.numpy()


def foreign(folder: Path):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q4_0", "Q4_K", "Q6_K", "MXFP4"])
def test_floats_load_in_transformers_and_compute_the_same(kind, tiny_model, tmp_path):
    file, out = tmp_path / "model.gguf", tmp_path / "out"
    to_gguf(tiny_model("llama", **WIDE), file, kind)
    said = export(file, out, dtype="float32")
    assert said == f"written: {out}"
    np.testing.assert_allclose(logits_of(foreign(out)), logits_of(full(file)), atol=1e-5)


@pytest.mark.parametrize("model_type", OVERRIDES)
def test_every_architecture_becomes_a_folder(model_type, tiny_model, tmp_path):
    file, out = tmp_path / "model.gguf", tmp_path / "out"
    folder = tiny_model(model_type, **OVERRIDES[model_type])
    to_gguf(folder, file)
    export(file, out)
    np.testing.assert_allclose(logits_of(foreign(out)), logits_of(foreign(folder)), atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_becomes_a_folder(family, tiny_model, tmp_path):
    """Embeddings have other names there, and experts are stacked."""
    file, folder = tmp_path / "model.gguf", tiny_model(family, **FAMILIES[family])
    family_to_gguf(folder, file)
    export(file, tmp_path / "out", dtype="float32")
    found, expected = logits_of(foreign(tmp_path / "out")), logits_of(foreign(folder))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_codes_become_halves_unless_another_dtype_is_asked_for(llama, tmp_path):
    to_gguf(llama, tmp_path / "model.gguf", "Q8_0")
    said = export(tmp_path / "model.gguf", tmp_path / "out")
    assert "rounded: 15 tensors" in said
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert {str(values.dtype) for values in stored.values()} == {"float16", "float32"}
    with open_model(tmp_path / "model.gguf") as reader:
        for name, values in stored.items():
            np.testing.assert_array_equal(values, reader.array(name).astype(values.dtype))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float16"


@pytest.mark.parametrize("kinds", ["Q4_0", "Q8_0", "Q4_0,Q8_0,Q4_1,F16"])
def test_codes_stay_where_the_format_holds_them(kinds, llama, tmp_path):
    file, out = tmp_path / "model.gguf", tmp_path / "out"
    to_gguf(llama, file, kinds)
    said = export(file, out, codes=True, dtype="float32")
    num_packed = sum(
        name.endswith("weight_packed") for name in load_file(out / "model.safetensors")
    )
    assert f"codes kept: {num_packed} matrices" in said
    assert num_packed == (14 if "," not in kinds else 7)
    with open_model(file) as expected, open_model(out) as found:
        for name in expected.tensors:
            np.testing.assert_array_equal(found.array(name), expected.array(name), err_msg=name)
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] == "compressed-tensors"


def test_a_file_without_such_blocks_keeps_no_codes(tiny_model, tmp_path):
    to_gguf(tiny_model("llama", **WIDE), tmp_path / "model.gguf", "Q4_K")
    with pytest.raises(UnsupportedModelError, match=r"no block of Q4_0 or Q8_0.*leave --codes out"):
        export(tmp_path / "model.gguf", tmp_path / "out", codes=True)


def test_the_tokenizer_and_the_template_go_along(llama, tmp_path):
    template = "{% for message in messages %}{{ message.content }}<|end|>{% endfor %}"
    to_gguf(llama, tmp_path / "model.gguf", **{"tokenizer.chat_template": template})
    export(tmp_path / "model.gguf", tmp_path / "out")
    found, expected = (
        AutoTokenizer.from_pretrained(tmp_path / "out"),
        AutoTokenizer.from_pretrained(llama),
    )
    assert found("a = [1, 2]").input_ids == expected("a = [1, 2]").input_ids
    assert (
        found.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False) == "a<|end|>"
    )


def test_a_tokenizer_that_is_not_there_is_named(llama, tmp_path):
    keys = ("model", "tokens", "merges", "token_type", "pre", "eos_token_id")
    to_gguf(llama, tmp_path / "model.gguf", **{f"tokenizer.ggml.{key}": None for key in keys})
    said = export(tmp_path / "model.gguf", tmp_path / "out")
    assert f"no tokenizer: '{tmp_path / 'model.gguf'}' carries none" in said
    assert not list((tmp_path / "out").glob("tokenizer*"))


def test_the_folder_says_what_it_was_made_of(llama, tmp_path):
    to_gguf(llama, tmp_path / "model.gguf", part_tensors=8)
    parts = sorted(tmp_path.glob("*.gguf"))
    export(parts[1], tmp_path / "out")
    provenance = read_manifest(tmp_path / "out").provenance
    assert provenance.verb == "export"
    assert provenance.parents[0].content_hash == source_hash(parts[0])
    assert provenance.parents[0].name == parts[1].name


def test_a_killed_export_of_a_file_goes_on(llama, tmp_path, monkeypatch):
    to_gguf(llama, tmp_path / "model.gguf")
    monkeypatch.setattr("treadle.model.gguf.folder._SYNC_BYTES", 0)
    written = []

    def dying(writer, name, values):
        written.append(name)
        if len(written) == 9:
            raise KeyboardInterrupt
        original(writer, name, values)

    original = CheckpointWriter.write
    monkeypatch.setattr(CheckpointWriter, "write", dying)
    with pytest.raises(KeyboardInterrupt):
        export(tmp_path / "model.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    first = set(written[:8])
    export(tmp_path / "model.gguf", tmp_path / "out")
    assert not first & set(written[9:])
    np.testing.assert_allclose(
        logits_of(foreign(tmp_path / "out")), logits_of(foreign(llama)), atol=1e-5
    )


def test_settings_without_effect_and_damage_are_refused(llama, tmp_path):
    file = tmp_path / "model.gguf"
    to_gguf(llama, file)
    for setting in ("pad", "text_only"):
        with pytest.raises(SettingsError, match=f"--{setting.replace('_', '-')} has no effect"):
            export(file, tmp_path / "out", **{setting: True})
    with pytest.raises(SettingsError, match="--codes has no effect on"):
        export(llama, tmp_path / "out", codes=True)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "config.json").write_text("{}")
    with pytest.raises(SettingsError, match="already exists"):
        export(file, tmp_path / "there")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="is truncated"):
        export(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_verbs_take_a_file_where_they_take_a_folder(tiny_model, text, tmp_path, monkeypatch):
    monkeypatch.setenv("TREADLE_CACHE", str(tmp_path / "cache"))
    file, folder = tmp_path / "model.gguf", tmp_path / "folder"
    to_gguf(tiny_model("llama", **WIDE), file, "Q4_K")
    export(file, folder, dtype="float32")
    settings = {"data": text, "num_windows": 4, "window_tokens": 64}
    found, expected = (
        evaluate(model, tmp_path / f"out {model.name}", "perplexity", **settings)
        for model in (file, folder)
    )
    assert found.measurements[0].value == pytest.approx(expected.measurements[0].value, rel=1e-5)
    blocks = evaluate(file, tmp_path / "blocks", "perplexity", through="blocks", **settings)
    assert blocks.measurements[0].value == pytest.approx(found.measurements[0].value, rel=1e-5)
    prune(file, tmp_path / "pruned", "magnitude", sparsity=0.5)
    merge([file, tmp_path / "pruned"], tmp_path / "merged", "linear")
    for made in ("pruned", "merged"):
        assert foreign(tmp_path / made).config.hidden_size == 256


def test_compat_judges_a_file(llama, tmp_path):
    to_gguf(llama, tmp_path / "model.gguf", "Q5_0,Q8_0", part_tensors=8)
    first, *others = sorted(tmp_path.glob("*.gguf"))
    lines = compat(first).splitlines()
    assert lines[0] == f"{first}: GGUF, llama, 20 tensors in 3 files, F32 and Q5_0 and Q8_0"
    said = {line.split()[0]: line.split()[1] for line in lines[1:]}
    assert said == {
        "transformers": "?",
        "treadle": "yes",
        "vLLM": "?",
        "llama.cpp": "yes",
        "mergekit": "no",
    }
    to_gguf(llama, tmp_path / "odd.gguf", **{"llama.attention.warp": 3})
    assert "treadle       no   " in compat(tmp_path / "odd.gguf")
    assert "llama.attention.warp: 3, which is not computed with" in compat(tmp_path / "odd.gguf")
    assert "reads it as floats of 32 bits" in lines[1]
    to_gguf(llama, tmp_path / "long.gguf", **{"llama.rope.scaling.type": "linear"})
    assert "leaves out what scales positions" in compat(tmp_path / "long.gguf")
    others[0].unlink()
    with pytest.raises(CheckpointError, match=r"00002-of-00003.gguf' is missing"):
        compat(first)


def test_on_the_command_line(llama, tmp_path, capsys):
    to_gguf(llama, tmp_path / "model.gguf", "Q4_1")
    assert main(["export", str(tmp_path / "model.gguf"), str(tmp_path / "out")]) == 0
    assert f"written: {tmp_path / 'out'}" in capsys.readouterr().out
