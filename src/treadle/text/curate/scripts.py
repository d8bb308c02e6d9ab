"""What documents are written in, and what rules on the words of one language do to the others."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from treadle.native.text import Texts, Unit
from treadle.text.curate.overrides import Scoped

__all__ = ["SCRIPTS", "language_notes", "scripts_of"]

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

_STOP_WORDS = ("num_gopher_stop_words", "stop_word_fraction", "english_score")
_WANTING = {
    "words": (
        *("num_words", "mean_word_length", "alpha_word_fraction", "num_sentences"),
        *("ended_line_fraction", *_STOP_WORDS),
    ),
    "characters": ("chinese_score", "mean_segment_length"),
}
"""By unit, the statistics that another script can fail although nothing is wrong with the text."""
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


def language_notes(
    scripts: npt.NDArray[np.int8],
    reason: npt.NDArray[np.int16],
    rules: Sequence[Scoped],
    unit: Unit,
) -> tuple[str, ...]:
    """Return for each script how many documents went for want of a language's words."""
    own, language = _LANGUAGES[unit]
    found = []
    for place, script in enumerate(SCRIPTS):
        wanting = _WANTING[unit] if script != own or unit == "characters" else _STOP_WORDS
        numbers = [n for n, one in enumerate(rules) if one.rule.statistic in wanting]
        reasons = reason[scripts == place]
        gone = Counter(reasons[np.isin(reasons, numbers)].tolist())
        least = _NOTED_FRACTION if script == own else 0.0
        if gone.total() > least * len(reasons):
            counts = ", ".join(f"{rules[n].name}: {count}" for n, count in gone.most_common())
            share = gone.total() / len(reasons)
            found.append(
                f"Of {len(reasons)} documents in {script} script {gone.total()} ({share:.0%}) went "
                f"for want of {language} words ({counts}); curate other languages apart, with "
                f"rules for them, or waive these rules (--waive {_waived(rules, gone)})."
            )
    return tuple(found)


def _waived(rules: Sequence[Scoped], gone: "Counter[int]") -> str:
    return ",".join(dict.fromkeys(rules[n].rule.statistic for n, _ in gone.most_common()))
