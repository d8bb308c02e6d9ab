"""Rules: values by hand in English and Chinese, thresholds without text, published pitfalls."""

import re

import numpy as np
import pytest
from tests.text.curate import corpora

from treadle import curate
from treadle.core.errors import DataError, SettingsError
from treadle.native.text import Texts
from treadle.text.curate import METHODS
from treadle.text.curate.c4_lines import clean_lines
from treadle.text.curate.rulesets import PRESETS, read_rule
from treadle.text.curate.statistics import COSTLY, STATISTICS, document_statistics

GOOD = (
    "The committee met on Tuesday to discuss the plan that had been proposed in March. Members "
    "agreed with most of it, but they asked for a longer period of review. A second meeting is to "
    "be held in the town hall, and everyone who lives nearby is welcome to come along. Questions "
    "can be sent by letter before the end of the month, says the chair of the board."
)
CHINESE = (
    "今天我们来讨论一下城市交通的发展情况。随着人口不断增长，道路变得越来越拥挤，许多居民选择乘坐地铁上班。"
    "政府计划在未来五年内修建三条新的线路，并且改善公共汽车的服务质量。专家认为，这些措施能够有效减少空气污染，"
    "同时提高人们的生活水平。当然，工程需要大量资金，施工期间也会带来不便，希望大家理解和支持。"
)


def measured(text, unit="words"):
    values = document_statistics(Texts.of([text]), unit, ())[0]
    return dict(zip(STATISTICS, values.tolist(), strict=True))


def reasons(tmp_path, texts, **settings):
    rows = [{"id": str(n), "text": text} for n, text in enumerate(texts)]
    data = corpora.write_lines(tmp_path / "a.jsonl", rows)
    curate(data, tmp_path / "out", {"method": "rules", **settings}, overwrite=True)
    return [row["drop_reason"] for row in corpora.decisions(tmp_path / "out").values()]


def test_english_statistics_by_hand():
    found = measured("The cat sat.\nThe cat sat.\n- it ran {fast}...\n\n# 42 CATS of the")
    expected = {
        "num_chars": 62,
        "num_words": 15,
        "num_lines": 4,
        "num_sentences": 4,
        "mean_word_length": 47 / 15,
        "alpha_word_fraction": 12 / 15,
        "capital_word_fraction": 1 / 15,
        "num_gopher_stop_words": 2,
        "hashes_per_word": 1 / 15,
        "ellipses_per_word": 1 / 15,
        "curly_brace_fraction": 2 / 62,
        "bullet_line_fraction": 1 / 4,
        "ellipsis_line_fraction": 1 / 4,
        "ended_line_fraction": 3 / 4,
        "duplicate_line_fraction": 1 / 4,
        "duplicate_line_char_fraction": 12 / 62,
        "duplicate_paragraph_fraction": 0,
        "top_2_gram_char_fraction": 14 / 47,
        "unique_token_fraction": 12 / 15,
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-6), name


def test_chinese_statistics_by_hand():
    found = measured("【广告】好好好！真的３……\n展开", "characters")
    # After NFKC: 【广告】好好好!真的3......(newline)展开 = 20 characters, 19 of them tokens.
    expected = {
        "num_chars": 20,
        "num_lines": 2,
        "num_sentences": 3,
        "bracketed_char_fraction": 2 / 20,
        "digit_fraction": 1 / (20 - 9),
        "ellipses_per_char": 1 / 20,
        "read_more_line_fraction": 1 / 2,
        "unique_token_fraction": 12 / 19,
        "top_2_gram_char_fraction": 10 / 19,
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-6), name
    shares = np.array([1] * 9 + [3, 6, 1]) / 19
    assert found["unigram_entropy"] == pytest.approx(-(shares * np.log(shares)).sum(), rel=1e-6)


def test_good_texts_pass_every_preset_of_their_language(tmp_path):
    for preset in ("gopher", "c4", "fineweb"):
        assert reasons(tmp_path, [GOOD], preset=preset) == [None], preset
    # Few words repeat in so short a text.
    assert reasons(tmp_path, [GOOD], preset="matrix-en", waive="unique_token_fraction") == [None]
    assert reasons(tmp_path, [CHINESE], preset="map-cc") == [None]


