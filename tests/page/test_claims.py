"""The page claims no more than was measured: broken scores, missing rivals, parts of costs."""

import re

import made_results as made
import pytest
from made_results import page_of, text_of

from treadle.core.result import digest, write_result
from treadle.page.losses import find_losses
from treadle.page.scores import sections
from treadle.page.sources import find
from treadle.page.tables import score_table
from treadle.page.tradeoff import closeup, plot
from treadle.page.wording import count, protocol_facts

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

NAN, INF = float("nan"), float("inf")


def losses_of(page: str) -> str:
    return text_of(page[page.index('id="losses"') : page.index('id="provenance"')])


class TestNotFinite:
    @pytest.mark.parametrize(("value", "words"), [(NAN, "not a number"), (INF, "not finite")])
    def test_a_broken_score_has_no_verdict_and_wins_nothing(self, tmp_path, value, words):
        dense = made.evaluate(tmp_path, "dense", made.DENSE, 20.0)
        for method, score in (("random", 90.0), ("magnitude", 30.0), ("wanda", value)):
            content_hash = made.prune(tmp_path, method, 0.5)
            made.evaluate(tmp_path, method, content_hash, score, baseline=dense)
        table = sections(find([tmp_path]))[0].tables[0]
        broken = table.rows[-1]
        assert (broken.method, broken.verdict) == ("wanda", None)
        row = score_table(table).rows[-1]
        assert (row.verdict, row.tags, row.is_best) == (f"no verdict: {words}", [], False)
        found = find_losses(table)
        assert {loss.loser.method for loss in found} == {"wanda"}
        assert {loss.winner.method for loss in found} == {"random", "magnitude"}
        page = page_of(tmp_path)
        assert words in text_of(page)
        assert "nan" not in page[page.index("<svg") : page.index("</svg>")].lower()

    @pytest.mark.parametrize("value", [NAN, INF, -INF])
    @pytest.mark.parametrize("better", ["lower", "higher"])
    def test_no_broken_score_is_first_or_best(self, tmp_path, value, better):
        for name, score in (("broken", value), ("fine", 0.5), ("worse", 0.5)):
            entry = made.around("accuracy", score).model_copy(update={"better": better})
            made.evaluate(tmp_path, name, digest(name), None, measurements=[entry])
        table = sections(find([tmp_path]))[0].tables[0]
        assert [row.model for row in table.rows] == ["fine", "worse", "broken"]
        assert not score_table(table).rows[-1].is_best
        assert plot(table, "k")
        assert closeup(table) == []

    @pytest.mark.parametrize(
        ("value", "words", "amounts"),
        [(INF, "infinite", (0.5,)), (1.7e308, "1.70×10³⁰⁸", (0.5, 0.7))],
    )
    def test_a_ruined_model_stands_in_the_lead_and_below_the_picture(
        self, tmp_path, value, words, amounts
    ):
        dense = made.evaluate(tmp_path, "dense", made.DENSE, 20.0)
        for amount in amounts:
            for method, score in (("magnitude", value), ("wanda", 30.0)):
                content_hash = made.prune(tmp_path, method, amount)
                made.evaluate(tmp_path, f"{method}{amount}", content_hash, score, baseline=dense)
        page = page_of(tmp_path)
        lead = text_of(re.search(r'<p class="lead">(.*?)</p>', page, re.S)[1])
        assert f"perplexity 30 with wanda and {words} with magnitude; 20 before." in lead
        assert f"{count(len(amounts), 'model')} without a finite score not drawn." in text_of(page)

    def test_a_table_of_broken_scores_has_no_best(self, tmp_path):
        for method in ("random", "wanda"):
            made.evaluate(tmp_path, method, made.prune(tmp_path, method, 0.5), NAN)
        table = sections(find([tmp_path]))[0].tables[0]
        assert [row.tags for row in score_table(table).rows] == [["control"], []]
        assert find_losses(table) == []
        assert "Nothing to compare: no method was measured beside" in text_of(page_of(tmp_path))

    @pytest.mark.parametrize(
        ("scores", "best"),
        [((20.0, 20.0, 20.0), 0), ((20.0, 20.0, 21.0), 2), ((19.0, 20.0, 21.0), 1)],
    )
    def test_equal_scores_are_equally_good(self, tmp_path, scores, best):
        for method, score in zip(("magnitude", "random", "wanda"), scores, strict=True):
            made.evaluate(tmp_path, method, made.prune(tmp_path, method, 0.5), score)
        rows = score_table(sections(find([tmp_path]))[0].tables[0]).rows
        assert [row.is_best for row in rows] == [True] * best + [False] * (3 - best)
        assert [row.score.split()[0] for row in rows] == [f"{score:.2f}" for score in scores]

    def test_intervals_without_an_end_are_drawn_without_it(self, tmp_path):
        for method, amount in (("random", 0.5), ("wanda", 0.5), ("wanda", 0.7)):
            entry = made.around("perplexity", 30.0).model_copy(update={"high": INF})
            content_hash = made.prune(tmp_path, method, amount)
            made.evaluate(tmp_path, f"{method}{amount}", content_hash, None, measurements=[entry])
        svg = plot(sections(find([tmp_path]))[0].tables[0], "k")
        assert not re.search(r"\b(?:nan|inf)\b", svg)

    def test_baselines_alone_are_drawn_where_every_made_model_is_broken(self, tmp_path):
        for name in ("dense", "other"):
            made.evaluate(tmp_path, name, digest(name), 20.0)
        for amount in (0.5, 0.7):
            made.evaluate(tmp_path, f"w{amount}", made.prune(tmp_path, "wanda", amount), NAN)
        assert plot(sections(find([tmp_path]))[0].tables[0], "k")


