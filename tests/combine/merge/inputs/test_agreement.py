"""Configs that make other things of the same weights: refused, noted or passed over."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from combine.merge.models import run, variant, with_config
from combine.merge.zoo import MIXED, save
from naive import plain_model, tokens_of
from treadle.combine.merge import merge, merge_yaml
from treadle.combine.merge.inputs.agreement import differences, kind_of
from treadle.core.errors import CheckpointError, SettingsError

ROPE = {"rope_theta": 5e5, "rope_type": "default"}
YARN = {"rope_theta": 1e4, "rope_type": "yarn", "factor": 4.0}
HEADS = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 8}


@pytest.fixture
def pair(family, tmp_path: Path) -> list[Path]:
    return [variant(family.base, tmp_path / f"m{seed}", seed) for seed in (1, 2)]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rope_parameters": ROPE}, r"rope_parameters.rope_theta \(10000.0 and 500000.0\)"),
        ({"rope_parameters": YARN}, "rope_parameters.rope_type"),
        ({"rms_norm_eps": 1e-3}, r"rms_norm_eps \(1e-06 and 0.001\)"),
        ({"hidden_act": "gelu"}, r"hidden_act \('silu' and 'gelu'\)"),
        (HEADS, r"num_attention_heads \(4 and 8\)"),
    ],
)
def test_what_models_compute_with_must_agree(pair, changes: dict[str, Any], says, tmp_path) -> None:
    with_config(pair[1], **changes)
    with pytest.raises(CheckpointError, match=f"{says}.*allow it with --allow-different"):
        run(pair, tmp_path / "out", "linear")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_scaling": {"type": "yarn", "factor": 4.0}, "rope_theta": 1e4},
        {"rope_scaling": {"rope_type": "yarn", "type": "yarn", "factor": 4}, "rope_theta": 1e4},
        {"rope_parameters": {**YARN, "beta_fast": 32.0, "beta_slow": 1, "attention_factor": None}},
        {"rope_parameters": {**YARN, "truncate": True, "partial_rotary_factor": 1.0}},
    ],
    ids=["type", "both", "defaults", "more defaults"],
)
def test_one_rope_in_other_words_is_no_difference(pair, changes, tmp_path) -> None:
    tokens = tokens_of(1, 24, seed=2)
    with_config(pair[0], rope_parameters=YARN)
    with torch.no_grad():
        expected = plain_model(pair[1]).eval()(input_ids=tokens).logits
    config = json.loads((pair[1] / "config.json").read_text())
    own = {key: value for key, value in config.items() if key != "rope_parameters"}
    (pair[1] / "config.json").write_text(json.dumps({**own, "rope_parameters": YARN}))
    with torch.no_grad():
        in_new_words = plain_model(pair[1])(input_ids=tokens).logits
    (pair[1] / "config.json").write_text(json.dumps({**own, **changes}))
    with torch.no_grad():
        assert torch.equal(plain_model(pair[1])(input_ids=tokens).logits, in_new_words)
    assert not torch.equal(in_new_words, expected)
    assert not any("rope" in note for note in run(pair, tmp_path / "out", "linear").notes)


def test_other_kinds_of_rope_differ_in_any_words() -> None:
    first = {"rope_scaling": {"type": "linear", "factor": 2.0}}
    second = {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}
    assert [d.key for d in differences(first, second)] == ["rope_scaling.rope_type"]
    old = {"rope_scaling": {"type": "su", "long_factor": [1.0]}}
    new = {"rope_scaling": {"rope_type": "longrope", "long_factor": [1.0]}}
    assert not list(differences(old, new))


def test_the_base_must_agree_too(family, pair, tmp_path) -> None:
    base = variant(family.base, tmp_path / "base", 0)
    with_config(base, rope_parameters=ROPE)
    with pytest.raises(CheckpointError, match="rope_theta"):
        run(pair, tmp_path / "out", "task_arithmetic", base=base)


def test_a_difference_may_be_allowed_and_is_noted(pair, tmp_path) -> None:
    with_config(pair[1], rope_parameters=ROPE)
    result = run(pair, tmp_path / "out", "linear", allow_different=["rope_theta"])
    assert any("rope_theta (10000.0 and 500000.0)" in note for note in result.notes)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["rope_parameters"]["rope_theta"] == 10000.0
    (tmp_path / "recipe.yml").write_text(
        f"merge_method: linear\nmodels: [{{model: {pair[0]}}}, {{model: {pair[1]}}}]\n"
        f"x-allow-different: rope_theta\n"
    )
    with pytest.raises(SettingsError, match=r"give a list of keys, such as \[rope_theta\]"):
        merge_yaml(tmp_path / "recipe.yml", tmp_path / "other")
    text = (tmp_path / "recipe.yml").read_text()
    (tmp_path / "recipe.yml").write_text(text.replace(": rope_theta", ": [rope_parameters]"))
    merge_yaml(tmp_path / "recipe.yml", tmp_path / "other")


@pytest.mark.parametrize(
    "changes",
    [{"max_position_embeddings": 4096}, {"some_key_of_a_tool": 1}],
    ids=["a bound", "an unknown key"],
)
def test_what_only_bounds_or_is_unknown_is_noted(pair, changes, tmp_path) -> None:
    with_config(pair[1], **changes)
    notes = run(pair, tmp_path / "out", "linear").notes
    assert any(next(iter(changes)) in note for note in notes)


def test_what_says_nothing_about_an_answer_is_passed_over(pair, tmp_path) -> None:
    idle = {"attention_dropout": 0.1, "initializer_range": 1.0, "use_cache": False}
    with_config(pair[1], **idle, transformers_version="4.1", eos_token_id=[0, 1])
    notes = run(pair, tmp_path / "out", "linear").notes
    assert not any("differ in" in note for note in notes)


def test_a_value_by_default_equals_one_that_is_written_out(pair, tmp_path) -> None:
    config = json.loads((pair[1] / "config.json").read_text())
    for key in ("head_dim", "rms_norm_eps", "rope_parameters", "hidden_act", "attention_bias"):
        config.pop(key, None)
    (pair[1] / "config.json").write_text(json.dumps(config))
    notes = run(pair, tmp_path / "out", "linear").notes
    assert not any("differ in" in note for note in notes)


def test_nested_configs_must_agree_and_layers_be_of_one_kind(tmp_path: Path) -> None:
    models = [save("gemma3", tmp_path / f"m{seed}", seed) for seed in (1, 2)]
    file = models[1] / "config.json"
    before = json.loads(file.read_text())
    changed = {**before["vision_config"], "layer_norm_eps": 0.5}
    file.write_text(json.dumps({**before, "vision_config": changed}))
    with pytest.raises(CheckpointError, match=r"vision_config.layer_norm_eps \(1e-06 and 0.5\)"):
        merge(models, tmp_path / "out", "linear")
    changed = {**before["text_config"], "layer_types": MIXED[::-1][1:] + MIXED[:1]}
    file.write_text(json.dumps({**before, "text_config": changed}))
    with pytest.raises(CheckpointError, match=r"layer_types \(\['sliding_attention', 'full"):
        merge(models, tmp_path / "out", "linear")


def test_an_unknown_architecture_is_compared_as_it_is_written(pair, tmp_path) -> None:
    for model in pair:
        with_config(model, model_type="unheard")
    with_config(pair[1], logit_scale=2.0)
    notes = run(pair, tmp_path / "out", "linear").notes
    assert any("logit_scale (None and 2.0)" in note for note in notes)
    with_config(pair[0], logit_scale=1.0)
    with pytest.raises(CheckpointError, match=r"logit_scale \(1.0 and 2.0\)"):
        run(pair, tmp_path / "out", "linear", overwrite=True)


def test_keys_are_compared_wherever_they_stand() -> None:
    found = differences({"a": {"b": 1, "c": [1]}, "x": 1}, {"a": {"b": 2, "c": [1]}})
    assert [str(one) for one in found] == ["a.b (1 and 2)", "x (1 and None)"]


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        *((key, "computes") for key in ("rope_theta", "partial_rotary_factor", "rms_norm_eps")),
        *((key, "computes") for key in ("final_logit_softcapping", "query_pre_attn_scalar")),
        *((key, "computes") for key in ("embedding_multiplier", "logits_scaling", "logit_scale")),
        *((key, "computes") for key in ("num_attention_heads", "num_experts_per_tok", "alibi")),
        *((key, "computes") for key in ("norm_topk_prob", "scoring_func", "routed_scaling_factor")),
        *((key, "computes") for key in ("hidden_act", "use_parallel_residual", "chunk_size")),
        *((key, "bounds") for key in ("sliding_window", "max_position_embeddings", "n_positions")),
        *(
            (key, "idle")
            for key in ("dtype", "hidden_dropout", "router_aux_loss_coef", "resid_pdrop")
        ),
        *((key, "unknown") for key in ("made_by", "_tool_version")),
    ],
)
def test_what_a_key_is_about(key: str, kind: str) -> None:
    assert kind_of(key) == kind
