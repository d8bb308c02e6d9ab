"""What documents are written in, and what rules on the words of one language do to the others."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.native.text import Texts, Unit
from treadle.text.curate.overrides import Scoped

__all__ = ["SCRIPTS", "Judged", "language_notes", "scripts_of"]

_LOOKED_AT_BYTES = 2000
"""Of each document; so many say what it is written in."""
_NOTED_FRACTION = 0.1
"""Of the documents in the script that the rules are for: fewer are no other language, but junk."""

# First and last character of each run of letters, after Unicode's Blocks.txt.
_BLOCKS = (
    *(("Latin", 0x41, 0x5A), ("Latin", 0x61, 0x7A), ("Latin", 0xC0, 0x24F)),
    *(("Greek", 0x370, 0x3FF), ("Cyrillic", 0x400, 0x52F), ("Armenian", 0x530, 0x58F)),
    *(("Hebrew", 0x590, 0x5FF), ("Arabic", 0x600, 0x6FF), ("Arabic", 0x750, 0x77F)),
    *(("Arabic", 0x8A0, 0x8FF), ("Devanagari", 0x900, 0x97F), ("Bengali", 0x980, 0x9FF)),
    *(("Gurmukhi", 0xA00, 0xA7F), ("Gujarati", 0xA80, 0xAFF), ("Oriya", 0xB00, 0xB7F)),
    *(("Tamil", 0xB80, 0xBFF), ("Telugu", 0xC00, 0xC7F), ("Kannada", 0xC80, 0xCFF)),
    *(("Malayalam", 0xD00, 0xD7F), ("Sinhala", 0xD80, 0xDFF), ("Thai", 0xE00, 0xE7F)),
    *(("Lao", 0xE80, 0xEFF), ("Tibetan", 0xF00, 0xFFF), ("Myanmar", 0x1000, 0x109F)),
    *(("Georgian", 0x10A0, 0x10FF), ("Hangul", 0x1100, 0x11FF), ("Ethiopic", 0x1200, 0x139F)),
    *(("Khmer", 0x1780, 0x17FF), ("Mongolian", 0x1800, 0x18AF), ("Latin", 0x1E00, 0x1EFF)),
    *(("Greek", 0x1F00, 0x1FFF), ("Kana", 0x3041, 0x30FF), ("Han", 0x3400, 0x4DBF)),
    *(("Han", 0x4E00, 0x9FFF), ("Hangul", 0xAC00, 0xD7AF), ("Han", 0xF900, 0xFAFF)),
    *(("Arabic", 0xFB50, 0xFDFF), ("Arabic", 0xFE70, 0xFEFE), ("Han", 0x20000, 0x3FFFF)),
)
SCRIPTS = (*dict.fromkeys(name for name, _, _ in _BLOCKS), "no known")
_EDGES = np.array([edge for _, first, last in _BLOCKS for edge in (first, last + 1)], np.uint32)
_OF_EDGE = np.array([SCRIPTS.index(name) for name, _, _ in _BLOCKS])

_ENGLISH = ("num_gopher_stop_words", "stop_word_fraction", "english_score")
_SPACED = (
    *("num_words", "mean_word_length", "alpha_word_fraction", "non_alpha_fraction"),
    *("num_sentences", "ended_line_fraction", "capital_word_fraction", *_ENGLISH),
)
_UNSPACED = (
    *(*_SPACED, "short_line_fraction", "hashes_per_word", "ellipses_per_word"),
    *("newlines_per_word", "unique_token_fraction", "unigram_entropy"),
    *(f"top_{n}_gram_char_fraction" for n in (2, 3, 4)),
    *(f"duplicate_{n}_gram_char_fraction" for n in range(5, 11)),
)
_CHINESE = ("chinese_score", "mean_segment_length")
_OTHER_CHARACTERS = (
    *(*_CHINESE, "num_sentences", "unique_token_fraction", "unigram_entropy"),
    *(f"top_{n}_gram_char_fraction" for n in (2, 3, 4)),
    *(f"duplicate_{n}_gram_char_fraction" for n in range(5, 11)),
)
"""Statistics that another script can fail although nothing is wrong with the text."""
_WITHOUT_SPACES = ("Han", "Kana", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan")
_LANGUAGES = {"words": ("Latin", "English"), "characters": ("Han", "Chinese")}


def scripts_of(texts: Texts) -> npt.NDArray[np.int8]:
    """Return the place in `SCRIPTS` of what most letters of each document's beginning are."""
    found = np.full(len(texts), len(SCRIPTS) - 1, np.int8)
    for number, (start, stop) in enumerate(zip(texts.offsets[:-1], texts.offsets[1:], strict=True)):
        head = texts.data[start : min(stop, start + _LOOKED_AT_BYTES)].tobytes()
        points = np.frombuffer(head.decode(errors="ignore").encode("utf-32-le"), np.uint32)
        places = np.searchsorted(_EDGES, points, side="right")
        blocks = places[places % 2 == 1] // 2  # between the edges of one and the same block
        if len(blocks):
            found[number] = np.bincount(_OF_EDGE[blocks]).argmax()
    return found


