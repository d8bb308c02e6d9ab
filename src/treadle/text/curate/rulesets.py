"""The published rule sets as data: a document goes if a statistic is beyond a threshold."""

import operator
import re
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.errors import SettingsError
from treadle.core.registry import near
from treadle.native.text import Unit
from treadle.text.curate.statistics import COSTLY, STATISTICS

__all__ = ["PRESETS", "Preset", "Rule", "RuleSet", "read_rule"]

Preset = Literal["gopher", "c4", "fineweb", "map-cc", "matrix-en"]
_SIGNS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_WRITTEN = re.compile(r"\s*(\w+)\s*(<=|>=|<|>)\s*([-+.\deE]+)\s*")


class Rule(NamedTuple):
    """Drop a document if `statistic sign threshold`."""

    statistic: str
    sign: str
    threshold: float

    def __str__(self) -> str:
        return f"{self.statistic} {self.sign} {self.threshold:g}"

    def drops(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """Return which values are beyond the threshold; both sides are float32."""
        found: npt.NDArray[np.bool_] = _SIGNS[self.sign](values, np.float32(self.threshold))
        return found


class RuleSet(NamedTuple):
    """What one paper drops."""

    unit: Unit
    """What n-grams, unique tokens and entropy are over."""
    rules: tuple[Rule, ...]


def read_rule(text: str) -> Rule:
    """Return the rule that `text` writes, as in "num_words<20".

    Raises:
        SettingsError: It is none, or names no statistic.
    """
    found = _WRITTEN.fullmatch(text)
    if found is None:
        raise SettingsError(
            f"'{text}' is no rule; write STATISTIC, one of < <= > >=, and a number, as in "
            f"'num_words<20': the documents of which this holds are dropped."
        )
    name, sign, number = found.groups()
    if name not in STATISTICS and name not in COSTLY:
        raise SettingsError(f"No statistic '{name}'. {near(name, [*STATISTICS, *COSTLY])}")
    return Rule(name, sign, float(number))


def _rules(*texts: str) -> tuple[Rule, ...]:
    return tuple(map(read_rule, texts))


def _grams(*, top: tuple[float, ...], duplicate: tuple[float, ...]) -> tuple[Rule, ...]:
    """Return the rules on top 2-, 3- and 4-grams, and on duplicated 5- to 10-grams."""
    return (
        *(Rule(f"top_{n}_gram_char_fraction", ">", t) for n, t in enumerate(top, 2)),
        *(Rule(f"duplicate_{n}_gram_char_fraction", ">", t) for n, t in enumerate(duplicate, 5)),
    )


PRESETS: dict[str, RuleSet] = {
    # Rae et al. 2021 (arXiv 2112.11446), section A.1.1 and table A1.
    #   words 50..100 000     mean word length 3..10     '#' and ellipses per word <= 0.1
    #   lines that start with a bullet <= 90 %, end with an ellipsis <= 30 %
    #   words with a letter >= 80 %     at least 2 of 8 stop words
    #   duplicate lines 0.30, paragraphs 0.30, their characters 0.20, 0.20
    #   top 2/3/4-gram 0.20/0.18/0.16     duplicate 5..10-grams 0.15 0.14 0.13 0.12 0.11 0.10
    "gopher": RuleSet(
        "words",
        (
            *_rules("num_words<50", "num_words>100000"),
            *_rules("mean_word_length<3", "mean_word_length>10"),
            *_rules("hashes_per_word>0.1", "ellipses_per_word>0.1"),
            *_rules("bullet_line_fraction>0.9", "ellipsis_line_fraction>0.3"),
            *_rules("alpha_word_fraction<0.8", "num_gopher_stop_words<2"),
            *_rules("duplicate_line_fraction>0.3", "duplicate_paragraph_fraction>0.3"),
            *_rules("duplicate_line_char_fraction>0.2", "duplicate_paragraph_char_fraction>0.2"),
            *_grams(top=(0.20, 0.18, 0.16), duplicate=(0.15, 0.14, 0.13, 0.12, 0.11, 0.10)),
        ),
    ),
    # Raffel et al. 2020 (arXiv 1910.10683), section 2.2, on the text that its line rules leave:
    #   no page with a curly brace or "lorem ipsum"     at least 3 sentences
    # Its list of bad words is not shipped.
    "c4": RuleSet(
        "words",
        _rules("curly_brace_fraction>0", "lorem_ipsum_per_char>0", "num_sentences<3"),
    ),
    # Penedo et al. 2024 (arXiv 2406.17557), section 3.6: FineWeb's own rules.
    #   lines that end with punctuation <= 0.12     characters in duplicate lines >= 0.1
    #   lines of at most 30 characters >= 0.67
    # (Its pipeline also has Gopher's rules, and C4's but for terminal punctuation.)
    "fineweb": RuleSet(
        "words",
        _rules(
            "ended_line_fraction<=0.12",
            "duplicate_line_char_fraction>=0.1",
            "short_line_fraction>=0.67",
        ),
    ),
    # Du et al. 2024 (arXiv 2404.04167), as the released filter has it, on NFKC text:
    #   【…】 > 0.1     sentences <= 1     characters 50..10 000     mean jieba word 1.3..10
    #   runs of '#', ellipses per character > 0.1     digits > 0.3 of what is no punctuation
    #   lines ending in "read more" > 0.3, starting with a bullet > 0.9     no punctuation at all
    #   unique characters <= 0.1     entropy of characters < 3 nats     language score < 0.4
    #   top 2/3/4-gram 0.20/0.18/0.16     duplicated 5..10-grams 0.60 each
    # The score is that of Chinese, where the released code forgets to look at the label.
    "map-cc": RuleSet(
        "characters",
        (
            *_rules("bracketed_char_fraction>0.1", "num_sentences<=1"),
            *_rules("num_chars<50", "num_chars>10000"),
            *_rules("mean_segment_length<1.3", "mean_segment_length>10"),
            *_rules("hash_runs_per_char>0.1", "ellipses_per_char>0.1", "digit_fraction>0.3"),
            *_rules("read_more_line_fraction>0.3", "bullet_line_fraction>0.9"),
            *_rules("punctuation_fraction<=0", "unique_token_fraction<=0.1", "unigram_entropy<3"),
            *_rules("chinese_score<0.4"),
            *_grams(top=(0.20, 0.18, 0.16), duplicate=(0.6,) * 6),
        ),
    ),
    # Zhang et al. 2024 (arXiv 2405.19327), the English rules of Matrix:
    #   words 50..10 000     mean word length 3..10     lines ending with an ellipsis >= 0.2
    #   bullets > 0.9     words without a letter >= 0.4     stop words < 0.06 or fewer than 2
    #   symbols per word >= 0.5     sentences 2..7500     curly braces >= 0.025
    #   "lorem ipsum" >= 3e-8     language score < 0.4     all-capital words >= 0.1
    #   unique words 0.1..0.8     entropy 3..6     n-grams, duplicate lines as Gopher
    #   "read more" 0.1     runs of '#', ellipses 0.1     non-letters 0.2     digits 0.3
    "matrix-en": RuleSet(
        "words",
        (
            *_rules("num_words<50", "num_words>10000"),
            *_rules("mean_word_length<3", "mean_word_length>10"),
            *_rules("ellipsis_line_fraction>=0.2", "bullet_line_fraction>0.9"),
            *_rules("alpha_word_fraction<=0.6", "stop_word_fraction<0.06"),
            *_rules("num_gopher_stop_words<2", "hashes_per_word>=0.5", "ellipses_per_word>=0.5"),
            *_rules("num_sentences<=1", "num_sentences>7500", "curly_brace_fraction>=0.025"),
            *_rules("lorem_ipsum_per_char>=3e-8", "english_score<0.4"),
            *_rules("capital_word_fraction>=0.1"),
            *_rules("unique_token_fraction<0.1", "unique_token_fraction>0.8"),
            *_rules("unigram_entropy<3", "unigram_entropy>6"),
            *_grams(top=(0.20, 0.18, 0.16), duplicate=(0.15, 0.14, 0.13, 0.12, 0.11, 0.10)),
            *_rules("duplicate_line_fraction>0.3", "duplicate_line_char_fraction>0.2"),
            *_rules("read_more_line_fraction>0.1"),
            *_rules("hash_runs_per_char>0.1", "ellipses_per_char>0.1"),
            *_rules("non_alpha_fraction>0.2", "digit_fraction>0.3"),
        ),
    ),
}
