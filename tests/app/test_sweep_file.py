"""Sweep files: what an axis means, how values are called, what is refused before anything runs."""

import ast
import inspect
import re
import shutil
from pathlib import Path

import pytest

from treadle.app.sweep import sweep
from treadle.app.sweep.axes import label_of, spoken
from treadle.app.sweep.contents import Contents
from treadle.app.sweep.document import Document, load_document
from treadle.app.sweep.jobs import make_jobs
from treadle.core.errors import DataError, SettingsError

ROOT = Path(__file__).parents[2]
FILE = """
artefacts: {base: models/a, heldout: stdlib:heldout, calibration: stdlib:calibration}
temporary: [small]
prepare:
  - evaluate: {method: perplexity, model: base, data: heldout, out: dense}
steps:
  - prune: {model: base, out: small}
  - evaluate: {method: perplexity, model: small, data: heldout, out: ppl}
over:
  prune:
    - {method: random}
    - {method: wanda, text: calibration}
  prune.sparsity: [0.3, 0.5]
  base: [models/a, models/b]
  prune.seed: [0, 1, 2]
also:
  - {prune: {method: magnitude}, prune.sparsity: 0.5}
baseline: dense
"""


def load(tmp_path: Path, text: str = FILE) -> Document:
    file = tmp_path / "sweep.yaml"
    file.write_text(text)
    return load_document(file, tmp_path / "out")


def jobs_by_label(document: Document):
    return {cell.job.label: cell for cell in make_jobs(document, Contents()).cells}


def test_cells_are_the_product_and_the_extra_ones(tmp_path):
    document = load(tmp_path)
    assert len(document.points) == 2 * 2 * 2 * 3 + 1
    assert document.num_product == 24
    first, last = document.points[0], document.points[-1]
    assert first.place == {"prune": "random", "prune.sparsity": 0.3, "base": "a", "prune.seed": 0}
    assert first.entries[0]["prune"] == {
        "model": "base",
        "out": "small",
        "method": "random",
        "sparsity": 0.3,
        "seed": 0,
    }
    own = {"base": "a", "prune.seed": 0}
    assert last.place == {"prune": "magnitude", "prune.sparsity": 0.5, **own}
    assert "seed" not in last.entries[0]["prune"], "what is not named is the step's own"
    assert document.repeat == ["prune.seed"]
    assert document.baseline == "dense"


def test_what_is_prepared_runs_once_for_each_model(tmp_path):
    jobs = make_jobs(load(tmp_path), Contents())
    assert [job.label for job in jobs.prepared] == ["prepare: a", "prepare: b"]
    by_model = {cell.point.place.get("base"): cell.prepared.label for cell in jobs.cells}
    assert by_model == {"a": "prepare: a", "b": "prepare: b"}


def test_a_name_follows_from_the_cell_alone(tmp_path):
    before = jobs_by_label(load(tmp_path))
    after = jobs_by_label(load(tmp_path, FILE.replace("[0.3, 0.5]", "[0.5, 0.7]")))
    label = "wanda, sparsity 0.5, b, seed 2"
    assert before[label].job.folder == after[label].job.folder
    assert before[label].job.key == after[label].job.key
    assert before[label].job.folder.name.startswith("wanda-calibration-0.5-b-2-")


def test_a_key_follows_settings_and_contents(tmp_path):
    data = tmp_path / "data.txt"
    data.write_text("one")
    text = FILE.replace("stdlib:heldout", str(data))
    first = jobs_by_label(load(tmp_path, text))["random, sparsity 0.3, a, seed 0"].job
    data.write_text("two")
    second = jobs_by_label(load(tmp_path, text))["random, sparsity 0.3, a, seed 0"].job
    assert first.folder == second.folder
    assert first.key != second.key, "the bytes count"
    moved = tmp_path / "moved.txt"
    moved.write_text("two")
    third = jobs_by_label(load(tmp_path, text.replace(str(data), str(moved))))
    assert third["random, sparsity 0.3, a, seed 0"].job.key == second.key, "the path does not"
    changed = text.replace("out: small}", "out: small, num_windows: 3}")
    assert (
        jobs_by_label(load(tmp_path, changed))["random, sparsity 0.3, a, seed 0"].job.key
        != second.key
    )


