"""The grid: its cells are those of exact, and none is asked twice."""

import json
import shutil
from pathlib import Path

import pytest

from judge.evaluate.runs import measure
from treadle.cli import main
from treadle.core.errors import CheckpointError, DataError, SettingsError
from treadle.core.result import Result, read_result
from treadle.core.skills import SkillItem
from treadle.judge.evaluate import evaluate_grid as grid
from treadle.model import tiny
from treadle.runtime import LLM, SamplingParams

DATA = ["skills:arithmetic/dev", "skills:lookup/dev"]
FEW = {"num_questions": 6, "max_tokens": 3}


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build("llama", tmp_path_factory.mktemp("grid") / "other", seed=3)


@pytest.fixture(scope="module")
def known(other: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of questions of which one model answers two in three as the file says."""
    llm, params = LLM(other), SamplingParams(temperature=0, max_tokens=3)
    prompts = ["The sky is", "def f(x):", "one two three"]
    said = [llm.generate([prompt], params)[0].outputs[0].text for prompt in prompts]
    items = [SkillItem(p, a) for p, a in zip(prompts, [*said[:2], "none of this"], strict=True)]
    file = tmp_path_factory.mktemp("known") / "known.jsonl"
    file.write_text("".join(json.dumps(item._asdict()) + "\n" for item in items))
    return str(file)


@pytest.fixture(scope="module")
def measured(llama: Path, other: Path, known: str, tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("measured") / "out"
    return out, grid([llama, other], out, data=[known], max_tokens=3, stop="")


def test_cells_are_those_of_exact_and_stand_in_figure_and_table(
    measured: tuple[Path, Result], llama: Path, other: Path, known: str, tmp_path: Path
) -> None:
    out, found = measured
    assert read_result(out) == found
    task = {"method": "exact", "max_tokens": 3, "stop": ""}
    for place, model in enumerate((llama, other)):
        alone = measure(model, tmp_path / str(place), known, task)
        expected = alone.measurement("accuracy")
        cell = found.measurement(f"{model.name} on {known}")
        assert (cell.value, cell.low, cell.high) == (expected.value, expected.low, expected.high)
        assert cell.protocol == expected.protocol
        assert found.samples[f"{model.name} on {known}"] == alone.samples["accuracy"]
        assert found.figures[0].series[place].y == [expected.value]
        assert found.tables[0].rows[place][1].value == expected.value
    assert found.measurement(f"other on {known}").value == pytest.approx(2 / 3)


def test_the_commonest_answer_is_a_row_and_who_never_beats_it_a_loss(
    measured: tuple[Path, Result], llama: Path
) -> None:
    _, found = measured
    control = found.figures[0].series[-1]
    assert (control.name, control.y) == ("commonest answer", [pytest.approx(1 / 3)])
    assert found.tables[0].rows[-1][1].value == pytest.approx(1 / 3)
    assert llama.name in (found.tables[0].losses or [])


def test_what_was_measured_is_not_asked_again(llama: Path, other: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = grid([llama], out, data=DATA[:1], **FEW)
    cell = next((out / "cells").glob("*.json"))
    said = json.loads(cell.read_text())
    cell.write_text(json.dumps(said | {"accuracy": [1.0] * 6}))
    again = grid([llama, other], out, data=DATA, overwrite=True, **FEW)
    assert again.measurement(f"{llama.name} on {DATA[0]}").value == 1.0
    assert first.measurement(f"{llama.name} on {DATA[0]}").value < 1.0
    assert len(list((out / "cells").glob("*.json"))) == 4


def test_other_weights_of_one_name_are_asked_again(
    llama: Path, other: Path, tmp_path: Path
) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    for number, source in enumerate((llama, other), 1):
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(source, model)
        grid([model], out, data=DATA[:1], overwrite=True, **FEW)
        assert len(list((out / "cells").glob("*.json"))) == number


def test_other_words_of_a_model_are_asked_again(llama: Path, known: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(llama, model)
    grid([model], tmp_path / "out", data=[known], max_tokens=3)
    (cell,) = (tmp_path / "out").rglob("*/*.json")
    file = model / "tokenizer.json"
    file.write_text(file.read_text() + "\n")
    grid([model], tmp_path / "out", data=[known], max_tokens=3, overwrite=True)
    assert {cell} < set((tmp_path / "out").rglob("*/*.json"))


def test_a_damaged_cell_is_named(llama: Path, tmp_path: Path) -> None:
    grid([llama], tmp_path / "out", data=DATA[:1], **FEW)
    cell = next((tmp_path / "out" / "cells").glob("*.json"))
    cell.write_text("{}")
    with pytest.raises(DataError, match=rf"{cell.name}.* no measurement"):
        grid([llama], tmp_path / "out", data=DATA[:1], overwrite=True, **FEW)


def test_refusals_come_before_anything_is_asked(llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(CheckpointError, match="No model folder"):
        grid([llama, tmp_path / "none"], out, data=DATA)
    with pytest.raises(DataError, match="No task file"):
        grid([llama], out, data=["none.jsonl"])
    with pytest.raises(SettingsError, match="did you mean 'json'"):
        grid([llama], out, data=["skills:jsn"])
    with pytest.raises(SettingsError, match="at least one model"):
        grid([], out, data=DATA)
    assert not out.exists()


def test_models_of_one_name_are_told_apart_from_the_command_line(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for parent in "ab":
        shutil.copytree(llama, tmp_path / parent / "same")
    models = [str(tmp_path / parent / "same") for parent in "ab"]
    out = tmp_path / "out"
    told = ["--data", *DATA, "--num-questions", "3", "--max-tokens", "2"]
    assert main(["evaluate", "grid", *models, str(out), *told]) == 0
    assert [s.name for s in read_result(out).figures[0].series][:2] == ["a/same", "b/same"]
    assert main(["evaluate", "grid", *models, str(out), *told]) == 2
    assert "--overwrite" in capsys.readouterr().err
