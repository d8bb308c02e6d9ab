"""The same question in other words, by rules, to see whether it still goes the same way."""

from collections.abc import Callable, Mapping, Sequence

__all__ = ["RULES", "stability"]

_ENDS = ".?!"
_MOST = 1000


def _cased(text: str) -> str:
    """Change the case of the first letter."""
    place = next((n for n, char in enumerate(text) if char.isalpha()), None)
    if place is None:
        return text
    return text[:place] + text[place].swapcase() + text[place + 1 :]


def _punctuated(text: str) -> str:
    """Take the last stop away, or put one there."""
    bare = text.rstrip()
    return bare.rstrip(_ENDS) if bare.endswith(tuple(_ENDS)) else f"{bare}."


def _polite(text: str) -> str:
    """Ask politely."""
    return f"Could you please help me with this? {text}"


def _spaced(text: str) -> str:
    """Double the blanks between words, and end with a line."""
    return text.replace(" ", "  ") + "\n"


RULES: Mapping[str, Callable[[str], str]] = {
    "case": _cased,
    "punctuation": _punctuated,
    "polite": _polite,
    "whitespace": _spaced,
}
"""Name -> what makes the paraphrase."""


def stability(
    questions: Sequence[str],
    choice: Sequence[int],
    choose: Callable[[Sequence[str]], Sequence[int]],
) -> dict[str, float]:
    """Return for each rule the share of questions that go to the same model when it is applied.

    Of more than a thousand questions so many are asked, evenly taken.
    """
    stride = -(-len(questions) // _MOST)
    some, before = questions[::stride], choice[::stride]
    found = {}
    for name, rule in RULES.items():
        there = choose([rule(one) for one in some])
        found[name] = sum(a == b for a, b in zip(before, there, strict=True)) / len(some)
    return found
