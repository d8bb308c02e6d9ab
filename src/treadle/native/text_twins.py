"""The text kernels once more in Python: what runs without a compiler, and defines the result."""

import functools
import math
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt

from treadle.native import characters as kinds
from treadle.native.characters import Characters, characters
from treadle.native.documents import Runs, Shingles, Texts, Unit

__all__ = [
    "COUNTS",
    "count_documents",
    "jaccard",
    "leaders",
    "minhash_documents",
    "run_documents",
    "shingle_documents",
    "similar_pieces",
    "stars",
    "stop_word_table",
    "unite",
]

COUNTS = (
    *("chars", "tokens", "token_chars", "alpha_chars", "digit_chars", "punctuation_chars"),
    *("curly_braces", "bracketed_chars", "hash_chars", "hash_runs", "ellipsis_runs", "sentences"),
    *("lines", "short_lines", "ended_lines", "ellipsis_lines", "bullet_lines", "read_more_lines"),
    *("duplicate_lines", "duplicate_line_chars", "paragraphs", "duplicate_paragraphs"),
    *("duplicate_paragraph_chars", "words", "word_chars", "alpha_words", "capital_words"),
    *("stop_words", "distinct_stop_words", "unique_tokens"),
    *(f"top_{n}_gram_chars" for n in (2, 3, 4)),
    *(f"duplicate_{n}_gram_chars" for n in range(5, 11)),
    "newlines",
)
_MASK = (1 << 64) - 1
_FNV, _PRIME, _BASE = 0xCBF29CE484222325, 0x100000001B3, 0x9E3779B97F4A7C15
_READ_MORE = ("read more", "readmore", "展开", "更多", "。。。")
_ELLIPSES = ("...", "…", "。。。")
_SHORT_LINE = 30

Row = dict[str, int]
Integers = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]


def _mix(bits: int) -> int:
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB & _MASK
    return bits ^ (bits >> 31)


def _mixed(bits: Keys) -> Keys:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


@functools.lru_cache(1 << 16)
def _word_hash(word: str) -> int:
    found = _FNV
    for character in word:
        found = (found ^ ord(character)) * _PRIME & _MASK
    return found


@functools.cache
def stop_word_table(
    words: tuple[str, ...], required: tuple[str, ...]
) -> tuple[Keys, npt.NDArray[np.int8]]:
    """Return the hashes of stop words by open addressing, and the place of each required one."""
    keys, place = np.zeros(1024, np.uint64), np.full(1024, -1, np.int8)
    assert len(words) + len(required) < 512
    for word in dict.fromkeys([*required, *words]):
        slot = _mix(_word_hash(word)) & 1023
        while keys[slot]:
            slot = (slot + 1) & 1023
        keys[slot] = _word_hash(word)
        place[slot] = required.index(word) if word in required else -1
    return keys, place


def count_documents(
    texts: Texts, unit: Unit, stop_words: Collection[str], required: tuple[str, ...]
) -> tuple[Integers, npt.NDArray[np.float64]]:
    """Count document after document."""
    table = characters(unit == "characters")
    counts = np.zeros((len(texts), len(COUNTS)), np.int64)
    entropy = np.zeros(len(texts))
    for number in range(len(texts)):
        text = texts.text(number)
        row = dict.fromkeys(COUNTS, 0)
        _count_characters(text, table, row)
        _count_lines(text, table, row)
        words = _split(text, table)
        _count_words(words, table, {*stop_words, *required}, required, row)
        if unit == "characters":
            words = [character for word in words for character in word]
        entropy[number] = _count_tokens(words, row)
        counts[number] = list(row.values())
    return counts, entropy


def _class_of(table: Characters, character: str) -> int:
    point = ord(character)
    return int(table.classes[point]) if point < table.classes.size else 0


def _lower(table: Characters, text: str) -> str:
    points = (ord(character) for character in text)
    return "".join(chr(table.lower[p] if p < table.lower.size else p) for p in points)