BAD = {
    "gopher": {
        "num_words < 50": "Too short to be of the use that we have for it.",
        "mean_word_length > 10": " ".join(["incomprehensibilities"] * 60),
        "hashes_per_word > 0.1": GOOD.replace(" of", " #of").replace(" the", " #the #"),
        "bullet_line_fraction > 0.9": "- " + GOOD.replace(" ", "\n- "),
        "num_gopher_stop_words < 2": " ".join(f"word{chr(97 + n % 26)}{n}x" for n in range(60)),
        "duplicate_line_fraction > 0.3": f"{GOOD}\n" + "Read on here.\n" * 9,
        "top_2_gram_char_fraction > 0.2": GOOD + " the board" * 40,
    },
    "c4": {
        "curly_brace_fraction > 0": GOOD + " function() { return; } is what the code says here.",
        "lorem_ipsum_per_char > 0": GOOD + " Lorem ipsum dolor sit amet consectetur.",
        "num_sentences < 3": "One line that ends and has enough words.\nMenu\nHome\nAbout",
    },
    "fineweb": {
        "ended_line_fraction <= 0.12": GOOD.replace(".", "").replace(",", "\n"),
        "duplicate_line_char_fraction >= 0.1": f"{GOOD}\n{GOOD}",
        "short_line_fraction >= 0.67": GOOD.replace(" that", ".\nthat").replace(" ", ".\n"),
    },
    "map-cc": {
        "num_chars < 50": "今天天气很好。我们去公园玩。",
        "bracketed_char_fraction > 0.1": CHINESE + "【" + CHINESE[:40] + "】",
        "num_sentences <= 1": CHINESE.replace("。", "，"),
        "digit_fraction > 0.3": CHINESE + "12345 67890" * 12,
        "unigram_entropy < 3": "好的是。" * 40,
    },
    "matrix-en": {
        "unigram_entropy < 3": "It is good. It is fine and that is that. " * 9,
        "capital_word_fraction >= 0.1": GOOD.replace("the", "THE")
        .replace("of", "OF")
        .replace("to", "TO"),
    },
}
CASES = [(preset, rule, text) for preset, found in BAD.items() for rule, text in found.items()]


@pytest.mark.parametrize(("preset", "rule", "text"), CASES, ids=[f"{p}-{r}" for p, r, _ in CASES])
def test_planted_junk_breaks_the_rule_made_for_it(tmp_path, preset, rule, text):
    method = METHODS.resolve({"method": "rules", "preset": preset})
    assert rule in map(str, method.rules)
    only = [other.statistic for other in method.rules if str(other) != rule]
    only = [name for name in only if name != read_rule(rule).statistic]
    assert reasons(
        tmp_path, [text, CHINESE if preset == "map-cc" else GOOD], preset=preset, waive=only
    ) == [rule, None]


def test_repetition_rule_drops(tmp_path):
    """The released filter tests a tuple for truth, and so never drops anything."""
    text = CHINESE + "买买买卖卖卖" * 60
    assert reasons(tmp_path, [text], preset="map-cc", waive=["chinese_score"])[0] is not None


def test_duplicate_characters_are_counted_by_place():
    """The released filter counts distinct values, which can hardly reach its threshold."""
    phrase = "abcdefgh"
    found = measured("x" + phrase * 5, "characters")
    assert found["duplicate_5_gram_char_fraction"] == pytest.approx(40 / 41)


def test_language_rule_looks_at_the_label(tmp_path):
    """The released filter checks the score of whatever language is the likeliest."""
    text = GOOD.replace(" ", "，", 3)
    waived = [r.statistic for r in PRESETS["map-cc"].rules if r.statistic != "chinese_score"]
    found = reasons(tmp_path, [text, CHINESE], preset="map-cc", waive=waived)
    assert found == ["chinese_score < 0.4", None]


def test_full_width_punctuation_stays_in_the_text(tmp_path):
    """The released filter writes ASCII punctuation into the corpus."""
    reasons(tmp_path, [CHINESE], preset="map-cc")
    assert corpora.kept(tmp_path / "out")[0]["text"] == CHINESE


def test_thresholds_apply_later_without_measuring(tmp_path, monkeypatch):
    data = corpora.write_lines(tmp_path / "a.jsonl", corpora.records())
    curate(data, tmp_path / "one", {"method": "rules", "preset": "gopher"})
    rules = {"method": "rules", "preset": (), "drop": ["num_words<75"]}
    curate(data, tmp_path / "fresh", rules)
    rules_class = type(METHODS.resolve(rules))
    monkeypatch.setattr(rules_class, "measure", lambda *_: pytest.fail("measured again"))
    curate(data, tmp_path / "later", rules, statistics=tmp_path / "one")
    assert corpora.content(tmp_path / "later") == corpora.content(tmp_path / "fresh")


