"""What a run says of itself where it would be silent: unseen experts, BOS, positions, old zeros."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from judge.evaluate.runs import measure
from naive import weights_of
from products import few
from shrink.prune.runs import needs_text, run, zeros_of
from treadle.app.export import export
from treadle.core.checkpoint import CheckpointReader
from treadle.core.errors import CheckpointError, SettingsError
from treadle.model.text import sampled_windows, windows
from treadle.shrink.prune import METRICS, prune
from treadle.shrink.prune.apply import request_of
from treadle.shrink.prune.methods.magnitude import Magnitude
from treadle.shrink.quantize import quantize

WAYS = [(metric, pattern) for metric in METRICS.table for pattern in ("rows", "2:4", "global")]


@pytest.fixture(scope="module")
def started(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Gemma whose tokenizer starts every text with BOS, as the real one does."""
    folder = shutil.copytree(tiny_model("gemma2"), tmp_path_factory.mktemp("gemma") / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"bos_token": "!"})
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="! $A", special_tokens=[("!", bos)]
    )
    tokenizer.save_pretrained(folder)
    return folder


def test_windows_start_as_the_tokenizer_starts_texts(started: Path, llama: Path, text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(started)
    for cut in (
        windows(text, tokenizer, 3, 20),
        sampled_windows(text, tokenizer, 3, 20, seed=1),
        sampled_windows(text, AutoTokenizer.from_pretrained(started), 3, 20, 1, "each"),
    ):
        assert cut.tokens.shape == (3, 20)
        assert (cut.tokens[:, 0] == tokenizer.bos_token_id).all()
        assert cut.protocol.bos
    assert not sampled_windows(text, tokenizer, 3, 20, 1, "none").protocol.bos
    plain = sampled_windows(text, AutoTokenizer.from_pretrained(llama), 3, 20, 1)
    assert not plain.protocol.bos


def test_pruning_and_scores_follow_the_tokenizer(started: Path, text: str, tmp_path: Path) -> None:
    found = {}
    for bos in ("auto", "each", "none"):
        result = run(started, tmp_path / bos, "wanda", text, sparsity=0.5, bos=bos)
        assert result.protocol is not None
        assert result.protocol["bos"] == (bos != "none")
        found[bos] = weights_of(tmp_path / bos)
    assert all(torch.equal(w, found["each"][name]) for name, w in found["auto"].items())
    assert any(not torch.equal(w, found["each"][name]) for name, w in found["none"].items())
    task = {"method": "perplexity", "num_windows": 3, "window_tokens": 20}
    scores = {
        bos: measure(started, tmp_path / f"score-{bos}", text, {**task, "bos": bos}).samples["nll"]
        for bos in ("auto", "each", "none")
    }
    assert scores["auto"] == scores["each"] != scores["none"]
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"query": "one", "choices": ["two", "three"], "gold": 0}))
    hashes = [
        measure(
            *(started, tmp_path / f"choice-{bos}", str(questions)), {"method": "choice", "bos": bos}
        ).protocol["hash"]
        for bos in ("auto", "each", "none")
    ]
    assert hashes[0] == hashes[1] != hashes[2]
    drifts = [
        quantize(started, tmp_path / f"q-{bos}", "rtn", group=16, text=text, bos=bos)
        .measurement("drift")
        .value
        for bos in (None, "each", "none")
    ]
    assert drifts[0] == drifts[1] != drifts[2]


def test_a_start_without_effect_is_refused(llama: Path, text: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="looks at no data, so bos = 'each'"):
        run(llama, tmp_path / "out", "magnitude", bos="each")
    with pytest.raises(SettingsError, match="has no BOS token"):
        run(llama, tmp_path / "out", "wanda", text, bos="each")
    with pytest.raises(SettingsError, match="bos = each has no effect without a text"):
        quantize(llama, tmp_path / "out", "rtn", bos="each")


def test_windows_beyond_the_positions_are_told(
    llama: Path, tiny_model: Callable[..., Path], text: str, tmp_path: Path
) -> None:
    said = "Windows of 150 tokens are longer than the model's 128 positions"
    long = {"num_windows": 1, "window_tokens": 150}
    pruned = run(llama, tmp_path / "long", "wanda", text, **long)
    assert any(note.startswith(said) for note in pruned.notes)
    assert not any("positions" in n for n in run(llama, tmp_path / "short", "wanda", text).notes)
    task = {"method": "perplexity", **long}
    assert any(note.startswith(said) for note in measure(llama, tmp_path / "e", text, task).notes)
    drift = quantize(llama, tmp_path / "q", "rtn", group=16, text=text, **long)
    assert any(note.startswith(said) for note in drift.notes)
    with pytest.raises(SettingsError, match="150 tokens does not fit a model of 128 positions"):
        run(tiny_model("gpt2"), tmp_path / "gpt2", "wanda", text, **long)


