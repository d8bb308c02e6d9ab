"""What a model learned as an adapter: BASE+ADAPTER is the model, up to what the rank leaves out."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from naive import tokens_of
from products import few
from treadle.combine.merge import merge, merge_extract_lora
from treadle.combine.merge.maths.low_rank import nearest
from treadle.core.errors import CheckpointError, SettingsError
from treadle.core.result import Result
from treadle.model import facts, tiny

Change = Callable[[str, np.ndarray], np.ndarray]


def noisy(name: str, values: np.ndarray) -> np.ndarray:
    draw = np.random.default_rng(sum(name.encode()))
    return values + (0.05 * draw.standard_normal(values.shape)).astype(values.dtype)


def tuned(base: Path, out: Path, change: Change = noisy) -> Path:
    """Write a model with other numbers in all its tensors."""
    shutil.copytree(base, out)
    file = out / "model.safetensors"
    save_file({n: change(n, v) for n, v in load_file(file).items()}, file, {"format": "pt"})
    return out


def extracted(base: Path, model: Path, out: Path, **settings: object) -> tuple[Result, Path]:
    """Extract, and merge the adapter into the base again."""
    result = merge_extract_lora(base, model, out, **settings)
    merged = out.with_name(f"{out.name}-merged")
    merge([f"{base}+{out}"], merged, "passthrough")
    return result, merged


def logits(folder: Path) -> torch.Tensor:
    module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return module(input_ids=tokens_of(1, 24)).logits


def missing(result: Result) -> float:
    return next(m.value for m in result.measurements if m.name == "missing change")


@pytest.mark.parametrize("model_type", few(sorted(facts.ARCHITECTURES), "llama", "gpt2"))
def test_the_whole_rank_is_the_model(model_type: str, tmp_path: Path) -> None:
    base = tiny.build(model_type, tmp_path / "base")
    model = tuned(base, tmp_path / "model")
    result, merged = extracted(base, model, tmp_path / "out", rank=1000)
    assert missing(result) < 1e-5
    torch.testing.assert_close(logits(merged), logits(model), rtol=1e-4, atol=1e-4)
    config = json.loads((merged / "config.json").read_text())
    assert (
        config["tie_word_embeddings"]
        == json.loads((base / "config.json").read_text())["tie_word_embeddings"]
    )


def test_the_adapter_is_the_nearest_of_its_rank(tmp_path: Path) -> None:
    """Eckart and Young, matrix by matrix, with numpy's own decomposition."""
    base = tiny.build("llama", tmp_path / "base")
    model = tuned(base, tmp_path / "model")
    result, merged = extracted(base, model, tmp_path / "out", rank=4)
    before, after, found = (load_file(m / "model.safetensors") for m in (base, model, merged))
    lost = whole = 0.0
    for name, old in before.items():
        delta = after[name] - old
        whole += float(np.square(delta, dtype=np.float64).sum())
        if delta.ndim == 2:
            tail = np.linalg.svd(delta.astype(np.float64), compute_uv=False)[4:]
            rest = float(np.square(after[name].astype(np.float64) - found[name]).sum())
            np.testing.assert_allclose(rest, np.square(tail).sum(), rtol=1e-3)
            lost += rest
        else:
            np.testing.assert_allclose(found[name], after[name], atol=1e-6)
    assert missing(result) == pytest.approx(np.sqrt(lost / whole), rel=1e-3)


def test_a_change_of_low_rank_is_found_where_it_is(tmp_path: Path) -> None:
    """Far fewer numbers say it all, where the change is what an adapter can say."""

    def low(name: str, values: np.ndarray) -> np.ndarray:
        if not name.endswith("down_proj.weight"):
            return values
        draw = np.random.default_rng(5)
        left, right = draw.standard_normal((64, 2)), draw.standard_normal((2, 96))
        return values + (0.1 * left @ right).astype(values.dtype)

    base = tiny.build("llama", tmp_path / "base")
    model = tuned(base, tmp_path / "model", low)
    result, merged = extracted(base, model, tmp_path / "out", rank=32, energy=0.999999)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["r"] == 2
    assert config["target_modules"] == [f"model.layers.{n}.mlp.down_proj" for n in (0, 1)]
    assert missing(result) < 1e-5
    torch.testing.assert_close(logits(merged), logits(model), rtol=1e-4, atol=1e-4)


