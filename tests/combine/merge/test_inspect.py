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
    assert any("has 1 tokens that the first model's lacks, lacks 1" in note for note in notes)


def test_mistakes_are_named(llama, tiny_model):
    with pytest.raises(SettingsError, match="at least two"):
        merge_inspect([llama])
    with pytest.raises(CheckpointError, match="no tensor of one name"):
        merge_inspect([llama, tiny_model("gpt2")])