def test_what_counts_of_an_input(tmp_path, llama):
    def seen(place) -> str:
        return Contents().digest(str(place))

    assert seen("stdlib:heldout") == "stdlib:heldout"
    copy = Path(shutil.copytree(llama, tmp_path / "copy"))
    assert seen(copy) == seen(llama), "wherever it lies"
    (copy / "result.json").write_text("{}")
    assert seen(copy) == seen(llama), "and whatever tells how it was made"
    (copy / "tokenizer_config.json").write_text("{}")
    assert seen(copy) != seen(llama)
    (tmp_path / "a.txt").write_text("a")
    before = seen(f"stdlib:sources + {tmp_path / 'a.txt'}")
    (tmp_path / "a.txt").write_text("b")
    assert seen(f"stdlib:sources + {tmp_path / 'a.txt'}") != before
    assert seen("stdlib:sources + stdlib:heldout") == "stdlib:sources + stdlib:heldout"


def test_values_are_called_by_what_tells_them_apart(tmp_path):
    values = "[{method: wanda, text: a}, {method: wanda, text: a, pattern: '2:4'}, random]"
    text = re.sub(r"  prune:\n.*\n.*\n", f"  prune: {values}\n", FILE)
    assert load(tmp_path, text).axes[0].labels == ["wanda", "wanda pattern 2:4", "random"]
    assert [label_of(value) for value in (True, 3, [1, 2], None, "a\nb")] == [
        "yes",
        3,
        "1, 2",
        "none",
        "a b",
    ]


def test_seed_goes_to_every_step_that_takes_one(tmp_path):
    point = load(tmp_path, FILE.replace("prune.seed:", "seed:")).points[1]
    assert [next(iter(entry.values()))["seed"] for entry in point.entries] == [1, 1]


def test_a_step_is_named_by_its_out_too(tmp_path):
    text = FILE.replace("prune.seed:", "ppl.num_windows:").replace("[0, 1, 2]", "[4, 8]")
    assert load(tmp_path, text).points[1].entries[1]["evaluate"]["num_windows"] == 8


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("prune.sparsity: [", "prune.sparsty: [", "Did you mean 'sparsity'"),
        ("prune.sparsity: [", "prun.sparsity: [", "Did you mean 'prune.sparsity'"),
        ("over:", "ovr:", "unknown key 'ovr'. Did you mean 'over'"),
        ("{method: random}", "{method: randm}", "Did you mean 'random'"),
        ("[0.3, 0.5]", "[0.3, much]", "sparsity = 'much' is refused"),
        ("[0.3, 0.5]", "0.3", "a list of values was expected; write [0.3]"),
        ("[0.3, 0.5]", "[0.3, 0.3]", "has the value 0.3 twice"),
        ("[0.3, 0.5]", "[1, 1.0]", "has the value 1.0 twice"),
        ("[0.3, 0.5]", "[0.3, '3e-1']", "has the value 0.3 twice"),
        ("[0, 1, 2]", '[0, 1, "1"]', "has the value 1 twice"),
        ("[0, 1, 2]", "[0, 1, true]", "has the value 1 twice"),
        ("[models/a, models/b]", "[., ././]", "Two cells are the same"),
        ("[0.3, 0.5]", "[]", "has no values; give one at least"),
        ("prune.sparsity: [0.3, 0.5]", "prune.pattern: [2:4]", "if you wrote 2:4, put quotes"),
        ("[0.3, 0.5]", "[.nan]", "holds nan, which is no number"),
        ("out: small}", "out: small, sparsity: .nan}", "holds nan, which is no number"),
        ("baseline: dense", "baseline: {prune.seed: 0}", "would be paired with itself"),
        ("baseline: dense", "scores: []", "'scores' is empty"),
        ("baseline: dense", "scores: [nll, nll]", "names 'nll' twice"),
        ("[0.3, 0.5]", "[2026-01-01]", "put it between quotes"),
        ("out: small}", "out: small, pattern: 2026-01-01}", "put it between quotes"),
        ("{method: random}", "{method: random, sparsity: 0.1}", "both set 'sparsity'"),
        ("prune.seed:", "merge.seed:", "names no step or artefact"),
        ("prune.seed:", "prune.out:", "would vary 'out'"),
        ("baseline: dense", "baseline: dens", "Did you mean 'dense'"),
        ("baseline: dense", "baseline: {prune: ria}", "No cell has the baseline's prune: ria"),
        ("baseline: dense", "baseline: {prne: ria}", "Did you mean 'prune'"),
        ("baseline: dense", "baseline: 3", "the 'out' of a preparing step or values of axes"),
        ("baseline: dense", "repeat: [seed]", "'repeat' names 'seed', which is no axis"),
        ("temporary: [small]", "temporary: [smal]", "Did you mean 'small'"),
        ("- {prune: {method: magnitude}", "- {prune: {}", "a mapping of the step's settings"),
        ("calibration: stdlib:calibration}", "prune: x}", "is an artefact and a step"),
        ("over:\n", "over: [prune]\nx:\n", "unknown key 'x'"),
        ("[0, 1, 2]", str(list(range(999))), "= 7992 cells, but a sweep has 2000 at most"),
        (
            "  base: [models/a, models/b]",
            "  calibration: [a]",
            "no step of 'random, sparsity 0.3, a, seed 0' uses",
        ),
    ],
)
def test_mistakes_are_found_before_anything_runs(tmp_path, old, new, says):
    with pytest.raises(SettingsError, match=re.escape(says)):
        load(tmp_path, FILE.replace(old, new))


