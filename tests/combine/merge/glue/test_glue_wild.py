"""Gluing what users have: bases among the models, copies, faults, other folders."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from combine.merge.glue.zoo_models import Zoo, data, losses_of
from combine.merge.models import arrays_of
from treadle.combine.merge import merge_glue
from treadle.combine.merge.glue.clusters import alikeness
from treadle.combine.merge.glue.items import read_items
from treadle.combine.merge.glue.writing import JOURNAL_FILE
from treadle.combine.merge.inputs.models import Models
from treadle.combine.merge.recipe.references import ModelRef
from treadle.core.errors import CheckpointError, DataError, SettingsError
from treadle.model import tiny
from treadle.runtime import LLM


def test_a_model_alone_is_itself_whatever_the_method_does_to_changes(
    zoo: Zoo, llama: Path, tmp_path: Path
):
    """TIES trims; a single model, as a row of the table or as an expert, is not trimmed."""
    how = {"method": "ties", "density": 0.1}
    out = tmp_path / "out"
    merge_glue(zoo.kin[:2], out, data=data(zoo), base=llama, how=how, by="uniform")
    lines = [json.loads(line) for line in (out / JOURNAL_FILE).read_text().splitlines()[1:]]
    alone = next(one for one in lines if one["weights"] == [[1.0, 0.0]])
    for one in read_items(data(zoo), None, 0, 64).dev:
        found = losses_of(zoo.kin[0], one.items)
        assert found == pytest.approx(alone["losses"][one.content_hash], rel=1e-5)


def test_a_base_that_is_listed_too_is_no_part_of_the_merge(zoo: Zoo, llama: Path, tmp_path: Path):
    found = merge_glue(
        [*zoo.kin[:2], llama],
        tmp_path / "out",
        data=data(zoo),
        base=llama,
        how="ties",
        by="average",
    )
    assert f"'{llama}' is the base, so it is no part of a merge." in found.notes


def test_nothing_that_is_read_is_overwritten(zoo: Zoo, llama: Path, tmp_path: Path):
    out = tmp_path / "out"
    shutil.copytree(llama, out)
    questions = shutil.copy(zoo.questions[0], out / "q.jsonl")
    for given in (
        {"base": out, "how": "ties", "data": data(zoo)},
        {"data": [str(questions)]},
        {"data": data(zoo)[:1], "test": [str(questions)]},
    ):
        with pytest.raises(SettingsError, match="which is read, are one place"):
            merge_glue(zoo.kin[:2], out, overwrite=True, **given)
    with pytest.raises(SettingsError, match="which is read, are one place"):
        merge_glue([zoo.kin[0], out], out, data=data(zoo), overwrite=True)
    assert np.array_equal(*(arrays_of(one)["model.norm.weight"] for one in (out, llama)))


def test_one_that_cannot_be_asked_is_left_out(zoo: Zoo, llama: Path, tmp_path: Path):
    mute = tmp_path / "mute"
    shutil.copytree(zoo.kin[2], mute)
    for file in mute.glob("tokenizer*"):
        file.unlink()
    short = tiny.build("llama", tmp_path / "short", seed=9, max_position_embeddings=4)
    found = merge_glue(
        [*zoo.kin[:2], mute, short], tmp_path / "out", data=data(zoo), by="uniform", mix=False
    )
    assert any(f"Left out: '{mute}' cannot be read" in note for note in found.notes)
    assert any(f"Left out: {short} cannot be asked" in note for note in found.notes)


def test_a_copy_is_left_out(zoo: Zoo, tmp_path: Path):
    shutil.copytree(zoo.kin[0], tmp_path / "copy")
    models = [*zoo.kin[:2], tmp_path / "copy"]
    found = merge_glue(models, tmp_path / "out", data=data(zoo), by="uniform")
    assert any("has the very weights of" in note for note in found.notes)


def test_a_search_goes_on_wherever_its_models_lie(zoo: Zoo, tmp_path: Path, monkeypatch):
    journals = []
    for name, models in (
        ("here", zoo.kin[:2]),
        ("there", [Path(os.path.relpath(one)) for one in zoo.kin[:2]]),
    ):
        by = {"method": "random_weights", "num_candidates": 2}
        merge_glue(models, tmp_path / name, data=data(zoo), by=by)
        journals.append((tmp_path / name / JOURNAL_FILE).read_text())
    assert journals[0].split("\n")[1:] == journals[1].split("\n")[1:]


def test_a_failed_search_without_trials_leaves_nothing(zoo: Zoo, tmp_path: Path):
    by = {"method": "cmaes", "num_groups": 9, "warm": False}
    with pytest.raises((SettingsError, DataError)):
        merge_glue(zoo.kin[:2], tmp_path / "out", data=[], by=by)
    with pytest.raises(SettingsError):
        merge_glue(zoo.kin[:2], tmp_path / "out", data=data(zoo), dtype="int8")
    assert list(tmp_path.iterdir()) == []


def test_a_question_that_stands_twice_counts_once_and_on_one_side(tmp_path: Path):
    rows = [{"prompt": f"q {n % 5} ", "answer": str(n)} for n in range(10)]
    file = tmp_path / "twice.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    items = read_items([str(file)], None, 0, None)
    assert len(items.dev[0].items) + len(items.test[0].items) == 5
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"query": "q  1", "choices": ["a", "b"], "gold": 0}) + "\n")
    with pytest.raises(DataError, match="is searched on, too"):
        read_items([str(file)], [str(other)], 0, None)


def test_a_bundle_whose_names_do_not_fit_is_refused(bundle: Path, tmp_path: Path):
    shutil.copytree(bundle, tmp_path / "b")
    routing = tmp_path / "b" / "routing.json"
    said = json.loads(routing.read_text())
    said["experts"] = said["experts"][::-1]
    routing.write_text(json.dumps(said))
    with pytest.raises(CheckpointError, match="each was expected once and in one order"):
        LLM(tmp_path / "b")
    assert (bundle / "router.safetensors").stat().st_mode & 0o044


def test_likeness_is_the_cosine_of_all_weights_as_one_vector(zoo: Zoo):
    opened = Models()
    models = [opened[ModelRef(str(one))] for one in (zoo.kin[0], zoo.kin[2], zoo.foreign)]
    flat = [
        np.concatenate([array.ravel() for _, array in sorted(arrays_of(one).items())]).astype(float)
        for one in (zoo.kin[0], zoo.kin[2], zoo.foreign)
    ]
    wanted = [[a @ b / np.sqrt((a @ a) * (b @ b)) for b in flat] for a in flat]
    assert alikeness(models) == pytest.approx(np.array(wanted), abs=1e-5)
    opened.close()


def test_a_stretched_context_is_asked_to_its_end(zoo: Zoo, tmp_path: Path):
    """Where rotary factors stretch a short first training, items may be as long as is stretched."""
    rope = {"rope_type": "dynamic", "factor": 8.0, "rope_theta": 10000.0}
    sizes = {"max_position_embeddings": 8, "rope_parameters": rope}
    models = [tiny.build("llama", tmp_path / f"long{n}", seed=n, **sizes) for n in (1, 2)]
    found = merge_glue(models, tmp_path / "out", data=data(zoo)[1:], by="uniform")
    assert not any("cannot be asked" in note for note in found.notes)
