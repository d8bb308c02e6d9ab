"""Skills that can be taught and checked: items made by rule from a seed, with held-out splits."""

from treadle.core.skills.facts import KnownFact, facts
from treadle.core.skills.items import skill_digest, skill_forms, skill_items
from treadle.core.skills.spec import NAMES, SkillItem, SkillSpec, Split, is_skill, parse_skill

__all__ = [
    "NAMES",
    "KnownFact",
    "SkillItem",
    "SkillSpec",
    "Split",
    "facts",
    "is_skill",
    "parse_skill",
    "skill_digest",
    "skill_forms",
    "skill_items",
]
