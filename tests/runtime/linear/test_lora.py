"""LoRA beside a model: every adapter's rows as with merged weights, whatever runs beside them."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from naive import plain_model, tokens_of
from runtime.adapters import ROLES, merged, modules, write_adapter
from runtime.linear.tiers import GREEDY, NATIVE, TIERS, executor, make, texts
from treadle.core.errors import CheckpointError, SettingsError, UnsupportedModelError
from treadle.model.adapters import Adapter
from treadle.runtime import LLM
from treadle.runtime.cache.pages import KeyValues
from treadle.runtime.executor import AdapterRun, StepRows
from treadle.runtime.transformers_step.generic import GenericExecutor

PAGE = 8
needs_native = pytest.mark.skipif(not NATIVE, reason="needs a C compiler")


def run(step, parts, pages: int = 64, hidden: bool = False) -> np.ndarray:
    """Logits of every row of several texts in one call: (tokens, adapter's slot or -1) each."""
    rows: dict[str, list] = {name: [] for name in ("tokens", "places", "slots", "pages")}
    starts, contexts, page_starts = [0], [], [0]
    for number, (tokens, _) in enumerate(parts):
        table = list(range(number * PAGE, number * PAGE + PAGE))
        rows["tokens"] += tokens
        rows["places"] += range(len(tokens))
        rows["slots"] += [table[p // PAGE] * PAGE + p % PAGE for p in range(len(tokens))]
        rows["pages"] += table
        starts.append(len(rows["tokens"]))
        contexts.append(len(tokens))
        page_starts.append(len(rows["pages"]))
    arrays = [rows["tokens"], rows["places"], rows["slots"], starts, contexts, page_starts]
    arrays += [rows["pages"], range(starts[-1])]
    whole = StepRows(
        *(np.asarray(array, np.int32) for array in arrays),
        adapters=np.asarray([slot for _, slot in parts], np.int32),
    )
    pool = KeyValues(step.shape.kv_heads, step.shape.head_dim, pages, PAGE, "fp32")
    return step.hidden(whole, pool) if hidden else step.forward(whole, pool)


def logits_of(folder: Path, tokens) -> np.ndarray:
    with torch.no_grad():
        return plain_model(folder)(input_ids=torch.tensor([tokens])).logits[0].numpy()


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(("name", "scale"), [("all", 2.0), ("some", 2.0), ("odd", 6 / 3**0.5)])
def test_logits_are_those_of_merged_weights(tier, name, scale, llama, folders, tmp_path):
    step = executor(tier, llama)
    step.add_adapter(0, Adapter(folders[name]))
    tokens = tokens_of(1, 50)[0].tolist()
    found = run(step, [(tokens, 0)])
    expected = logits_of(merged(tmp_path / "merged", llama, folders[name], scale), tokens)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(found - logits_of(llama, tokens)).max() > 0.1


@needs_native
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("overrides", [{}, {"attention_bias": True, "mlp_bias": True}])
def test_every_matrix_alone(role, overrides, tiny_model, tmp_path):
    """One target at a time, so that none stands in for another; biases stay as they are."""
    base = tiny_model("llama", **overrides)
    adapter = write_adapter(tmp_path / "one", base, modules([role]), size=0.5)
    tokens = tokens_of(1, 20)[0].tolist()
    expected = logits_of(merged(tmp_path / "merged", base, adapter, 2.0), tokens)
    for tier in TIERS:
        step = executor(tier, base)
        step.add_adapter(0, Adapter(adapter))
        np.testing.assert_allclose(run(step, [(tokens, 0)]), expected, atol=1e-4)


@pytest.mark.parametrize("model_type", ["gemma2", "qwen3", "mistral"])
@pytest.mark.parametrize("tier", TIERS)
def test_other_architectures(model_type, tier, tiny_model, tmp_path):
    """Norms behind a branch, QK norms and sliding windows."""
    base = tiny_model(model_type)
    adapter = write_adapter(tmp_path / "one", base)
    tokens = tokens_of(1, 40)[0].tolist()
    step = executor(tier, base)
    step.add_adapter(0, Adapter(adapter))
    expected = logits_of(merged(tmp_path / "merged", base, adapter, 2.0), tokens)
    np.testing.assert_allclose(run(step, [(tokens, 0)]), expected, atol=1e-4)


@pytest.mark.parametrize("says_transposed", [True, False])
@pytest.mark.parametrize(("role", "width"), [("c_attn", 192), ("c_proj", 64)])
def test_a_transposed_base(role, width, says_transposed, tiny_model, tmp_path):
    """GPT-2 keeps its matrices as [in, out]; factors stay as they are, whatever the config says."""
    base = tiny_model("gpt2")
    weights = load_file(base / "model.safetensors")
    prefix = next(n for n in weights if n.endswith(f"h.0.attn.{role}.weight"))[: -len(".weight")]
    module = "transformer." + prefix.removeprefix("transformer.")
    draw = np.random.default_rng(0)
    a, b = (draw.normal(size=s).astype(np.float32) for s in ((4, 64), (width, 4)))
    folder = tmp_path / "adapter"
    folder.mkdir()
    names = [f"base_model.model.{module}.lora_{letter}.weight" for letter in "AB"]
    save_file(dict(zip(names, (a, b), strict=True)), folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "fan_in_fan_out": says_transposed}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    step = GenericExecutor.from_folder(base)
    step.add_adapter(0, Adapter(folder))
    tokens = tokens_of(1, 20)[0].tolist()
    model = plain_model(base)
    with torch.no_grad():
        model.get_submodule(module).weight += torch.from_numpy(b @ a).T
        expected = model(input_ids=torch.tensor([tokens])).logits[0].numpy()
    np.testing.assert_allclose(run(step, [(tokens, 0)]), expected, atol=1e-4)


@needs_native
@pytest.mark.parametrize("weights", ["fp32", "fp16", "q8", "q4_1"])
@pytest.mark.parametrize("threads", [1, 2])
def test_neighbours_do_not_change_a_bit(weights, threads, llama, folders):
    """Several adapters and none in one call, in any order, as each text alone with any threads."""
    step = executor("native", llama, weights, threads)
    for slot, name in enumerate(folders):
        step.add_adapter(slot, Adapter(folders[name]))
    lengths, slots = (1, 40, 9, 1, 17, 30), (0, 1, -1, 1, 2, 2)
    parts = [
        (tokens_of(1, size, seed=size)[0].tolist(), slot)
        for size, slot in zip(lengths, slots, strict=True)
    ]
    alone_step = executor("native", llama, weights, 3 - threads)
    for slot, name in enumerate(folders):
        alone_step.add_adapter(slot, Adapter(folders[name]))
    alone = [run(alone_step, [part]) for part in parts]
    assert np.array_equal(run(step, parts), np.concatenate(alone))
    plain = executor("native", llama, weights, threads)
    assert np.array_equal(run(plain, [(parts[2][0], -1)]), alone[2])
    hidden = run(step, parts, hidden=True)
    assert np.array_equal(hidden[:1], run(step, parts[:1], hidden=True))


@needs_native
@pytest.mark.parametrize(("weights", "tolerance"), [("q8", 0.15), ("q4_1", 0.7)])
def test_rounded_weights_take_an_adapter_unrounded(weights, tolerance, llama, folders):
    """What an adapter adds is as in fp32, up to the rounding of what it is added to.

    A part that is left out would be 1 away, a wrong one 1.4.
    """
    tokens = tokens_of(1, 30)[0].tolist()
    moves = []
    for form in ("fp32", weights):
        step = executor("native", llama, form)
        step.add_adapter(0, Adapter(folders["some"]))
        moves.append(run(step, [(tokens, 0)]) - run(step, [(tokens, -1)]))
    assert np.sqrt(((moves[0] - moves[1]) ** 2).mean()) < tolerance * moves[0].std()


def test_generic_rows_stay_apart(llama, folders):
    step = executor("generic", llama)
    for slot, name in enumerate(folders):
        step.add_adapter(slot, Adapter(folders[name]))
    parts = [(tokens_of(1, 12, seed=s)[0].tolist(), s % 4 - 1) for s in range(6)]
    alone = np.concatenate([run(step, [part]) for part in parts])
    np.testing.assert_allclose(run(step, parts), alone, atol=1e-4)


def test_no_hook_stays_on_the_module(llama, folders, monkeypatch):
    step = executor("generic", llama)
    step.add_adapter(0, Adapter(folders["all"]))
    run(step, [([1, 2, 3], 0)])
    monkeypatch.setattr(
        step._module, "forward", lambda *a, **k: (_ for _ in ()).throw(MemoryError())
    )
    with pytest.raises(MemoryError):
        run(step, [([1, 2, 3], 0)])
    assert not any(part._forward_hooks for part in step._module.modules())


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(-1, 2)), min_size=1, max_size=8))
def test_runs_cover_exactly_the_rows_with_adapters(parts):
    starts = np.cumsum([0, *(count for count, _ in parts)]).astype(np.int32)
    nothing = np.empty(0, np.int32)
    rows = StepRows(*[nothing] * 3, starts, *[nothing] * 4)
    assert rows.adapter_runs() == []
    slots = np.asarray([slot for _, slot in parts], np.int32)
    runs = rows._replace(adapters=slots).adapter_runs()
    found = np.full(starts[-1], -1)
    for first, count, slot in runs:
        assert 0 < count <= 16
        assert (found[first : first + count] == -1).all()
        found[first : first + count] = slot
    assert np.array_equal(found, np.repeat(slots, np.diff(starts)))
    assert all(isinstance(run, AdapterRun) for run in runs)


