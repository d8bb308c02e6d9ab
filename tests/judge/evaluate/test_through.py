"""One task through blocks and through the runtime: equal scores, one table, no idle setting."""

import shutil
from pathlib import Path
from typing import ClassVar

import pytest

import gguf_models
from coded_models import AWQ, awq, dense_twin, write_coded
from gguf_models import to_gguf
from judge.evaluate.runs import SMALL, measure
from judge.evaluate.test_choice import QUESTIONS, write_questions
from runtime.adapters import merged, write_adapter
from treadle.cli import main
from treadle.core.errors import DataError, SettingsError
from treadle.core.method import Standard
from treadle.core.result import Measurement, read_result
from treadle.judge.evaluate import TASKS
from treadle.judge.evaluate.base import LossTask, Rows
from treadle.model.scoring import BlockScorer
from treadle.runtime.settings import EngineSettings


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "gemma2"])
@pytest.mark.filterwarnings("ignore::treadle.native.SlowPathWarning")
def test_both_ways_give_one_score(model_type, tiny_model, text, tmp_path) -> None:
    model = tiny_model(model_type)
    blocks = measure(model, tmp_path / "blocks", text, through="blocks")
    runtime = measure(
        *(model, tmp_path / "runtime", text),
        through="runtime",
        baseline=tmp_path / "blocks",
        kv_dtype="fp32",
    )
    assert runtime.protocol == blocks.protocol
    assert runtime.samples["nll"] == pytest.approx(blocks.samples["nll"], abs=1e-5)
    assert runtime.measurement("perplexity_ratio").value == pytest.approx(1, abs=1e-5)
    assert (blocks.settings["through"], runtime.settings["through"]) == ("blocks", "runtime")
    assert blocks.fingerprint != runtime.fingerprint
    exact = measure(model, tmp_path / "exact", text)
    assert (exact.settings["through"], exact.protocol) == ("exact", blocks.protocol)
    assert exact.samples["nll"] == pytest.approx(blocks.samples["nll"], rel=1e-6)
    assert exact.notes == runtime.notes != blocks.notes


@pytest.mark.parametrize(
    "why", ["another architecture", "no memory", "no room", "little room", "code of its own"]
)
def test_blocks_compute_what_the_native_step_cannot(why, tiny_model, text, tmp_path, monkeypatch):
    model, trusted = tiny_model("phi" if why == "another architecture" else "llama"), False
    if why == "no memory":
        monkeypatch.setattr("treadle.runtime.scoring.available_memory_bytes", lambda: 400_000)
    elif why.endswith("room"):
        free = {"no room": 4096, "little room": 40_000}[why]
        monkeypatch.setattr("treadle.runtime.store.available_memory_bytes", lambda: free)
    elif why == "code of its own":
        trusted = True
    exact = measure(model, tmp_path / "exact", text, trust_remote_code=trusted)
    blocks = measure(model, tmp_path / "blocks", text, through="blocks")
    assert exact.samples == blocks.samples
    assert exact.notes == blocks.notes == [f"Computed by the {BlockScorer.computed_by}."]


def test_choices_are_the_same_through_the_runtime(llama, tmp_path) -> None:
    data = write_questions(tmp_path, *QUESTIONS)
    task = {"method": "choice"}
    found = [
        measure(llama, tmp_path / way, data, task, through=way) for way in ("blocks", "runtime")
    ]
    assert found[0].samples == found[1].samples
    assert found[0].protocol == found[1].protocol


def test_weights_and_cache_in_other_forms_are_scored(llama, text, tmp_path) -> None:
    measure(llama, tmp_path / "blocks", text)
    words = ["evaluate", "perplexity", str(llama), str(tmp_path / "q8"), "--data", text]
    words += ["--through", "runtime", "--weights", "q8", "--kv-dtype", "int8"]
    words += ["--num-windows", "5", "--window-tokens", "20"]
    words += ["--baseline", str(tmp_path / "blocks")]
    assert main(words) == 0
    result = read_result(tmp_path / "q8")
    ratio = result.measurement("perplexity_ratio").value
    assert ratio != 1.0
    assert ratio == pytest.approx(1, abs=0.2)
    assert result.settings["weights"] == "q8"
    assert result.settings["kv_dtype"] == "int8"
    assert "page_size" not in result.settings
    assert "q8" in result.notes[0]
    as_floats = measure(llama, tmp_path / "fp32", text, through="runtime").bytes["held"]
    assert as_floats / 4 < result.bytes["held"] < as_floats / 2
    assert "held" not in read_result(tmp_path / "blocks").bytes, "no form was asked for"


