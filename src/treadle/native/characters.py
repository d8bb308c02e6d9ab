"""What every code point is, as two tables made from Python's Unicode database."""

import functools
import threading
import unicodedata
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["ALPHA", "DIGIT", "IDEOGRAPH", "IN_WORD", "MARK", "SPACE", "Characters", "characters"]

SPACE, ALPHA, DIGIT, PUNCTUATION, UPPER = 1, 2, 4, 8, 16
SENTENCE_END, LINE_END, BULLET, IDEOGRAPH, MARK = 32, 64, 128, 256, 512
IN_WORD = ALPHA | DIGIT | MARK

_MAKING = threading.Lock()
_SIZE = 0x32400
"""Letters end here; what lies above are tags, selectors and private use."""
_SENTENCE_ENDS = ".!?…。！？｡"
_CHINESE_SENTENCE_ENDS = ';；"“”'
_LINE_ENDS = _SENTENCE_ENDS + "\"'”’»」』"
_BULLETS = "-*•‣▪▫●○■□◦⁃∙·"
_IDEOGRAPHS = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF))
_OTHER_PLANES = (0x20000, 0x32400)


class Characters(NamedTuple):
    """Tables over code points; those beyond them have no class."""

    classes: npt.NDArray[np.uint16]
    lower: npt.NDArray[np.uint32]
    """Where lower case is one character; else the character itself."""


def characters(is_chinese: bool = False) -> Characters:
    """Return the tables; in Chinese, semicolons and double quotation marks end sentences too."""
    with _MAKING:  # threads that ask together wait for one table, and get the same
        return _characters(is_chinese)


@functools.cache
def _characters(is_chinese: bool) -> Characters:
    if is_chinese:
        plain = _characters(False)
        classes = plain.classes.copy()
        classes[[ord(c) for c in _CHINESE_SENTENCE_ENDS]] |= SENTENCE_END
        return Characters(classes, plain.lower)
    classes = np.array([_class_of(chr(point)) for point in range(_SIZE)], np.uint16)
    lower = np.arange(_SIZE, dtype=np.uint32)
    for point in np.flatnonzero(classes & ALPHA).tolist():
        low = chr(point).lower()
        if len(low) == 1:
            lower[point] = ord(low)
    for first, last in _IDEOGRAPHS:
        classes[first : last + 1] |= IDEOGRAPH
    classes[slice(*_OTHER_PLANES)] |= IDEOGRAPH
    for marks, bit in ((_SENTENCE_ENDS, SENTENCE_END), (_LINE_ENDS, LINE_END), (_BULLETS, BULLET)):
        classes[[ord(c) for c in marks]] |= bit
    return Characters(classes, lower)


def _class_of(character: str) -> int:
    category = unicodedata.category(character)
    kind = {"L": ALPHA, "N": DIGIT, "P": PUNCTUATION, "S": PUNCTUATION, "M": MARK}
    found = kind.get(category[0], 0)
    if category == "Lu":
        found |= UPPER
    return SPACE if character.isspace() else found
