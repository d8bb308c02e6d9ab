"""The verb through its doors, on tiny models and on files."""

import json

import pytest

from learn.plan.graphs import training_step
from treadle.cli import main
from treadle.core.errors import (
    CapacityError,
    CheckpointError,
    DataError,
    SettingsError,
    UnsupportedModelError,
)
from treadle.core.result import read_result
from treadle.learn.plan import plan
from treadle.model import tiny
from treadle.model.graph.schema import load_graph, save_graph

QUICK = {"method": "roam", "max_steps": 2000, "total_steps": 8000}
"""The checks of shapes make every call in these tests many times slower."""


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return tiny.build("gpt2", tmp_path_factory.mktemp("gpt2"), num_hidden_layers=1)


@pytest.fixture(scope="module")
def planned(gpt2, tmp_path_factory):
    out = tmp_path_factory.mktemp("plans") / "out"
    return out, plan(gpt2, out, "memory", batch=2, seq=16, budget="1GiB")


@pytest.fixture
def step(tmp_path):
    save_graph(training_step(6, width=16, batch=1), tmp_path / "step.json")
    return tmp_path / "step.json"


def test_a_model_is_planned_and_its_folder_says_how(planned):
    out, result = planned
    assert read_result(out) == result
    value = {entry.name: entry.value for entry in result.measurements}
    assert value["total"] == value["persistent"] + value["arena"]
    assert value["bound"] <= value["donated"] <= value["arena"]
    assert value["donated"] <= value["ordered"] <= value["updates_in_backward"] <= value["traced"]
    assert value["margin"] == (1 << 30) - value["total"]
    assert result.notes[0].startswith("Fits also in the traced order")
    graph, written = load_graph(out / "graph.json"), json.loads((out / "plan.json").read_text())
    assert sorted(written["order"]) == list(range(len(graph.operators)))
    temporary = [i for i, v in enumerate(graph.values) if v.kind == "temporary" and v.num_bytes]
    assert {int(value) for value in written["offsets"]} >= set(temporary)
    ends = [written["offsets"][str(i)] + graph.values[i].num_bytes for i in temporary]
    assert max(ends) <= written["arena_bytes"] == value["arena"]


def test_the_figures_name_the_operators_at_the_peak(planned):
    from treadle.page.figures import draw

    out, result = planned
    line, before, after, lives = result.figures
    value = {entry.name: entry.value for entry in result.measurements}
    assert max(line.series[0].y) == pytest.approx(value["traced"] / 1e6)
    assert max(line.series[1].y) == pytest.approx(value["donated"] / 1e6)
    names = {operator.name for operator in load_graph(out / "graph.json").operators}
    assert before.title.split(": ")[1].split(" ")[0] in names
    assert any(" x " in bar or bar in names for bar in before.series[0].x)
    assert sum(after.series[0].y) == pytest.approx(value["donated"] / 1e6)
    assert lives.kind == "timeline"
    for number, figure in enumerate(result.figures):
        assert draw(figure, f"f{number}").startswith("<svg")


def test_the_plan_of_a_plans_graph_is_the_same_plan(planned, tmp_path):
    out, result = planned
    again = plan(out / "graph.json", tmp_path / "again")
    for name in ("traced", "ordered", "donated", "arena", "bound", "total"):
        assert again.measurement(name).value == result.measurement(name).value
    first, second = (json.loads((o / "plan.json").read_text()) for o in (out, tmp_path / "again"))
    assert (first["order"], first["offsets"]) == (second["order"], second["offsets"])


def test_the_command_line_answers_without_a_folder(step, capsys):
    assert main(["plan", "memory", str(step), "--budget", "1GB", "--order", "inductor"]) == 0
    said = capsys.readouterr().out
    assert "Fits also in the traced order" in said
    assert "written" not in said
    assert sorted(p.name for p in step.parent.iterdir()) == ["step.json"]


def test_a_recipe_plans(step, tmp_path):
    from treadle.recipe import run_recipe

    (tmp_path / "r.yaml").write_text(
        f"out: {tmp_path}/runs\nsteps:\n"
        f"  - plan: {{method: memory, model: {step}, out: planned, order: roam}}\n"
    )
    assert len(list(run_recipe(tmp_path / "r.yaml"))) == 1
    assert read_result(tmp_path / "runs" / "planned").verb == "plan"


def test_a_budget_that_only_the_plan_meets_says_so(step):
    result = plan(step)
    total, persistent = (result.measurement(n).value for n in ("total", "persistent"))
    traced = persistent + result.measurement("traced").value
    assert total < traced
    tight = plan(step, budget=f"{total:.0f}B")
    assert tight.notes[0].startswith("Fits in this plan only")
    assert tight.measurement("margin").value == 0


def test_a_budget_that_cannot_be_met_says_the_least_and_what_else(step, gpt2):
    persistent = plan(step).measurement("persistent").value
    with pytest.raises(CapacityError, match=r"the least found is .* kB, of which .* Lower --seq"):
        plan(step, budget=round(persistent + 64))
    with pytest.raises(CapacityError, match=r"Choose --optimizer sgd, which keeps one state less"):
        plan(gpt2, batch=1, seq=8, order=QUICK, budget="100KB")
    with pytest.raises(CapacityError, match=r"Choose a smaller model, or shard it"):
        plan(gpt2, batch=1, seq=8, order=QUICK, budget="100KB", optimizer="sgd")


