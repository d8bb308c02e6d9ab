"""A model that was seen before starts without transformers, and computes the same bits."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gguf_models import to_gguf
from naive import tokens_of
from runtime.flat import pool_of, rows_of
from runtime.rope_models import PLACED, overrides
from treadle.core import cache
from treadle.core.cache import cache_folder
from treadle.native.loader import library
from treadle.runtime import LLM, SamplingParams, agreed, choice
from treadle.runtime.choice import choose_executor
from treadle.runtime.native_step.described import from_note, to_note
from treadle.runtime.native_step.llama import LLAMA_LIKE, LlamaStep

pytestmark = pytest.mark.skipif(library("step") is None, reason="needs a C compiler")
PARAMS = SamplingParams(max_tokens=5, temperature=0)
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
START = """
import sys
from treadle.runtime import LLM, SamplingParams
llm = LLM(sys.argv[1], cache_bytes=1 << 20)
params = SamplingParams(max_tokens=5, temperature=0, stop=["zz"])
outputs = llm.generate(["def f(x):", [5, 6, 7]], params)
if sys.argv[2] == "chat":
    outputs += llm.chat([{"role": "user", "content": "Hello"}], params)
print([list(output.outputs[0].token_ids) for output in outputs])
heavy = ("torch", "transformers", "accelerate", "sympy", "scipy", "safetensors.torch", "gguf")
print([name for name in heavy if name in sys.modules])
"""


def logits_of(step) -> np.ndarray:
    rows = [(tokens_of(1, 40)[0].tolist(), 0, [5, 4, 3, 2, 1, 0]), ([7, 8, 9], 0, [6])]
    return step.forward(rows_of(rows), pool_of(step))


@pytest.mark.parametrize(
    ("model_type", "rope"),
    [
        (model_type, rope)
        for model_type in LLAMA_LIKE
        for rope in ("default", "linear", "yarn", "llama3", "longrope")
        if rope == "default" or model_type not in PLACED
        if model_type != "phi3" or rope in ("default", "longrope")
    ],
)
def test_what_is_noted_gives_the_same_bits(model_type, rope, tiny_model):
    plain = rope == "default"
    folder = tiny_model(model_type, **({} if plain else overrides(model_type, rope)))
    asked = LlamaStep(folder, "fp32", 1)
    noted = from_note(json.loads(json.dumps(to_note(asked.described))))
    known = LlamaStep(folder, "fp32", 1, noted)
    assert known.shape == asked.shape
    assert [layer.heads.window for layer in known._layers] == [
        layer.heads.window for layer in asked._layers
    ]
    assert np.array_equal(logits_of(known), logits_of(asked))


def test_every_number_of_the_note_counts(tiny_model):
    folder = tiny_model("gemma2")
    asked = LlamaStep(folder, "fp32", 1)
    note, expected = to_note(asked.described), logits_of(asked)
    changed = {
        **{"epsilon": 0.1, "final_cap": 0.5, "attention_cap": 0.01, "activation": "silu"},
        **{"scales": [0.9, 0.9], "windows": [3, 3]},
        "ropes": [{**rope, "scaling": [2.0]} for rope in note["ropes"]],
    }
    for name, value in changed.items():
        other = LlamaStep(folder, "fp32", 1, from_note({**note, name: value}))
        assert not np.array_equal(logits_of(other), expected), name


def test_factors_of_each_length_are_asked_for_at_every_start(tiny_model):
    folder = tiny_model("llama", **overrides("llama", "dynamic"))
    assert to_note(LlamaStep(folder, "fp32", 1).described) is None


@pytest.mark.parametrize("noted", [None, [], {}, {"epsilon": 1e-5}, "text"])
def test_another_note_is_none(noted):
    assert from_note(noted) is None


@pytest.mark.parametrize("kind", ["folder", "folder that talks", "file"])
def test_the_second_start_imports_neither_torch_nor_transformers(kind, tiny_model, tmp_path):
    folder, path = tiny_model("llama", rms_norm_eps=7e-5), tmp_path / "model.gguf"  # seen by none
    if kind == "file":
        to_gguf(folder, path, "Q8_0")
    else:
        path = shutil.copytree(folder, tmp_path / "model")
        if kind == "folder":
            (path / "README.md").write_text("Of the silent one.")
        else:
            (path / "chat_template.jinja").write_text(TEMPLATE)
    talks = "chat" if kind == "folder that talks" else ""
    paths = {"PYTHONPATH": os.pathsep.join(sys.path), "TREADLE_CACHE": str(cache_folder())}
    found = [
        subprocess.run(
            [sys.executable, "-c", START, str(path), talks],
            **{"capture_output": True, "text": True, "check": True, "timeout": 120},
            env=os.environ | paths,
        ).stdout.splitlines()
        for _ in range(2)
    ]
    (answers, first), (same, second) = found
    assert same == answers != "[]"
    assert "transformers" in first
    assert second == "[]"


@pytest.fixture
def counted(monkeypatch, tmp_path):
    """Return how often transformers was asked, with notes of our own."""
    asked = []
    real = LlamaStep.__init__

    def init(self, folder, weights="auto", num_threads=None, known=None):
        asked.append(known is None)
        real(self, folder, weights, num_threads, known)

    monkeypatch.setattr(LlamaStep, "__init__", init)
    monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path / "notes")
    return asked


def test_a_damaged_note_is_made_again(counted, llama, tmp_path):
    choose_executor(llama).close()
    choose_executor(llama).close()
    assert counted == [True, False]
    (file,) = (tmp_path / "notes" / "described").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    choose_executor(llama).close()
    assert file.read_bytes() == whole
    choose_executor(llama).close()
    assert counted == [True, False, True, False]


def test_another_transformers_is_asked_again(counted, llama, monkeypatch):
    choose_executor(llama).close()
    monkeypatch.setattr(agreed, "version", lambda package: "99")
    choose_executor(llama).close()
    assert counted == [True, True]


def test_where_nothing_can_be_noted_it_starts_as_the_first_time(llama, monkeypatch, tmp_path):
    expected = LLM(llama).generate("def f(x):", PARAMS)[0].outputs[0].token_ids
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "notes", Path("/proc/notes")):
        monkeypatch.setattr(cache, "cache_folder", lambda place=place: place)
        found = LLM(llama).generate("def f(x):", PARAMS)
        assert found[0].outputs[0].token_ids == expected


def test_numbers_that_are_not_finite_are_refused_though_the_model_was_known(llama, tmp_path):
    from safetensors.numpy import load_file, save_file

    from treadle.core.errors import CheckpointError

    folder = shutil.copytree(llama, tmp_path / "model")
    choose_executor(folder).close()
    stat = (folder / "model.safetensors").stat()
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = np.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    os.utime(folder / "model.safetensors", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(CheckpointError, match=r"up_proj.*holds nan"):
        choose_executor(folder)


def test_models_that_it_does_not_compute_are_not_read_to_know_them(tiny_model, monkeypatch):
    monkeypatch.setattr(choice.agreed, "seen_hash", lambda path: 1 / 0)
    with pytest.warns(match="Running through transformers"):
        choose_executor(tiny_model("phi"))
