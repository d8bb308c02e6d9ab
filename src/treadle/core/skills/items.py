"""From a spec to its items."""

from treadle.core.errors import SettingsError
from treadle.core.result import digest
from treadle.core.seed import numpy_stream
from treadle.core.skills.arithmetic import sums
from treadle.core.skills.facts import questions
from treadle.core.skills.records import lookups, objects
from treadle.core.skills.spec import Posed, SkillItem, SkillSpec

__all__ = ["skill_digest", "skill_forms", "skill_items"]

_USUAL = {"train": 4096, "dev": 200, "test": 500}
"""Items of a spec without a count; of sums and facts all, where there are fewer."""


def skill_items(spec: SkillSpec) -> list[SkillItem]:
    """Return the items of `spec`, no two alike, in an order that its seed draws.

    More items of one split and seed begin with those that fewer would be; no question of one split
    stands in another, whatever their seeds.

    Raises:
        SettingsError: The split has fewer items than the spec counts.
    """
    return [posed.item for posed in _posed(spec)]


def skill_forms(spec: SkillSpec) -> list[SkillItem]:
    """Return the same questions with answers of the right form that are drawn at random.

    Who learns them knows how the skill looks and answers by chance.
    """
    found = []
    for number, (item, plausible) in enumerate(_posed(spec)):
        drawn = numpy_stream(spec.seed, f"skills forms {spec.name} {spec.split} {number}")
        found.append(SkillItem(item.prompt, plausible[int(drawn.integers(len(plausible)))]))
    return found


def skill_digest(items: list[SkillItem]) -> str:
    """Return the hash of items, by which two results know that they asked the same."""
    return digest([list(item) for item in items])


def _posed(spec: SkillSpec) -> list[Posed]:
    wanted = spec.num_items or _USUAL[spec.split]
    found = _found(spec, wanted)
    if spec.num_items is not None and len(found) < spec.num_items:
        raise SettingsError(
            f"'{spec}' asks for {spec.num_items} items, but the {spec.split} split of "
            f"'{spec.name}' has {len(found)}; lower count, or leave it out."
        )
    return found[:wanted]


def _found(spec: SkillSpec, wanted: int) -> list[Posed]:
    if spec.name == "lookup":
        return lookups(spec.split, wanted, spec.seed)
    if spec.name == "json":
        return objects(spec.split, wanted, spec.seed)
    every = sums(spec.split) if spec.name == "arithmetic" else questions(spec.split, spec.seed)
    order = numpy_stream(spec.seed, f"skills {spec.name} {spec.split}")
    return [every[place] for place in order.permutation(len(every))]
