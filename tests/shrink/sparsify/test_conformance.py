"""Every method on one architecture, every architecture with one method, methods by targets."""

import json
from pathlib import Path

import numpy as np
import pytest

from naive import files_of
from products import each_kind, few, pairwise
from shrink.sparsify.runs import SMALL, TOKENS, methods, run
from treadle.core.checkpoint import CheckpointReader, content_hash, read_manifest
from treadle.core.errors import SettingsError
from treadle.core.result import read_result
from treadle.model import facts, tiny
from treadle.model.retaining import file_name, read_heads, require_shape
from treadle.shrink.prune import prune
from treadle.shrink.sparsify import METHODS

ROOM = {"max_position_embeddings": 2 * TOKENS + 64}
"""So that a prompt and its repetition fit."""
OF_THE_RUN = {"treadle.json", "result.json", "README.md"}


@pytest.fixture(scope="module")
def roomy(tiny_model) -> Path:
    return tiny_model("llama", **ROOM)


@pytest.mark.parametrize("method", METHODS.table)
def test_every_method_on_llama(method: str, roomy: Path, text: str, tmp_path: Path) -> None:
    before = files_of(roomy)
    result = run(roomy, tmp_path / "out", method, text)
    assert files_of(roomy) == before
    after = files_of(tmp_path / "out")
    assert after.keys() == before.keys() | OF_THE_RUN | {file_name(method)}
    assert {name: after[name] for name in before} == before, "the model is as it was"
    heads = read_heads(tmp_path / "out", method)
    require_shape(heads, [(4, 2, 16)] * 2, 64)
    assert all(np.isfinite(part).all() for one in heads.layers for part in one if part is not None)
    # The account.
    assert read_result(tmp_path / "out") == result
    manifest = read_manifest(tmp_path / "out")
    assert manifest.content_hash == content_hash(tmp_path / "out") == content_hash(roomy)
    assert [side.required for side in manifest.side_files] == [False, False]
    numbers = sum(part.size for one in heads.layers for part in one if part is not None)
    assert result.measurement("head_parameters").value == numbers
    assert result.bytes["heads"] == 4 * numbers
    assert result.measurement("training_samples").value == 3
    for fraction in ("0.1", "0.125"):
        for name in ("trained", "random", "key_norm", "recency"):
            assert 0 <= result.measurement(f"overlap_{fraction}_{name}").value <= 1
    kinds = [figure.kind for figure in result.figures]
    assert kinds == ["heatmap", "heatmap", "bar", *(["line"] if method != "kvzap" else [])]
    assert [len(row.y) for row in result.figures[0].series] == [2, 2]
    assert {path.name for path in tmp_path.iterdir()} == {"out"}, "nothing is left beside"


@pytest.mark.parametrize(("method", "target"), pairwise(methods(), ["cis", "kvzip", "kvzip+"]))
def test_every_method_learns_every_target(
    method: str, target: str, roomy: Path, text: str, tmp_path: Path
) -> None:
    result = run(roomy, tmp_path / "out", method, text, target=target)
    assert result.settings["target"] == target
    assert result.measurement("overlap_0.1_trained").value >= 0
    read_heads(tmp_path / "out", method)


@pytest.mark.parametrize("model_type", each_kind(sorted(facts.ARCHITECTURES)))
@pytest.mark.filterwarnings("ignore:.*Running through transformers")
def test_every_architecture(model_type: str, tiny_model, text: str, tmp_path: Path) -> None:
    """Norms of heads, windows, fused matrices, several kinds of experts."""
    model = tiny_model(model_type)
    result = run(model, tmp_path / "out", "locret", text, num_samples=2, heldout_fraction=0.5)
    heads = read_heads(tmp_path / "out", "locret")
    is_noted = any("one matrix for queries, keys and values" in note for note in result.notes)
    assert is_noted == (heads.reads == "hidden")
    if model_type in ("llama", "gemma2", "qwen3", "mistral"):
        assert heads.reads == "projections"
    with CheckpointReader(model) as old, CheckpointReader(tmp_path / "out") as new:
        assert list(old.tensors) == list(new.tensors)


@pytest.mark.parametrize("kind", few(tiny.WRAPPERS, "llava"))
@pytest.mark.filterwarnings("ignore:.*Running through transformers")
def test_a_wrapper_trains_heads_of_its_text_model(kind: str, text: str, tmp_path: Path) -> None:
    model = tiny.build_wrapper(kind, tmp_path / "model")
    run(model, tmp_path / "out", "kvzap", text, target="cis", num_samples=2, heldout_fraction=0.5)
    heads = read_heads(tmp_path / "out", "kvzap")
    assert [layer.first.shape for layer in heads.layers] == [(2, 64)] * 2


