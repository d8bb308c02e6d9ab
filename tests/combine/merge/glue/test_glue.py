"""A zoo becomes one model: clusters, the search, the claim, the journal, the bundle."""

import inspect
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from combine.merge.glue.zoo_models import Zoo, data, losses_of, value
from combine.merge.models import arrays_of
from treadle.combine.merge import merge_glue, merge_yaml
from treadle.combine.merge.glue.found import ClusterChoice, ScoredMerge
from treadle.combine.merge.glue.items import Item, Items, ItemSet, read_items
from treadle.combine.merge.glue.mixing import choose_mixture
from treadle.combine.merge.glue.trials import Settled, score_of
from treadle.combine.merge.glue.writing import JOURNAL_FILE
from treadle.combine.merge.tables import METHODS
from treadle.core.checkpoint import read_manifest
from treadle.core.checkpoint.routed import EXPERTS
from treadle.core.errors import CheckpointError, DataError, SettingsError, UnsupportedModelError
from treadle.core.result import read_result
from treadle.core.skills import parse_skill, skill_items
from treadle.judge.bench import bench
from treadle.judge.evaluate import evaluate
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.routed.llm import RoutedLLM


@pytest.fixture(scope="session")
def glued(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("glued") / "out"
    merge_glue([*zoo.kin, zoo.foreign], out, data=data(zoo), same_ancestor=0.5, mix=False)
    return out


def test_clusters_isolate_the_foreign_model(glued: Path, zoo: Zoo):
    notes = read_result(glued).notes
    assert any(note.startswith("Cluster 1: ") and "kin3" in note for note in notes)
    assert any(note == f"Cluster 2: {zoo.foreign}." for note in notes)


def test_the_choice_is_no_worse_than_the_best_single_model_where_it_was_searched(glued: Path):
    result = read_result(glued)
    assert value(result, "best_merge_dev") <= value(result, "best_single_dev")
    assert result.measurement("best_merge_difference").comparison is not None


def test_the_output_is_a_plain_model_that_its_flat_recipe_makes_again(glued: Path, tmp_path: Path):
    merge_yaml(glued / "mergekit_config.yml", tmp_path / "again")
    ours, again = arrays_of(glued), arrays_of(tmp_path / "again")
    assert ours.keys() == again.keys()
    assert all(np.array_equal(ours[name], again[name]) for name in ours)
    manifest = read_manifest(glued)
    assert manifest is not None
    assert {one.kind for one in manifest.side_files} == {"result", "recipe", "journal"}
    assert not any(one.required for one in manifest.side_files)


def test_what_was_searched_is_what_was_written(glued: Path, zoo: Zoo):
    """The claim of the search is what evaluate finds on the folder: candidates are no stand-ins."""
    models = yaml.safe_load((glued / "mergekit_config.yml").read_text())["models"]
    asked = {one["model"]: one["parameters"]["weight"] for one in models}
    cluster = zoo.kin if str(zoo.foreign) not in asked else [zoo.foreign]
    wanted = [asked.get(str(model), 0.0) for model in cluster]
    lines = [json.loads(line) for line in (glued / JOURNAL_FILE).read_text().splitlines()[1:]]
    tried = next(one for one in lines if one["weights"] == [wanted])
    for one in read_items(data(zoo), None, 0, 64).dev:
        found = losses_of(glued, one.items)
        # Which other rows share a batch moves the last digits.
        assert found == pytest.approx(tried["losses"][one.content_hash], rel=1e-5)


def test_the_seed_and_the_models_decide_all_bytes(glued: Path, zoo: Zoo, tmp_path: Path):
    again = tmp_path / "again"
    merge_glue([*zoo.kin, zoo.foreign], again, data=data(zoo), same_ancestor=0.5, mix=False)
    ours, theirs = arrays_of(glued), arrays_of(again)
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    lines = [(place / JOURNAL_FILE).read_text() for place in (glued, again)]
    assert lines[0] == lines[1]


def test_a_killed_search_goes_on_from_its_journal(glued: Path, zoo: Zoo, tmp_path: Path):
    out = tmp_path / "out"
    beside = tmp_path / ".out.glue"
    beside.mkdir()
    whole = (glued / JOURNAL_FILE).read_text().splitlines(keepends=True)
    torn = "".join(whole[: len(whole) // 2]) + whole[len(whole) // 2][:20]
    (beside / "journal.jsonl").write_text(torn)
    result = merge_glue([*zoo.kin, zoo.foreign], out, data=data(zoo), same_ancestor=0.5, mix=False)
    assert result.is_resumed
    assert 0 < value(result, "trials") < value(read_result(glued), "trials")
    assert (out / JOURNAL_FILE).read_text() == "".join(whole)
    assert not beside.exists()


def test_a_journal_of_another_search_is_refused(zoo: Zoo, tmp_path: Path):
    beside = tmp_path / ".out.glue"
    beside.mkdir()
    trial = '{"cluster": "c", "weights": [[1.0]], "losses": {"items": [1.0]}}\n'
    (beside / "journal.jsonl").write_text('{"search": "another"}\n' + trial)
    with pytest.raises(SettingsError, match="journal of another search"):
        merge_glue(zoo.kin[:2], tmp_path / "out", data=data(zoo))
    assert (beside / "journal.jsonl").read_text() == '{"search": "another"}\n' + trial
    merge_glue(zoo.kin[:2], tmp_path / "out", data=data(zoo), by="uniform", overwrite=True)


def test_a_bundle_sends_each_text_to_the_model_that_answers_it_best(bundle: Path):
    result = read_result(bundle)
    assert value(result, "mixture_test") < value(result, "best_single_test")
    llm = LLM(bundle)
    names = list(llm.experts)
    assert llm.route(["3+4=", "after with comes:"]) == names


def test_a_bundle_answers_as_its_models_do(bundle: Path):
    llm = LLM(bundle)
    prompts = ["3+4=", "after with comes:", "8+9="]
    params = SamplingParams(max_tokens=4, temperature=0.0)
    answers = [one.outputs[0].token_ids for one in llm.generate(prompts, params)]
    for prompt, name, answer in zip(prompts, llm.route(prompts), answers, strict=True):
        alone = LLM(bundle / EXPERTS / name)
        assert alone.generate(prompt, params)[0].outputs[0].token_ids == answer


def test_a_bundle_answers_for_every_method_of_the_python_door(bundle: Path):
    """What is inherited would look for one engine's state: only what asks the others may be."""
    shown = {n for kind in LLM.__mro__[:-1] for n in vars(kind) if not n.startswith("_")}
    assert shown - vars(RoutedLLM).keys() == {"generate", "chat", "stream"}
    llm = LLM(bundle)
    (request,) = llm.submit("3+4=", SamplingParams(max_tokens=2, temperature=0.0))
    for refused in (
        lambda: llm.commit(request.id),
        lambda: llm.export_pages(request.id),
        lambda: llm.import_pages(None),
        lambda: llm.origin,
        llm.load_report,
        llm.get_tokenizer,
        lambda: llm.embed("a"),
        lambda: llm.add_adapter("a", bundle),
    ):
        with pytest.raises(SettingsError, match="A bundle of several models"):
            refused()
    llm.close([request])


def test_what_is_no_path_is_refused_as_before():
    with pytest.raises(SettingsError, match="path"):
        LLM(5)


def test_the_python_door_says_what_it_takes_as_before():
    assert list(inspect.signature(LLM).parameters)[:2] == ["path", "adapters"]
    assert "max_num_seqs" in inspect.signature(LLM).parameters


def test_a_bundle_can_be_evaluated_by_its_answers(bundle: Path, zoo: Zoo, tmp_path: Path):
    found = evaluate(bundle, tmp_path / "e", "exact", data=str(zoo.questions[0]))
    assert 0 <= value(found, "accuracy") <= 1


def test_others_refuse_a_bundle_instead_of_computing_something_else(bundle: Path, tmp_path: Path):
    from transformers import AutoConfig

    with pytest.raises(ValueError, match="treadle_routed"):
        AutoConfig.from_pretrained(bundle)
    with pytest.raises(UnsupportedModelError, match="bundle of several models"):
        evaluate(bundle, tmp_path / "e", "perplexity", data="stdlib:heldout")
    with pytest.raises(UnsupportedModelError, match="bundle of several models"):
        evaluate(bundle, tmp_path / "e", "perplexity", data="stdlib:heldout", through="runtime")
    with pytest.raises(UnsupportedModelError, match="bundle of several models"):
        bench(bundle, tmp_path / "b", {"method": "latency", "rounds": 1})
    for name in LLM(bundle).experts:
        assert (bundle / EXPERTS / name / "model.safetensors").is_file()


def test_ties_needs_its_base_and_leaves_the_foreign_model_alone(
    zoo: Zoo, llama: Path, tmp_path: Path
):
    result = merge_glue(
        [*zoo.kin[:2], zoo.foreign],
        tmp_path / "out",
        data=data(zoo),
        base=llama,
        how={"method": "ties", "density": 0.5},
        by="average",
        same_ancestor=0.5,
        mix=False,
    )
    recipe = yaml.safe_load((tmp_path / "out" / "mergekit_config.yml").read_text())
    assert recipe["merge_method"] in ("ties", "linear")
    assert result.settings["how"]["density"] == [0.5]
    with pytest.raises(SettingsError, match="name it with --base"):
        merge_glue(zoo.kin, tmp_path / "none", data=data(zoo), how="ties")


def test_a_method_that_looks_at_whole_models_is_searched_as_it_is_written(
    zoo: Zoo, llama: Path, tmp_path: Path
):
    how = {"method": "ties", "density": 0.2, "scope": "model"}
    out = tmp_path / "out"
    merge_glue(zoo.kin[:2], out, data=data(zoo), base=llama, how=how, by="uniform")
    lines = [json.loads(line) for line in (out / JOURNAL_FILE).read_text().splitlines()[1:]]
    tried = next(one for one in lines if one["weights"] == [[0.5, 0.5]])
    for one in read_items(data(zoo), None, 0, 64).dev:
        found = losses_of(out, one.items)
        assert found == pytest.approx(tried["losses"][one.content_hash], rel=1e-5)


def test_groups_of_layers_are_slices_of_the_recipe(zoo: Zoo, tmp_path: Path):
    by = {"method": "cmaes", "num_groups": 2, "num_candidates": 4, "population": 2, "warm": False}
    merge_glue(zoo.kin[:2], tmp_path / "out", data=data(zoo), by=by, same_ancestor=0.5)
    recipe = yaml.safe_load((tmp_path / "out" / "mergekit_config.yml").read_text())
    if "slices" in recipe:
        assert [s["sources"][0]["layer_range"] for s in recipe["slices"]] == [[0, 1], [1, 2]]
    merge_yaml(tmp_path / "out" / "mergekit_config.yml", tmp_path / "again")
    ours, again = arrays_of(tmp_path / "out"), arrays_of(tmp_path / "again")
    assert all(np.array_equal(ours[name], again[name]) for name in ours)


def test_whoever_cannot_be_read_is_left_out_and_named(zoo: Zoo, tmp_path: Path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": "llama"}')
    (broken / "model.safetensors").write_bytes(b"\0" * 10)
    result = merge_glue(
        [zoo.kin[0], broken, zoo.kin[1]], tmp_path / "out", data=data(zoo), by="uniform"
    )
    assert any(f"Left out: '{broken}'" in note for note in result.notes)
    with pytest.raises(CheckpointError):
        merge_glue([broken, tmp_path / "nowhere"], tmp_path / "none", data=data(zoo))


def test_items_on_both_sides_are_refused(zoo: Zoo, tmp_path: Path):
    with pytest.raises(DataError, match="is searched on, too"):
        merge_glue(zoo.kin, tmp_path / "out", data=data(zoo), test=[data(zoo)[0]])
    assert not (tmp_path / "out").exists()


def test_skills_bring_their_own_splits():
    items = read_items(["skills:json"], None, 0, 16)
    assert len(items.dev[0].items) == 16
    known = {one.prompt for one in skill_items(parse_skill("skills:json/dev", "dev"))}
    drawn = [one.prompt for one in items.dev[0].items]
    assert len(set(drawn)) == 16
    assert set(drawn) < known
    assert drawn != [one.prompt for one in read_items(["skills:json"], None, 1, 16).dev[0].items]
    assert len(items.test[0].items) == 500


def test_methods_without_weights_are_refused_by_name(zoo: Zoo, tmp_path: Path):
    with pytest.raises(SettingsError, match="with a weight for each"):
        merge_glue(zoo.kin, tmp_path / "out", data=data(zoo), how="karcher")
    with pytest.raises(SettingsError, match="two models or more"):
        merge_glue(zoo.kin[:1], tmp_path / "out", data=data(zoo))
    with pytest.raises(SettingsError, match="is named twice"):
        merge_glue([zoo.kin[0], zoo.kin[0]], tmp_path / "out", data=data(zoo))


def scored(name: str, weights: list[float], losses: list[list[float]]) -> ScoredMerge:
    sets = [np.array(one) for one in losses]
    return ScoredMerge(name, np.array([weights]), sets, sets)


def test_models_that_were_dropped_but_are_best_at_something_join_the_mixture():
    """Two tasks that no merge does at once: the merge serves the third, each specialist its own."""
    good, bad, fair = [0.1, 0.1], [9.0, 9.0], [1.0, 1.0]
    part = ClusterChoice(
        SimpleNamespace(),
        [
            scored("a", [1, 0, 0], [good, bad, bad]),
            scored("b", [0, 1, 0], [bad, good, bad]),
            scored("idle", [0, 0, 1], [bad, bad, bad]),
        ],
        None,
        scored("chosen", [0.5, 0.5, 0], [fair, fair, fair]),
        True,
    )
    prompts = ["add one", "spell it", "name him"]
    sets = [
        ItemSet(prompt, [Item(f"{prompt} {n}", ("x",)) for n in range(2)]) for prompt in prompts
    ]
    settled = Settled(METHODS.resolve("linear"), None, None, "nats", 0)
    found = choose_mixture([part], Items(sets, sets), settled, 8)
    assert found is not None
    assert {one.name for one in found.experts} == {"merge-1", "a", "b"}
    assert score_of(found.test, "nats") == pytest.approx(0.4)
    two = choose_mixture([part], Items(sets, sets), settled, 2)
    assert two is not None
    assert len(two.experts) == 2
    assert choose_mixture([part], Items(sets, sets), settled, 1) is None