def test_entries_that_were_evicted_are_not_seen(llama, text, tmp_path) -> None:
    """A budget of all entries is exact, a small one is not, and the page can tell them apart."""
    task = {"method": "perplexity", "num_windows": 4, "window_tokens": 100}
    full = measure(llama, tmp_path / "blocks", text, task)
    found = {}
    for budget in (100, 16):
        words = ["evaluate", "perplexity", str(llama), str(tmp_path / f"{budget}"), "--data", text]
        words += ["--num-windows", "4", "--window-tokens", "100", "--through", "runtime"]
        words += ["--keep", "sinks", "--keep.chunk-tokens", "8", "--keep-budget", str(budget)]
        words += ["--kv-dtype", "fp32"]
        assert main([*words, "--baseline", str(tmp_path / "blocks")]) == 0
        found[budget] = read_result(tmp_path / f"{budget}")
    assert found[100].samples["nll"] == pytest.approx(full.samples["nll"], abs=1e-5)
    assert found[16].samples["nll"] != pytest.approx(full.samples["nll"], abs=1e-3)
    own = {"method": "sinks", "chunk_tokens": 8, "sinks": 4}
    assert own.items() <= found[16].settings["keep"].items()
    assert (found[16].settings["keep_budget"], found[100].settings["keep_budget"]) == (16, 100)
    assert found[16].protocol == full.protocol


def test_an_adapter_is_scored_as_the_merged_model(llama, text, tmp_path) -> None:
    adapter = write_adapter(tmp_path / "adapter", llama, size=0.1)
    whole = merged(tmp_path / "merged", llama, adapter, 2.0)
    expected = measure(whole, tmp_path / "whole", text)
    through = {"through": "runtime", "kv_dtype": "fp32"}
    found = measure(llama, tmp_path / "found", text, adapter=adapter, **through)
    assert found.samples["nll"] == pytest.approx(expected.samples["nll"], abs=1e-4)
    assert "adapter" in [entry.name for entry in found.inputs]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"engine": EngineSettings(weights="q8")}, "weights has no effect .* add --through runt"),
        ({"engine": EngineSettings(kv_dtype="int8"), "through": "blocks"}, "or leave --kv-dtype o"),
        (
            {"adapter": Path("somewhere")},
            "adapter has no effect on a model that is asked in float32",
        ),
    ],
)
def test_a_setting_without_effect_is_refused(options, says, llama, text, tmp_path) -> None:
    with pytest.raises(SettingsError, match=says):
        measure(llama, tmp_path / "out", text, **options)
    assert not (tmp_path / "out").exists()


class OwnRows(LossTask):
    """A task with examples of its own."""

    name: ClassVar[str] = "own_rows"
    paper = Standard("A test.")
    required_parameters: ClassVar[frozenset[str]] = frozenset()

    def prepare(self, data, tokenizer):
        assert data == ""
        return Rows([[1, 2, 3]], {"task": "own_rows", "hash": "0"}, None)

    def score(self, prepared, losses):
        value = float(losses[0].mean())
        return [Measurement(name="nll", value=value)], {"nll": [value]}

    def compare(self, samples, baseline, seed):
        return []


def test_a_task_says_whether_it_needs_data(llama, text, tmp_path, monkeypatch) -> None:
    with pytest.raises(SettingsError, match="'perplexity' asks about data, and none was given; ad"):
        measure(llama, tmp_path / "out", None)
    monkeypatch.setitem(TASKS.table, "own_rows", f"{__name__}:OwnRows")
    with pytest.raises(SettingsError, match=r"has examples of its own, so that .* leave --data ou"):
        measure(llama, tmp_path / "out", text, {"method": "own_rows"})
    result = measure(llama, tmp_path / "out", None, {"method": "own_rows"})
    assert [entry.name for entry in result.inputs] == ["model", "config"]


def test_a_quantised_file_is_scored_exactly_and_through_the_runtime(llama, text, tmp_path) -> None:
    file = tmp_path / "model.gguf"
    twin = dense_twin(llama, tmp_path / "twin", to_gguf(llama, file, "Q4_1"))
    exact = measure(file, tmp_path / "exact", text)
    assert "native step, matrices in fp32" in exact.notes[0]
    wide = EngineSettings(weights="fp32", kv_dtype="fp32")
    result = measure(file, tmp_path / "out", text, through="runtime", engine=wide)
    expected = measure(twin, tmp_path / "expected", text)
    assert exact.samples["nll"] == pytest.approx(expected.samples["nll"], abs=1e-4)
    assert result.samples["nll"] == pytest.approx(expected.samples["nll"], abs=1e-4)
    assert result.protocol["corpus_sha256"] == expected.protocol["corpus_sha256"]
    coded = measure(file, tmp_path / "coded", text, through="runtime", baseline=tmp_path / "out")
    assert "q4_1" in coded.notes[0]
    assert coded.measurement("perplexity_ratio").value == pytest.approx(1, abs=0.05)


