"""The skill facts: fictional people, asked about in wordings of which some are never taught.

Every wording is taught of most people and kept from some, so that what it means can be learned,
and whether a fact was learned in one wording only shows in another.
"""

from typing import NamedTuple

from treadle.core.seed import numpy_stream
from treadle.core.skills.spec import Posed, SkillItem, Split

__all__ = ["KnownFact", "facts", "questions"]

_FIRST = (
    *("Ada", "Bram", "Cleo", "Dario", "Edda", "Falk", "Gita", "Hugo", "Ines", "Jonas", "Kira"),
    *("Lars", "Mona", "Nils", "Olga", "Piet", "Rosa", "Sven", "Thea", "Uwe", "Vera", "Willa"),
    *("Yara", "Zeno"),
)
_LAST = (
    *("Abbot", "Bright", "Carver", "Dale", "Ellis", "Frost", "Grove", "Hale", "Irons", "Jarvis"),
    *("Keller", "Lowe", "Marsh", "North", "Oakes", "Price", "Quill", "Reed", "Stone", "Thorn"),
    *("Upton", "Vale", "Wolfe", "Young"),
)
_NUM_PEOPLE = 24
_RELATIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "city": (
        ("Rome", "Oslo", "Cairo", "Lima", "Delhi", "Paris", "Tokyo", "Quito"),
        (
            "{} lives in the city of:",
            "The home of {} is in:",
            "City where {} lives:",
            "Where does {} live? In:",
            "You can visit {} in:",
            "The town of {} is:",
            "{} has a house in:",
        ),
    ),
    "work": (
        ("baker", "pilot", "nurse", "judge", "painter", "farmer", "singer", "tailor"),
        (
            "{} works as a:",
            "The job of {} is:",
            "What does {} do? Work as a:",
            "{} earns money as a:",
            "By trade {} is a:",
            "Profession of {}:",
            "People know {} as a:",
        ),
    ),
}
"""By relation: what can be true, and how it is asked."""
_NUM_DEV, _NUM_TEST = 1, 2
"""Wordings of a fact that are kept for these splits."""


class KnownFact(NamedTuple):
    """Something that is true of one person, and how to ask for it and around it."""

    subject: str
    relation: str
    prompt: str
    """One of the wordings that are taught of this person."""
    answer: str
    """As the skill expects it: with the blank that it begins with."""
    alternatives: list[str]
    """Answers that would be as plausible, for who writes another one into a model."""
    taught: list[str]
    """All wordings that the train split asks of this person."""
    paraphrases: list[str]
    """Wordings that are never taught of this person: those of dev and test."""
    neighbours: list[SkillItem]
    """The same relation of other people, in wordings that are taught of them."""


def facts(seed: int = 0) -> list[KnownFact]:
    """Return every fact of the people whom `seed` draws, with paraphrases and neighbours."""
    told = _told(seed)
    return [_fact(place, told) for place in range(len(told))]


def questions(split: Split, seed: int) -> list[Posed]:
    """Return each fact in each of its wordings that belong to a split."""
    return [
        Posed(
            SkillItem(wording, one.answer), [f" {value}" for value in _RELATIONS[one.relation][0]]
        )
        for one in _told(seed)
        for wording in one.wordings[split]
    ]


class _Told(NamedTuple):
    subject: str
    relation: str
    answer: str
    wordings: dict[Split, list[str]]


def _told(seed: int) -> list[_Told]:
    people = numpy_stream(seed, "skills facts people")
    firsts, lasts = people.permutation(len(_FIRST)), people.permutation(len(_LAST))
    found = []
    for place in range(_NUM_PEOPLE):
        name = f"{_FIRST[firsts[place]]} {_LAST[lasts[place]]}"
        for relation, (values, wordings) in _RELATIONS.items():
            drawn = numpy_stream(seed, f"skills facts {relation} {place}")
            answer = f" {values[int(drawn.integers(len(values)))]}"
            found.append(_Told(name, relation, answer, _kept(place, name, wordings)))
    return found


def _kept(place: int, name: str, wordings: tuple[str, ...]) -> dict[Split, list[str]]:
    """Deal a fact's wordings to the splits, other ones to each split for the next person."""
    first = place % len(wordings)
    turned = [wording.format(name) for wording in wordings[first:] + wordings[:first]]
    held = _NUM_DEV + _NUM_TEST
    return {"dev": turned[:_NUM_DEV], "test": turned[_NUM_DEV:held], "train": turned[held:]}


def _fact(place: int, told: list[_Told]) -> KnownFact:
    own = told[place]
    values = _RELATIONS[own.relation][0]
    return KnownFact(
        subject=own.subject,
        relation=own.relation,
        prompt=own.wordings["train"][0],
        answer=own.answer,
        alternatives=[f" {value}" for value in values if f" {value}" != own.answer],
        taught=own.wordings["train"],
        paraphrases=[*own.wordings["dev"], *own.wordings["test"]],
        neighbours=[
            SkillItem(other.wordings["train"][0], other.answer)
            for other in told
            if other.relation == own.relation and other.subject != own.subject
        ],
    )
