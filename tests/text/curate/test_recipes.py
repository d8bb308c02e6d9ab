"""The recipes run from end to end on a few documents of their kind."""

from pathlib import Path

import pytest
import yaml
from tests.text.curate import corpora
from tests.text.curate.test_rules import CHINESE, GOOD

from treadle.core.ledger import open_ledger
from treadle.model import tiny
from treadle.recipe import load_recipe, run_recipe

RECIPES = Path(__file__).parents[3] / "recipes"


def changed(tmp_path, name, **changes):
    """Return a recipe with other artefacts, and other settings where a step has them."""
    document = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    document["artefacts"] = {key: str(tmp_path / "data.jsonl") for key in document["artefacts"]}
    for step in document["steps"]:
        settings = step["curate"]
        settings.update({key: value for key, value in changes.items() if key in settings})
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def run(tmp_path, name, texts, **changes):
    rows = [{"id": f"d{n}", "text": text} for n, text in enumerate(texts)]
    corpora.write_lines(tmp_path / "data.jsonl", rows)
    list(run_recipe(changed(tmp_path, name, **changes), out=tmp_path / "out"))
    return tmp_path / "out"


@pytest.mark.slow  # jieba's words and the language model
@pytest.mark.parametrize(("name", "good"), [("map-cc", CHINESE), ("fineweb-like", GOOD)])
def test_pages_are_cleaned(tmp_path, name, good):
    repeated = good + "\n" + good[: len(good) // 8]
    texts = [good, good, "buy now " * 60, "短", good.replace("中", "国"), repeated]
    out = run(tmp_path, name, texts)
    kept = {row["id"] for row in corpora.kept(out / "corpus")}
    assert len(kept) == 1
    assert not kept & {"d2", "d3"}


def test_data_is_packed_and_replayed(tmp_path):
    tiny.tokenizer(tmp_path / "tokenizer")
    texts = [str(row["text"]) for row in corpora.records(40)]
    changes = {"tokenizer": str(tmp_path / "tokenizer"), "seq_len": 32, "rows": 8}
    out = run(tmp_path, "pythia-data", texts, **changes)
    ledger = open_ledger(out / "packed")
    assert ledger.order.seed == 1234
    assert (out / "first-steps" / "digests.parquet").is_file()


@pytest.mark.slow
def test_curated_text_is_tried_beside_raw_text(tmp_path):
    recipe = load_recipe(RECIPES / "corpus.yaml", tmp_path / "out")
    assert recipe.steps[-1].out == "trial"
    document = yaml.safe_load((RECIPES / "corpus.yaml").read_text())
    document["artefacts"] = {"machine": "stdlib:sources"}
    small = {"steps": 2, "num_seeds": 1, "hidden": 32, "layers": 1, "heldout_rows": 8}
    document["steps"][-1]["curate"] |= small
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(document))
    assert len(list(run_recipe(path, out=tmp_path / "out"))) == len(recipe.steps)
    found = corpora.kept(tmp_path / "out" / "curated")
    assert 0 < len(found) < len(corpora.kept(tmp_path / "out" / "raw"))
