"""The stacks of layers of a model, each with a numbering of its own, and the parts that hold them.

A model that sees has a tower for images beside the one for text, an encoder-decoder has two: the
number of a layer means something only together with its prefix.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from treadle.core.errors import SettingsError
from treadle.core.registry import near
from treadle.model.facts import HEADS

__all__ = [
    "TEXT",
    "Name",
    "Tower",
    "depth_keys",
    "find_towers",
    "has_encoder_of",
    "parse_name",
    "part_named",
    "part_of",
    "placed",
]

Config = Mapping[str, Any]  # Any: JSON values of config.json
TEXT = "text_decoder"
"""What recipes call the part that is no other one: the language model."""

_LAYER = re.compile(r"(.*?\.)(\d+)(\..*)")
_FIRST = ("embed", "wte", "wpe")
_DEPTH = re.compile(r"(.*_)?(n_)?(layers?|depth|blocks)")
_NO_DEPTH = re.compile(
    r".*(nextn|mtp|shared|dense|adapter|conv|window|attn|attention|sparse|lstm|aux|moe|up|mem|postnet"
    r"|prenet|random|freeze|feature|insert|pool|resampler|look|residual).*_.*"
)
"""Counts of some layers, or of layers of something else than a tower."""
_SEES = re.compile(r"vis[iu]|image|img|pixel|video|vit(_|$)")
_HEARS = re.compile(r"audio|speech|sound|mel(_|$)")
_LINKS = re.compile(r"project|connector|merger|qformer|resampler|perceiver|multi_modal|adapter")
_PREDICTS = re.compile(r"^(mtp|nextn)")
_PAIR = ("encoder", "decoder", "shared")
_WRAPPING = ("model", "transformer", "base_model", "thinker")
_TEXT_CONFIGS = re.compile(r"text|llm|language")
_TEXT_NAMES = (TEXT, "language_model", "text_model", "default")
_VISION_NAMES = re.compile(r"vis[iu]|image|img|vit(_|$)")


class Name(NamedTuple):
    """A tensor's name, apart from the number of its layer."""

    before: str
    layer: int | None
    after: str

    def in_layer(self, layer: int) -> str:
        """Return the name of the same tensor in another layer."""
        return f"{self.before}{layer}{self.after}"

    @property
    def full(self) -> str:
        """The whole name."""
        return self.before if self.layer is None else self.in_layer(self.layer)

    @property
    def is_before_layers(self) -> bool:
        """Whether a tensor outside the layers comes before those of the language model."""
        if self.before.endswith(HEADS):
            return False
        is_input = _component(self.full) not in (TEXT, "decoder")
        return is_input or any(word in self.before for word in _FIRST)


class Tower(NamedTuple):
    """Layers that follow each other."""

    part: str
    """The part of the model that they belong to, as a recipe's `modules` name it."""
    prefixes: tuple[str, ...]
    """What stands before the layers' numbers; several where a layer is spread over lists."""
    num_layers: int
    """As the config says; more may be stored, such as layers that predict further tokens."""
    num_stored: int
    place: tuple[str, ...]
    """The keys that lead to its part of the config."""

    @property
    def label(self) -> str:
        """The prefixes, for messages."""
        return ", ".join(self.prefixes)


@cache
def parse_name(name: str) -> Name:
    """Split a tensor's name at its first number."""
    found = _LAYER.fullmatch(name)
    if found is None:
        return Name(name, None, "")
    return Name(found.group(1), int(found.group(2)), found.group(3))


def part_of(name: str, has_encoder: bool) -> str:
    """Return the part of a model that a tensor belongs to.

    Args:
        name: The tensor.
        has_encoder: Whether the model has an encoder beside its decoder, see `has_encoder_of`.
    """
    found = _component(name)
    if has_encoder:
        return "decoder" if found == TEXT else found
    return TEXT if found in _PAIR else found


def has_encoder_of(names: Iterable[str]) -> bool:
    """Say whether a model has an encoder beside its decoder."""
    return {"encoder", "decoder"} <= set(map(_component, names))


@cache
def _component(name: str) -> str:
    for component in name.split(".")[:-1]:
        if component in _WRAPPING:
            continue
        words = (_SEES, _HEARS, _LINKS, _PREDICTS)
        is_part = component in _PAIR or any(word.search(component) for word in words)
        return component if is_part else TEXT
    return TEXT


def part_named(asked: str, parts: Iterable[str]) -> str:
    """Return the part of a model that a recipe's word for a module means.

    Raises:
        SettingsError: There is none.
    """
    known = list(dict.fromkeys(parts))
    if asked in known:
        return asked
    if asked in _TEXT_NAMES and TEXT in known:
        return TEXT
    for words in (_VISION_NAMES, _HEARS, _LINKS):
        alike = [part for part in known if words.search(part)]
        if words.search(asked) and len(alike) == 1:
            return alike[0]
    raise SettingsError(f"The models have no module '{asked}'. {near(asked, known)}")


