"""The page leads with what was found, and tells gains beside costs."""

import re
from pathlib import Path

import made_results as made
import pytest
from made_results import page_of, text_of

from treadle.core.result import Column, Entry, Input, Measurement, Table, digest, write_result
from treadle.page.findings import Findings, findings
from treadle.page.gains import gains_of
from treadle.page.groups import groups_of, names_in
from treadle.page.losses import comparisons, find_losses
from treadle.page.scores import sections
from treadle.page.sources import find
from treadle.page.tables import score_table
from treadle.page.tradeoff import plot

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

HALF = "half of the weights removed"


def found_in(root: Path) -> Findings:
    runs = find([root])
    loose = [run for run in runs if run.result.verb not in ("evaluate", "prune", "merge")]
    return findings(runs, sections(runs), loose)


def lead_of(root: Path) -> str:
    return found_in(root).lead


def said(root: Path) -> str:
    found = found_in(root)
    return " ".join([found.lead, *found.more])


def halved(root: Path) -> dict[str, str]:
    """Write a dense model and four halves of it; return the content hashes."""
    dense = made.evaluate(root, "dense", made.DENSE, 14.1, samples={"nll": [2.6, 2.7, 2.6]})
    found = {}
    for method, score in (("wanda", 29.05), ("sparsegpt", 21.94), ("random", 44_874_318.0)):
        found[method] = made.prune(root, method, 0.5, deed=HALF)
        made.evaluate(root, f"{method}-50", found[method], score, baseline=dense)
    return found


def merged(
    root: Path, method: str, parents: dict[str, str], score: float, sparsity: float = 0.5, **fields
) -> None:
    """Write a model that was made from several, and its score."""
    read = [
        Input(name=f"model {n}", path=f"m/{name}-50", content_hash=one, role="model")
        for n, (name, one) in enumerate(parents.items(), 1)
    ]
    counted = [Measurement(name="models", value=len(read))]
    counted.append(Measurement(name="sparsity", value=sparsity, unit="fraction"))
    merge = {"verb": "merge", "inputs": read, "measurements": counted}
    made.evaluate(root, method, made.prune(root, method, 0.5, **merge), score, **fields)


