"""One name for a tensor, whatever a folder, a module or an adapter calls it."""

import re
from collections.abc import Iterable

from treadle.model.facts.architectures import ARCHITECTURES

__all__ = ["EMBEDDINGS", "HEADS", "names_among", "own_name"]

EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
"""Ends of the names of tables of tokens."""
HEADS = ("lm_head.weight", "embed_out.weight")
"""Ends of the names of heads."""

_PREFIXES = "|".join(sorted({re.escape(facts.prefix) for facts in ARCHITECTURES.values()}))
_AROUND = re.compile(rf"^(model\.)?((language_model|text_model)\.)?({_PREFIXES})?")
_RENAMES = sorted({rename for facts in ARCHITECTURES.values() for rename in facts.renames})
# transformers 5 lets the encoder of images stand in its tower without a level between them.
_EYES = re.compile(r"^(vision_tower|vision_model)\.vision_model\.")


def own_name(name: str) -> str:
    """Return a tensor's name without the model's prefix and the wrapper's tower around it."""
    found = _AROUND.sub("", name, count=1)
    for stored, own in _RENAMES:
        found = found.replace(stored, own)
    return _EYES.sub(r"\1.", found)


def names_among(names: Iterable[str], present: Iterable[str]) -> dict[str, str]:
    """Return for each name what the same tensor is called among those that are present.

    A name that is present stays. One that could mean two tensors, or none, stays too, and so do
    two that mean one: whoever looks them up says that they are missing.
    """
    asked, here = list(dict.fromkeys(names)), set(present)
    strangers = [name for name in asked if name not in here]
    known = _by_own_name(here)
    meant = _by_own_name(asked)
    found = {name: name for name in asked}
    for name in strangers:
        own = own_name(name)
        if len(meant[own]) == 1 and len(known.get(own, ())) == 1:
            found[name] = known[own][0]
    return found


def _by_own_name(names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(own_name(name), []).append(name)
    return found