class Judged(NamedTuple):
    """What rules did to documents."""

    scripts: npt.NDArray[np.int8]
    """Of each document, the place in `SCRIPTS`."""
    reason: npt.NDArray[np.int16]
    """Of each document, the first rule that drops it, or -1."""
    rules: Sequence[Scoped]
    is_preset: Sequence[bool]
    """Of each rule, whether it can be waived."""
    unit: Unit
    drops: Callable[[int], npt.NDArray[np.bool_]]
    """Says of a rule, by its number, which documents it drops."""


def language_notes(judged: Judged) -> tuple[str, ...]:
    """Return for each script how many documents went for want of a language's words.

    Each names all rules that say nothing of the script and drop one of them, the first ones and
    those behind, so that they stay where all are waived; and the rules by which they go even then.
    """
    gone, scripts = _gone(judged), judged.scripts
    noted = [
        place
        for place, script in enumerate(SCRIPTS)
        if gone[scripts == place].sum() > _least(script, judged.unit) * (scripts == place).sum()
    ]
    if not noted:
        return ()
    fallen, is_foul = np.zeros((len(judged.rules), len(SCRIPTS)), np.int64), np.zeros_like(gone)
    for number, one in enumerate(judged.rules):
        dropped = judged.drops(number) & gone
        fallen[number] = np.bincount(scripts[dropped], minlength=len(SCRIPTS))
        is_foul |= dropped & ~_is_bound(one.rule.statistic, judged.unit)[scripts]
    return tuple(_note(judged, place, gone, is_foul, fallen[:, place]) for place in noted)


def _note(
    judged: Judged,
    place: int,
    gone: npt.NDArray[np.bool_],
    is_foul: npt.NDArray[np.bool_],
    fallen: npt.NDArray[np.int64],
) -> str:
    script, rules, is_here = SCRIPTS[place], judged.rules, judged.scripts == place
    first = Counter(judged.reason[gone & is_here].tolist()).most_common()
    counts = ", ".join(f"{rules[n].name}: {count}" for n, count in first)
    order = [n for n in np.argsort(-fallen, kind="stable").tolist() if fallen[n]]
    bound = [n for n in order if rules[n].rule.statistic in _bound(script, judged.unit)]
    others = ", ".join(rules[n].name for n in order if n not in bound)
    num_foul, num_gone = int((is_foul & is_here).sum()), int((gone & is_here).sum())
    is_unspaced = judged.unit == "words" and script in _WITHOUT_SPACES
    return (
        f"Of {is_here.sum()} documents in {script} script {num_gone} "
        f"({num_gone / is_here.sum():.0%}) went for want of {_LANGUAGES[judged.unit][1]} words "
        f"({counts}); "
        + ("it has no spaces between words, so what counts words misjudges it: " * is_unspaced)
        + f"curate other languages apart, with rules for them, or {_mend(judged, bound)}."
        + (f" Even so {num_foul} of them go by other rules ({others})." if num_foul else "")
    )


def _mend(judged: Judged, numbers: Sequence[int]) -> str:
    """Return how rules are left out: those of presets are waived, others were asked for."""
    waived = [judged.rules[n].rule.statistic for n in numbers if judged.is_preset[n]]
    asked = [judged.rules[n].name for n in numbers if not judged.is_preset[n]]
    mends = []
    if waived:
        mends.append(f"waive these rules (--waive {','.join(dict.fromkeys(waived))})")
    if asked:
        mends.append(f"leave out {', '.join(asked)}, which --drop or --override asks for")
    return " and ".join(mends)


def _bound(script: str, unit: Unit) -> tuple[str, ...]:
    """Return the statistics that say nothing of a text in a script."""
    if unit == "characters":
        return _CHINESE if script == "Han" else _OTHER_CHARACTERS
    if script == "Latin":
        return _ENGLISH
    return _UNSPACED if script in _WITHOUT_SPACES else _SPACED


def _is_bound(statistic: str, unit: Unit) -> npt.NDArray[np.bool_]:
    """Return of each script whether a statistic says nothing of its texts."""
    return np.array([statistic in _bound(script, unit) for script in SCRIPTS])


def _gone(judged: Judged) -> npt.NDArray[np.bool_]:
    """Return which documents went by a rule that says nothing of their script."""
    bound = np.stack([_is_bound(one.rule.statistic, judged.unit) for one in judged.rules])
    found: npt.NDArray[np.bool_] = (judged.reason >= 0) & bound[judged.reason, judged.scripts]
    return found


def _least(script: str, unit: Unit) -> float:
    return _NOTED_FRACTION if script == _LANGUAGES[unit][0] else 0.0
