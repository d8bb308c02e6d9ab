"""What is refused, with what was found and the mend; and what stays when a run fails."""

from pathlib import Path

import pytest

from naive import files_of
from shrink.sparsify.runs import run
from treadle.core.errors import CapacityError, CheckpointError, DataError, SettingsError
from treadle.core.run import Recording
from treadle.shrink.sparsify import sparsify, writing


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_samples": 1}, "num_samples = 1 is too few; give at least 2"),
        ({"sample_tokens": 8}, "sample_tokens = 8 is too few"),
        ({"heldout_fraction": 0.0}, r"heldout_fraction = 0.0 is outside 0..1"),
        ({"heldout_fraction": 0.9, "num_samples": 2}, "leaves no sample of 2 to learn"),
        ({"local_tokens": 90}, "local_tokens = 90 is more than half of a sample's 96"),
        ({"target": "kv"}, "target"),
        ({"width": 3}, "has no setting 'width'"),
    ],
)
def test_settings(settings, message: str, llama: Path, text: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        run(llama, tmp_path / "out", "locret", text, **settings)
    assert not list(tmp_path.iterdir())


def test_settings_without_an_effect(llama: Path, text: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"learning_rate has no effect .* choose --form mlp"):
        run(llama, tmp_path / "out", "kvzap", text, learning_rate=0.1)


def test_places(llama: Path, text: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is the model's own folder"):
        run(llama, llama / "out", "locret", text)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(SettingsError, match="already exists; choose another folder"):
        run(llama, tmp_path / "out", "locret", text)
    with pytest.raises(SettingsError, match="is no model folder"):
        run(llama, tmp_path / "out", "locret", text, overwrite=True)
    assert files_of(tmp_path) == {"out/mine.txt": b"mine"}


def test_a_file_cannot_carry_heads(text: str, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match="is a file, and heads travel as a side file"):
        run(file, tmp_path / "out", "locret", text)


def test_a_short_text(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("One sentence. And another.\n" * 3)
    with pytest.raises(DataError, match="give more text, or fewer --sample-tokens"):
        run(llama, tmp_path / "out", "locret", str(tmp_path / "short.txt"))
    with pytest.raises(DataError, match="No text at"):
        sparsify(llama, tmp_path / "out", "locret", text=tmp_path / "none.txt")
    assert {path.name for path in tmp_path.iterdir()} == {"short.txt"}


def test_overwriting_replaces_a_model_folder(llama: Path, text: str, tmp_path: Path) -> None:
    run(llama, tmp_path / "out", "locret", text)
    before = files_of(tmp_path / "out")
    run(llama, tmp_path / "out", "locret", text, seed=1, overwrite=True)
    after = files_of(tmp_path / "out")
    assert before["model.safetensors"] == after["model.safetensors"]
    assert before["retaining-locret.safetensors"] != after["retaining-locret.safetensors"]
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_a_full_disk_leaves_the_state_of_training_and_no_output(
    llama: Path, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: Path, heads: object, policy: str) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(file))

    with monkeypatch.context() as patch:
        patch.setattr(writing, "write_heads", full)
        with pytest.raises(CapacityError, match="There is no room for"):
            run(llama, tmp_path / "out", "locret", text)
    assert {path.name for path in tmp_path.iterdir()} == {".out.sparsifying"}
    result = run(llama, tmp_path / "out", "locret", text)
    assert any("had learned the first 3 of 3 samples" in note for note in result.notes)
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_weights_that_change_meanwhile_are_noticed(
    llama: Path, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Recording.read

    def other(self, name: str, path: str, content_hash: str, role: str) -> None:
        read(self, name, path, "0" * 64 if role == "model" else content_hash, role)

    monkeypatch.setattr(Recording, "read", other)
    with pytest.raises(CheckpointError, match="changed while heads were trained on them"):
        run(llama, tmp_path / "out", "locret", text)
    assert not (tmp_path / "out").exists()