def test_two_steps_of_one_verb_are_named_by_their_outs(tmp_path):
    text = FILE.replace("prune.seed:", "evaluate.seed:").replace(
        "steps:", "steps:\n  - evaluate: {method: perplexity, model: base, data: heldout, out: x}"
    )
    with pytest.raises(SettingsError, match="may mean several steps; name one by its out: x, ppl"):
        load(tmp_path, text)


def test_cells_that_are_the_same_are_refused(tmp_path):
    text = FILE.replace("magnitude}, ", "random}, prune.seed: 0, base: models/a, ")
    with pytest.raises(SettingsError, match="Two cells are the same"):
        load(tmp_path, text)


def test_a_dry_run_lists_the_cells_and_writes_nothing(tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(FILE)
    lines = list(sweep(file, tmp_path / "out", dry_run=True, shard="2/4"))
    assert lines[0] == (
        "2 prune x 2 prune.sparsity x 2 base x 3 prune.seed + 1 more = 25 cells, here 6"
    )
    assert lines[1] == "prepare: a: would run"
    assert lines[3] == "2/25 random, sparsity 0.3, a, seed 1: would run"
    assert not (tmp_path / "out").exists()


def test_shards_share_the_cells(tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(FILE)

    def cells(shard: str) -> list[str]:
        lines = sweep(file, tmp_path / "out", dry_run=True, shard=shard)
        return [line for line in lines if line.split("/")[0].isdecimal()]

    parts = [cells(f"{n}/3") for n in (1, 2, 3)]
    assert sorted(cell for part in parts for cell in part) == sorted(cells("1/1"))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"shard": "3"}, "i/n was expected"),
        ({"shard": "3/2"}, "i from 1 to n was expected"),
        ({"jobs": 0}, "at least 1 was expected"),
        ({"join": [Path("x")], "fresh": True}, "join runs nothing"),
        ({"join": [Path("x")], "jobs": 2}, "join runs nothing"),
    ],
)
def test_options_that_cannot_be(tmp_path, options, says):
    file = tmp_path / "sweep.yaml"
    file.write_text(FILE)
    with pytest.raises(SettingsError, match=says):
        list(sweep(file, tmp_path / "out", **options))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[0.3, 0.5]", "[0.3, 1.6]", "'random, sparsity 1.6, a, seed 0'"),
        ("{method: wanda, text: calibration}", "wanda", "needs calibration text"),
        ("base: models/a", "base: no/such/folder", "reads 'no/such/folder', which does not exist"),
        ("stdlib:heldout", "nope.txt", "reads 'nope.txt', which does not exist"),
        ("data: heldout, out: dense", "data: ./nope, out: dense", "reads './nope', which"),
        ("[models/a, models/b]", "[models/a, HERE]", "lies in 'HERE', which is read"),
    ],
)
def test_what_no_run_can_take_is_refused_by_a_dry_run(tmp_path, old, new, says):
    text = FILE.replace("  base: [models/a, models/b]\n", "") if old == "base: models/a" else FILE
    file = tmp_path / "sweep.yaml"
    file.write_text(text.replace(old, new).replace("HERE", str(tmp_path)))
    with pytest.raises(SettingsError, match=re.escape(says.replace("HERE", str(tmp_path)))):
        list(sweep(file, tmp_path / "out", dry_run=True))


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "sweep.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(DataError, match=r"cannot be read .*in UTF-8"):
        load_document(tmp_path / "sweep.yaml")