def _configs(
    config: Config, place: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Config]]:
    """Yield a config and those inside it, with the keys that lead there."""
    yield place, config
    for key, value in config.items():
        is_config = key.endswith("config") or key in ("encoder", "decoder")
        if is_config and isinstance(value, Mapping):
            yield from _configs(value, (*place, key))


def depth_keys(config: Config, part: str) -> list[str]:
    """Return the keys with which a part's own config states how many layers it has."""
    found = [
        key
        for key, value in config.items()
        if _DEPTH.fullmatch(key) and not _NO_DEPTH.fullmatch(key) and _is_count(value)
    ]
    if part not in ("encoder", "decoder"):
        other = ("encoder", "decoder", "vision", "text", "audio", "speech")
        own = [key for key in found if not key.startswith(other)]
        return own or [key for key in found if "decoder" in key] or found
    own = [key for key in found if part in key]
    plain = [key for key in found if "encoder" not in key and "decoder" not in key]
    # T5 counts its encoder's layers without that word, BART repeats its encoder's.
    has_other = any(("decoder" if part == "encoder" else "encoder") in key for key in found)
    return own + plain if part == "encoder" or not (own or has_other) else own or plain


def _is_count(value: Any) -> bool:  # Any: JSON values
    return isinstance(value, int) and not isinstance(value, bool)


def find_towers(names: Iterable[str], config: Config) -> list[Tower]:
    """Return the towers of a model, by the numbers in its tensors' names and its config."""
    listed = list(names)
    stored: dict[str, int] = {}
    for found in map(parse_name, listed):
        if found.layer is not None:
            stored[found.before] = max(stored.get(found.before, 0), found.layer + 1)
    has_encoder = has_encoder_of(listed)
    is_alone = len(stored) == 1
    towers: dict[tuple[str, int], Tower] = {}
    for prefix, count in stored.items():
        part = part_of(f"{prefix}0", has_encoder)
        place, depth = _depth(config, part, count, is_alone)
        if depth is None or (_LINKS.search(prefix) and not is_alone):
            continue
        parent = prefix[:-1].rpartition(".")[0]
        known = towers.get((parent, count))
        prefixes = (*known.prefixes, prefix) if known else (prefix,)
        towers[parent, count] = Tower(part, prefixes, depth, count, place)
    return list(towers.values())


def _depth(
    config: Config, part: str, count: int, is_alone: bool
) -> tuple[tuple[str, ...], int | None]:
    """Return where a config says how deep a tower is, and what: at most what is stored.

    A list of modules whose length no config states is no tower, unless there is nothing else.
    """
    found = []
    for place, inner in _configs(config):
        for key in depth_keys(inner, part):
            depth = int(inner[key])
            if depth == count or (depth > 0 and part in (TEXT, "decoder")):
                rank = (_is_elsewhere(place, part), depth != count, depth > count, len(place))
                found.append((rank, place, depth))
    if not found:
        return (), count if is_alone else None
    rank, place, depth = min(found)
    if depth != count and not (is_alone or depth == count - _num_extra(config, place)):
        return (), None
    return place, depth


def _num_extra(config: Config, place: tuple[str, ...]) -> int:
    """Return how many layers are stored behind the last one: they predict further tokens."""
    for key in place:
        config = config[key]
    return int(config.get("num_nextn_predict_layers") or 0)


def _is_elsewhere(place: tuple[str, ...], part: str) -> bool:
    """Whether a nested config is about another part of the model."""
    words = ".".join(place)
    if _SEES.search(part):
        return not _SEES.search(words)
    if _HEARS.search(part):
        return not _HEARS.search(words)
    if part in ("encoder", "decoder"):
        return bool(words) and part not in words
    return bool(words) and not _TEXT_CONFIGS.search(words)


def placed(name: str, towers: Sequence[Tower]) -> tuple[str, tuple[int, int, int]]:
    """Return what a tensor is counted under, its layer or itself, and where that stands."""
    found = parse_name(name)
    for place, tower in enumerate(towers):
        if found.layer is not None and found.before in tower.prefixes:
            is_main = tower.part in (TEXT, "decoder")
            label = "layer" if is_main else f"{tower.part} layer"
            return f"{label} {found.layer}", (2 if is_main else 1, place, found.layer)
    is_input = Name(name, None, "").is_before_layers
    return name.removesuffix(".weight"), (0 if is_input else 3, 0, 0)
