"""The page: what it joins, what it keeps apart, what it draws, and that it stands alone."""

import itertools
import re
import sys

import made_results as made
import pytest
from made_results import page_of, text_of

from treadle.core.checkpoint import read_manifest
from treadle.core.errors import DataError, SettingsError
from treadle.core.result import (
    Comparison,
    Input,
    Measurement,
    write_result,
)
from treadle.page import write_page
from treadle.page.figures import draw, num_left_out
from treadle.page.losses import find_losses
from treadle.page.scores import sections
from treadle.page.sources import find

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")


def part(page: str, start: str, stop: str) -> str:
    return text_of(page[page.index(start) : page.index(stop)])


class TestFigures:
    @pytest.mark.parametrize("figure", made.figures(), ids=lambda figure: figure.title)
    def test_every_kind_is_drawn(self, figure):
        svg = draw(figure, "k")
        assert svg.startswith("<svg")
        assert svg.endswith("</svg>")
        assert f'aria-label="{figure.title}' in svg
        assert svg == draw(figure, "k")
        assert not re.search(r"#0[0-9a-f]0[0-9a-f]0[0-9a-f]|#fe01", svg), "a colour has no variable"
        if figure.series:
            assert "var(--series-0)" in svg or figure.kind == "heatmap"
            assert svg.count("<path") + svg.count("<use") > 3
        else:
            assert "No values" in svg

    def test_ids_of_two_figures_never_meet(self):
        line = made.figures()[0]
        ids = [set(re.findall(r' id="([^"]+)"', draw(line, key))) for key in ("a", "b")]
        assert ids[0]
        assert not ids[0] & ids[1]
        svg = draw(line, "a")
        assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg)) == ids[0]

    def test_values_that_are_not_finite_are_survived(self):
        for figure in made.figures()[:-1]:
            broken = [
                series.model_copy(update={"y": [float("nan"), float("inf"), *series.y[2:]]})
                for series in figure.series
                if len(series.y) > 1
            ]
            broken_figure = figure.model_copy(update={"series": broken})
            assert draw(broken_figure, "k")
            assert num_left_out(broken_figure) >= 2 * len(broken)

    def test_markup_and_formulas_in_names_stay_text(self):
        figure = made.figures()[0]
        series = [s.model_copy(update={"name": "<script>$x_$</script>"}) for s in figure.series]
        svg = draw(figure.model_copy(update={"series": series, "title": '"><script>'}), "k")
        assert "<script" not in svg
        assert "&lt;script&gt;$x_$" in svg