def test_mappings_may_be_merged(tmp_path):
    merged = "{<<: {num_windows: 4}, model: base, num_windows: 3, out: small}"
    text = FILE.replace("{model: base, out: small}", merged)
    assert load(tmp_path, text).points[0].steps[0].settings["num_windows"] == 3


def test_no_file(tmp_path):
    with pytest.raises(DataError, match="No sweep at"):
        load_document(tmp_path / "sweep.yaml")


@pytest.mark.parametrize(
    "file",
    sorted([*ROOT.glob("recipes/sweeps/*.yaml"), *ROOT.glob("benchmarks/sweeps/*.yaml")]),
    ids=lambda path: path.name,
)
def test_every_sweep_parses(file):
    assert load_document(file).points


@pytest.mark.parametrize("page", ["docs/sweep.md", "README.md"])
def test_what_pages_show_parses(page, tmp_path):
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    shown = [block for block in blocks if "\nover:" in block]
    assert shown
    for block in shown:
        assert load(tmp_path, block).points


def test_numbers_are_what_the_verb_reads(tmp_path):
    document = load(
        tmp_path, FILE.replace("[0.3, 0.5]", "[3e-1, 0.5]").replace("y: 0.5", "y: 5e-1")
    )
    assert document.axes[1].labels == [0.3, 0.5]
    assert document.points[-1].place["prune.sparsity"] == 0.5
    text = FILE.replace("prune.sparsity: [0.3, 0.5]", "prune.update.damp_fraction: [0.01, 1e-1]")
    text = text.replace(", prune.sparsity: 0.5", "").replace(
        "out: small}", "out: small, update: obs}"
    )
    assert load(tmp_path, text).axes[1].labels == [0.01, 0.1]
    assert load(tmp_path, FILE.replace("[0, 1, 2]", '["2", 1]')).axes[3].labels == [2, 1]


def test_inputs_of_equal_content_are_one_run(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text("one")
    text = FILE.replace("[models/a, models/b]", f"[{tmp_path}/a, {tmp_path}/b]")
    assert make_jobs(load(tmp_path, text), Contents()).cells, "two rows of the table may be equal"
    text += "repeat: [base, prune.seed]\n"
    with pytest.raises(SettingsError, match="Two cells are the same"):
        make_jobs(load(tmp_path, text), Contents())


def test_values_that_say_nothing_alone_keep_their_key():
    place = {"prune": "ria", "prune.seed": "1", "x.flag": "yes", "base": "a", "data": "a"}
    assert spoken(place) == ["ria", "seed 1", "flag yes", "base a", "data a"]


def test_a_file_without_axes(tmp_path):
    text = "steps: [{prune: {method: random, model: x, out: y}}]\n"
    for over in ("", "over:\n", "over: {}\n"):
        with pytest.raises(SettingsError, match="has no axis; write one under 'over'"):
            load(tmp_path, text + over)
    with pytest.raises(SettingsError, match="a mapping of axes to lists of values"):
        load(tmp_path, text + "over: [prune]\n")


def test_a_file_without_steps(tmp_path):
    with pytest.raises(SettingsError, match="has no step; write what a cell shall do"):
        load(tmp_path, "steps: []\n")


def test_the_example_of_a_training_is_a_call_of_fit():
    """Its run is tested where `fit` is."""
    from treadle.model import fit as module

    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/sweep.md").read_text(), re.DOTALL)
    calls = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)]
    for call in calls:
        function = getattr(module, call.func.id, None)
        if function is not None:
            words = {word.arg: word.value for word in call.keywords}
            inspect.signature(function).bind(*call.args, **words)
    assert {"fit", "FitSettings", "TensorBoard"} <= {call.func.id for call in calls}
