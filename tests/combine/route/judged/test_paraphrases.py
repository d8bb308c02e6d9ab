"""Paraphrases by rule."""

import pytest

from treadle.combine.route.judged.paraphrases import RULES, stability


@pytest.mark.parametrize("text", ["What is 2 + 3?", "ok", "12", "a b. ", "日本"])
def test_every_rule_changes_a_text_and_keeps_its_words(text):
    for name, rule in RULES.items():
        changed = rule(text)
        assert changed != text or (
            name == "case" and not any(c.isalpha() and c.lower() != c.upper() for c in text)
        )
        letters = [c.lower() for c in text if c.isalnum()]
        assert "".join(letters) in "".join(c.lower() for c in changed if c.isalnum())


def test_stability_is_the_share_that_goes_the_same_way():
    texts = ["one", "two", "three", "four"]

    def by_end(some):
        return [int(text.endswith(".")) for text in some]

    found = stability(texts, by_end(texts), by_end)
    assert found == {"case": 1.0, "punctuation": 0.0, "polite": 1.0, "whitespace": 1.0}
