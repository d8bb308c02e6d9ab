"""mergekit-moe's file, read as it is into what treadle is asked to do."""

import math
from collections.abc import Mapping
from pathlib import Path

from treadle.combine.merge.mixture.base import Router
from treadle.combine.merge.mixture.plan import DenseExpert, MixtureRequest
from treadle.combine.merge.mixture.prompts import texts_of
from treadle.combine.merge.mixture.tables import ROUTERS
from treadle.combine.merge.recipe.document import Node, read
from treadle.combine.merge.recipe.references import read_reference
from treadle.core.errors import SettingsError
from treadle.core.registry import Choice, near

__all__ = ["read_document"]

_KEYS = (
    *("base_model", "gate_mode", "dtype", "experts", "experts_per_token", "shared_experts"),
    "architecture",
)
_EXPERT_KEYS = (
    *("source_model", "positive_prompts", "negative_prompts"),
    *("noise_scale", "residual_scale"),
)
_DTYPES = ("bfloat16", "float16", "float32")
_HIDDEN = {"method": "hidden", "state": "residual", "negatives": "none"}
_GATES: Mapping[str, Choice] = {
    "hidden": {**_HIDDEN, "position": "last"},
    "hidden_last": {**_HIDDEN, "position": "last"},
    "hidden_avg": {**_HIDDEN, "position": "mean"},
    "cheap_embed": {"method": "cheap_embed", "negatives": "none"},
    "random": {"method": "random"},
    "uniform_random": {"method": "random"},
}
"""gate_mode -> the router that does the same; what is drawn at random is of length 1 here."""
_ARCHITECTURES = {"mixtral": "mixtral", "qwen moe": "qwen2_moe", "qwen3 moe": "qwen3_moe"}
"""mergekit's names of what is made, of which the start is enough -> the layout's model_type."""


def read_document(file: Path, router: Router | str | Choice | None) -> MixtureRequest:
    """Return the mixture that a file of mergekit-moe describes.

    Args:
        file: YAML.
        router: The one to be taken, where it is not that of the file's gate_mode.

    Raises:
        DataError: The file is no YAML.
        SettingsError: It says what does not exist, what is not supported, or nothing.
    """
    documents = read(file)
    if len(documents) != 1:
        raise SettingsError(
            f"'{file}' holds {len(documents)} YAML documents, but one mixture was expected; write "
            f"base_model, gate_mode and experts."
        )
    root = Node(documents[0], f"'{file}'")
    entries = root.mapping(_KEYS)
    _refuse_shared(entries)
    gate = entries["gate_mode"].text() if "gate_mode" in entries else "hidden"
    if gate not in _GATES:
        raise entries["gate_mode"].refusal(f"unknown gate_mode '{gate}'. {near(gate, _GATES)}")
    chosen = ROUTERS.resolve(_GATES[gate] if router is None else router)
    experts = tuple(_expert(node) for node in root.needed(entries, "experts").entries())
    notes: tuple[str, ...] = ()
    if not chosen.needs_prompts and any(one.positive or one.negative for one in experts):
        experts = tuple(one._replace(positive=(), negative=()) for one in experts)
        notes = (f"The prompts of '{file}' have no effect: '{chosen.name}' reads none.",)
    per_token = entries["experts_per_token"].count(1) if "experts_per_token" in entries else 2
    return MixtureRequest(
        experts,
        str(read_reference(root.needed(entries, "base_model"))),
        chosen,
        per_token,
        _dtype(entries.get("dtype")),
        wants_bos=True,
        layouts=_layouts(entries),
        notes=notes,
    )


def _refuse_shared(entries: Mapping[str, Node]) -> None:
    if "shared_experts" in entries and entries["shared_experts"].value != []:
        raise entries["shared_experts"].refusal(
            "experts that see every token are not made here; remove the key, and list the model "
            "among the experts or as base_model."
        )


def _layouts(entries: Mapping[str, Node]) -> tuple[str, ...]:
    """Return the layouts that the file allows; the models decide among them."""
    if "architecture" not in entries:
        return ()
    asked = entries["architecture"].text()
    found = tuple(kind for name, kind in _ARCHITECTURES.items() if name.startswith(asked.lower()))
    if not found:
        raise entries["architecture"].refusal(
            f"'{asked}' is not made here; remove the key, as the models decide it. "
            f"{near(asked.lower(), _ARCHITECTURES)}"
        )
    return found


def _expert(node: Node) -> DenseExpert:
    entries = node.mapping(_EXPERT_KEYS)
    if "negative_prompts" in entries and entries["negative_prompts"].value == []:
        del entries["negative_prompts"]  # as mergekit-moe reads it
    positive, negative = (
        texts_of(entries[key]) if key in entries else ()
        for key in ("positive_prompts", "negative_prompts")
    )
    return DenseExpert(
        str(read_reference(node.needed(entries, "source_model"))),
        positive,
        negative,
        noise_scale=_number(entries, "noise_scale", 0.0),
        residual_scale=_number(entries, "residual_scale", 1.0),
    )


def _number(entries: Mapping[str, Node], key: str, default: float) -> float:
    if key not in entries:
        return default
    value = entries[key].value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or (key == "noise_scale" and value < 0):
        raise entries[key].refusal(f"found {value!r}, expected a number; change it.")
    return float(value)


def _dtype(node: Node | None) -> str | None:
    if node is None:
        return None
    name = node.text().removeprefix("torch.")
    if name not in _DTYPES:
        raise node.refusal(f"unknown dtype '{name}'. {near(name, list(_DTYPES))}")
    return name
