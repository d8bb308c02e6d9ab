"""The driver: comparisons only under one protocol, results kept, bad input named."""

import json
import shutil
from pathlib import Path

import pytest

from judge.evaluate.runs import SMALL, measure
from naive import files_of
from treadle.core.checkpoint import CheckpointReader
from treadle.core.errors import CheckpointError, DataError, SettingsError
from treadle.judge.evaluate import TASKS
from treadle.shrink.prune import prune


@pytest.mark.parametrize(
    ("change", "keys"),
    [
        ({"num_windows": 4}, ["num_bytes", "num_tokens", "num_windows"]),
        ({"window_tokens": 21}, ["length_tokens", "num_bytes", "num_tokens", "stride_tokens"]),
    ],
)
def test_another_protocol_is_refused(
    change: dict, keys: list[str], llama: Path, text: str, tmp_path: Path
) -> None:
    measure(llama, tmp_path / "base", text)
    with pytest.raises(SettingsError) as caught:
        measure(llama, tmp_path / "mine", text, {**SMALL, **change}, baseline=tmp_path / "base")
    expected = f"was measured under another protocol (they differ in {', '.join(keys)});"
    assert expected in str(caught.value)
    assert not (tmp_path / "mine").exists()


def test_another_text_is_refused(llama: Path, text: str, tmp_path: Path) -> None:
    other_text = tmp_path / "other.txt"
    other_text.write_text(Path(text).read_text()[::-1])
    measure(llama, tmp_path / "base", str(other_text))
    with pytest.raises(SettingsError, match=r"they differ in corpus, corpus_sha256"):
        measure(llama, tmp_path / "mine", text, baseline=tmp_path / "base")


def test_a_baseline_that_is_no_evaluation(llama: Path, text: str, tmp_path: Path) -> None:
    from treadle import prune

    prune(llama, tmp_path / "pruned", "magnitude", sparsity=0.5)
    with pytest.raises(DataError, match="is a result of 'prune', not of evaluate"):
        measure(llama, tmp_path / "mine", text, baseline=tmp_path / "pruned")
    with pytest.raises(DataError, match="No result at"):
        measure(llama, tmp_path / "mine", text, baseline=tmp_path / "nowhere")


def test_a_baseline_that_was_changed(llama: Path, text: str, tmp_path: Path) -> None:
    measure(llama, tmp_path / "base", text)
    file = tmp_path / "base" / "result.json"
    sound = json.loads(file.read_text())

    def refused(says: str, **change: object) -> None:
        file.write_text(json.dumps(sound | change))
        with pytest.raises(DataError, match=says) as found:
            measure(llama, tmp_path / "mine", text, baseline=file)
        assert str(file) in str(found.value)

    losses, nan = sound["samples"]["nll"], float("nan")
    refused(r"has 0 samples of nll .*but 5 are compared", samples={})
    refused(r"has 4 samples of nll", samples={"nll": losses[1:]})
    refused(r"1 of them not a number", samples={"nll": [nan, *losses[1:]]})
    for key in sound["protocol"].keys() - {"hash", "corpus"}:
        refused(rf"another protocol \({key}\)", protocol=sound["protocol"] | {key: 7})
    refused(r"\(more\)", protocol=sound["protocol"] | {"more": 1})
    file.write_text(json.dumps(sound | {"protocol": sound["protocol"] | {"corpus": "moved"}}))
    found = measure(llama, tmp_path / "same", text, baseline=file)
    assert found.measurement("perplexity_ratio").value == 1.0


def test_an_existing_result_is_kept(llama: Path, text: str, tmp_path: Path) -> None:
    measure(llama, tmp_path, text)
    before = files_of(tmp_path)
    with pytest.raises(SettingsError, match="holds a result already; pass --overwrite"):
        measure(llama, tmp_path, text, {**SMALL, "num_windows": 2})
    assert files_of(tmp_path) == before
    measure(llama, tmp_path, text, {**SMALL, "num_windows": 2}, overwrite=True)
    assert files_of(tmp_path) != before


def test_bad_input(llama: Path, text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No text at 'no\.txt'"):
        measure(llama, tmp_path, "no.txt")
    with pytest.raises(DataError, match="windows of 100 tokens, but 500 were asked for"):
        measure(llama, tmp_path, text, {**SMALL, "num_windows": 500, "window_tokens": 100})
    with pytest.raises(CheckpointError, match="No model folder"):
        measure(tmp_path / "nowhere", tmp_path, text)
    with pytest.raises(SettingsError, match="window_tokens = 1 is refused"):
        TASKS.resolve({**SMALL, "window_tokens": 1})
    with pytest.raises(SettingsError, match=r"task 'perplexty'\. Did you mean 'perp"):
        TASKS.resolve("perplexty")
    assert not list(tmp_path.iterdir())


def test_the_model_is_not_touched(llama: Path, text: str, tmp_path: Path) -> None:
    model = Path(shutil.copytree(llama, tmp_path / "m"))
    before = files_of(model)
    measure(model, tmp_path / "out", text)
    assert files_of(model) == before


def test_zeros_of_the_model_are_counted(llama: Path, text: str, tmp_path: Path) -> None:
    prune(llama, tmp_path / "pruned", "magnitude", sparsity=0.25)
    with CheckpointReader(tmp_path / "pruned") as reader:
        arrays = [reader.array(name).astype("float32") for name in reader.tensors]
    expected = sum(int((array == 0).sum()) for array in arrays)
    found = measure(tmp_path / "pruned", tmp_path / "out", text)
    assert found.bytes["zeros"] == 4 * expected > 0
    assert found.bytes["input"] == sum(4 * array.size for array in arrays)


def test_the_table_names_its_tasks() -> None:
    import treadle.judge.evaluate.methods as methods

    files = {p.stem for p in Path(str(methods.__file__)).parent.glob("[!_]*.py")}
    assert set(TASKS.table) == files
    for name in TASKS.table:
        assert TASKS[name].name == name
        assert TASKS.resolve(TASKS.resolve(name).settings()) == TASKS.resolve(name)
