"""Latency against a model whose times are known, and through the verb."""

import json

import pytest

from judge.bench.machines import Clocked
from treadle.cli import main
from treadle.core import hardware
from treadle.core.errors import SettingsError
from treadle.core.result import read_result
from treadle.judge.bench import bench
from treadle.judge.bench.methods.latency import Latency


def named(findings):
    return {entry.name: entry for entry in findings.measurements}


def test_prompt_and_answer_are_told_apart(clock):
    model = Clocked(prompt_seconds=1e-4, token_seconds=2e-3)
    found = named(Latency(prompt_tokens=50, new_tokens=11, rounds=3).measure(model, 0))
    assert found["prompt"].value == pytest.approx(1e4)
    assert found["answer"].value == pytest.approx(500)
    assert found["answer"].low <= found["answer"].value <= found["answer"].high
    assert model.calls == [([50], 1)] * 4 + [([50], 11)] * 4


@pytest.mark.parametrize(("busy", "says"), [(2.0, 0), (1.7, 0), (1.5, 2), (0.2, 2)])
def test_clocks_that_part_are_named_and_the_roofline_is_not_moved(clock, busy, says):
    """Another's load stretches the clock's time and leaves the processors' as it was."""
    alone, model = Clocked(1e-4, 1e-3), Clocked(1e-4 * 2 / busy, 1e-3 * 2 / busy)
    model.busy = busy
    method = Latency(prompt_tokens=50, new_tokens=6, rounds=3)
    expected, found = named(method.measure(alone, 0)), method.measure(model, 0)
    warnings = [one for one in found.warnings if one]
    assert len(warnings) == says
    assert all("quote" in one and "_by_cpu" in one for one in warnings)
    for name in ("prompt_by_cpu", "answer_by_cpu", "roofline_fraction"):
        assert named(found)[name].value == pytest.approx(expected[name].value)


def test_a_step_too_short_for_two_threads_is_no_load_of_others(clock):
    model = Clocked(1e-4, 1e-3)
    model.busy = 1.0
    found = Latency(prompt_tokens=50, new_tokens=6, rounds=3).measure(model, 0)
    assert not any(found.warnings)


def test_an_answer_that_is_lost_in_the_noise_has_no_rate(clock):
    """The prompt's time swings by more than what a token takes."""

    class Swinging(Clocked):
        def work(self, lengths, num_new):
            self.prompt_seconds = 1.0 if num_new == 1 else 0.5
            super().work(lengths, num_new)

    found = Latency(prompt_tokens=1, new_tokens=2, rounds=3).measure(Swinging(), 0)
    assert set(named(found)) == {"prompt", "prompt_by_cpu"}
    assert any("lost in the noise" in one for one in found.warnings)


@pytest.fixture(autouse=True)
def ceilings(monkeypatch):
    """Measured ceilings as if the machine was busy before and half busy after; the list of both."""
    real, made = hardware._measure_now, []
    monkeypatch.setattr(hardware, "_PRODUCT_SIZE", 32)
    monkeypatch.setattr(hardware, "_BUFFER_BYTES", 1 << 20)
    monkeypatch.setattr(hardware, "_l3_bytes", lambda: 0)

    def measured():
        busy = 4.0 if not made else 2.0
        rates = {name: 1e9 / busy for name in hardware.Hardware.model_fields if "_per_" in name}
        made.append(real().model_copy(update=rates))
        return made[-1]

    monkeypatch.setattr(hardware, "_measure_now", measured)
    return made


def test_the_ceiling_is_measured_beside_the_run(clock, ceilings, monkeypatch, tmp_path):
    """A figure cached from a busy moment would let the fraction exceed 1."""
    monkeypatch.setenv("TREADLE_CACHE", str(tmp_path))
    hardware.measure()
    ceilings.clear()
    model = Clocked(token_seconds=1e-3)
    found = named(Latency(prompt_tokens=1, new_tokens=6, rounds=1).measure(model, 0))
    assert len(ceilings) == 2
    assert found["roofline"].value == pytest.approx(1e9 / 2 / 2e6)
    assert hardware.measure().read_bandwidth_bytes_per_second == 1e9 / 2


def test_the_roofline_is_the_lower_of_memory_and_processor(clock):
    model = Clocked(token_seconds=1e-3)
    found = named(Latency(prompt_tokens=1, new_tokens=6, rounds=1).measure(model, 0))
    machine = hardware.measure()
    by_memory = machine.read_bandwidth_all_threads_bytes_per_second / 1e6
    by_processor = machine.multiply_peak_all_threads_flops_per_second / 2e6
    assert found["roofline"].value == pytest.approx(min(by_memory, by_processor))
    share = 2 * found["answer_by_cpu"].value / found["roofline"].value
    assert found["roofline_fraction"].value == pytest.approx(share)
    model.bytes_per_token = 0
    assert "roofline" not in named(Latency(rounds=1, new_tokens=2).measure(model, 0))


@pytest.mark.parametrize(("model_type", "weights"), [("llama", "q8"), ("phi", "fp32")])
@pytest.mark.filterwarnings("ignore::treadle.native.SlowPathWarning")
def test_the_verb_runs_a_real_model(model_type, weights, tiny_model, tmp_path, capsys):
    words = ["bench", "latency", str(tiny_model(model_type)), str(tmp_path / "out")]
    words += ["--weights", weights, "--prompt-tokens", "8", "--new-tokens", "64", "--rounds", "3"]
    assert main(words) == 0
    assert "tokens per second" in capsys.readouterr().out
    result = read_result(tmp_path / "out")
    assert result.measurement("answer").value > 0
    assert json.loads((tmp_path / "out" / "result.json").read_text())["verb"] == "bench"
    native = "native step" if model_type == "llama" else "generic executor"
    assert native in result.notes[0]
    assert main(words) == 2
    assert "holds a result already" in capsys.readouterr().err


def test_requests_longer_than_the_model_are_refused(llama, tmp_path):
    with pytest.raises(SettingsError, match="longer than the model's 128 positions"):
        bench(llama, tmp_path / "out", Latency(prompt_tokens=120, new_tokens=20))
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore::treadle.native.SlowPathWarning")
def test_the_generic_executor_has_no_rounded_weights(tiny_model, tmp_path):
    with pytest.raises(SettingsError, match="leave weights at auto"):
        bench(tiny_model("phi"), tmp_path / "out", "latency", weights="q8")