def _split(text: str, table: Characters) -> list[str]:
    spaced = (" " if _class_of(table, c) & kinds.SPACE else c for c in text)
    return [word for word in "".join(spaced).split(" ") if word]


def _strip(text: str, table: Characters) -> str:
    kept = [i for i, c in enumerate(text) if not _class_of(table, c) & kinds.SPACE]
    return text[kept[0] : kept[-1] + 1] if kept else ""


def _count_characters(text: str, table: Characters, row: Row) -> None:
    classes = [_class_of(table, c) for c in text]
    row["chars"], row["newlines"] = len(text), text.count("\n")
    for name, bit in (("alpha", kinds.ALPHA), ("digit", kinds.DIGIT)):
        row[f"{name}_chars"] = sum(1 for kind in classes if kind & bit)
    row["punctuation_chars"] = sum(1 for kind in classes if kind & kinds.PUNCTUATION)
    row["curly_braces"] = text.count("{") + text.count("}")
    row["hash_chars"], row["hash_runs"] = text.count("#"), _runs(text, "#", 1)
    row["ellipsis_runs"] = _runs(text, ".", 3) + _runs(text, "…", 1)
    open_at, is_sentence = -1, False
    for place, (character, kind) in enumerate(zip(text, classes, strict=True)):
        is_sentence |= bool(kind & (kinds.ALPHA | kinds.DIGIT))
        if kind & kinds.SENTENCE_END:
            row["sentences"] += is_sentence
            is_sentence = False
        if character == "【" and open_at < 0:
            open_at = place
        if character == "】" and open_at >= 0:
            row["bracketed_chars"] += place - open_at - 1
            open_at = -1
    row["sentences"] += is_sentence


def _runs(text: str, character: str, least: int) -> int:
    found = length = 0
    for other in text:
        length = length + 1 if other == character else 0
        found += length == least
    return found


def _count_words(
    words: list[str], table: Characters, stop: set[str], required: tuple[str, ...], row: Row
) -> None:
    seen = set()
    for word in words:
        classes = [_class_of(table, c) for c in word]
        letters = sum(1 for kind in classes if kind & kinds.ALPHA)
        capitals = sum(1 for kind in classes if kind & kinds.UPPER)
        row["word_chars"] += len(word)
        row["alpha_words"] += letters > 0
        row["capital_words"] += letters > 1 and letters == capitals
        inner = [i for i, kind in enumerate(classes) if kind & kinds.IN_WORD]
        plain = _lower(table, word[inner[0] : inner[-1] + 1]) if inner else ""
        row["stop_words"] += plain in stop
        seen |= {plain} & set(required)
    row["words"], row["distinct_stop_words"] = len(words), len(seen)


def _count_lines(text: str, table: Characters, row: Row) -> None:
    lines: list[str] = []
    paragraphs: list[list[str]] = [[]]
    for raw in text.split("\n"):
        if line := _strip(raw, table):
            lines.append(line)
            paragraphs[-1].append(line)
        elif paragraphs[-1]:
            paragraphs.append([])
    blocks = ["\n".join(block) for block in paragraphs if block]
    sizes = [sum(map(len, block)) for block in paragraphs if block]
    row["lines"], row["paragraphs"] = len(lines), len(blocks)
    for line in lines:
        row["short_lines"] += len(line) <= _SHORT_LINE
        row["ended_lines"] += bool(_class_of(table, line[-1]) & kinds.LINE_END)
        row["bullet_lines"] += bool(_class_of(table, line[0]) & kinds.BULLET)
        row["ellipsis_lines"] += _lower(table, line).endswith(_ELLIPSES)
        row["read_more_lines"] += _lower(table, line).endswith(_READ_MORE)
    _count_copies(lines, list(map(len, lines)), "line", row)
    _count_copies(blocks, sizes, "paragraph", row)


