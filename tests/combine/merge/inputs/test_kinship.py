"""Strangers are told from kin, and the merge says so."""

from pathlib import Path

import pytest

from combine.merge.models import variant
from treadle.combine.merge import merge, merge_conflict, merge_moe
from treadle.combine.merge.conflict.apply import _ANCESTOR
from treadle.model import tiny


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build("llama", tmp_path_factory.mktemp("stranger") / "other", seed=9)


def said(notes: list[str]) -> list[str]:
    return [note for note in notes if _ANCESTOR in note]


@pytest.mark.parametrize("scale", [0.1, 0.7])
def test_kin_are_merged_without_a_word(llama: Path, tmp_path: Path, scale):
    models = [variant(llama, tmp_path / f"m{n}", n, scale) for n in (1, 2)]
    assert not said(merge(models, tmp_path / "out", "linear").notes)
    assert not said(merge(models, tmp_path / "ties", "ties", density=0.5, base=llama).notes)
    assert not said(merge_moe(models, tmp_path / "moe", router="random").notes)
    assert not said(merge_conflict(models, tmp_path / "b", base=llama).notes)


def test_strangers_are_named_once(llama: Path, stranger: Path, tmp_path: Path):
    kin = variant(llama, tmp_path / "kin", 1)
    both = [kin, stranger]
    notes = {
        "linear": merge(both, tmp_path / "linear", "linear").notes,
        "base": merge([kin], tmp_path / "base", "ties", density=0.5, base=stranger).notes,
        "moe": merge_moe(both, tmp_path / "moe", router="random").notes,
        "moe of a base": merge_moe(both, tmp_path / "of", base=llama, router="random").notes,
        "conflict": merge_conflict(both, tmp_path / "b", base=llama).notes,
    }
    for name, own in notes.items():
        (note,) = said(own)
        assert str(stranger) in note, name