class TestLead:
    def test_it_says_what_was_done_and_what_it_cost_each_method(self, tmp_path):
        halved(tmp_path)
        assert lead_of(tmp_path) == (
            "Half of the weights removed: perplexity 21.9 with sparsegpt, 29.1 with wanda and "
            "45 million with random (a control); 14.1 before. Perplexity on held.txt; lower is "
            "better."
        )

    def test_protocols_hashes_and_counts_stand_below_the_pictures(self, tmp_path):
        halved(tmp_path)
        page = page_of(tmp_path)
        assert text_of(re.search(r'<p class="lead">(.*?)</p>', page, re.S)[1]) == lead_of(tmp_path)
        first, last = page.index("<svg"), page.rindex('<table class="scores">')
        assert page.index('class="lead"') < first
        for fact in ("Protocol <code", "Prune ran 3 times", "aaaa1111", "CPU seconds"):
            assert page.index(fact) > first, fact
        before = page[: page.index("Protocol <code")]
        assert before.count("<details>") == before.count("</details>") + 1, "it is not folded away"
        assert last > first

    def test_older_results_go_by_their_amount(self, study):
        assert lead_of(study).startswith(
            "Sparsity 0.5: perplexity 25 with wanda, 30 with magnitude and 90 with random (a "
            "control); 20 before."
        )
        assert "In 2 cases a method does no better than a control" in said(study)

    def test_many_models_are_told_by_the_best_the_worst_and_the_control(self, tmp_path):
        for number in range(9):
            content_hash = made.prune(tmp_path, f"method{number}", 0.5, deed=HALF)
            made.evaluate(tmp_path, f"m{number}", content_hash, 20.0 + number)
        made.evaluate(tmp_path, "r", made.prune(tmp_path, "random", 0.5, deed=HALF), 24.5)
        words = lead_of(tmp_path)
        assert "20 with method0" in words
        assert "24.5 with random (a control)" in words
        assert "28 with method8 (5 more in between)" in words

    def test_two_patterns_are_two_deeds(self, tmp_path):
        for pattern in ("", ", 2 of every 4"):
            for method, score in (("wanda", 29.0), ("ria", 28.0)):
                root = tmp_path / f"runs{bool(pattern)}"
                fields = {"deed": HALF + pattern, "seed": bool(pattern)}
                content_hash = made.prune(root, f"{method}{bool(pattern):d}", 0.5, **fields)
                made.evaluate(root, method, content_hash, score + 10 * bool(pattern))
        (section,) = sections(find([tmp_path]))
        groups = groups_of(section.tables[0])
        assert [group.heading for group in groups] == [
            "Half of the weights removed",
            "Half of the weights removed, 2 of every 4",
        ]

    def test_what_nobody_measured_is_said(self, tmp_path):
        made.prune(tmp_path, "wanda", 0.5, deed=HALF)
        assert lead_of(tmp_path) == (
            "Half of the weights removed, by wanda: wanda-0.5. Its quality was not measured."
        )

    def test_a_benchmark_alone_leads_with_its_numbers(self, tmp_path):
        rate = Measurement(name="rate", value=39.7, unit="tokens per second", better="higher")
        run = made.result(verb="bench", method="speed", settings={}, measurements=[rate])
        write_result(run, tmp_path / "bench")
        assert lead_of(tmp_path) == "Bench speed: rate 39.7 tokens per second."

    def test_what_was_read_stands_as_one_says_it(self, tmp_path):
        counts = [Measurement(name="documents", value=671, unit="read")]
        counts.append(Measurement(name="dropped", value=53, unit="documents"))
        run = made.result(verb="curate", method="exact", settings={}, measurements=counts)
        write_result(run, tmp_path / "curate")
        assert lead_of(tmp_path) == "Curate exact: 671 documents read and dropped 53 documents."

    def test_bytes_are_told_in_a_unit_that_suits_them(self, tmp_path):
        left = Measurement(name="margin", value=-2.3e10, unit="bytes of the budget left")
        run = made.result(verb="plan", method="memory", settings={}, measurements=[left])
        write_result(run, tmp_path / "plan")
        assert lead_of(tmp_path) == "Plan memory: margin −23 GB of the budget left."
        words = text_of(page_of(tmp_path))
        assert "margin GB of the budget left −23" in words
        assert "000,000" not in words

    def test_models_as_they_were_given_lead_with_their_scores(self, tmp_path):
        for name, score in (("one", 20.4), ("two", 21.6)):
            made.evaluate(tmp_path, name, digest(name), score)
        assert lead_of(tmp_path) == (
            "Perplexity on held.txt: 20.4 with one and 21.6 with two. Lower is better."
        )

    def test_a_held_table_leads_with_its_best_row(self, tmp_path):
        columns = [Column(name="method"), Column(name="sparsity"), Column(name="runs")]
        columns.append(Column(name="loss", better="lower"))
        rows = [
            [Entry(value=name, note=note), Entry(value=amount), Entry(value=2.0), Entry(value=loss)]
            for name, note, amount, loss in (
                ("b", "control", 0.7, 2.5),
                ("a", "", 0.5, 1.5),
                ("dense", "baseline", None, 1.2),
            )
        ]
        table = Table(title="A sweep", columns=columns, rows=rows, losses=["b loses to a."])
        write_result(
            made.result(verb="sweep", method="", settings={}, tables=[table]), tmp_path / "sweep"
        )
        assert lead_of(tmp_path) == (
            "A sweep: loss 1.50 with a, sparsity 0.5 is the best of 2, 2.50 with b, sparsity 0.7 "
            "the worst; 1.20 with dense (the baseline); in one case a row loses: see "
            "“Where it loses, and to what”."
        )