def test_a_pruned_model_whose_layers_differ_in_heads(text: str, tmp_path: Path) -> None:
    shape = {"num_attention_heads": 8, "num_key_value_heads": 4}
    model = tiny.build("llama", tmp_path / "model", **shape)
    prune(
        *(model, tmp_path / "pruned", "wanda"),
        pattern="heads",
        allocation={"method": "owl", "outlier_multiple": 1.2, "span": 0.4},
        allow_nonuniform=True,
        text=text,
        num_windows=2,
        window_tokens=64,
    )
    run(tmp_path / "pruned", tmp_path / "out", "locret", text)
    with CheckpointReader(model) as old, CheckpointReader(tmp_path / "out") as new:
        names = [f"model.layers.{layer}.self_attn.k_proj.weight" for layer in range(2)]
        kv_heads = [new.tensors[name].shape[0] // 8 for name in names]
        assert all(old.tensors[name].shape[0] == 32 for name in names)
    heads = read_heads(tmp_path / "out", "locret")
    assert kv_heads[0] != kv_heads[1]
    assert [len(layer.second) for layer in heads.layers] == kv_heads
    required = [one.path for one in read_manifest(tmp_path / "out").side_files if one.required]
    assert required == ["config.json"], "who cannot read its widths still refuses the folder"


def test_one_held_out_sample_has_no_interval(roomy: Path, text: str, tmp_path: Path) -> None:
    alone = run(roomy, tmp_path / "one", "locret", text).measurement("overlap_0.1_trained")
    assert alone.low is None
    assert alone.high is None
    several = run(roomy, tmp_path / "two", "locret", text, heldout_fraction=0.5)
    found = several.measurement("overlap_0.1_trained")
    assert found.low <= found.value <= found.high


def test_heads_of_other_methods_stay_and_those_of_the_same_are_replaced(
    roomy: Path, text: str, tmp_path: Path
) -> None:
    run(roomy, tmp_path / "a", "locret", text)
    run(tmp_path / "a", tmp_path / "b", "kvzap", text)
    old, both = files_of(tmp_path / "a"), files_of(tmp_path / "b")
    assert both[file_name("locret")] == old[file_name("locret")]
    paths = [side.path for side in read_manifest(tmp_path / "b").side_files]
    assert sorted(paths) == ["result.json", file_name("kvzap"), file_name("locret")]
    assert read_heads(tmp_path / "b", "locret").kind == "mlp"
    assert read_heads(tmp_path / "b", "kvzap").kind == "linear"
    assert files_of(tmp_path / "a") == old, "what shares its files was not written to"
    run(tmp_path / "b", tmp_path / "c", "locret", text, seed=1)
    assert files_of(tmp_path / "b") == both
    found = files_of(tmp_path / "c")
    assert found[file_name("locret")] != both[file_name("locret")]
    assert found[file_name("kvzap")] == both[file_name("kvzap")]
    assert read_result(tmp_path / "b").method == "kvzap"


@pytest.mark.parametrize("method", ["locret", "kvzap"])
def test_the_same_settings_give_the_same_bytes(
    method: str, roomy: Path, text: str, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        run(roomy, tmp_path / name, method, text)
    same, other = (files_of(tmp_path / name)[file_name(method)] for name in ("a", "b"))
    assert same == other
    run(roomy, tmp_path / "c", method, text, seed=1)
    assert files_of(tmp_path / "c")[file_name(method)] != same


def test_the_output_is_what_the_runtime_keeps_entries_with(
    roomy: Path, text: str, tmp_path: Path
) -> None:
    from treadle.runtime.llm import LLM

    run(roomy, tmp_path / "out", "locret", text)
    llm = LLM(tmp_path / "out", keep="locret", keep_budget=40)
    [found] = llm.generate("Once upon a time there was a fox that went home. " * 2)
    assert found.outputs[0].token_ids


def test_a_text_model_repeats_within_its_positions(llama: Path, text: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"kvzip and kvzip\+ read the prompt twice.*has 128"):
        run(llama, tmp_path / "out", "gated", text)
    assert not list(tmp_path.iterdir())


def test_chunks_of_a_long_context_cover_it(roomy: Path, text: str, tmp_path, monkeypatch) -> None:
    from treadle.shrink.sparsify import watching

    monkeypatch.setattr(watching, "_CHUNK_TOKENS", 40)
    result = run(roomy, tmp_path / "out", "gated", text)
    assert result.measurement("overlap_0.1_trained").value >= 0
    assert (
        json.loads((tmp_path / "out" / "treadle.json").read_text())["provenance"]["settings"][
            "sample_tokens"
        ]
        == SMALL["sample_tokens"]
    )
