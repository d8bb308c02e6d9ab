"""The table of a sweep: means, intervals, pairs, losses, and one text for one content."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from treadle.app.sweep.checks import ScoreWatch
from treadle.app.sweep.document import Document, load_document
from treadle.app.sweep.rows import MeasuredCell
from treadle.app.sweep.table import Summary, summarise
from treadle.app.sweep.writing import write_tables
from treadle.core.errors import DataError
from treadle.core.intervals import student_mean
from treadle.core.result import Comparison, Entry, Measurement, Result, Table, digest

FILE = """
artefacts: {base: models/a}
prepare:
  - evaluate: {method: perplexity, model: base, data: x, out: dense}
steps:
  - prune: {model: base, out: small}
  - evaluate: {method: perplexity, model: small, data: x, out: ppl}
over:
  prune: [random, magnitude]
  prune.sparsity: [0.3, 0.5]
  prune.seed: [0, 1, 2]
"""
LOSSES = {"random": 4.0, "magnitude": 3.0}
NOISE = np.random.Generator(np.random.Philox(7)).normal(0, 0.02, (3, 3, 16))


def result(**fields: Any) -> Result:
    shared = {
        **{"seed": 0, "inputs": [], "started": "", "versions": {}, "hardware": {}},
        **{"seconds": 2.0, "cpu_seconds": 1.5, "peak_memory_bytes": 1 << 20, "settings": {}},
    }
    return Result(**{"fingerprint": digest(str(fields)), "verb": "evaluate", **shared, **fields})


def scored(method: str, nll: np.ndarray, protocol: str = "p", **fields: Any) -> Result:
    mean = float(nll.mean())
    entries = [
        Measurement(name="perplexity", value=mean * 10, better="lower", protocol=protocol),
        Measurement(name="nll", value=mean, better="lower", protocol=protocol),
        Measurement(
            name="perplexity_ratio",
            value=mean / 2,
            better="lower",
            comparison=Comparison(score="perplexity", neutral=1.0),
        ),
    ]
    return result(method=method, measurements=entries, samples={"nll": list(nll)}, **fields)


def measured(document: Document, broken: str = "", **fields: Any) -> list[MeasuredCell]:
    """Return cells whose losses follow from method, sparsity and seed."""
    cells = []
    dense = scored("perplexity", 2 + NOISE[0, 0])
    for point in document.points:
        method = str(point.place.get("prune", "random"))
        seed, sparsity = point.place.get("prune.seed", 0), point.place.get("prune.sparsity", 0.5)
        sparsity = 0.5 if sparsity == "default" else sparsity
        nll = LOSSES.get(method, 2.5) + float(sparsity) + NOISE[int(seed) % 3, 1]
        made = result(verb="prune", method=method, is_control=method == "random")
        made = made.model_copy(update={"bytes": {"output": 1000}})
        chain = {"small": made, "ppl": scored("perplexity", nll + 0.1 * int(seed), **fields)}
        failed = point.label == broken
        error = "It broke." if failed else ""
        cells.append(MeasuredCell(point, {} if failed else chain, {"dense": dense}, error))
    return cells


def load(tmp_path: Path, text: str = FILE) -> Document:
    file = tmp_path / "sweep.yaml"
    file.write_text(text)
    return load_document(file, tmp_path / "out")


def entry(table: Table, row: int, column: str) -> Entry:
    return table.rows[row][[one.name for one in table.columns].index(column)]


def summary_of(tmp_path: Path, text: str = FILE, **options: Any) -> Summary:
    document = load(tmp_path, text)
    return summarise(document, measured(document, **options))


def test_a_row_is_the_mean_over_seeds(tmp_path):
    document = load(tmp_path)
    cells = measured(document)
    (table,) = summarise(document, cells).scores
    assert [column.name for column in table.columns] == ["prune", "sparsity", "runs", "perplexity"]
    assert [[e.value for e in row[:3]] for row in table.rows] == [
        ["random", 0.3, 3.0],
        ["random", 0.5, 3.0],
        ["magnitude", 0.3, 3.0],
        ["magnitude", 0.5, 3.0],
    ]
    values = [cell.chain["ppl"].measurements[0].value for cell in cells[:3]]
    found = entry(table, 0, "perplexity")
    assert found.value == pytest.approx(np.mean(values))
    assert (found.low, found.high) == pytest.approx(student_mean(values))
    assert table.rows[0][0].note == "control"
    assert "Student's 95 % interval" in table.notes[0]


def test_one_run_has_no_interval_of_seeds(tmp_path):
    summary = summary_of(tmp_path, FILE.replace("[0, 1, 2]", "[0]"))
    found = entry(summary.scores[0], 0, "perplexity")
    assert (found.low, found.note) == (None, "one run")
    assert "how far seeds differ is not known" in summary.scores[0].notes[0]


def test_what_seeds_do_not_change_has_none(tmp_path):
    document = load(tmp_path)
    cells = measured(document)
    same = [cell._replace(chain=cells[0].chain) for cell in cells]
    found = entry(summarise(document, same).scores[0], 0, "perplexity")
    assert (found.low, found.note) == (None, "equal in all runs")


def test_differences_to_what_was_prepared(tmp_path):
    document = load(tmp_path, FILE + "baseline: dense\n")
    cells = measured(document)
    (table,) = summarise(document, cells).scores
    assert [e.value for e in table.rows[0][:3]] == ["dense", None, 1.0]
    assert table.rows[0][0].note == "baseline"
    dense = cells[0].base["dense"].measurements[0].value
    gaps = [cell.chain["ppl"].measurements[0].value - dense for cell in cells[:3]]
    found = entry(table, 1, "perplexity minus baseline")
    assert found.value == pytest.approx(np.mean(gaps))
    assert (found.low, found.high) == pytest.approx(student_mean(gaps))
    examples = entry(table, 1, "nll minus baseline, by example")
    expected = np.mean([c.chain["ppl"].measurements[1].value for c in cells[:3]]) - dense / 10
    assert examples.value == pytest.approx(expected)
    assert examples.low < examples.value < examples.high
    assert entry(table, 1, "perplexity differs").value == "worse"
    assert "says nothing of other runs" in table.notes[2]
    assert entry(table, 0, "perplexity minus baseline").value is None


def test_pairs_share_seed_and_sparsity(tmp_path):
    document = load(tmp_path, FILE + "baseline: {prune: random}\n")
    cells = measured(document)
    (table,) = summarise(document, cells).scores
    for row, (ours, theirs) in ((2, (6, 0)), (3, (9, 3))):
        gaps = [
            cells[ours + n].chain["ppl"].measurements[0].value
            - cells[theirs + n].chain["ppl"].measurements[0].value
            for n in range(3)
        ]
        found = entry(table, row, "perplexity minus baseline")
        assert found.value == pytest.approx(np.mean(gaps))
        assert entry(table, row, "perplexity differs").value == "better"
    # The seeds shift both alike: paired, nothing of that is left.
    assert entry(table, 2, "perplexity").high - entry(table, 2, "perplexity").low > 1
    assert found.note == "equal in all runs" or found.high - found.low < 1e-6
    assert entry(table, 0, "perplexity minus baseline").value is None


def test_what_is_no_number_is_not_averaged(tmp_path):
    document = load(tmp_path, FILE + "baseline: {prune: random}\n")
    cells = measured(document)
    broken = cells[-1].chain["ppl"]
    entries = [broken.measurements[0].model_copy(update={"value": float("nan")})]
    entries += broken.measurements[1:]
    chain = {**cells[-1].chain, "ppl": broken.model_copy(update={"measurements": entries})}
    cells[-1] = cells[-1]._replace(chain=chain)
    summary = summarise(document, cells)
    (table,) = summary.scores
    found = entry(table, 3, "perplexity")
    assert (found.value, found.note) == (None, "nan in 1 of 3 runs")
    assert entry(table, 3, "perplexity minus baseline").note == "nan in 1 of 3 runs"
    assert "no finite number in 1 runs" in " ".join(table.notes)
    assert "magnitude, sparsity 0.5 has no finite perplexity in 1 of 3 runs." in table.losses
    assert "NaN" not in json.dumps(table.model_dump(mode="json"))


def test_a_baseline_that_failed_keeps_its_columns(tmp_path):
    document = load(tmp_path, FILE + "baseline: {prune: random}\n")
    cells = [
        cell._replace(chain={}, error="It broke.") if "random" in cell.point.label else cell
        for cell in measured(document)
    ]
    (table,) = summarise(document, cells).scores
    assert entry(table, 2, "perplexity minus baseline").value is None
    assert "The baseline random failed: It broke." in table.notes
    assert "Nothing of the baseline compares with: magnitude" in table.notes[-1]


def test_extra_cells_are_paired_by_the_steps_own_settings(tmp_path):
    text = FILE.replace("out: small}", "out: small, sparsity: 0.3, seed: 1}").replace(
        "[random, magnitude]", "[random]"
    )
    document = load(tmp_path, text + "also: [{prune: magnitude}]\nbaseline: {prune: random}\n")
    (table,) = summarise(document, measured(document)).scores
    assert [e.value for e in table.rows[2][:3]] == ["magnitude", 0.3, 1.0]
    cells = measured(document)
    gap = cells[-1].chain["ppl"].measurements[0].value - cells[1].chain["ppl"].measurements[0].value
    assert entry(table, 2, "perplexity minus baseline").value == pytest.approx(gap)
    assert table.losses == []
    end = "also: [{prune: magnitude}]\nbaseline: {prune: random}\n"
    for own, shown in (("sparsity: 0.9, ", "sparsity 0.9"), ("", "default")):
        other = load(tmp_path, text.replace("sparsity: 0.3, ", own) + end)
        (table,) = summarise(other, measured(other)).scores
        assert f"compares with: magnitude, {shown}" in table.notes[-1]
        assert table.losses is None, "no control does as much"


def test_controls_do_as_much_in_words_too(tmp_path):
    text = FILE.replace("prune.sparsity: [0.3, 0.5]", 'prune.pattern: ["2:4", rows]')
    document = load(tmp_path, text)
    LOSSES["magnitude"] = 5.0
    try:
        (table,) = summarise(document, measured(document)).scores
    finally:
        LOSSES["magnitude"] = 3.0
    assert [line.partition(" in ")[0] for line in table.losses] == [
        "magnitude, pattern 2:4 is worse than the control random, pattern 2:4",
        "magnitude, rows is worse than the control random, rows",
    ]
    text = FILE.replace("[random, magnitude]", "[{method: random, sparsity: 0.9}, magnitude]")
    document = load(tmp_path, text.replace("  prune.sparsity: [0.3, 0.5]\n", ""))
    assert summarise(document, measured(document)).scores[0].losses is None


def test_a_control_that_ran_once_is_the_baseline_of_all(tmp_path):
    text = FILE.replace("[random, magnitude]", "[magnitude]")
    text += "also:\n  - {prune: random, prune.sparsity: 0.5}\nbaseline: {prune: random}\n"
    document = load(tmp_path, text)
    cells = measured(document)
    (table,) = summarise(document, cells).scores
    # No cell is random at 0.3, so the one that ran stands beside none of them...
    assert entry(table, 0, "perplexity minus baseline").value is None
    # ...and beside every seed at 0.5.
    once = cells[-1].chain["ppl"].measurements[0].value
    mean = np.mean([cell.chain["ppl"].measurements[0].value for cell in cells[3:6]])
    found = entry(table, 1, "perplexity minus baseline")
    assert found.value == pytest.approx(mean - once)


def test_models_may_be_averaged_too(tmp_path):
    text = FILE.replace("over:", "repeat: [base, prune.seed]\nover:\n  base: [a, b]")
    document = load(tmp_path, text + "baseline: dense\n")
    (table,) = summarise(document, measured(document)).scores
    assert [row[0].value for row in table.rows] == ["dense", *["random"] * 2, *["magnitude"] * 2]
    assert [entry(table, row, "runs").value for row in range(3)] == [2.0, 6.0, 6.0]
    separate = load(tmp_path, text.replace("repeat: [base, ", "repeat: [") + "baseline: dense\n")
    (table,) = summarise(separate, measured(separate)).scores
    assert [[e.value for e in row[:2]] for row in table.rows[:3]] == [
        ["a", "dense"],
        ["b", "dense"],
        ["a", "random"],
    ]


def test_other_protocols_are_not_compared(tmp_path):
    summary = summary_of(tmp_path, FILE + "baseline: dense\n", protocol="another")
    assert "perplexity minus baseline" not in {c.name for c in summary.scores[0].columns}


def test_scores_by_name(tmp_path):
    summary = summary_of(tmp_path, FILE + "scores: [perplexity_ratio, ppl.nll]\nbaseline: dense\n")
    names = [column.name for column in summary.scores[0].columns]
    assert "perplexity_ratio" in names
    assert "ppl.nll minus baseline" in names
    assert "perplexity_ratio minus baseline" not in names, "it compares already"
    with pytest.raises(DataError, match=r"'perplexty'\. Did you mean 'perplexity'"):
        summary_of(tmp_path, FILE + "scores: [perplexty]\n")


def test_every_evaluation_has_its_main_score(tmp_path):
    document = load(tmp_path)
    cells = measured(document)
    choice = result(
        method="choice", measurements=[Measurement(name="accuracy", value=0.5, better="higher")]
    )
    cells[-1] = cells[-1]._replace(chain={**cells[-1].chain, "ppl": choice})
    (table,) = summarise(document, cells).scores
    assert [column.name for column in table.columns][3:] == ["perplexity", "accuracy"]
    both = [cell._replace(chain={**cell.chain, "more": cell.chain["ppl"]}) for cell in cells[:1]]
    names = [column.name for column in summarise(document, both).scores[0].columns]
    assert names[3:] == ["ppl.perplexity", "more.perplexity"]


def test_columns_have_names_of_their_own(tmp_path):
    document = load(tmp_path, FILE + "scores: [perplexity, nll, ppl.nll]\nbaseline: dense\n")
    names = [column.name for column in summarise(document, measured(document)).scores[0].columns]
    assert len(set(names)) == len(names)
    assert "ppl.nll" not in names, "it is nll"
    assert names.count("nll minus baseline, by example") == 1


def test_losses_are_told(tmp_path):
    LOSSES["magnitude"] = 5.0
    try:
        summary = summary_of(tmp_path)
    finally:
        LOSSES["magnitude"] = 3.0
    by = "in perplexity (by the examples of one run)."  # the seeds change no difference
    assert summary.scores[0].losses == [
        f"magnitude, sparsity 0.3 is worse than the control random, sparsity 0.3 {by}",
        f"magnitude, sparsity 0.5 is worse than the control random, sparsity 0.5 {by}",
    ]
    assert summary_of(tmp_path).scores[0].losses == []
    alone = summary_of(tmp_path, FILE.replace("[random, magnitude]", "[magnitude]"))
    assert alone.scores[0].losses is None, "there is nothing that it could lose to"


def test_a_cell_that_failed_is_counted(tmp_path):
    summary = summary_of(tmp_path, broken="random, sparsity 0.3, seed 1")
    table = summary.scores[0]
    assert (entry(table, 0, "runs").value, entry(table, 0, "failed").value) == (2.0, 1.0)
    assert entry(table, 0, "failed").note == "It broke."
    assert entry(table, 1, "failed").value == 0.0


def test_the_figure_has_a_line_for_each_method(tmp_path):
    (figure,) = summary_of(tmp_path).figures
    assert (figure.kind, figure.x_label) == ("line", "prune.sparsity")
    assert [(one.name, one.x) for one in figure.series] == [
        ("random (control)", [0.3, 0.5]),
        ("magnitude", [0.3, 0.5]),
    ]
    assert all(one.low is not None for one in figure.series)


def test_names_stay_on_their_lines_in_markdown(tmp_path):
    text = FILE.replace("[random, magnitude]", '[{method: magnitude, pattern: "2:4"}, random]')
    document = load(tmp_path, 'name: "a | b\\n# <c>"\n' + text)
    write_tables(summarise(document, measured(document)), tmp_path)
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0] == "# a \\| b # \\<c> (measured)"


def test_files_of_the_table(tmp_path):
    summary = summary_of(tmp_path, FILE + "baseline: {prune: random}\n")
    files = write_tables(summary, tmp_path)
    assert [file.name for file in files] == ["table.csv", "table.md", "table.json"]
    rows = list(csv.DictReader(files[0].read_text().splitlines()))
    assert [row["prune"] for row in rows] == ["random", "random", "magnitude", "magnitude"]
    low, middle, high = (float(rows[0][f"perplexity{end}"]) for end in (" low", "", " high"))
    assert low < middle < high
    assert "random (control)" in files[1].read_text()
    assert json.loads(files[2].read_text())["rows"][0]["prune note"] == "control"
    costs = list(csv.DictReader((tmp_path / "costs.csv").read_text().splitlines()))
    assert (costs[0]["seconds"], costs[0]["size"]) == ("4", "1000")
    assert not any("second" in file.read_text() for file in files), "no times in what must be equal"


def test_a_score_may_be_that_of_a_method_yet_to_come(tmp_path):
    document = load(tmp_path, FILE + "scores: [small.kept]\n")
    cells, watch = measured(document), ScoreWatch(document)
    for cell in cells[:6]:
        watch.saw(cell.point, cell.chain)
    assert not watch.is_settled, "magnitude has not run"
    with pytest.raises(DataError, match=r"No cell measures the score 'small\.kept'"):
        watch.saw(cells[6].point, cells[6].chain)
    watch = ScoreWatch(load(tmp_path, FILE + "scores: [perplexity]\n"))
    watch.saw(cells[0].point, cells[0].chain)
    assert watch.is_settled