def test_names_that_are_wrong_or_in_use(engine, folders):
    assert engine.adapters == ["all", "some", "odd"]
    with pytest.raises(SettingsError, match=r"No adapter 'sone'.*'some'.*add_adapter"):
        engine.generate(texts(1), GREEDY, adapter="sone")
    with pytest.raises(SettingsError, match="No adapter 'else'"):
        engine.remove_adapter("else")
    for name in ("all", ""):
        with pytest.raises(SettingsError, match=f"Found adapter name '{name}'.*not in use"):
            engine.add_adapter(name, folders["all"])
    (request,) = engine.submit(texts(1)[0], GREEDY, adapter="all")
    engine.step()
    with pytest.raises(SettingsError, match=r"'all' is in use by 1 unfinished requests.*cancel"):
        engine.remove_adapter("all")
    engine.cancel(request.id)
    engine.remove_adapter("all")
    assert engine.adapters == ["some", "odd"]


def test_without_adapters_the_error_says_so(llama):
    plain = LLM(llama, cache_bytes=2**20)
    with pytest.raises(SettingsError, match=r"No adapter 'any'\. There are none yet\."):
        plain.submit([1], adapter="any")


@pytest.mark.parametrize("tier", TIERS)
def test_adapters_of_another_base(tier, llama, tiny_model, folders, tmp_path, caplog):
    engine = make(tier, llama, {})
    wide = tiny_model("llama", hidden_size=96)
    other = write_adapter(tmp_path / "wide", wide, base_model_name_or_path="org/wide")
    with pytest.raises(
        CheckpointError,
        match=r"another base: .*down_proj.weight' of shape \[96, 96\] \(out, in\), but the model "
        r"has shape \[64, 96\]; give the model that it was trained on \('org/wide'\)",
    ):
        engine.add_adapter("wide", other)
    deep = tiny_model("llama", num_hidden_layers=3)
    third = write_adapter(tmp_path / "deep", deep, modules(num_layers=3))
    with pytest.raises(CheckpointError, match=r"layers\.2\..*the model has none of this name"):
        engine.add_adapter("deep", third)
    assert engine.adapters == []
    named = write_adapter(tmp_path / "named", llama, base_model_name_or_path="org/elsewhere")
    with caplog.at_level(logging.INFO):
        note = engine.add_adapter("named", named)
    assert "trained on 'org/elsewhere'" in note
    assert note in caplog.text
    with pytest.warns(UserWarning, match="says that it was trained on 'org/elsewhere'"):
        make(TIERS[-1], llama, {"named": named})
    save_file({}, named / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"named/.* holds no tensors, so .*; save it again"):
        engine.add_adapter("empty", named)
    same = write_adapter(tmp_path / "same", llama, base_model_name_or_path=f"org/{llama.name}")
    assert engine.add_adapter("same", same) is None


