"""What a merged folder says of how it was made."""

import json
import os
from pathlib import Path

import yaml

from combine.merge.models import run
from treadle.combine.merge import merge_yaml
from treadle.combine.merge.account import inputs_of, manifest_of
from treadle.combine.merge.inputs.models import Models
from treadle.combine.merge.recipe.references import ModelRef
from treadle.core.checkpoint import model_card
from treadle.core.run import recorded


def front_of(folder: Path) -> dict:
    return yaml.safe_load((folder / "README.md").read_text().split("---")[1])


def test_inputs_are_a_base_and_models(family, tmp_path):
    found = run(family.experts[:2], tmp_path / "out", "ties", base=family.base)
    named = {entry.name: entry.path for entry in found.inputs}
    assert named == {
        "model 1": str(family.experts[0]),
        "model 2": str(family.experts[1]),
        "base": str(family.base),
    }
    assert found.settings["base"] == str(family.base)


def test_what_is_published_names_folders_without_their_places(family, tmp_path):
    run(family.experts[:2], tmp_path / "out", "ties", base=family.base)
    provenance = json.loads((tmp_path / "out" / "treadle.json").read_text())["provenance"]
    names = [parent["name"] for parent in provenance["parents"]]
    assert sorted(names) == sorted([family.base.name, "expert1", "expert2"])
    assert provenance["settings"]["base"] == family.base.name
    assert str(family.base.parent) not in (tmp_path / "out" / "README.md").read_text()
    assert front_of(tmp_path / "out") == {
        "library_name": "transformers",
        "tags": ["treadle", "merge"],
    }


def test_hub_ids_stay_as_they_are(family, tmp_path, monkeypatch):
    os.symlink(family.base, tmp_path / "m")
    models = Models()
    opened = models[ModelRef(str(family.experts[0]))]
    opened.ref = ModelRef("org/model")
    with recorded("merge", "linear") as account:
        account.inputs += inputs_of(models.all(), None)
        manifest = manifest_of(account, models)
    models.close()
    assert [parent.name for parent in manifest.provenance.parents] == ["org/model"]
    assert "base_model:\n- org/model\n" in model_card("out", manifest.provenance)


def test_a_recipe_travels_with_its_output(family, tmp_path):
    text = f"merge_method: linear\nmodels: [{{model: {family.base}}}]\n"
    (tmp_path / "recipe.yml").write_text(text)
    merge_yaml(tmp_path / "recipe.yml", tmp_path / "out")
    assert (tmp_path / "out" / "mergekit_config.yml").read_text() == text
    manifest = json.loads((tmp_path / "out" / "treadle.json").read_text())
    assert [entry["path"] for entry in manifest["side_files"]] == [
        "result.json",
        "mergekit_config.yml",
    ]
    assert manifest["provenance"]["settings"]["recipe"] == "mergekit_config.yml"
    merge_yaml(tmp_path / "out" / "mergekit_config.yml", tmp_path / "again")