class TestParents:
    def test_a_merge_that_beats_its_parents_says_so(self, tmp_path):
        parents = {name: one for name, one in halved(tmp_path).items() if name != "random"}
        merged(tmp_path, "slerp", parents, 15.0)
        merged(tmp_path, "linear", parents, 21.9)
        merged(tmp_path, "ties", parents, 31.7)
        words = said(tmp_path)
        assert (
            "Made from sparsegpt-50 (21.9) and wanda-50 (29.1): perplexity 15 with slerp, 21.9 "
            "with linear and 31.7 with ties; slerp beats both, linear beats both, by less than the "
            "intervals can tell and ties beats neither."
        ) in words
        table = sections(find([tmp_path]))[0].tables[0]
        told = {row.method: row.parents for row in score_table(table).rows if row.parents}
        assert told == {
            "slerp": "from sparsegpt-50 (21.9) and wanda-50 (29.1); beats both, clearly",
            "linear": (
                "from sparsegpt-50 (21.9) and wanda-50 (29.1); beats both, within the intervals"
            ),
            "ties": "from sparsegpt-50 (21.9) and wanda-50 (29.1); beats neither",
        }
        svg = plot(table, "k")
        assert "Made from sparsegpt-50 (21.9) and wanda-50 (29.1)" in svg

    def test_a_merge_that_loses_to_its_best_parent_is_a_loss(self, tmp_path):
        parents = {name: one for name, one in halved(tmp_path).items() if name != "random"}
        for method, score in (("slerp", 15.0), ("linear", 21.9), ("ties", 31.7), ("della", 26.0)):
            merged(tmp_path, method, parents, score)
        table = sections(find([tmp_path]))[0].tables[0]
        lost = [loss for loss in find_losses(table) if loss.loser.is_joined]
        assert {loss.loser.makers[-1].result.method for loss in lost} == {"ties", "della"}
        assert {loss.winner.method for loss in lost} == {"sparsegpt"}, "the best one, not all"
        assert {loss.reason for loss in lost} == {"a model that it was made from"}
        assert "4 with the best model that one was made from" in comparisons([table])
        assert "worse than a simpler method or than what it was made from" in said(tmp_path)

    def test_what_beats_its_parents_with_less_removed_says_so(self, tmp_path):
        parents = {name: one for name, one in halved(tmp_path).items() if name != "random"}
        merged(tmp_path, "slerp", parents, 15.0)
        assert "instead of" not in said(tmp_path), "as much was removed"
        merged(tmp_path, "linear", parents, 16.0, sparsity=0.45)
        assert "beat both. Sparsity is 0.5 and 0.45 instead of 0.5." in said(tmp_path)

    @pytest.mark.parametrize("better", ["lower", "higher"])
    def test_examples_are_compared_pair_by_pair_where_they_are_kept(self, tmp_path, better):
        """Intervals of scores overlap, but every example agrees."""
        hashes = {}
        for name, shift in (("one", 0.0), ("two", 0.1)):
            hashes[name] = made.prune(tmp_path, name, 0.5)
            self.scored(tmp_path, name, hashes[name], shift, better)
        read = [
            Input(name=f"model {n}", path=f"{name}-50", content_hash=one, role="model")
            for n, (name, one) in enumerate(hashes.items())
        ]
        content_hash = made.prune(tmp_path, "mean", 0.5, verb="merge", inputs=read)
        self.scored(tmp_path, "mean", content_hash, -0.05 if better == "lower" else 0.15, better)
        table = sections(find([tmp_path]))[0].tables[0]
        (row,) = [row for row in score_table(table).rows if row.method == "mean"]
        assert row.parents.endswith("; beats both, clearly")

    def scored(self, root, name, content_hash, shift, better):
        samples = [2.0 + number + shift for number in range(8)]
        score = made.around("loss", sum(samples) / 8, 0.3).model_copy(update={"better": better})
        fields = {"measurements": [score], "samples": {"loss": samples}}
        made.evaluate(root, name, content_hash, None, **fields)

    def test_what_became_of_a_merge_begins_with_the_merge(self, tmp_path):
        parents = {name: one for name, one in halved(tmp_path).items() if name != "random"}
        merged(tmp_path, "ties", parents, 20.0)
        (ties,) = [run for run in find([tmp_path]) if run.result.method == "ties"]
        read = [Input(name="model", path="ties", content_hash=ties.made_hash, role="model")]
        deed = "a quarter of the weights removed"
        content_hash = made.prune(tmp_path, "magnitude", 0.25, inputs=read, deed=deed)
        made.evaluate(tmp_path, "both", content_hash, 24.0)
        assert (
            "Made from sparsegpt-50 and wanda-50, then a quarter of the weights removed: "
            "perplexity 24 with (wanda, sparsegpt) then ties then magnitude; 14.1 before."
        ) in said(tmp_path)

    def test_a_parent_that_was_not_measured_is_named(self, tmp_path):
        parents = {"wanda": made.prune(tmp_path, "wanda", 0.5), "ria": "f" * 64}
        made.evaluate(tmp_path, "wanda-50", parents["wanda"], 29.0)
        merged(tmp_path, "ties", parents, 20.0)
        assert "Made from ria-50 and wanda-50 (29): perplexity 20 with ties." in said(tmp_path)