def _count_copies(items: list[str], sizes: list[int], name: str, row: Row) -> None:
    seen: set[str] = set()
    for item, size in zip(items, sizes, strict=True):
        if item in seen:
            row[f"duplicate_{name}s"] += 1
            row[f"duplicate_{name}_chars"] += size
        seen.add(item)


def _count_tokens(tokens: list[str], row: Row) -> float:
    sizes = [len(token) for token in tokens]
    row["tokens"], row["token_chars"] = len(tokens), sum(sizes)
    seen = Counter(tokens)
    row["unique_tokens"] = len(seen)
    entropy = 0.0
    for count in seen.values():
        share = count / len(tokens)
        entropy -= share * math.log(share)
    for n in range(2, 11):
        grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
        found = Counter(grams)
        if n <= 4:
            best = max(found.values(), default=0)
            chars = (sum(map(len, g)) * c for g, c in found.items() if c == best > 1)
            row[f"top_{n}_gram_chars"] = max(chars, default=0)
        elif copies := [i for i, gram in enumerate(grams) if found[gram] > 1]:
            covered = {place for i in copies for place in range(i, i + n)}
            row[f"duplicate_{n}_gram_chars"] = sum(sizes[place] for place in covered)
    return entropy


def minhash_documents(
    texts: Texts, unit: Unit, size: int, multiply: Keys, add: Keys, bands: int
) -> tuple[Keys, Integers]:
    """Hash document after document."""
    keys = np.zeros((len(texts), bands), np.uint64)
    found = np.zeros(len(texts), np.int64)
    for number in range(len(texts)):
        shingles = _shingles(texts.text(number), unit, size)
        found[number] = len(shingles)
        if len(shingles):
            slots = _least(shingles, multiply, add).reshape(bands, -1)
            key = np.arange(1, bands + 1, dtype=np.uint64)
            for column in slots.T:
                key = _mixed(key ^ column) * np.uint64(_BASE)
            keys[number] = key
    return keys, found


def _least(shingles: npt.NDArray[np.uint32], multiply: Keys, add: Keys) -> Keys:
    """Return the slots, some shingles at a time so that memory stays small."""
    slots = np.full(len(multiply), 0xFFFFFFFF, np.uint64)
    for first in range(0, len(shingles), 4096):
        some = shingles[first : first + 4096].astype(np.uint64)
        values = (some[:, None] * multiply + add) >> np.uint64(32)
        np.minimum(slots, values.min(axis=0), out=slots)
    return slots


def _shingles(text: str, unit: Unit, size: int) -> npt.NDArray[np.uint32]:
    return (_runs_of(text, unit, size) >> np.uint64(32)).astype(np.uint32)


def _runs_of(text: str, unit: Unit, size: int) -> Keys:
    table, words, is_open = characters(), list[str](), False
    lowered = _lower(table, text)
    for character, low in zip(text, lowered, strict=True):
        kind = _class_of(table, character)
        if not kind & kinds.IN_WORD:
            is_open = False
            continue
        is_alone = bool(kind & kinds.IDEOGRAPH) or unit == "characters"
        if is_open and not is_alone:
            words[-1] += low
        else:
            words.append(low)
        is_open = not is_alone
    if len(words) < size:
        return np.zeros(0, np.uint64)
    tokens = np.array([_mix(_word_hash(word)) for word in words], np.uint64)
    runs = np.zeros(len(words) - size + 1, np.uint64)
    for place in range(size):
        runs = runs * np.uint64(_BASE) + tokens[place : place + len(runs)]
    return _mixed(runs)


def shingle_documents(texts: Texts, unit: Unit, size: int) -> Shingles:
    """Collect the set of each document."""
    sets = [np.unique(_shingles(texts.text(n), unit, size)) for n in range(len(texts))]
    starts = np.array([0, *accumulate(len(one) for one in sets)], np.int64)
    return Shingles(np.concatenate([*sets, np.zeros(0, np.uint32)]), starts)


