"""What `treadle export` promises: plain transformers computes what treadle computed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from naive import VOCAB_SIZE, all_matrices, config_of, plain_model, tokens_of, weights_of
from products import each_kind
from shrink.prune.runs import run
from treadle.app.export import export
from treadle.cli import main
from treadle.core.checkpoint import CheckpointReader, content_hash, read_manifest
from treadle.core.errors import CheckpointError, SettingsError, UnsupportedModelError
from treadle.model import facts, tiny
from treadle.model.load import full
from treadle.shrink.prune.methods.uniform import Uniform

MODELS = sorted(facts.ARCHITECTURES)
WITHOUT_HEAD_WIDTH = ("gpt2", "gpt_neox", "opt", "phi")


def logits_of(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=tokens_of(2, 20, seed=3)).logits


def assert_computes_the_same(folder: Path, exported: Path) -> None:
    torch.testing.assert_close(
        logits_of(plain_model(exported)), logits_of(full(folder)), rtol=1e-5, atol=1e-5
    )


class InTurn(Uniform):
    """Share the sparsity out so that neighbouring blocks differ, without calibration."""

    def allocate(self, blocks, sparsity: float) -> list[float]:
        return [sparsity * (0.5 if i % 2 else 1.0) for i, _ in enumerate(blocks)]


def uneven(dense: Path, out: Path, pattern: str) -> Path:
    """Prune so that the blocks differ in width."""
    settings = {"sparsity": 0.5, "allocation": InTurn(), "allow_nonuniform": True}
    run(dense, out, "magnitude", pattern=pattern, **settings)
    assert len(widths_of(out, "down" if pattern == "neurons" else "o")) >= 2
    return out


def widths_of(folder: Path, role: str) -> set[int]:
    roles = {matrix.name: matrix.role for matrix in all_matrices(folder)}
    return {w.shape[1] for name, w in weights_of(folder).items() if roles[name] == role}


@pytest.fixture(scope="module")
def uneven_llama(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("uneven")
    dense = tiny.build("llama", folder / "dense", mlp_bias=True, attention_bias=True)
    return uneven(dense, folder / "uneven", "neurons")


@pytest.mark.parametrize("model_type", each_kind(m for m in MODELS if m != "olmoe"))
def test_a_foreign_load_equals_ours_or_errors(model_type: str, tiny_model, tmp_path: Path) -> None:
    """One of the two patterns, which one by turns, and then the other on top of it."""
    sizes = {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 8}
    if model_type in WITHOUT_HEAD_WIDTH:
        sizes = {"num_attention_heads": 8, "num_key_value_heads": 8}
    dense, out = tiny_model(model_type, **sizes), tmp_path / "out"
    first, second = [("heads", "neurons"), ("neurons", "heads")][MODELS.index(model_type) % 2]
    one = uneven(dense, tmp_path / "one", first)
    both = uneven(one, tmp_path / "both", second)
    for folder in (one, both):
        with pytest.raises((ValueError, KeyError)):
            AutoModelForCausalLM.from_pretrained(folder)
    export(both, out, pad=True)
    assert config_of(out)["model_type"] == model_type
    assert_computes_the_same(both, out)


@pytest.mark.parametrize("pattern", ["neurons", "heads"])
def test_biases_get_their_zeros(pattern: str, tmp_path: Path) -> None:
    sizes = {"num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 8}
    dense = tiny.build("llama", tmp_path / "m", mlp_bias=True, attention_bias=True, **sizes)
    folder = uneven(dense, tmp_path / "uneven", pattern)
    export(folder, tmp_path / "out", pad=True)
    assert_computes_the_same(folder, tmp_path / "out")


def test_widest_block_is_kept_and_the_rest_is_zero(uneven_llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = export(uneven_llama, out, pad=True)
    found = sorted(widths_of(uneven_llama, "down"))
    assert (
        said.splitlines()[0]
        == f"neurons: {found[0]}, {found[1]} in the blocks, now {found[1]} in all"
    )
    assert said.splitlines()[-2:] == [
        "left out: result.json (of the former folder)",
        f"written: {out}",
    ]
    assert config_of(out)["intermediate_size"] == found[1]
    before, after = weights_of(uneven_llama), weights_of(out)
    for matrix in all_matrices(out):
        old, new = before[matrix.name], after[matrix.name]
        assert torch.equal(new[: old.shape[0], : old.shape[1]], old)
        assert int(new.count_nonzero()) == int(old.count_nonzero())


def test_the_folder_says_how_it_was_made(uneven_llama: Path, tmp_path: Path) -> None:
    export(uneven_llama, tmp_path / "out", pad=True)
    manifest = read_manifest(tmp_path / "out")
    assert manifest.side_files == ()
    assert manifest.provenance.verb == "export"
    assert manifest.provenance.settings == {"pad": True, "dtype": None}
    assert manifest.provenance.parents[0].content_hash == content_hash(uneven_llama)
    assert manifest.content_hash == content_hash(tmp_path / "out")
    assert "treadle export" in (tmp_path / "out" / "README.md").read_text()
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_padding_and_casting_in_one_step(uneven_llama: Path, tmp_path: Path) -> None:
    export(uneven_llama, tmp_path / "wide", pad=True)
    export(tmp_path / "wide", tmp_path / "two", dtype="bfloat16")
    export(uneven_llama, tmp_path / "one", pad=True, dtype="bfloat16")
    assert content_hash(tmp_path / "one") == content_hash(tmp_path / "two")
    for name in ("one", "two"):
        with CheckpointReader(tmp_path / name) as reader:
            assert {info.dtype for info in reader.tensors.values()} == {"BF16"}
            assert reader.config["dtype"] == "bfloat16"


def test_heads_that_a_config_refuses_are_padded_further(tiny_model, tmp_path: Path) -> None:
    """Gemma's config wants a hidden size that the number of heads divides."""
    dense = tiny_model("gemma2", num_attention_heads=8, num_key_value_heads=8)
    folder = uneven(dense, tmp_path / "uneven", "heads")
    assert widths_of(folder, "o") == {4 * 16, 6 * 16}
    export(folder, tmp_path / "out", pad=True)
    assert config_of(tmp_path / "out")["num_attention_heads"] == 8