class TestGains:
    def forms(self, root: Path) -> None:
        """Write a model in two forms: scores, sizes in memory, and speeds."""
        for form, score, held, speed in (("auto", 14.11, 538e6, 40.0), ("q8", 14.13, 143e6, 120.0)):
            way = {} if form == "auto" else {"weights": form, "through": "runtime"}
            settings = {"method": "perplexity", "num_windows": 8, **way}
            folder = root / form
            sizes = {"input": 269_000_000, "zeros": 104_910_000}
            sizes |= {} if form == "auto" else {"held": int(held)}
            made.evaluate(folder, "dense", made.DENSE, score, settings=settings, bytes=sizes)
            rate = {"unit": "tokens per second", "better": "higher"}
            model = Input(name="model", path="dense", content_hash=made.DENSE, role="model")
            run = made.result(
                verb="bench",
                method="questions",
                settings={"method": "questions", "weights": form, "num_threads": None},
                inputs=[model],
                output=f"{form}.answers",
                bytes={"held": int(held)},
                measurements=[
                    Measurement(name="rate", value=speed, **rate),
                    Measurement(name="Capital?", value=speed, note=f"Tokyo by {form}.", **rate),
                    Measurement(name="Opposite?", value=speed, note="Cold.", **rate),
                ],
            )
            write_result(run, root / f"{form}.answers")

    def test_what_was_gained_stands_beside_what_it_cost(self, tmp_path):
        self.forms(tmp_path)
        runs = find([tmp_path])
        table = score_table(sections(runs)[0].tables[0], runs)
        assert (table.size_unit, table.held_unit, table.speed) == ("GB", "GB", "tokens per second")
        assert [(row.size, row.zeros, row.held, row.speed) for row in table.rows] == [
            ("0.27", "39 % zeros", "0.54", "40"),
            ("0.27", "39 % zeros", "0.14", "120"),
        ]
        assert (
            "Asked with weights q8, through runtime, dense has perplexity 14.1 instead of 14.1, "
            "0.14 GB of weights in memory instead of 0.54 GB, 3 times the tokens per second."
        ) in said(tmp_path)

    def test_a_speed_belongs_to_the_form_in_which_it_was_measured(self, tmp_path):
        self.forms(tmp_path)
        runs = find([tmp_path])
        only = [run for run in runs if run.result.output != "q8.answers"]
        gains, _ = gains_of(sections(only)[0].tables[0], only)
        assert [gain.speed and gain.speed.value for gain in gains] == [40.0, None]

    def test_questions_and_models_make_one_table(self, tmp_path):
        self.forms(tmp_path)
        page = page_of(tmp_path)
        assert page.count('<table class="measures">') == 1 + 4, "one, and one of each run"
        table = page[page.index('<table class="measures">') :]
        words = text_of(table[: table.index("</table>")])
        assert "dense, weights auto" in words
        assert "dense, weights q8" in words
        assert words.count("Capital?") == 1
        for form, speed in (("auto", 40), ("q8", 120)):
            assert f"Tokyo by {form}. {speed} tokens per second" in words
            assert words.count("Cold.") == 2, "an answer is nobody else's"

    def test_columns_of_what_nobody_measured_are_not_there(self, tmp_path):
        made.evaluate(tmp_path, "dense", made.DENSE, 20.0, bytes={})
        page = page_of(tmp_path)
        for name in ("What it gains", "Size on disk", "Weights in memory", "Differs", "Speed"):
            assert name not in page
        assert "Compared with" not in page