def test_a_chunked_loss_is_offered_with_its_price(gpt2):
    """A vocabulary of 320 against a width of 64: logits set the peak of a large batch."""
    asked = {"batch": 16, "seq": 64, "order": QUICK}
    whole = plan(gpt2, **asked).measurement("total").value
    chunked = plan(gpt2, **asked, chunked_loss=8).measurement("total").value
    assert chunked < whole
    result = plan(gpt2, **asked, budget=round((whole + chunked) / 2))
    assert "Switch on --chunked-loss 8" in result.notes[0]
    assert "arithmetic" in result.notes[0]


def test_recomputing_is_offered_with_its_price(gpt2):
    """What the backward pass reads of a longer model: cheap to make again."""
    asked = {"batch": 16, "seq": 64, "order": "least_peak_first", "chunked_loss": 8}
    kept = plan(gpt2, **asked)
    again = plan(gpt2, method={"method": "memory", "recompute_fraction": 0.1}, **asked)
    least, most = (r.measurement("total").value for r in (again, kept))
    assert least < most
    assert 0 < again.measurement("recomputed").value <= 0.1
    assert again.measurement("traced").value == kept.measurement("traced").value
    result = plan(gpt2, **asked, budget=round(least))
    assert "Switch on --recompute-fraction 0" in result.notes[0]


def test_clipping_is_reported_and_blocks_early_updates(gpt2):
    free = plan(gpt2, batch=1, seq=8, order=QUICK)
    clipped = plan(gpt2, batch=1, seq=8, order=QUICK, clip_norm=1.0)
    assert any("clip blocks early update" in note for note in clipped.notes)
    assert not any("clip blocks early update" in note for note in free.notes)
    assert clipped.measurement("ordered").value > free.measurement("ordered").value


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": 24}, "budget = 24 is 24 bytes, .* write it with its unit: '24GiB'"),
        ({"budget": "24"}, "'24' has no unit; write 24GiB"),
        ({"budget": "24 gallons"}, "'24 gallons' cannot be read, expected a number and a unit"),
        ({"budget": "1e400GB"}, "1e400GB' is inf bytes"),
        ({"clip_norm": float("nan")}, "clip_norm is nan"),
        ({"budget": "0GB"}, "0GB' is 0 bytes, which no machine has"),
        ({"seq": 129}, "seq = 129 is longer than the 128 positions"),
        ({"seq": 1}, "of 2 tokens or more"),
        ({"batch": 0}, "1 row or more"),
        ({"optimizer": "adam"}, "Unknown optimizer 'adam'. Did you mean 'adamw'"),
        ({"order": "roan"}, "Did you mean 'roam'"),
        ({"layout": "best"}, "Did you mean 'best_fit'"),
        ({"clip_norm": -1.0}, "clip_norm is -1.0"),
    ],
)
def test_bad_settings(gpt2, settings, message):
    with pytest.raises(SettingsError, match=message):
        plan(gpt2, **settings)


def test_settings_without_effect_on_a_file_are_refused(step, tmp_path):
    with pytest.raises(SettingsError, match=r"a captured graph, so batch = 4 would have no effect"):
        plan(step, batch=4)
    with pytest.raises(DataError, match="No graph at"):
        plan(tmp_path / "missing.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(DataError, match="is no graph of a step"):
        plan(tmp_path / "bad.json")


def test_a_result_is_not_overwritten_unasked(step, tmp_path):
    plan(step, tmp_path / "out")
    with pytest.raises(SettingsError, match="holds a result already"):
        plan(step, tmp_path / "out")
    plan(step, tmp_path / "out", overwrite=True)


def test_what_is_not_planned_as_it_would_be_trained_is_noted(gpt2, tmp_path):
    folder = tiny.build("gpt2", tmp_path / "dropped", resid_pdrop=0.1)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    notes = plan(folder, batch=1, seq=8, order="program").notes
    assert any("without dropout (" in note and "resid_pdrop 0.1" in note for note in notes)
    assert any("Planned in float32; the config says bfloat16" in note for note in notes)


def test_folders_that_hold_no_model_are_refused_with_the_mend(step, tmp_path):
    out = tmp_path / "out"
    plan(step, out)
    with pytest.raises(CheckpointError, match=r"give '.*out/graph.json'"):
        plan(out)
    folder = tiny.build("gpt2", tmp_path / "sound")
    (folder / "config.json").write_text('{"model_type": "wav2vec2"}')
    with pytest.raises(UnsupportedModelError, match="no class for the type 'wav2vec2'"):
        plan(folder, batch=1, seq=8)


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        ("values", "num_bytes", -5, "num_bytes -5"),
        ("values", "num_bytes", 1.5, "num_bytes 1.5"),
        ("values", "kind", "zzz", "kind 'zzz'"),
        ("operators", "scratch_bytes", -9, "scratch_bytes -9"),
        ("operators", "phase", "zzz", "phase 'zzz'"),
    ],
)
def test_damaged_graphs_are_refused(step, tmp_path, part, field, value, message):
    written = json.loads(step.read_text())
    written[part][0][field] = value
    (tmp_path / "graph.json").write_text(json.dumps(written))
    with pytest.raises(DataError, match=message):
        plan(tmp_path / "graph.json")
