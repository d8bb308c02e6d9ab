"""The keys of a LoRA adapter's file: which module a tensor belongs to, and as what.

peft's `save_pretrained` strips its own words from them; `state_dict`, DDP, FSDP and torch.compile
leave them, and add theirs.
"""

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

__all__ = ["PREFIX", "Key", "adapters_of", "read_key"]

PREFIX = "base_model.model."
"""What peft puts before the names of the model."""

_AROUND = re.compile(r"^((_orig_mod|module|_fsdp_wrapped_module|base_model\.model)\.)+")
_INSIDE = re.compile(r"\.(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)")
_BELOW = re.compile(r"\.(base_layer|base_model\.model)(?=\.)")
_FACTOR = re.compile(r"(.+)\.lora_(embedding_)?([AB])(?:\.(?!weight$)([^.]+))?(?:\.weight)?")
_WHOLE = re.compile(r"(.+)\.modules_to_save\.(.+)")
_SHADOWED = re.compile(r"\.original_module\.")


class Key(NamedTuple):
    """A tensor of an adapter."""

    kind: Literal["factor", "whole", "shadowed", "other"]
    """A factor of a change; a tensor that takes another's place; the base's own, which another one
    takes the place of; something that is no plain LoRA."""
    name: str
    """Of the module for a factor, of the tensor otherwise, in the model's own words."""
    letter: str = ""
    is_embedding: bool = False


def adapters_of(names: Iterable[str]) -> list[str]:
    """Return what adapters are called whose factors carry a name; peft's own default among them."""
    found = [match[4] for match in map(_FACTOR.fullmatch, names) if match and match[4]]
    return list(dict.fromkeys(found))


def read_key(name: str, adapters: Iterable[str]) -> Key:
    """Read a key; `adapters` are names that may stand in it, see `adapters_of`."""
    own = _INSIDE.sub("", _AROUND.sub("", name))
    if found := _FACTOR.fullmatch(own):
        return Key("factor", _BELOW.sub("", found[1]), found[3], bool(found[2]))
    if _SHADOWED.search(own):
        return Key("shadowed", own)
    if "lora_" in own:
        return Key("other", own)
    if found := _WHOLE.fullmatch(own):
        known = {"default", *adapters}
        first, _, rest = found[2].partition(".")
        own = f"{found[1]}.{rest if rest and first in known else found[2]}"
    # peft saves the embedding below the factors along with them.
    return Key("whole", _BELOW.sub("", own))