class TestJoining:
    def test_evaluations_find_the_run_that_made_their_model(self, study):
        (section,) = sections(find([study]))
        rows = {row.model: row for row in section.tables[0].rows}
        assert [maker.result.method for maker in rows["wanda-0.5"].makers] == ["wanda"]
        assert rows["wanda-0.5"].made("sparsity") == 0.5
        assert rows["dense"].makers == ()
        assert rows["dense"].is_baseline
        assert section.shared["prune"]["pattern"] == "rows"
        assert "sparsity" not in section.shared["prune"]

    def test_what_a_model_was_asked_through_tells_its_rows_apart(self, tmp_path):
        ways = (
            {"through": "blocks"},
            {"through": "runtime", "weights": "q8"},
            {"through": "runtime"},
        )
        for number, way in enumerate(ways):
            settings = {"method": "perplexity", "num_windows": 8, **way}
            made.evaluate(tmp_path, f"eval{number}", made.DENSE, 20.0 + number, settings=settings)
        (section,) = sections(find([tmp_path]))
        (table,) = section.tables
        assert [row.settings for row in table.rows] == [
            "through blocks",
            "through runtime, weights q8",
            "through runtime",
        ]

    def test_a_run_that_changed_nothing_does_not_make_the_dense_model(self, tmp_path):
        made.prune(tmp_path, "magnitude", 0.0)
        manifest = tmp_path / "models" / "magnitude-0.0" / "treadle.json"
        same = read_manifest(manifest.parent).model_copy(update={"content_hash": made.DENSE})
        manifest.write_text(same.model_dump_json())
        made.evaluate(tmp_path, "dense", made.DENSE, 20.0)
        (section,) = sections(find([tmp_path]))
        assert section.tables[0].rows[0].makers == ()

    def test_a_model_made_in_two_steps_names_both(self, tmp_path):
        first = made.prune(tmp_path, "wanda", 0.5)
        pruned = Input(name="model", path="x", content_hash=first, role="model")
        second = made.prune(tmp_path, "magnitude", 0.7, inputs=[pruned])
        made.evaluate(tmp_path, "both", second, 33.0)
        (section,) = sections(find([tmp_path]))
        assert section.tables[0].rows[0].method == "wanda then magnitude"
        assert "25.00" in text_of(page_of(tmp_path)) or "25.0" in text_of(page_of(tmp_path))

    def test_what_was_pruned_and_then_merged_keeps_its_history(self, tmp_path):
        models = [made.prune(tmp_path, method, 0.5) for method in ("wanda", "magnitude")]
        read = [
            Input(name=f"model {n}", path=f"p{n}", content_hash=one, role="model")
            for n, one in enumerate(models, 1)
        ]
        read.append(Input(name="base", path="dense", content_hash=made.DENSE, role="base"))
        counted = [Measurement(name="models", value=3)]
        merged = made.prune(tmp_path, "ties", 0.1, verb="merge", inputs=read, measurements=counted)
        made.evaluate(tmp_path, "merged", merged, 31.0)
        (section,) = sections(find([tmp_path]))
        (row,) = section.tables[0].rows
        assert row.method == "(wanda, magnitude) then ties"
        assert [run.result.method for run in row.makers] == ["wanda", "magnitude", "ties"]
        assert row.origins == {made.DENSE}
        assert row.made("models") == 3
        assert row.made("sparsity") is None, "what parents measured need not hold of the merged"

    def test_a_control_is_what_says_so(self, tmp_path):
        for method, control in (("random_projection", False), ("coin", True)):
            content_hash = made.prune(tmp_path, method, 0.5, is_control=control)
            made.evaluate(tmp_path, method, content_hash, 30.0)
        runs = {run.result.method: run.is_control for run in find([tmp_path]) if run.made_hash}
        assert runs == {"random_projection": False, "coin": True}

    def test_evaluations_of_one_model_are_told_apart_by_their_settings(self, tmp_path):
        for form in ("fp32", "q8"):
            settings = {"method": "perplexity", "num_windows": 8, "weights": form}
            folder = tmp_path / form
            made.evaluate(folder, "dense", made.DENSE, 20.0, settings=settings)
        (section,) = sections(find([tmp_path]))
        labels = sorted(row.label for row in section.tables[0].rows)
        assert labels == ["dense, weights fp32", "dense, weights q8"]

    def test_a_difference_that_the_decimals_do_not_show_is_none(self, tmp_path):
        dense = made.evaluate(tmp_path, "dense", made.DENSE, 20.0)
        for name, ratio in (("same", 1.00002), ("worse", 1.0004)):
            made.evaluate(tmp_path, name, name, 20.0 * ratio, baseline=dense, spread=1e-6)
        (section,) = sections(find([tmp_path]))
        verdicts = {row.model: row.verdict for row in section.tables[0].rows}
        assert (verdicts["same"], verdicts["worse"]) == ("no", "worse")

    def test_protocols_are_never_mixed(self, study, tmp_path):
        made.evaluate(tmp_path, "dense", made.DENSE, 20.0)
        made.evaluate(tmp_path, "dense", made.DENSE, 22.0, protocol="cccc3333dddd4444")
        found = sections(find([tmp_path]))
        assert sorted(section.protocol[:4] for section in found) == ["aaaa", "cccc"]
        assert [len(table.rows) for section in found for table in section.tables] == [1, 1]
        page = page_of(tmp_path)
        assert page.count('<table class="scores">') == 2 * 2, "scores and costs of each"
        assert "never compared" in text_of(page)

    def test_bases_are_separated(self, tmp_path):
        for basis in ("measured", "simulated"):
            made.evaluate(tmp_path, basis, basis * 4, 20.0, basis=basis)
        speed = [
            Measurement(name="tokens_per_second", value=7.0, basis=basis)
            for basis in ("measured", "emulated")
        ]
        bench = made.result(verb="bench", method="speed", settings={}, measurements=speed)
        write_result(bench, tmp_path / "bench")
        (section,) = sections(find([tmp_path]))
        assert [(table.basis, len(table.rows)) for table in section.tables] == [
            ("measured", 1),
            ("simulated", 1),
        ]
        words = text_of(page_of(tmp_path))
        assert "Perplexity, simulated" in words
        assert "Bench speed, emulated" in words
        assert "Bench speed, simulated" not in words
        assert "Perplexity (simulated) on held.txt: 20" in words, (
            "no simulated number leads as a measured one"
        )

    def test_results_are_found_at_any_depth_once_and_not_in_hidden_folders(self, tmp_path):
        made.evaluate(tmp_path / "a" / "b", "dense", made.DENSE, 20.0)
        made.evaluate(tmp_path / ".trash", "dense", made.DENSE, 99.0)
        folder = next((tmp_path / "a").rglob("result.json")).parent
        assert len(find([tmp_path, tmp_path / "a", folder, folder / "result.json"])) == 1