class TestComparisons:
    def test_without_control_or_other_method_there_is_nothing_to_compare(self, tmp_path):
        made.evaluate(tmp_path, "wanda", made.prune(tmp_path, "wanda", 0.5), 25.0)
        words = losses_of(page_of(tmp_path))
        assert (
            "Nothing to compare: no control and no other method was measured under the same "
            "protocol at the same amount."
        ) in words
        assert "No case" not in words

    def test_no_control_is_denied_that_was_measured(self, tmp_path):
        made.evaluate(tmp_path, "random", made.prune(tmp_path, "random", 0.5), 95.0)
        words = losses_of(page_of(tmp_path))
        assert "Nothing to compare: no method was measured beside a control" in words

    def test_only_what_was_compared_is_claimed_with_its_number(self, tmp_path):
        made.evaluate(tmp_path, "wanda", made.prune(tmp_path, "wanda", 0.5), 25.0)
        made.evaluate(tmp_path, "random", made.prune(tmp_path, "random", 0.5), 95.0)
        # random reads no text, so it would count as simpler too; a control counts once
        words = losses_of(page_of(tmp_path))
        assert "1 comparison was made (1 with a control)" in words
        assert "the method clearly beats the control." in words
        assert "simpler" not in words

    def test_cases_are_counted_among_comparisons(self, tmp_path):
        made.study(tmp_path)
        words = losses_of(page_of(tmp_path))
        assert (
            "6 comparisons were made: 4 with a control and 2 with a simpler or cheaper method."
        ) in words


class TestProtocol:
    @pytest.mark.parametrize("join", ["\\n\\n", "\n\n"])
    def test_joins_are_in_words(self, join):
        assert protocol_facts({"join": join})[0].text == "blank line between documents"
        assert protocol_facts({"join": "file"})[0].text == "as in the file"

    def test_sampled_windows_name_their_seed(self):
        words = protocol_facts({"num_windows": 8, "sampled_seed": 0, "join": "\\n\\n"})
        assert ("windows", "drawn by seed 0", "") in words
        assert protocol_facts({"sampled_seed": None}) == [("windows", "the first ones", "")]

    def test_the_page_shows_protocols_in_words(self, tmp_path):
        protocol = {"join": "\\n\\n", "sampled_seed": 0}
        run = made.evaluate(tmp_path, "dense", made.DENSE, 20.0)
        folder = tmp_path / "evaluations" / "dense-aaaa1111bbbb2222"
        write_result(run.model_copy(update={"protocol": protocol}), folder)
        words = text_of(page_of(tmp_path))
        assert "join blank line between documents" in words
        assert "windows drawn by seed 0" in words


class TestResumed:
    def test_costs_of_the_last_part_are_marked_and_not_summed_as_whole(self, tmp_path):
        notes = ["An interrupted run had pruned the first 3 blocks."]
        content_hash = made.prune(tmp_path, "wanda", 0.5, notes=notes, is_resumed=True)
        made.evaluate(tmp_path, "wanda", content_hash, 25.0)
        page = page_of(tmp_path)
        words = text_of(page)
        assert "12.5 resumed" in words
        assert page.count('<span class="tag">resumed</span>') == 1
        assert "resumed: cost of the last part only" in words
        assert "took at least 25 s (at least 40 s of processor time; of a resumed run" in words
        assert "12.5 s (last part only)" in words

    def test_whole_runs_are_not_marked(self, tmp_path):
        made.study(tmp_path)
        words = text_of(page_of(tmp_path))
        assert "resumed" not in words
        assert "at least" not in words

    def test_a_part_of_the_cost_makes_no_method_cheaper(self, tmp_path):
        notes = ["An interrupted run had pruned the first 3 blocks."]
        slow = made.prune(tmp_path, "magnitude", 0.5, cpu_seconds=100.0)
        part = made.prune(tmp_path, "other", 0.5, cpu_seconds=1.0, notes=notes, is_resumed=True)
        made.evaluate(tmp_path, "slow", slow, 90.0)
        made.evaluate(tmp_path, "part", part, 20.0)
        assert find_losses(sections(find([tmp_path]))[0].tables[0]) == []


class TestNotation:
    @pytest.mark.parametrize("largest", [112_000.0, 30_064_430.0, 4e12])
    def test_one_column_has_one_notation(self, tmp_path, largest):
        for name, score in (("a", 25.0), ("b", 61_621.0), ("c", largest)):
            made.evaluate(tmp_path, name, digest(name), score)
        scores = [row.score for row in score_table(sections(find([tmp_path]))[0].tables[0]).rows]
        assert {"×10" in score for score in scores} == {largest > 1e9}
        assert len({score.count("×10") for score in scores}) == 1


class TestWidth:
    def test_costs_stand_apart_and_ranges_may_wrap(self, tmp_path):
        made.study(tmp_path)
        page = page_of(tmp_path)
        assert re.search(r"\.range \{[^}]*white-space: normal", page)
        scores, costs = page.split('<table class="scores">')[1:3]
        assert "CPU seconds" not in scores
        assert "CPU seconds" in costs
        assert page.index("<details>") < page.index("CPU seconds"), "costs are folded away"
