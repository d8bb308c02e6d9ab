"""Rules that hold for the documents of one source only, in place of those that hold for all."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.errors import SettingsError
from treadle.core.registry import near
from treadle.text.curate.rulesets import Rule, read_rule

__all__ = ["Override", "Scoped", "read_override", "scoped"]


class Override(NamedTuple):
    """What differs for a source: a rule, or a statistic whose rules do not apply."""

    source: str
    statistic: str
    rule: Rule | None

    def replaces(self, rule: Rule) -> bool:
        """Say whether a rule for all is not for this source: same statistic, same direction."""
        is_same = self.rule is None or self.rule.sign[0] == rule.sign[0]
        return rule.statistic == self.statistic and is_same


class Scoped(NamedTuple):
    """A rule and the documents that it is for."""

    rule: Rule
    source: int | None
    """The place of the source that it is only for, or None."""
    excluded: tuple[int, ...]
    """The places of sources that it is not for."""
    name: str

    def covers(self, sources: npt.NDArray[np.int16]) -> npt.NDArray[np.bool_]:
        """Return which documents it is for, given the place of the source of each."""
        if self.source is not None:
            return np.equal(sources, self.source)
        return np.isin(sources, self.excluded, invert=True)


def read_override(text: str, known: list[str]) -> Override:
    """Return what `text` writes, as in "wiki: num_words<20" or "code: alpha_word_fraction".

    Raises:
        SettingsError: It is none, or names a statistic that has no rule to waive.
    """
    source, mark, rest = text.rpartition(":")
    source, rest = source.strip(), rest.strip()
    if not mark or not source:
        raise SettingsError(
            f"'{text}' names no source; write SOURCE: RULE as in 'wiki: num_words<20', or SOURCE: "
            f"STATISTIC to waive the rules on it."
        )
    if any(sign in rest for sign in "<>"):
        rule = read_rule(rest)
        return Override(source, rule.statistic, rule)
    if rest not in known:
        raise SettingsError(f"'{text}': no rule on '{rest}' to waive. {near(rest, known)}")
    return Override(source, rest, None)


def scoped(rules: tuple[Rule, ...], overrides: list[Override], sources: list[str]) -> list[Scoped]:
    """Return all rules, those for everything first, each with the documents that it is for."""
    found = []
    for rule in rules:
        excluded = {sources.index(one.source) for one in overrides if one.replaces(rule)}
        found.append(Scoped(rule, None, tuple(sorted(excluded)), str(rule)))
    for one in overrides:
        if one.rule is not None:
            name = f"{one.rule} in {one.source}"
            found.append(Scoped(one.rule, sources.index(one.source), (), name))
    return found