@pytest.mark.parametrize("calibrate", ["one-pass", "two-pass", "dense"])
def test_experts_that_no_token_reached_are_named(
    calibrate: str, tiny_model: Callable[..., Path], text: str, tmp_path: Path
) -> None:
    folder = tiny_model("mixtral")
    few_tokens = {"num_windows": 1, "window_tokens": 2, "calibrate": calibrate}
    (note,) = run(folder, tmp_path / "few", "wanda", text, **few_tokens).notes
    # Two tokens choose two of four experts in each of two blocks, with two inputs an expert.
    assert note.startswith("No calibration token reached ")
    count = int(note.split()[4])
    assert 0 < count <= 8
    assert "of 20 inputs or matrices (block " in note
    assert "expert_mlp_in." in note
    many = {"num_windows": 4, "window_tokens": 64, "calibrate": calibrate}
    assert not run(folder, tmp_path / "many", "wanda", text, **many).notes


@pytest.mark.parametrize("way", few(WAYS, ("sparsegpt", "2:4"), ("random", "rows")))
def test_zeros_are_kept_where_that_is_asked_and_told_where_they_go(
    way: tuple[str, str], llama: Path, text: str, tmp_path: Path
) -> None:
    metric, pattern = way
    once = tmp_path / "once"
    run(llama, once, "random", sparsity=0.3, seed=5)
    options = {"pattern": pattern, "text": text if needs_text(metric) else None}
    options |= {} if pattern == "2:4" else {"sparsity": 0.5}
    result = run(once, tmp_path / "again", metric, **options)
    kept = run(once, tmp_path / "kept", metric, keep_zeros=True, **options)
    before, again, after = zeros_of(once), zeros_of(tmp_path / "again"), zeros_of(tmp_path / "kept")
    came_back = sum(int((before[name] & ~zero).sum()) for name, zero in again.items())
    told = [note for note in result.notes if "have values now" in note]
    assert bool(told) == bool(came_back)
    if told:
        assert told[0].startswith(f"{came_back} of the ")
        assert "--keep-zeros" in told[0]
    assert not any("have values now" in note for note in kept.notes)
    for name, zero in after.items():
        assert zero[before[name]].all(), name
        if pattern == "rows":
            assert (zero.sum(axis=1) == zero.shape[1] // 2).all(), "zeros count among those that go"
    assert came_back or way != ("sparsegpt", "2:4")


@pytest.mark.parametrize(
    ("pattern", "sparsity", "said"),
    [
        ("rows", 0.5, "half of the weights removed"),
        ("2:4", None, "half of the weights removed, 2 of every 4"),
        ("neurons", 0.25, "a quarter of the neurons removed"),
    ],
)
def test_what_was_done_is_said_without_the_method(pattern, sparsity, said, llama, tmp_path) -> None:
    result = run(llama, tmp_path / "out", "magnitude", pattern=pattern, sparsity=sparsity)
    assert result.deed == said


def test_kept_zeros_without_effect_are_refused(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="keep_zeros would have no effect"):
        run(llama, tmp_path / "out", "magnitude", pattern="neurons", keep_zeros=True)


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.rotary_emb.inv_freq", "score.weight"])
def test_what_no_config_reads_is_copied_as_it_is(name: str, llama: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(llama, tmp_path / "model"))
    weights = load_file(model / "model.safetensors") | {name: np.full(4, np.nan, np.float32)}
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    for out in (tmp_path / "pruned", tmp_path / "exported"):
        if out.name == "pruned":
            prune(model, out, "magnitude", sparsity=0.5)
        else:
            export(model, out, dtype="bfloat16")
        with CheckpointReader(out) as reader:
            assert np.isnan(reader.array(name).astype(np.float32)).all()
    weights["model.norm.weight"] = np.full(64, np.nan, np.float32)
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"'model.norm.weight' in .* holds nan"):
        prune(model, tmp_path / "out", "magnitude", sparsity=0.5)


@pytest.mark.parametrize(("needs", "looks"), [("largest", True), ("gradient", False)])
def test_whatever_is_no_gradient_is_collected_from_inputs(needs: str, looks: bool) -> None:
    """A new statistic stands in no list of those that look at activations."""

    class Looking(Magnitude):
        """A metric of a statistic that is not there yet."""

    Looking.needs = frozenset({needs})
    plain = request_of(
        "magnitude",
        **dict.fromkeys(("sparsity", "update", "text", "calibrate")),
        **{"pattern": "rows", "allocation": "uniform", "num_windows": 1, "window_tokens": 8},
        **{"bos": "auto", "keep_zeros": False, "seed": 0, "allow_nonuniform": False},
    )
    assert plain._replace(metric=Looking()).needs_inputs == looks