def test_adapters_that_cannot_run_beside_a_model(llama, tmp_path):
    engine = make(TIERS[-1], llama, {})
    with pytest.raises(CheckpointError, match=r"No folder of the adapter 'a' at .*adapter_config"):
        engine.add_adapter("a", tmp_path / "nowhere")
    dora = write_adapter(tmp_path / "dora", llama, use_dora=True)
    with pytest.raises(UnsupportedModelError, match="says DoRA, but only plain LoRA"):
        engine.add_adapter("a", dora)
    for name, value in (("lm_head", "lm_head.weight"), ("norm", "model.norm.weight")):
        folder = write_adapter(tmp_path / name, llama, modules(["self_attn.q_proj"]))
        file = folder / "adapter_model.safetensors"
        save_file({**load_file(file), f"base_model.model.{value}": np.ones(64, np.float32)}, file)
        with pytest.raises(UnsupportedModelError, match=f"changes '{value}'.*treadle merge yaml"):
            engine.add_adapter("a", folder)
    broken = write_adapter(tmp_path / "broken", llama, size=float("inf"))
    with pytest.raises(CheckpointError, match="are not finite; repair or retrain"):
        engine.add_adapter("a", broken)
    assert engine.adapters == []


@pytest.mark.parametrize("targets", ["all-linear", r".*\.(q|v)_proj", ["q_proj", "v_proj"]])
def test_what_the_file_holds_counts_however_it_was_chosen(targets, llama, tmp_path):
    names = modules(["self_attn.q_proj", "self_attn.v_proj"])
    folder = write_adapter(tmp_path / "adapter", llama, names, target_modules=targets)
    step = executor(TIERS[-1], llama)
    step.add_adapter(0, Adapter(folder))
    tokens = tokens_of(1, 10)[0].tolist()
    expected = logits_of(merged(tmp_path / "merged", llama, folder, 2.0), tokens)
    np.testing.assert_allclose(run(step, [(tokens, 0)]), expected, atol=1e-4)


