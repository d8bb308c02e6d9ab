"""Contexts against a model whose times are known, and through the verb."""

import pytest

from judge.bench.machines import Clocked
from treadle.cli import main
from treadle.core.result import read_result
from treadle.judge.bench.methods.contexts import Contexts
from treadle.judge.bench.tables import BENCHMARKS


class Cached(Clocked):
    """Prompts cost nothing but the first time; a further token more behind more of them."""

    def __init__(self) -> None:
        super().__init__(prompt_seconds=1e-3)
        self.seen: set[tuple[int, ...]] = set()

    def answer(self, prompts, asked):
        new = [one for one in prompts if tuple(one) not in self.seen]
        self.seen |= {tuple(one) for one in prompts}
        self.token_seconds = 1e-3 + 1e-6 * sum(map(len, prompts))
        self.work([len(one) for one in new], asked.max_tokens)
        return []


def test_every_cell_has_the_rates_of_its_formula(clock):
    method = Contexts(contexts=(100, 10), batches=(2, 1), new_tokens=5, rounds=2)
    found = method.measure(Cached(), 0)
    values = {one.name: one.value for one in found.measurements}
    for length in (10, 100):
        for count in (1, 2):
            seconds = 1e-3 + 1e-6 * count * length
            name = f"{count}x{length}"
            assert values[f"answer {name}"] == pytest.approx(count / seconds)
            assert values[f"answer {name}_by_cpu"] == pytest.approx(count / seconds / 2)
            assert values[f"prompt {name}"] == pytest.approx(1e3)
    assert not any(found.warnings)
    answered, read = found.figures
    assert [one.name for one in answered.series] == ["1 request", "2 requests"]
    for one, count in zip(answered.series, (1, 2), strict=True):
        assert one.x == [10, 100]
        assert one.y == [values[f"answer {count}x{n}_by_cpu"] for n in (10, 100)]
    assert read.series[1].y == pytest.approx([500, 500])


def test_cells_that_do_not_fit_are_left_out_and_named(clock):
    model = Cached()
    model.max_positions, model.cache_tokens = 64, 70
    found = Contexts(contexts=(20, 60, 100), batches=(1, 3), new_tokens=10).measure(model, 0)
    assert {one.name.split("_")[0] for one in found.measurements} == {"answer 1x20", "prompt 1x20"}
    assert [one.split()[0] for one in found.warnings if one] == [
        *("3x20", "1x60", "3x60", "1x100", "3x100")
    ]


def test_the_verb_draws_both_curves_of_a_real_model(llama, tmp_path, capsys):
    words = ["bench", "contexts", str(llama), str(tmp_path / "out"), "--contexts", "8", "32"]
    words += ["--batches", "1", "3", "--new-tokens", "64", "--rounds", "3", "--kv-dtype", "int8"]
    assert main(words) == 0
    result = read_result(tmp_path / "out")
    assert result.measurement("answer 3x32_by_cpu").value > 0
    assert [one.kind for one in result.figures] == ["line", "line"]
    assert "keys and values in int8" in result.notes[0]
    assert "answer 1x8" in capsys.readouterr().out


def test_prompts_that_were_computed_are_asked_again_from_the_cache(llama):
    """Or the further tokens would be what is left of two prompts."""
    from treadle.runtime import LLM
    from treadle.runtime.answering import RuntimeGenerator

    llm = LLM(llama, cache_bytes=2**20)
    assert BENCHMARKS.resolve("contexts").repeats_prompts
    Contexts(contexts=(64,), batches=(2,), new_tokens=4, rounds=3).measure(RuntimeGenerator(llm), 0)
    computed = llm._runner.num_rows
    assert computed < 2 * 64 + 10 * 2 * (16 + 4) + 20
