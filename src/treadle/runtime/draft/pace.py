"""How many drafts run: the globally best ones, as long as they bring more than they cost."""

from collections.abc import Sequence

from treadle.runtime.draft.proposal import Draft

__all__ = ["admitted", "cut"]


def admitted(
    drafts: Sequence[Draft],
    reached: Sequence[Sequence[float]],
    seconds: Sequence[float],
    least_gain: float,
) -> list[list[int]]:
    """Return the places of each draft's tokens that are to run, parents before children.

    Every slot has the chance that its whole path is right; the n best slots of all texts bring as
    many tokens as the sum of these, and the n is taken with the most tokens for a second.

    Args:
        drafts: Of each text of the step.
        reached: Of each draft's tokens, how likely it is right with all before it.
        seconds: Of the step without drafts, with one row more, with two, ...
        least_gain: In tokens a second, relative to no drafts; with less, there are none.
    """
    slots = sorted(
        (-chance, number, place)
        for number, own in enumerate(reached)
        for place, chance in enumerate(own)
        if chance > 0
    )[: len(seconds) - 1]
    gain = float(len(drafts))
    best, best_rate = 0, (1 + least_gain) * gain / seconds[0]
    for count, (minus, _, _) in enumerate(slots, 1):
        gain -= minus
        if gain / seconds[count] > best_rate:
            best, best_rate = count, gain / seconds[count]
    found: list[list[int]] = [[] for _ in drafts]
    for _, number, place in slots[:best]:
        found[number].append(place)
    return [sorted(places) for places in found]


def cut(draft: Draft, places: Sequence[int]) -> Draft:
    """Return the part of a draft at `places`, which hold the parents of all of them."""
    moved = {-1: -1, **{place: own for own, place in enumerate(places)}}
    return draft._replace(
        tokens=[draft.tokens[place] for place in places],
        parents=[moved[draft.parents[place]] for place in places],
        chances=[draft.chances[place] for place in places],
    )