def test_statistics_of_something_else_are_refused(tmp_path):
    data = corpora.write_lines(tmp_path / "a.jsonl", corpora.records())
    other = corpora.write_lines(tmp_path / "b.jsonl", corpora.records(seed=1))
    curate(data, tmp_path / "one", {"method": "rules", "preset": "gopher"})
    refused = {
        "of other documents": (other, {"method": "rules", "preset": "gopher"}),
        "measured otherwise": (data, {"method": "rules", "preset": "c4"}),
        r"need \(english_score\)": (data, {"method": "rules", "preset": "matrix-en"}),
    }
    for message, (source, method) in refused.items():
        with pytest.raises(DataError, match=message):
            curate(source, tmp_path / "two", method, statistics=tmp_path / "one")
    with pytest.raises(SettingsError, match="'exact' uses no statistics"):
        curate(data, tmp_path / "two", "exact", statistics=tmp_path / "one")
    with pytest.raises(DataError, match="No statistics in"):
        curate(data, tmp_path / "two", "rules", statistics=tmp_path)


def test_first_reason_and_its_value_are_written(tmp_path):
    data = corpora.write_lines(tmp_path / "a.jsonl", [{"id": "x", "text": "too few words"}])
    curate(data, tmp_path / "out", "rules")
    row = corpora.decisions(tmp_path / "out")["x"]
    assert (row["drop_reason"], row["drop_value"]) == ("num_words < 50", 3.0)


def test_equality_with_a_threshold_is_exact():
    values = np.array([3 / 10, 1 / 3], np.float32)
    assert read_rule("digit_fraction>0.3").drops(values).tolist() == [False, True]
    assert read_rule("digit_fraction>=0.3").drops(values).tolist() == [True, True]


def test_result_shows_what_each_threshold_would_drop(tmp_path):
    data = corpora.write_lines(tmp_path / "a.jsonl", corpora.records())
    result = curate(data, tmp_path / "out", {"method": "rules", "drop": ["num_words<75"]})
    curve = next(f for f in result.figures if f.title == "Drop curve: num_words < 75").series[0]
    dropped = dict(zip(curve.x, curve.y, strict=True))
    assert dropped[min(dropped)] == 0
    assert sorted(curve.y) == curve.y
    words = [len(str(row["text"]).split()) for row in corpora.records()]
    middle = sorted(dropped)[20]
    assert dropped[middle] == np.mean(np.array(words) < middle)


def test_several_presets_apply_together_and_languages_do_not_mix():
    method = METHODS.resolve({"method": "rules", "preset": ["gopher", "fineweb"]})
    assert len(method.rules) == len({*PRESETS["gopher"].rules, *PRESETS["fineweb"].rules})
    for settings, message in (
        ({"preset": ["gopher", "map-cc"]}, "words and Chinese characters"),
        ({"waive": ["num_wrods"]}, "Did you mean 'num_words'"),
        ({"drop": ["num_wrods<3"]}, "Did you mean 'num_words'"),
        ({"drop": ["num_words=3"]}, "is no rule; write STATISTIC"),
        ({"preset": []}, "no rule is left; waive fewer statistics. Change it"),
    ):
        with pytest.raises(SettingsError, match=message):
            METHODS.resolve({"method": "rules", **settings})


def test_c4_keeps_the_lines_that_end_a_sentence():
    lines = {
        "This line has enough words and ends.": True,
        "  It was built in 1901[12] by the sea[citation needed].  ": True,
        "No end in sight of this line": False,
        "Only four words here.": False,
        "This one is cut off in the middle...": False,
        "Please enable JavaScript to see this page.": False,
        "By reading on you accept our cookie policy.": False,
    }
    expected = ["This line has enough words and ends.", "It was built in 1901 by the sea."]
    assert clean_lines("\n".join(lines)) == "\n".join(expected)


def test_c4_writes_the_lines_that_it_leaves(tmp_path):
    text = f"Menu\n{GOOD}\nHome | About"
    assert reasons(tmp_path, [text], preset="c4") == [None]
    assert corpora.kept(tmp_path / "out")[0]["text"] == GOOD


@pytest.mark.parametrize("name", COSTLY)
def test_costly_statistics_are_measured_where_a_rule_asks(tmp_path, name):
    data = corpora.write_lines(tmp_path / "a.jsonl", [{"id": "x", "text": CHINESE}])
    curate(data, tmp_path / "out", {"method": "rules", "preset": (), "drop": [f"{name}<-1"]})
    value = corpora.read(tmp_path / "out", "statistics")[0][name]
    low, high = {"chinese_score": (0.9, 1), "english_score": (0, 0.1)}.get(name, (1.3, 3))
    assert low <= value <= high


@pytest.mark.parametrize("wrong", [{"waive": ("nope",)}, {"override": ("wiki: nope",)}])
def test_statistics_are_listed_once(wrong):
    with pytest.raises(SettingsError, match="no rule on 'nope' to waive") as refusal:
        METHODS.resolve({"method": "rules", **wrong})
    listed = str(refusal.value).partition("Choose one of: ")[2]
    names = re.findall(r"\w+", listed.partition(".")[0])
    assert len(names) > 10
    assert len(names) == len(set(names))
