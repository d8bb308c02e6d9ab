"""Bundles of layers: what is kept of each model, what answers, what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from combine.merge.conflict import bundles
from combine.merge.conflict.bundles import arrays, logprobs, variants, whole
from combine.merge.models import variant
from treadle.combine.merge import merge, merge_conflict, merge_materialise
from treadle.core.checkpoint import content_hash, read_manifest
from treadle.core.checkpoint.hashing import file_hash
from treadle.core.checkpoint.layered import expert_file, read_layer_routing
from treadle.core.errors import CheckpointError, DataError, SettingsError, UnsupportedModelError
from treadle.core.result import read_result
from treadle.model import tiny
from treadle.native.loader import library
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.routed.layers import LayeredLLM

needs_native = pytest.mark.skipif(library("step") is None, reason="needs a C compiler")


@pytest.fixture(scope="module")
def models(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return variants(llama, tmp_path_factory.mktemp("conflict"))


@pytest.fixture(scope="module")
def bundle(llama: Path, models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    data = bundles.questions(folder)
    return whole(llama, models, folder / "out", density=0.2, data=data)


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_all_layers_at_full_density_are_the_models_bit_by_bit(llama: Path, tmp_path: Path, dtype):
    models = [variant(llama, tmp_path / f"m{n}", n, 0.3, dtype) for n in (1, 2)]
    bundle = whole(
        llama, models, tmp_path / "b", density=1.0, dtype="bfloat16" * (dtype != "F32") or None
    )
    for number, model in enumerate(models, 1):
        out = tmp_path / f"out{number}"
        merge_materialise(bundle, out, expert=f"m{number}")
        assert content_hash(out) == content_hash(model)


def test_the_dense_model_is_the_merge_and_no_layer_is_kept_of_none(
    llama: Path, models: list[Path], tmp_path: Path
):
    bundle = whole(llama, models, tmp_path / "b", route_fraction=0.0, how="ties")
    merge(list(models), tmp_path / "merged", "ties", base=llama)
    assert content_hash(bundle / "dense") == content_hash(tmp_path / "merged")
    merge_materialise(bundle, tmp_path / "out", expert="e1")
    assert content_hash(tmp_path / "out") == content_hash(tmp_path / "merged")
    assert read_layer_routing(bundle).layers == ()


def test_a_mixture_of_blocks_shares_what_stands_around_them(llama, models, tmp_path: Path):
    bundle = whole(llama, models, tmp_path / "b", density=1.0, among="blocks")
    assert read_layer_routing(bundle).layers == ("0", "1")
    merge_materialise(bundle, tmp_path / "out", expert="e2")
    dense, own, found = map(arrays, (bundle / "dense", models[1], tmp_path / "out"))
    for name, values in found.items():
        assert np.array_equal(values, (own if ".layers." in name else dense)[name])


def test_a_mixture_of_mlps_shares_all_else(llama, models, tmp_path: Path):
    bundle = whole(llama, models, tmp_path / "b", density=1.0, among="mlps")
    assert read_layer_routing(bundle).layers == ("0", "1")
    merge_materialise(bundle, tmp_path / "out", expert="e2")
    dense, own, found = map(arrays, (bundle / "dense", models[1], tmp_path / "out"))
    for name, values in found.items():
        assert np.array_equal(values, (own if ".mlp." in name else dense)[name])


@pytest.mark.parametrize("keep", ["magnitude", "rows", "random"])
def test_what_is_kept_is_what_the_settings_say(
    llama: Path, models: list[Path], tmp_path: Path, keep
):
    """Against the definition, tensor by tensor."""
    bundle = whole(llama, models, tmp_path / "b", density=0.25, keep=keep)
    merge_materialise(bundle, tmp_path / "out", expert="e2")
    dense, own, found = map(arrays, (bundle / "dense", models[1], tmp_path / "out"))
    for name, values in found.items():
        if values.ndim < 2:
            assert np.array_equal(values, own[name])
            continue
        kept = values != dense[name]
        assert kept.mean() == pytest.approx(0.25, abs=1 / values.shape[-1])
        if keep == "random":
            change = own[name] - dense[name]
            np.testing.assert_allclose((values - dense[name])[kept], 4 * change[kept], rtol=1e-3)
            continue
        assert np.array_equal(values[kept], own[name][kept])
        sizes = np.abs(own[name] - dense[name])
        if keep == "magnitude":
            assert sizes[kept].min() >= sizes[~kept].max()
        else:
            for row, mask in zip(sizes, kept, strict=True):
                assert row[mask].min() >= row[~mask].max()


@pytest.mark.parametrize("keep", ["magnitude", "rows", "random"])
@pytest.mark.parametrize("density", [0.001, 0.3])
def test_experts_stay_below_their_bytes(llama, models, tmp_path: Path, keep, density):
    for num_bytes in (80_000, 140_000):
        out, settings = tmp_path / f"b{num_bytes}", {"keep": keep, "density": density}
        merge_conflict(list(models), out, base=llama, route_bytes=num_bytes, **settings)
        files = [expert_file(out, name).stat().st_size for name in ("e1", "e2")]
        assert 0 < sum(files) <= num_bytes


@needs_native
@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3", "gemma2"])
def test_experts_beside_the_model_answer_as_their_plain_folders(tmp_path: Path, model_type):
    """Matrices, norms, biases, embedding and head; alone, mixed, and all in one batch."""
    base = tiny.build(model_type, tmp_path / "base", seed=1)
    models = variants(base, tmp_path)
    bundle = whole(base, models, tmp_path / "b", density=0.3)
    llm = LLM(bundle, cache_bytes=4 << 20, kv_dtype="fp32")
    assert isinstance(llm, LayeredLLM)
    merge_materialise(bundle, tmp_path / "mix", mixture=("e1=0.75", "e2=0.25"))
    for name in ("e1", "e2"):
        merge_materialise(bundle, tmp_path / f"plain-{name}", expert=name)
    names = ["e1", "e2", "dense", None]
    together = logprobs(llm, names)
    folders = [tmp_path / "plain-e1", tmp_path / "plain-e2", bundle / "dense", bundle / "dense"]
    for place, folder in enumerate(folders):
        plain = logprobs(LLM(folder, cache_bytes=4 << 20, kv_dtype="fp32"))[place]
        np.testing.assert_allclose(together[place], plain, atol=3e-5)
    mixed = logprobs(LLM(tmp_path / "mix", cache_bytes=4 << 20, kv_dtype="fp32"))
    np.testing.assert_allclose(logprobs(llm, "e1=0.75,e2=0.25"), mixed, atol=3e-5)
    # A row's numbers do not depend on the rows beside it.
    for place, name in enumerate(names):
        assert np.array_equal(logprobs(llm, name)[place], together[place])


@needs_native
def test_changes_of_sixteen_bits_are_held_in_sixteen_bits(llama: Path, tmp_path: Path):
    """Nearly nothing is lost by it: most differences are exact."""
    models = [variant(llama, tmp_path / f"e{n}", n, 0.3, "BF16") for n in (1, 2)]
    bundle = whole(llama, models, tmp_path / "b", density=0.3, dtype="bfloat16")
    merge_materialise(bundle, tmp_path / "plain", expert="e2")
    llm = LLM(bundle, cache_bytes=4 << 20, kv_dtype="fp32")
    plain = logprobs(LLM(tmp_path / "plain", cache_bytes=4 << 20, kv_dtype="fp32"))
    np.testing.assert_allclose(logprobs(llm, "e2"), plain, atol=5e-4)
    assert np.abs(logprobs(llm, "dense") - plain).max() > 0.01
    single = whole(llama, variants(llama, tmp_path / "f"), tmp_path / "f32", density=0.3)
    assert llm.expert_bytes["e2"] < 0.75 * LLM(single, cache_bytes=4 << 20).expert_bytes["e2"]


@needs_native
def test_a_router_sends_each_kind_to_its_expert_and_strangers_to_all(bundle: Path):
    llm = LLM(bundle, cache_bytes=4 << 20)
    for prompts in bundles.KINDS.values():
        shares = llm.route(prompts)
        alone = [one for one in shares if len(one) == 1]
        assert len(alone) > 0.8 * len(shares)  # the others are far from what it was made of
        assert all(one == alone[0] for one in alone)
    (stranger,) = llm.route(["Ein Satz, der mit alledem nicht das Geringste zu tun hat!"])
    assert stranger == {"e1": 0.5, "e2": 0.5}
    text = bundles.KINDS["sums"][3]
    params = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True)
    routed, ids = llm.generate([text, llm.get_tokenizer()(text).input_ids], params)
    expert = next(iter(llm.route([text])[0]))
    (named,) = llm.generate([text], params, adapter=expert)
    assert routed.outputs[0].token_ids == named.outputs[0].token_ids == ids.outputs[0].token_ids


@needs_native
def test_many_mixtures_come_and_go(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("treadle.runtime.routed.layers._MOST_MIXTURES", 2)
    llm = LLM(bundle, cache_bytes=4 << 20)
    before = logprobs(llm, "e1")
    for share in (0.1, 0.2, 0.3, 0.4, 0.5):
        with llm._turn, llm._mixed(np.array([share, 1 - share], np.float32)) as name:
            assert name in llm._adapters.names
        assert len(llm._mixtures) <= 2
    assert np.array_equal(logprobs(llm, "e1"), before)


def test_the_account_says_what_was_measured(bundle: Path, models: list[Path]):
    result = read_result(bundle)
    (layers,) = [table for table in result.tables if table.title == "Conflict by layer"]
    assert [row[0].value for row in layers.rows] == ["embedding", "0", "1", "head"]
    assert result.measurement("router_right").value > 0.8
    assert {figure.kind for figure in result.figures} == {"heatmap"}
    assert result.bytes["output"] == result.bytes["dense"] + sum(
        expert_file(bundle, name).stat().st_size for name in ("e1", "e2")
    )
    manifest = read_manifest(bundle)
    assert manifest is not None
    assert manifest.content_hash == content_hash(bundle)


def test_the_seed_and_the_models_decide_all_bytes(
    llama: Path, models: list[Path], bundle: Path, tmp_path: Path
):
    data = bundles.questions(tmp_path)
    again = whole(llama, models, tmp_path / "again", density=0.2, data=data)
    assert content_hash(again) == content_hash(bundle)


def test_a_killed_run_goes_on(
    llama: Path, models: list[Path], bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from treadle.combine.merge.conflict import apply

    real, made = apply.written_expert, []

    def killed(file: Path, *rest: object) -> None:
        if made:
            raise KeyboardInterrupt
        made.append(file)
        real(file, *rest)

    data = bundles.questions(tmp_path)
    monkeypatch.setattr(apply, "written_expert", killed)
    with pytest.raises(KeyboardInterrupt):
        whole(llama, models, tmp_path / "b", density=0.2, data=data)
    assert not (tmp_path / "b").exists()
    monkeypatch.setattr(apply, "written_expert", real)
    whole(llama, models, tmp_path / "b", density=0.2, data=data)
    assert content_hash(tmp_path / "b") == content_hash(bundle)
    assert "had written 1 of 2 experts" in " ".join(read_result(tmp_path / "b").notes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"route_fraction": 0.3, "route_bytes": 1 << 20}, "two budgets"),
        ({"route_fraction": 1.5}, "outside 0..1"),
        ({"denoise": 0.0}, "no change whose sign"),
        ({"route_bytes": 10}, "holds no layer"),
        ({"how": "regmean"}, "looks at texts"),
        ({"test": ["x.jsonl"]}, "give data, too"),
    ],
)
def test_settings_that_cannot_be_met(llama, models, tmp_path, settings, message):
    with pytest.raises(SettingsError, match=message):
        merge_conflict(list(models), tmp_path / "b", base=llama, **settings)
    assert not (tmp_path / "b").exists()


def test_models_that_do_not_belong_together(llama: Path, models: list[Path], tmp_path: Path):
    with pytest.raises(SettingsError, match="1 was given"):
        merge_conflict(models[:1], tmp_path / "b", base=llama)
    with pytest.raises(SettingsError, match="named twice, or is the base"):
        merge_conflict([*models, llama], tmp_path / "b", base=llama)
    wider = tiny.build("llama", tmp_path / "wider", intermediate_size=160)
    with pytest.raises(CheckpointError):
        merge_conflict([models[0], wider], tmp_path / "b", base=llama)
    few = tmp_path / "few.jsonl"
    few.write_text('{"prompt": "a", "answer": "b"}\n{"prompt": "c", "answer": "d"}\n')
    with pytest.raises(DataError, match="takes 4 of each kind"):
        merge_conflict(list(models), tmp_path / "b", base=llama, data=[str(few)])


def test_damaged_bundles_are_refused(bundle: Path, tmp_path: Path):
    def damaged(number: int) -> Path:
        return Path(shutil.copytree(bundle, tmp_path / str(number)))

    missing = damaged(1)
    expert_file(missing, "e2").unlink()
    with pytest.raises(CheckpointError, match=r"has no experts/e2|lacks its required"):
        LLM(missing)
    with pytest.raises(CheckpointError):
        merge_materialise(missing, tmp_path / "out", expert="e1")
    cut = damaged(2)
    data = expert_file(cut, "e1").read_bytes()
    expert_file(cut, "e1").write_bytes(data[:-100])
    with pytest.raises(CheckpointError, match="not the file that"):
        merge_materialise(cut, tmp_path / "out", expert="e1")
    swapped = damaged(4)
    shutil.copy(expert_file(swapped, "e1"), expert_file(swapped, "e2"))
    with pytest.raises(CheckpointError, match="not the file that the bundle was made with"):
        merge_materialise(swapped, tmp_path / "out", expert="e2")
    if library("step") is not None:
        with pytest.raises(CheckpointError, match="not the file that the bundle was made with"):
            LLM(swapped)
    other = damaged(3)
    said = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(said | {"treadle_experts": ["e2", "e1"]}))
    with pytest.raises(CheckpointError, match="names the experts"):
        LLM(other)


def test_other_loaders_refuse_it_and_name_a_mend(bundle: Path, tmp_path: Path):
    from treadle.judge.bench import bench

    with pytest.raises(UnsupportedModelError, match=r"materialise|dense"):
        bench(bundle, tmp_path / "out", "latency")
    with pytest.raises(SettingsError, match="no expert 'e3'"):
        merge_materialise(bundle, tmp_path / "out", expert="e3")
    with pytest.raises(SettingsError, match="NAME=SHARE"):
        merge_materialise(bundle, tmp_path / "out", mixture=("e1=x",))
    with pytest.raises(SettingsError, match="Say which model"):
        merge_materialise(bundle, tmp_path / "out")


def test_an_experts_numbers_are_finite(llama, models, tmp_path: Path):
    from safetensors.numpy import load_file, save_file

    bundle = whole(llama, models, tmp_path / "b", density=0.3)
    file, routing = expert_file(bundle, "e1"), bundle / "routing.json"
    parts = load_file(file)
    name = next(name for name in parts if name.endswith(".values"))
    parts[name][3] = np.nan
    before = file_hash(file)
    save_file(parts, file)
    routing.write_text(routing.read_text().replace(before, file_hash(file)))
    with pytest.raises(CheckpointError, match="nan"):
        merge_materialise(bundle, tmp_path / "out", expert="e1")


@needs_native
def test_wrong_requests_are_refused(bundle: Path):
    llm = LLM(bundle, cache_bytes=4 << 20)
    assert llm.route([]) == []
    with pytest.raises(DataError, match="list of texts"):
        llm.route("text")
    with pytest.raises(DataError, match="-1"):
        llm.generate([[-1]])
    with pytest.raises(SettingsError, match="no expert 'e9'"):
        llm.generate(["a"], adapter="e9")
    for wrong in ("e1=2", "e1=x", "e1=0.5,e1=0.5", "e1,e2"):
        with pytest.raises(SettingsError, match=r"NAME=SHARE"):
            llm.generate(["a"], adapter=wrong)
    with pytest.raises(SettingsError, match="takes no adapter"):
        llm.add_adapter("x", bundle)
    with pytest.raises(SettingsError, match="cannot be removed"):
        llm.remove_adapter("e1")
    with pytest.raises(SettingsError, match="takes no adapters"):
        LLM(bundle, adapters={"x": bundle})