def test_more_energy_takes_more_ranks(tmp_path: Path) -> None:
    base = tiny.build("llama", tmp_path / "base")
    model = tuned(base, tmp_path / "model")
    lost, sizes = [], []
    for energy in (0.2, 0.6):
        out = tmp_path / f"{energy}"
        lost.append(missing(merge_extract_lora(base, model, out, rank=64, energy=energy)))
        sizes.append((out / "adapter_model.safetensors").stat().st_size)
        assert lost[-1] ** 2 <= 1 - energy + 1e-6
    assert lost == sorted(lost, reverse=True)
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("shape", [(220, 260), (260, 220)])
def test_sketches_are_as_near_as_the_whole_decomposition(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("treadle.combine.merge.maths.low_rank._EXACT", 64)
    draw = np.random.default_rng(1)
    size = min(shape)
    decay = (1.0 / np.arange(1, size + 1)).astype(np.float32)
    left, right = (np.linalg.qr(draw.standard_normal((n, size)))[0] for n in shape)
    matrix = ((left * decay) @ right.T).astype(np.float32)
    found = nearest(matrix, 16, None, np.random.default_rng(2))
    rest = np.square(matrix - found.left @ found.right).sum()
    assert rest == pytest.approx(np.square(decay[16:]).sum(), rel=0.01)
    assert found.energy == pytest.approx(
        np.square(decay[:16]).sum() / np.square(decay).sum(), rel=0.01
    )
    coin = draw.standard_normal((shape[0], 16)) @ draw.standard_normal((16, shape[1]))
    coin *= (matrix * coin).sum() / np.square(coin).sum()
    assert rest < 0.2 * np.square(matrix - coin).sum(), "a random product of that rank"


def test_tokens_that_the_base_lacks(tmp_path: Path) -> None:
    base = tiny.build("llama", tmp_path / "base")
    module = AutoModelForCausalLM.from_pretrained(base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<new>"])
    module.resize_token_embeddings(321, mean_resizing=False)
    module.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    _, merged = extracted(base, tmp_path / "model", tmp_path / "out")
    torch.testing.assert_close(logits(merged), logits(tmp_path / "model"), rtol=1e-4, atol=1e-4)
    found = AutoTokenizer.from_pretrained(merged)
    assert found.convert_tokens_to_ids("<new>") == tokenizer.convert_tokens_to_ids("<new>")


def test_what_is_kept_whole_or_left_out(tmp_path: Path) -> None:
    base = tiny.build("llama", tmp_path / "base", tie_word_embeddings=False)
    model = tuned(base, tmp_path / "model")
    settings = {"whole": ["lm_head"], "leave_out": ["norm"], "rank": 2}
    _, merged = extracted(base, model, tmp_path / "out", **settings)
    before, after, found = (load_file(m / "model.safetensors") for m in (base, model, merged))
    assert np.array_equal(found["lm_head.weight"], after["lm_head.weight"])
    assert np.array_equal(found["model.norm.weight"], before["model.norm.weight"])
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["lm_head"]


def test_experts_are_whole_blocks_of_one_rank(tmp_path: Path) -> None:
    """transformers has them in one tensor, and peft joins them again."""

    def one(name: str, values: np.ndarray) -> np.ndarray:
        return noisy(name, values) if "experts.2.w1" in name else values

    base = tiny.build("mixtral", tmp_path / "base")
    model = tuned(base, tmp_path / "model", one)
    result, merged = extracted(base, model, tmp_path / "out", rank=8, energy=0.5)
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    ranks = {t.shape[0] for n, t in tensors.items() if ".experts." in n and "lora_A" in n}
    assert ranks == {8}
    assert len([n for n in tensors if ".experts." in n]) == 2 * 2 * 4 * 3, "two blocks, whole"
    assert any("one by one" in note for note in result.notes)
    before, found = load_file(base / "model.safetensors"), load_file(merged / "model.safetensors")
    changed = {n for n in before if not np.array_equal(before[n], found[n])}
    assert changed == {n for n in before if "experts.2.w1" in n}
    with pytest.raises(SettingsError, match=r"is a part of one tensor in transformers' module"):
        merge_extract_lora(base, model, tmp_path / "no", whole=["experts"])


def test_a_head_alone_kept_whole(tmp_path: Path) -> None:
    base = tiny.build("qwen2", tmp_path / "base")
    model = tuned(base, tmp_path / "model", lambda n, v: v * 2 if n == "lm_head.weight" else v)
    _, merged = extracted(base, model, tmp_path / "out", whole=["lm_head"])
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["lm_head"]
    assert config["target_modules"] != ["lm_head"]
    torch.testing.assert_close(logits(merged), logits(model), rtol=1e-4, atol=1e-4)


def test_a_tied_head_is_told(tmp_path: Path) -> None:
    base = tiny.build("llama", tmp_path / "base", tie_word_embeddings=True)
    model = tuned(base, tmp_path / "model")
    told = merge_extract_lora(base, model, tmp_path / "out").notes
    assert any("merge_and_unload would add both" in note for note in told)
    told = merge_extract_lora(base, model, tmp_path / "whole", whole=["embed_tokens"]).notes
    assert not told


def test_vectors_alone_still_make_an_adapter(tmp_path: Path) -> None:
    """peft takes none without a matrix."""
    base = tiny.build("llama", tmp_path / "base")
    model = tuned(base, tmp_path / "model", lambda n, v: v * 2 if "norm" in n else v)
    _, merged = extracted(base, model, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert len(config["target_modules"]) == 1
    torch.testing.assert_close(logits(merged), logits(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_factors_say_what_rounding_cost(dtype: str, tmp_path: Path) -> None:
    base = tiny.build("llama", tmp_path / "base")
    model = tuned(base, tmp_path / "model")
    result, merged = extracted(base, model, tmp_path / "out", rank=1000, dtype=dtype)
    assert 0 < missing(result) < 0.01
    torch.testing.assert_close(logits(merged), logits(model), rtol=0.1, atol=0.3)


def test_what_is_refused(tmp_path: Path) -> None:
    base = tiny.build("llama", tmp_path / "base")
    out = tmp_path / "out"
    with pytest.raises(CheckpointError, match="do not differ in anything that is looked at"):
        merge_extract_lora(base, base, out)
    assert not list(tmp_path.glob(".out*"))
    model = tuned(base, tmp_path / "model")
    for settings, says in (({"rank": 0}, "at least 1"), ({"energy": 1.5}, "outside of 0..1")):
        with pytest.raises(SettingsError, match=says):
            merge_extract_lora(base, model, out, **settings)
    wide = tiny.build("llama", tmp_path / "wide", hidden_size=32)
    with pytest.raises(CheckpointError, match="merge models of one size"):
        merge_extract_lora(base, wide, out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("kept")
    with pytest.raises(SettingsError, match="is no adapter"):
        merge_extract_lora(base, model, tmp_path / "mine", overwrite=True)
    stacked = tiny.build("mixtral", tmp_path / "stacked", is_stacked=True)
    with pytest.raises(CheckpointError, match=r"has no place in a LoRA adapter.*--leave-out"):
        merge_extract_lora(stacked, tuned(stacked, tmp_path / "stacked2"), out)


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from treadle.combine.merge import extract

    whole, count = extract._write_part, []
    def write(*args):
        whole(*args)
        count.append(1)
        if len(count) == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    extract._write_part = write
    extract.merge_extract_lora(*map(Path, sys.argv[1:4]), rank=4)
"""


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    base = tiny.build("llama", tmp_path / "base")
    model = tuned(base, tmp_path / "model")
    paths = [str(tmp_path / name) for name in ("base", "model", "out")]
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), *paths], env=os.environ)
    assert killed.returncode == -signal.SIGKILL
    result = merge_extract_lora(base, model, tmp_path / "out", rank=4)
    assert result.is_resumed
    assert any("had compared" in note for note in result.notes)
    merge_extract_lora(base, model, tmp_path / "alone", rank=4)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