def run_documents(texts: Texts, unit: Unit, size: int) -> Runs:
    """Hash document after document."""
    found = [_runs_of(texts.text(n), unit, size) for n in range(len(texts))]
    starts = np.array([0, *accumulate(len(one) for one in found)], np.int64)
    return Runs(np.concatenate([*found, np.zeros(0, np.uint64)]), starts)


def jaccard(sets: Shingles, left: Integers, right: Integers) -> npt.NDArray[np.float64]:
    """Compare pair after pair."""
    return np.array([_similarity(sets, a, b) for a, b in zip(left, right, strict=True)])


def _similarity(sets: Shingles, left: int, right: int) -> float:
    one, other = (sets.values[sets.starts[i] : sets.starts[i + 1]] for i in (left, right))
    both = len(np.intersect1d(one, other, assume_unique=True))
    union = len(one) + len(other) - both
    return both / union if union else 0.0


def leaders(
    sets: Shingles,
    places: Integers,
    clusters: Integers,
    stays: npt.NDArray[np.bool_],
    threshold: float,
    keys: npt.NDArray[np.uint64] | None,
) -> tuple[Integers, npt.NDArray[np.float64]]:
    """Compare each row with all before it that stay."""
    leader, similar = np.full(len(places), -1, np.int64), np.full(len(places), np.nan)
    for row, place in enumerate(places.tolist()):
        for other in range(row if not stays[row] else 0):
            is_met = keys is None or bool((keys[row] == keys[other]).any())
            if leader[other] >= 0 or clusters[other] != clusters[row] or not is_met:
                continue
            found = _similarity(sets, place, int(places[other]))
            if found >= threshold:
                leader[row], similar[row] = other, found
                break
    return leader, similar


def stars(keys: npt.NDArray[np.uint64], stays: npt.NDArray[np.bool_]) -> Integers:
    """Remember of each key of a band who stays first with it."""
    leader = np.full(len(keys), -1, np.int64)
    owner: dict[tuple[int, int], int] = {}
    for row, own in enumerate(keys.tolist()):
        met = [owner[key] for key in enumerate(own) if key in owner]
        if met and not stays[row]:
            leader[row] = min(met)
            continue
        for key in enumerate(own):
            owner.setdefault(key, row)
    return leader


def similar_pieces(
    pieces: Texts, starts: Integers, fraction: float, short_chars: int, window: int
) -> npt.NDArray[np.bool_]:
    """Compare piece with piece."""
    goes = np.zeros(len(pieces), np.bool_)
    for first, stop in pairwise(starts.tolist()):
        kept: list[str] = []
        for number in range(first, stop):
            piece = pieces.text(number)
            before = kept[max(0, len(kept) - window) :]
            goes[number] = any(_are_alike(piece, one, fraction, short_chars) for one in before)
            kept += [] if goes[number] else [piece]
    return goes


def _are_alike(one: str, other: str, fraction: float, short_chars: int) -> bool:
    longer, shorter = max(len(one), len(other)), min(len(one), len(other))
    if shorter <= short_chars or one == other:
        return one == other
    limit = int(fraction * longer)
    if longer - shorter > limit:
        return False
    row = list(range(len(other) + 1))
    for i, character in enumerate(one, 1):
        above, row = row, [i]
        for j, another in enumerate(other, 1):
            changed = above[j - 1] + (character != another)
            row.append(min(changed, above[j] + 1, row[j - 1] + 1))
    return row[-1] <= limit


def unite(
    parent: Integers, left: Sequence[int] | Integers, right: Sequence[int] | Integers
) -> None:
    """Join pair after pair."""
    for one, other in zip(left, right, strict=True):
        a, b = _root(parent, int(one)), _root(parent, int(other))
        parent[max(a, b)] = min(a, b)


def _root(parent: Integers, document: int) -> int:
    while parent[document] != document:
        parent[document] = parent[parent[document]]
        document = int(parent[document])
    return document
