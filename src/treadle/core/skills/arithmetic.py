"""The skill arithmetic: sums of two numbers, with pairs of operands that are never taught."""

from treadle.core.skills.spec import Posed, SkillItem, Split, split_of

__all__ = ["sums"]

_LARGEST_LEFT, _LARGEST_RIGHT = 99, 9


def sums(split: Split) -> list[Posed]:
    """Return all sums of a split; a pair stands in one split, in whichever order it is written."""
    plausible = [str(total) for total in range(_LARGEST_LEFT + _LARGEST_RIGHT + 1)]
    return [
        Posed(SkillItem(f"{left}+{right}=", str(left + right)), plausible)
        for left in range(_LARGEST_LEFT + 1)
        for right in range(_LARGEST_RIGHT + 1)
        if split_of(f"{min(left, right)}+{max(left, right)}") == split
    ]