class TestTable:
    def test_scores_are_sorted_with_intervals_and_the_best_is_marked_in_words(self, study_page):
        words = part(study_page, '<table class="scores">', "</table>")
        order = re.findall(r'class="(?:method">|group"><th[^>]*>)([\w. ]+)<', study_page)
        assert order == [
            *("As given", "dense"),
            *("Sparsity 0.5", "wanda", "magnitude", "random"),
            *("Sparsity 0.7", "magnitude", "random", "wanda"),
        ]
        assert "dense baseline" in words
        assert "Sparsity 0.5 wanda best" in words
        assert "random control" in words
        assert "25.0 [24.5, 25.5]" in words
        assert "1.25 [1.2" in words
        assert "yes, worse" in words

    def test_missing_values_say_so(self, tmp_path):
        made.prune(tmp_path, "wanda", 0.5)
        made.evaluate(tmp_path, "unknown", "f" * 64, 21.0, bytes={})
        page = page_of(tmp_path)
        assert "Not measured" in text_of(page)
        assert not re.search(r"<t[dh][^>]*>\s*</t[dh]>", page)

    def test_no_cell_is_empty_and_no_hash_is_whole(self, study_page):
        assert not re.search(r"<t[dh][^>]*>\s*</t[dh]>", study_page)
        assert not re.search(r"[0-9a-f]{32}", text_of(study_page))
        assert f'title="{made.DENSE}"' in study_page

    def test_a_difference_that_includes_none_says_no(self, tmp_path):
        dense = made.evaluate(tmp_path, "dense", made.DENSE, 20.0)
        made.evaluate(tmp_path, "same", "f" * 64, 20.1, baseline=dense)
        table = sections(find([tmp_path]))[0].tables[0]
        assert [row.verdict for row in table.rows] == [None, "no"]

    def test_scores_that_grow_are_ranked_from_the_top(self, tmp_path):
        for name, right in (("good", 0.8), ("bad", 0.6)):
            entries = [
                Measurement(name=measure, value=value, low=value - 0.1, high=value + 0.1)
                for measure, value in (
                    ("accuracy", right),
                    ("accuracy_random", 0.25),
                    ("accuracy_difference", right - 0.75),
                )
            ]
            entries = [
                entry.model_copy(
                    update={
                        "protocol": "p" * 16,
                        "better": "neither" if "random" in entry.name else "higher",
                        "comparison": Comparison(score="accuracy", neutral=0.0)
                        if "difference" in entry.name
                        else None,
                    }
                )
                for entry in entries
            ]
            made.evaluate(tmp_path, name, name, None, measurements=entries, method="choice")
        (section,) = sections(find([tmp_path]))
        (table,) = section.tables
        assert [(row.model, row.verdict) for row in table.rows] == [
            ("good", "no"),
            ("bad", "worse"),
        ]
        assert [entry.name for _, entry in section.others] == ["accuracy_random"] * 2
        assert "Difference to the baseline" in text_of(page_of(tmp_path))


class TestLosses:
    def test_losses_to_controls_and_simpler_methods_are_named(self, study, study_page):
        (section,) = sections(find([study]))
        found = find_losses(section.tables[0])
        assert [(f.loser.model, f.winner.model, f.is_clear) for f in found] == [
            ("wanda-0.7", "magnitude-0.7", True),
            ("wanda-0.7", "random-0.7", False),
        ]
        words = part(study_page, 'id="losses"', 'id="provenance"')
        assert "sparsity 0.7 wanda" in words
        assert "does not clearly beat the control random" in words
        assert "is beaten by a simpler method" in words

    def test_without_a_case_the_section_says_so(self, tmp_path):
        made.evaluate(tmp_path, "wanda", made.prune(tmp_path, "wanda", 0.5), 25.0)
        made.evaluate(tmp_path, "random", made.prune(tmp_path, "random", 0.5), 95.0)
        assert "No case found in these results" in text_of(page_of(tmp_path))

    def test_unequal_amounts_and_settings_are_not_compared(self, tmp_path):
        made.evaluate(tmp_path, "wanda", made.prune(tmp_path, "wanda", 0.7), 50.0)
        made.evaluate(tmp_path, "random", made.prune(tmp_path, "random", 0.5), 25.0)
        assert find_losses(sections(find([tmp_path]))[0].tables[0]) == []