def test_ranks_and_scales_of_single_modules(llama, tmp_path):
    """rank_pattern and alpha_pattern: q has rank 2 and alpha 1, the others rank 4 and alpha 8."""
    names = modules(["self_attn.q_proj", "mlp.up_proj"])
    folder = write_adapter(
        tmp_path / "a", llama, names, rank_pattern={"q_proj": 2}, alpha_pattern={"q_proj": 1}
    )
    file = folder / "adapter_model.safetensors"
    cut = {
        name: (value[:2].copy() if "lora_A" in name else value[:, :2].copy())
        if "q_proj" in name
        else value
        for name, value in load_file(file).items()
    }
    save_file(cut, file)
    step = executor(TIERS[-1], llama)
    step.add_adapter(0, Adapter(folder))
    # The plain merge knows one scale: 2 for up, and q's factors brought from 0.5 to it.
    scaled = tmp_path / "scaled"
    scaled.mkdir()
    quarter = {n: v / 4 if "q_proj.lora_B" in n else v for n, v in cut.items()}
    save_file(quarter, scaled / "adapter_model.safetensors")
    tokens = tokens_of(1, 10)[0].tolist()
    expected = logits_of(merged(tmp_path / "merged", llama, scaled, 2.0), tokens)
    np.testing.assert_allclose(run(step, [(tokens, 0)]), expected, atol=1e-4)
