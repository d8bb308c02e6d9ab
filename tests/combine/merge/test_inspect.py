"""What inspect says of models, against what is true of them."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from combine.merge.models import arrays_of, variant
from treadle.combine.merge import merge_inspect
from treadle.core.errors import CheckpointError, SettingsError
from treadle.core.result import read_result


def flat(folder: Path) -> np.ndarray:
    return np.concatenate([a.reshape(-1) for a in arrays_of(folder).values()]).astype(np.float64)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_cosines_are_those_of_all_weights_together(family, tmp_path):
    found = merge_inspect(family.experts, base=family.base, out=tmp_path / "out")
    base = flat(family.base)
    for left, right in itertools.combinations(family.experts, 2):
        pair = f"{left.name} : {right.name}"
        expected = cosine(flat(left), flat(right))
        assert found.measurement(f"weight cosine {pair}").value == pytest.approx(expected, rel=1e-5)
        deltas = cosine(flat(left) - base, flat(right) - base)
        assert found.measurement(f"task vector cosine {pair}").value == pytest.approx(
            deltas, abs=1e-4
        )
    together = sum(flat(e) - base for e in family.experts)
    alone = sum(np.abs(flat(e) - base) for e in family.experts)
    expected = 1 - np.abs(together).sum() / alone.sum()
    assert found.measurement("cancelled").value == pytest.approx(expected, rel=1e-4)
    assert read_result(tmp_path / "out") == found
    kinds = [figure.kind for figure in found.figures]
    assert kinds == ["heatmap"] * 3
    assert [series.name for series in found.figures[2].series][1:3] == ["layer 0", "layer 1"]


def test_independent_changes_conflict_by_chance(family):
    found = merge_inspect(family.experts[:2], base=family.base)
    assert found.measurement("sign conflict").value == pytest.approx(0.5, abs=0.05)
    assert "as good as independent" in found.notes[-1]


def test_opposed_and_equal_changes_are_told_apart(llama, tmp_path):
    same = [variant(llama, tmp_path / f"same{n}", 1, scale=0.1 + 0.05 * n) for n in range(2)]
    found = merge_inspect(same, base=llama)
    assert found.measurement("sign conflict").value == 0.0
    assert "point the same way" in found.notes[-1]
    opposed = [variant(llama, tmp_path / "up", 1), variant(llama, tmp_path / "down", 1, scale=-0.1)]
    found = merge_inspect(opposed, base=llama)
    assert found.measurement("sign conflict").value == pytest.approx(1.0)
    assert "unlearn each other" in found.notes[-1]


def test_strangers_are_named(llama, tiny_model, tmp_path):
    stranger = variant(llama, tmp_path / "stranger", 5, scale=30.0)
    assert "hardly stem from one base" in merge_inspect([llama, stranger]).notes[-1]
    wider = merge_inspect([llama, tiny_model("llama", intermediate_size=112)])
    assert "of shapes [64, 96] and [64, 112]" in wider.notes[0]
    assert "sizes differ" in wider.notes[-1]


def test_other_tokens_are_counted(llama, tmp_path):
    other = Path(shutil.copytree(llama, tmp_path / "other"))
    file = other / "tokenizer.json"
    document = json.loads(file.read_text())
    word, place = list(document["model"]["vocab"].items())[50]
    del document["model"]["vocab"][word]
    document["model"]["vocab"]["treadle"] = place
    document["model"]["merges"] = []
    file.write_text(json.dumps(document))
    notes = merge_inspect([llama, other]).notes
    assert any("has 1 token that the first model's lacks, lacks 1" in note for note in notes)


def test_layers_are_in_order_and_measures_share_a_scale(tiny_model, tmp_path):
    base = tiny_model("llama", num_hidden_layers=12, hidden_size=16, intermediate_size=16)
    experts = [variant(base, tmp_path / f"e{seed}", seed) for seed in (1, 2)]
    found = merge_inspect(experts, base=base)
    figure = found.figures[2]
    names = [series.name for series in figure.series]
    layers = [f"layer {number}" for number in range(12)]
    assert names == ["model.embed_tokens", *layers, "model.norm"]
    assert all(0.0 <= value <= 1.0 for series in figure.series for value in series.y)
    assert "by chance 0.5" in found.measurement("sign conflict").note
    assert "lost when the changes" in found.measurement("cancelled").note
    assert merge_inspect.__doc__ is not None
    assert "contested if" in merge_inspect.__doc__


def test_other_numbers_of_tokens_are_no_other_size(llama, tiny_model):
    larger = tiny_model("llama", vocab_size=336, tie_word_embeddings=True)
    notes = merge_inspect([llama, larger]).notes
    assert any("merge with --tokenizer union" in note for note in notes)
    assert not any("sizes differ" in note for note in notes)


def test_identical_models_are_called_so(llama, family, tmp_path):
    same = Path(shutil.copytree(llama, tmp_path / "same"))
    notes = merge_inspect([llama, same]).notes
    assert any("are identical: every weight is equal" in note for note in notes)
    assert "nothing to merge" in notes[-1]
    notes = merge_inspect([same, family.experts[0]], base=llama).notes
    assert any("and the base " in note and "identical" in note for note in notes)


def test_tokens_behind_the_last_row_do_not_count(llama, tmp_path):
    other = Path(shutil.copytree(llama, tmp_path / "other"))
    file = other / "tokenizer.json"
    document = json.loads(file.read_text())
    extra = {**document["added_tokens"][0], "id": 5000, "content": "<|far|>"}
    document["added_tokens"].append(extra)
    file.write_text(json.dumps(document))
    assert not any("tokenizer" in note for note in merge_inspect([llama, other]).notes)


def test_without_a_folder_nothing_is_written(family, capsys):
    from treadle.cli import main

    assert merge_inspect(family.experts).output == ""
    assert main(["merge", "inspect", *map(str, family.experts)]) == 0
    assert "written" not in capsys.readouterr().out


def test_mistakes_are_named(llama, tiny_model):
    with pytest.raises(SettingsError, match="at least two"):
        merge_inspect([llama])
    with pytest.raises(CheckpointError, match="no tensor of one name"):
        merge_inspect([llama, tiny_model("gpt2")])
