"""What a YAML file is that is no recipe of a merge, and what its unknown keys mean."""

from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from treadle.combine.merge.recipe.document import Node
from treadle.combine.merge.recipe.extras import OWN_KEYS
from treadle.core.registry import near

__all__ = ["require_own_kind", "unknown_keys"]

_CARD = frozenset({"license", "licence", "language", "type", "template", "title", "author", "tags"})
"""What model cards say, in files that are both."""
_LIKE = 0.75
"""From this likeness on an unknown key is taken for a known one that is misspelt."""
_OTHER_FILES = (
    (
        frozenset({"experts", "gate_mode"}),
        "a file of mergekit-moe, which makes a mixture of experts out of dense models; run it "
        "with: treadle merge moe FILE OUT",
    ),
    (
        frozenset({"genome"}),
        "a file of mergekit-evolve, which searches for the settings of a merge; write the merge "
        "that it found, or search with treadle sweep",
    ),
    (frozenset({"over", "also", "repeat"}), "a sweep; run it with: treadle sweep FILE"),
    (
        frozenset({"steps", "artefacts"}),
        "a recipe of several steps; run it with: treadle run FILE",
    ),
    (
        frozenset({"adapter", "base_model_config", "datasets", "gradient_accumulation_steps"}),
        "a file for training; write a merge: merge_method, and models",
    ),
)
"""Keys that only files of another kind have at the top, and what such a file is."""


def require_own_kind(root: Node) -> None:
    """Check that a document is not one of another program, or of another command.

    Raises:
        SettingsError: It is; the message says what to do with it.
    """
    if isinstance(root.value, list) and any(isinstance(one, Mapping) for one in root.value):
        raise root.refusal(
            "found a list, as recipes of several steps have, but one merge was expected; run steps "
            "with: treadle run FILE, or write the keys of the merge at the top."
        )
    if not isinstance(root.value, Mapping) or "merge_method" in root.value:
        return
    for keys, what in _OTHER_FILES:
        if not keys.isdisjoint(root.value):
            raise root.refusal(f"this is {what}.")


def unknown_keys(root: Node, entries: Mapping[str, Any], known: Collection[str]) -> list[str]:
    """Return a note for each key at the top that has no effect; a misspelt one is refused.

    Keys with ``x-`` that are none of treadle's are where YAML's anchors are kept.

    Raises:
        SettingsError: A key is nearly one that has an effect.
    """
    return list(_notes(root, entries, known))


def _notes(
    root: Node,
    entries: Mapping[str, Any],  # Any: only the keys are read
    known: Collection[str],
) -> Iterator[str]:
    for key in entries:
        choices = list(OWN_KEYS if key.startswith("x-") else known)
        if key in choices:
            continue
        if key not in _CARD and get_close_matches(key, choices, n=1, cutoff=_LIKE):
            raise root.refusal(f"unknown key '{key}'. {near(key, choices)}")
        yield f"The key '{key}' has no effect here."