def test_a_mixture_with_a_dense_block(tmp_path: Path) -> None:
    dense = tiny.build("qwen2_moe", tmp_path / "m", mlp_only_layers=[0], num_hidden_layers=3)
    folder = uneven(dense, tmp_path / "uneven", "neurons")
    export(folder, tmp_path / "out", pad=True)
    assert_computes_the_same(folder, tmp_path / "out")


def test_a_killed_export_goes_on(uneven_llama: Path, tmp_path: Path, monkeypatch) -> None:
    from treadle.app import export as module

    padded, seen = module.padded, []

    def killed(values, shape, place):
        seen.append(shape)
        if len(seen) == 9:
            raise KeyboardInterrupt
        return padded(values, shape, place)

    monkeypatch.setattr(module, "_SYNC_BYTES", 0)
    monkeypatch.setattr(module, "padded", killed)
    with pytest.raises(KeyboardInterrupt):
        export(uneven_llama, tmp_path / "out", pad=True)
    assert not (tmp_path / "out").exists()
    export(uneven_llama, tmp_path / "out", pad=True)
    with CheckpointReader(uneven_llama) as reader:
        assert len(seen) == len(reader.tensors) + 1
    assert_computes_the_same(uneven_llama, tmp_path / "out")


@pytest.mark.parametrize(
    ("model", "settings", "says"),
    [
        ("even", {"pad": True}, "nothing to pad"),
        ("even", {}, "Nothing was asked for; pass --dtype"),
        ("uneven", {}, "only treadle loads it; pass --pad"),
        ("uneven", {"dtype": "bfloat16"}, "only treadle loads it; pass --pad"),
        ("even", {"dtype": "int8"}, "dtype 'int8' is unknown; choose one of: float32"),
    ],
)
def test_settings_that_do_not_fit(
    model: str, settings: dict, says: str, llama: Path, uneven_llama: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=says):
        export(llama if model == "even" else uneven_llama, tmp_path / "out", **settings)
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_exists(uneven_llama: Path, tmp_path: Path) -> None:
    export(uneven_llama, tmp_path / "out", pad=True)
    with pytest.raises(SettingsError, match="already exists"):
        export(uneven_llama, tmp_path / "out", pad=True)
    export(uneven_llama, tmp_path / "out", pad=True, dtype="float16", overwrite=True)
    assert config_of(tmp_path / "out")["dtype"] == "float16"
    with pytest.raises(SettingsError, match="the model's own folder"):
        export(uneven_llama, uneven_llama, pad=True, overwrite=True)


def edited(folder: Path, out: Path, file: str, change) -> Path:
    shutil.copytree(folder, out)
    content = json.loads((out / file).read_text())
    change(content)
    (out / file).write_text(json.dumps(content))
    return out


def test_what_cannot_be_exported_exactly(llama: Path, uneven_llama: Path, tmp_path: Path) -> None:
    quantised = edited(
        llama, tmp_path / "q", "config.json", lambda c: c.update(quantization_config={"bits": 4})
    )
    with pytest.raises(UnsupportedModelError, match="neither a cast nor zeros keep their meaning"):
        export(quantised, tmp_path / "out", dtype="bfloat16")
    packed = {"path": "packed.bin", "kind": "sparse", "version": 1, "base_hash": ""}
    routed = edited(
        uneven_llama,
        tmp_path / "r",
        "treadle.json",
        lambda m: m["side_files"].append({**packed, "required": True}),
    )
    with pytest.raises(UnsupportedModelError, match=r"computes with packed.bin \(sparse\)"):
        export(routed, tmp_path / "out", pad=True)


def test_shapes_that_the_padded_config_does_not_make(uneven_llama: Path, tmp_path: Path) -> None:
    wrong = edited(
        uneven_llama,
        tmp_path / "w",
        "config.json",
        lambda c: c["treadle_base"].update(vocab_size=VOCAB_SIZE + 1),
    )
    with pytest.raises(CheckpointError, match=r"embed_tokens.weight' in .* has shape \[320, 64\]"):
        export(wrong, tmp_path / "out", pad=True)
    assert not (tmp_path / "out").exists()


def test_numbers_that_are_not_finite(uneven_llama: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(uneven_llama, broken)
    with CheckpointReader(broken) as reader:
        info = reader.tensors["model.norm.weight"]
    data = np.memmap(info.file, np.float32, "r+", info.start_byte, info.shape)
    data[3] = np.nan
    data.flush()
    with pytest.raises(CheckpointError, match=r"'model.norm.weight' .* holds nan at element 3"):
        export(broken, tmp_path / "out", pad=True)
    assert not (tmp_path / ".out.partial").exists()


def test_on_the_command_line(uneven_llama: Path, tmp_path: Path, capsys) -> None:
    words = ["export", str(uneven_llama), str(tmp_path / "out")]
    assert main([*words, "--pad", "--dtype", "float16"]) == 0
    assert capsys.readouterr().out.endswith(f"written: {tmp_path / 'out'}\n")
    assert main(words) == 2
    assert "already exists" in capsys.readouterr().err