def test_a_file_without_a_tokenizer_is_named(llama, text, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(gguf_models, "_write_tokenizer", lambda writer, folder: None)
    to_gguf(llama, tmp_path / "model.gguf")
    with pytest.raises(DataError, match="carries no tokenizer, so that no text can be scored"):
        measure(tmp_path / "model.gguf", tmp_path / "out", text, through="runtime")


def test_a_quantised_folder_is_scored_through_the_runtime(llama, text, tmp_path) -> None:
    folder = tmp_path / "coded"
    twin = dense_twin(llama, tmp_path / "twin", write_coded(llama, folder, awq, AWQ))
    wide = EngineSettings(weights="fp32", kv_dtype="fp32")
    result = measure(folder, tmp_path / "out", text, through="runtime", engine=wide)
    expected = measure(twin, tmp_path / "expected", text)
    assert result.samples["nll"] == pytest.approx(expected.samples["nll"], abs=1e-4)
    assert result.protocol == expected.protocol


def test_the_model_is_not_touched_by_the_runtime(llama, text, tmp_path) -> None:
    from naive import files_of

    model = Path(shutil.copytree(llama, tmp_path / "m"))
    before = files_of(model)
    measure(model, tmp_path / "out", text, SMALL, through="runtime")
    assert files_of(model) == before


def test_an_adapter_is_a_setting_that_tells_rows_apart(llama, text, tmp_path) -> None:
    adapter = tmp_path / "law"
    write_adapter(adapter, llama)
    result = measure(llama, tmp_path / "out", text, through="runtime", adapter=adapter)
    assert result.settings["adapter"] == str(adapter)


def test_a_policy_stands_in_the_result_with_all_of_its_settings(llama, text, tmp_path) -> None:
    found = [
        measure(
            llama, tmp_path / str(n), text, through="runtime", keep=keep, keep_budget=8
        ).settings
        for n, keep in enumerate(
            [
                {"method": "random", "chunk_tokens": 4},
                {"method": "random", "chunk_tokens": 4, "seed": 0, "spread": 0.5},
            ]
        )
    ]
    assert found[0] == found[1]
    assert found[0]["keep"]["spread"] == 0.5


def test_a_budget_without_effect_is_refused_and_a_full_one_is_not(llama, text, tmp_path) -> None:
    def scored(name: str, **keep: object) -> list[float]:
        return measure(llama, tmp_path / name, text, through="runtime", **keep).samples["nll"]

    with pytest.raises(SettingsError, match="the longest row has 20 tokens, and entries go after"):
        scored("idle", keep="sinks", keep_budget=8)
    short = {"method": "sinks", "chunk_tokens": 4}
    assert scored("full", keep=short, keep_budget=1.0) == scored("plain")
    assert scored("whole", keep=short, keep_budget=20) == scored("again")
    assert scored("some", keep=short, keep_budget=8) != scored("more")


def test_a_fraction_of_one_is_no_entry(llama, text, tmp_path) -> None:
    words = ["evaluate", "perplexity", str(llama), "OUT", "--data", text, "--through", "runtime"]
    words += ["--num-windows", "2", "--window-tokens", "20", "--keep", "random"]
    for budget, kind in {"1.0": float, "1": int, "0.5": float, "1e-1": float}.items():
        out = tmp_path / budget
        asked = [str(out) if word == "OUT" else word for word in words]
        assert main([*asked, "--keep.chunk-tokens", "4", "--keep-budget", budget]) == 0
        assert type(read_result(out).settings["keep_budget"]) is kind


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"through": "Runtime"},
            "through = 'Runtime' is refused: expected 'exact', 'blocks', 'runtime'",
        ),
        ({"through": 3}, "through = 3 is refused"),
        ({"overwrite": "no"}, "overwrite = 'no' is refused: expected True or False"),
        ({"seed": "x"}, "seed = 'x' is refused: expected a whole number"),
        (
            {"through": "runtime", "engine": EngineSettings(trust_remote_code=True)},
            "engine.trust_remote_code has no effect here",
        ),
        ({"through": "runtime", "engine": {"policy": "fair"}}, "engine.policy has no effect here"),
        ({"through": "runtime", "engine": {"keep": "sincs"}}, "Did you mean 'sinks'"),
    ],
)
def test_arguments_of_python_are_checked(given, says, llama, text, tmp_path) -> None:
    with pytest.raises(SettingsError, match=says):
        measure(llama, tmp_path / "out", text, **given)
    assert not (tmp_path / "out").exists()