class TestPage:
    def test_equal_results_give_equal_bytes_in_any_order(self, study, study_page, tmp_path):
        again = [study / "evaluations", study / "models"]
        assert write_page(again, tmp_path / "p.html", "A study").read_text() == study_page

    def test_it_fetches_nothing_and_runs_no_script(self, study_page):
        assert "<script" not in study_page
        assert "<link" not in study_page
        assert not re.search(r'(?:src|href)="(?!#)', study_page)
        assert not re.search(r"@import|url\((?!#)", study_page)
        assert "http" not in study_page

    def test_headings_captions_and_figures_are_accessible(self, study_page):
        levels = [int(level) for level in re.findall(r"<h([1-6])", study_page)]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
        assert study_page.count("<table") == study_page.count("<caption>")
        assert study_page.count("<svg") == study_page.count('role="img" aria-label="')
        assert "prefers-color-scheme: dark" in study_page
        assert "@media print" in study_page
        ids = re.findall(r' id="([^"]+)"', study_page)
        assert len(ids) == len(set(ids))

    def test_control_and_baseline_are_named_in_the_plot(self, study_page):
        plot = study_page[study_page.index("<svg") : study_page.index("</svg>")]
        assert "random (control)" in plot
        assert "dense (baseline)" in plot

    def test_the_summary_counts(self, study_page):
        words = part(study_page, 'id="provenance"', "</main>")
        assert "Prune ran 6 times and made 6 models" in words
        assert "random (a control, 2×)" in words
        assert "7 models were evaluated for perplexity on held.txt" in words
        assert "Test CPU with 2 cores, 8 GB of memory" in words

    def test_hostile_names_stay_text(self, tmp_path):
        evil = '<script>alert("x")</script>'
        figures = [made.figures()[0].model_copy(update={"title": evil})]
        made.evaluate(tmp_path, "dense", made.DENSE, 20.0, notes=[evil], figures=figures)
        inputs = [Input(name=evil, path=evil, content_hash=evil, role="model")]
        settings = {"method": evil, evil: evil}
        bad = made.result(verb=evil, method=evil, settings=settings, inputs=inputs, output=evil)
        write_result(bad, tmp_path / "bad")
        page = write_page([tmp_path], tmp_path / "page.html", evil).read_text()
        assert "<script" not in page
        assert evil in text_of(page) or "&lt;script&gt;" in page

    def test_the_command_repeats_the_run_only_where_it_is_exact(self, study, study_page):
        assert (
            f"treadle prune wanda dense {study}/models/wanda-0.5 --pattern rows --sparsity 0.5 "
            f"--update none --allocation uniform --num-windows 8 --window-tokens 64 "
            f"--calibrate one-pass --text t.txt --seed 0"
        ) in text_of(study_page)

    def test_settings_without_a_flag_leave_the_command_out(self, tmp_path):
        made.evaluate(tmp_path, "dense", made.DENSE, 20.0, settings={"unheard_of": 1})
        assert "treadle evaluate" not in text_of(page_of(tmp_path))


class TestErrors:
    def test_no_results_says_what_to_give(self, tmp_path):
        with pytest.raises(
            DataError, match=r"no result.json in .*give the output folders of verbs"
        ):
            write_page([tmp_path], tmp_path / "p.html", "t")
        with pytest.raises(DataError, match=r"Nothing at .*absent.*give a result.json"):
            write_page([tmp_path / "absent"], tmp_path / "p.html", "t")

    def test_a_damaged_result_is_named(self, tmp_path):
        (tmp_path / "result.json").write_text("{")
        with pytest.raises(DataError, match="not a result that treadle wrote"):
            write_page([tmp_path], tmp_path / "p.html", "t")

    def test_an_output_that_cannot_be_written_names_itself(self, study, tmp_path):
        with pytest.raises(SettingsError, match=r"is a folder; name the page"):
            write_page([study], tmp_path, "t")
        (tmp_path / "file").write_text("")
        with pytest.raises(SettingsError, match=r"cannot be written.*give --out"):
            write_page([study / "models"], tmp_path / "file" / "p.html", "t")

    def test_a_failure_leaves_nothing_beside_the_page(self, study, tmp_path):
        page = write_page([study / "models"], tmp_path / "deep" / "p.html", "t")
        assert [path.name for path in page.parent.iterdir()] == ["p.html"]

    @pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
    def test_a_missing_package_reaches_the_caller_by_name(
        self, study, tmp_path, monkeypatch, package
    ):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ModuleNotFoundError) as caught:
            write_page([study], tmp_path / "p.html", "t")
        assert caught.value.name == package