class TestIntervals:
    def test_only_columns_that_hold_intervals_say_so(self, tmp_path):
        plain = Measurement(name="start", value=5.6, unit="seconds")
        run = made.result(
            verb="serve", action="probe", method="", settings={}, measurements=[plain]
        )
        write_result(run, tmp_path / "one")
        assert "ntervals in brackets" not in page_of(tmp_path)
        ranged = Measurement(name="prompt", value=5.6, low=5.0, high=6.0)
        run = made.result(verb="bench", method="latency", settings={}, measurements=[ranged])
        write_result(run, tmp_path / "two")
        assert "ntervals in brackets" in page_of(tmp_path)

    def test_settings_that_are_none_are_left_out(self, tmp_path):
        unset = {"base": None, "tokenizer": None, "texts": [], "update": {"method": "none"}}
        settings = {"method": "linear", "weight": [1.0], **unset}
        made.evaluate(tmp_path, "m", made.prune(tmp_path, "linear", 0.5, settings=settings), 20.0)
        words = text_of(page_of(tmp_path))
        assert "weight 1.0" in words
        assert " none" not in words
        for name in ("tokenizer", "texts", "update"):
            assert name not in words

    @pytest.mark.parametrize(
        "paths", [("a/held.txt", "b/copy of held.txt"), ("config.json", "x/y")]
    )
    def test_a_heading_names_one_file_however_many_hold_the_examples(self, tmp_path, paths):
        for number, path in enumerate(paths):
            data = Input(name="data", path=path, content_hash="d" * 64, role="data")
            model = Input(name="model", path="m", content_hash=digest(number), role="model")
            made.evaluate(tmp_path, f"m{number}", digest(number), 20.0, inputs=[model, data])
        heading = text_of(re.search(r"<h2[^>]*>(Perplexity.*?)</h2>", page_of(tmp_path))[1])
        assert heading in ("Perplexity on held.txt", "Perplexity on y")


def test_what_a_group_shares_is_said_once_in_its_heading(tmp_path):
    for method, pattern in (("wanda", "rows"), ("ria", "rows"), ("magnitude", "2:4")):
        settings = {"method": method, "pattern": pattern, "exponent": len(method)}
        deed = HALF + ", 2 of every 4" * (pattern == "2:4")
        content_hash = made.prune(tmp_path, method, 0.5, settings=settings, deed=deed)
        made.evaluate(tmp_path, method, content_hash, 20.0 + len(method))
    first, second = score_table(sections(find([tmp_path]))[0].tables[0]).groups
    assert (first.settings, [row.settings for row in first.rows]) == (
        "pattern rows",
        ["exponent 3", "exponent 5"],
    )
    assert (second.settings, second.rows[0].settings) == ("", "pattern 2:4, exponent 9")


def test_the_plainest_of_a_method_goes_by_its_name_alone(tmp_path):
    for number, settings in enumerate(({}, {"weights": "q8"})):
        way = {"method": "perplexity", **settings}
        made.evaluate(tmp_path / str(number), "dense", made.DENSE, 20.0 + number, settings=way)
    (section,) = sections(find([tmp_path]))
    assert names_in(section.tables[0].rows) == ["dense", "dense, weights q8"]
