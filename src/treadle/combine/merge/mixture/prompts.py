"""The file that says what each expert of a mixture is for."""

from collections.abc import Sequence
from pathlib import Path

from treadle.combine.merge.mixture.plan import DenseExpert
from treadle.combine.merge.recipe.document import Node, read
from treadle.core.errors import DataError, SettingsError
from treadle.core.registry import near

__all__ = ["read_prompts", "texts_of"]

_KEYS = ("positive", "negative")


def read_prompts(file: Path, models: Sequence[str]) -> tuple[DenseExpert, ...]:
    """Return the experts with their prompts.

    The file is a YAML or JSON mapping of each model, as it is given or by its folder's name, to
    `positive` prompts, and `negative` ones where there are any; a list alone is of positive ones.

    Raises:
        DataError: The file is missing or no YAML.
        SettingsError: It names a model that is no expert, or says nothing of one.
    """
    if not file.is_file():
        raise DataError(f"No prompts at '{file}'; give a YAML or JSON file: MODEL: [PROMPT, ...].")
    documents = read(file)
    if len(documents) != 1:
        raise SettingsError(
            f"'{file}' holds {len(documents)} YAML documents, but one mapping of experts to "
            f"prompts was expected; write MODEL: [PROMPT, ...] for each model."
        )
    entries = Node(documents[0], f"'{file}'").mapping()
    homes = {key: _places(key, models, file) for key in entries}
    found = [DenseExpert(model) for model in models]
    for key, places in homes.items():
        positive, negative = _prompts(entries[key])
        for place in places:
            if found[place].positive:
                raise SettingsError(
                    f"'{file}' has prompts for '{models[place]}' under two names; keep one."
                )
            found[place] = DenseExpert(models[place], positive, negative)
    if lacking := [one.model for one in found if not one.positive]:
        raise SettingsError(
            f"'{file}' has no prompts for the expert '{lacking[0]}'; add a line for it, under its "
            f"path or its folder's name."
        )
    return tuple(found)


def texts_of(node: Node) -> tuple[str, ...]:
    """Return prompts: a list of texts, at least one, none of which is empty."""
    return tuple(entry.text() for entry in node.entries())


def _prompts(node: Node) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if isinstance(node.value, list):
        return texts_of(node), ()
    entries = node.mapping(_KEYS)
    negative = texts_of(entries["negative"]) if _holds_some(entries.get("negative")) else ()
    return texts_of(node.needed(entries, "positive")), negative


def _places(key: str, models: Sequence[str], file: Path) -> list[int]:
    """Return which experts a key means: the model as it is given, or the name of its folder."""
    given = [place for place, model in enumerate(models) if model == key]
    named = [place for place, model in enumerate(models) if Path(model).name == key]
    if found := given or named:
        if len({models[place] for place in found}) > 1:
            raise SettingsError(
                f"'{file}': several experts are called '{key}'; write them as they are given: "
                f"{', '.join(models)}."
            )
        return found
    choices = list(dict.fromkeys([*models, *(Path(model).name for model in models)]))
    raise SettingsError(
        f"'{file}' has prompts for '{key}', which is no expert. {near(key, choices)}"
    )


def _holds_some(node: Node | None) -> bool:
    """Say whether a list is there and not empty: no negative prompts may be written as []."""
    return node is not None and node.value != []
