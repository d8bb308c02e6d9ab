"""The grammar of merge recipes: mergekit's YAML, read as it is into plain data.

Keys that begin with ``x-`` are treadle's own and stand at the top level. Other keys there that
nobody knows are told as notes, as mergekit passes over them; further inside they are refused.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from treadle.combine.merge.recipe.document import Node, read
from treadle.combine.merge.recipe.kinds import require_own_kind, unknown_keys
from treadle.combine.merge.recipe.references import ModelRef, read_reference
from treadle.core.errors import SettingsError
from treadle.core.registry import near

__all__ = [
    "INERT",
    "MergeRecipe",
    "ModelRef",
    "OutputModule",
    "OutputSlice",
    "Settings",
    "SourceSlice",
    "TokenSource",
    "TokenizerRequest",
    "conditions",
    "load",
    "of_models",
    "parse",
]

Settings = dict[str, Any]  # Any: scalars, gradients or conditions, checked against a method later

INERT = frozenset({"int8_mask"})
"""Parameters of mergekit that are accepted and do nothing here."""

_DTYPES = ("bfloat16", "float16", "float32", "float64")
_RECIPE = (
    *("merge_method", "models", "slices", "modules", "base_model", "dtype", "out_dtype"),
    *("tokenizer", "tokenizer_source", "chat_template", "parameters", "name"),
)
_SLICE = ("sources", "base_model", "residual_weight", "parameters")


class SourceSlice(NamedTuple):
    """Layers of one input model."""

    model: ModelRef
    layers: tuple[int, int] | None
    """The first layer and the one behind the last; None for the whole model."""
    parameters: Settings


class OutputSlice(NamedTuple):
    """Layers of the output, and what they are made of."""

    sources: tuple[SourceSlice, ...]
    base: ModelRef | None
    """The slice's own base; None for the recipe's."""
    parameters: Settings


class OutputModule(NamedTuple):
    """A part of the output, such as its language model or its eyes, and what it is made of."""

    name: str | None
    """None for the whole model."""
    slices: tuple[OutputSlice, ...]
    """One with whole models where the file lists `models`; a base is added by no one yet."""


class TokenSource(NamedTuple):
    """Where a token's embedding comes from, in models that lack it, or in all if `force`."""

    kind: Literal["default", "zero", "model", "model_token"]
    model: ModelRef | None = None
    token: str | None = None
    token_id: int | None = None
    force: bool = False


class TokenizerRequest(NamedTuple):
    """The output's tokenizer."""

    source: str | ModelRef = "union"
    """ "union", "base" or a model."""
    tokens: dict[str, TokenSource] = {}  # noqa: RUF012  # never changed, as all of a recipe
    pad_to_multiple_of: int | None = None


class MergeRecipe(NamedTuple):
    """A merge as its file states it."""

    method: str
    modules: tuple[OutputModule, ...]
    base: ModelRef | None
    dtype: str | None
    out_dtype: str | None
    tokenizer: TokenizerRequest | None
    chat_template: str | None
    parameters: Settings
    """Of all slices."""
    extras: dict[str, Any]  # Any: the `x-` keys, free for their readers
    notes: list[str]

    @property
    def slices(self) -> tuple[OutputSlice, ...]:
        """The slices of all modules."""
        return tuple(one for module in self.modules for one in module.slices)

    @property
    def sources(self) -> tuple[SourceSlice, ...]:
        """What all slices take, in their order."""
        return tuple(source for one in self.slices for source in one.sources)


def load(path: Path) -> MergeRecipe:
    """Read a recipe file.

    Raises:
        DataError: The file is missing or no YAML.
        SettingsError: What it says is unknown, contradictory or of the wrong type.
    """
    documents = read(Path(path))
    if not documents:
        raise SettingsError(f"'{path}' is empty; write a merge into it: merge_method and models.")
    if len(documents) != 1:
        raise SettingsError(
            f"'{path}' holds {len(documents)} YAML documents, as files of mergekit-multi do, but "
            f"one merge was expected; write each into a file of its own and name the output of one "
            f"as a model of the next."
        )
    return parse(documents[0], f"'{path}'")


def parse(document: Any, where: str) -> MergeRecipe:  # Any: whatever the YAML holds, checked here
    """Read a recipe that was parsed already; `where` begins the messages of errors.

    Raises:
        SettingsError: What it says is unknown, contradictory or of the wrong type.
    """
    root = Node(document, where)
    require_own_kind(root)
    entries = root.mapping()
    unknown = unknown_keys(root, entries, _RECIPE)
    recipe = MergeRecipe(
        method=root.needed(entries, "merge_method").text(),
        modules=_content(root, entries),
        base=_optional_model(entries),
        dtype=_dtype(entries.get("dtype")),
        out_dtype=_dtype(entries.get("out_dtype")),
        tokenizer=_tokenizer(root, entries),
        chat_template=entries["chat_template"].text() if "chat_template" in entries else None,
        parameters=_parameters(entries),
        extras={key: node.value for key, node in entries.items() if key.startswith("x-")},
        notes=unknown,
    )
    recipe.notes.extend(_notes(recipe, document))
    return recipe


def of_models(
    method: str,
    models: Sequence[str | Path],
    base: str | Path | None = None,
    dtype: str | None = None,
    out_dtype: str | None = None,
    tokenizer: str | None = None,
) -> MergeRecipe:
    """Return the recipe that merges whole models; it has no parameters.

    Raises:
        SettingsError: There are no models, or a model or dtype is not written as a recipe would
            have it.
    """
    if isinstance(models, str | Path):
        raise SettingsError(
            f"models = '{models}' is one text, but a list was expected; write ['{models}']."
        )
    if not models:
        raise SettingsError("The list of models is empty; name at least one model.")
    document = {
        "merge_method": method,
        "models": [{"model": str(model)} for model in models],
        "base_model": None if base is None else str(base),
        "dtype": dtype,
        "out_dtype": out_dtype,
        "tokenizer_source": tokenizer,
    }
    return parse(document, "the command line")


def conditions(setting: Any) -> list[dict[str, Any]]:  # Any: a checked setting in any of its forms
    """Return a setting as a list of conditions `{filter, value}`; the first that matches holds."""
    if isinstance(setting, dict):
        return [setting]
    if isinstance(setting, list) and isinstance(setting[0], dict):
        return list(setting)
    return [{"value": setting}]


def _content(root: Node, entries: Mapping[str, Node]) -> tuple[OutputModule, ...]:
    """Return the modules that models, slices or modules stand for."""
    given = [key for key in ("models", "slices", "modules") if key in entries]
    if len(given) != 1:
        found = " and ".join(f"'{key}'" for key in given) or "none"
        raise root.refusal(
            f"found {found} of the contradictory keys 'models', 'slices' and 'modules'; give "
            f"exactly one of them."
        )
    if given[0] != "modules":
        return (OutputModule(None, _slices(root, entries)),)
    modules = entries["modules"].mapping()
    if not modules:
        raise entries["modules"].refusal("the mapping is empty; name at least one module.")
    return tuple(_module(name, node) for name, node in modules.items())


def _module(name: str, node: Node) -> OutputModule:
    inner = node.mapping(("models", "slices", "parameters"))
    if ("models" in inner) == ("slices" in inner):
        raise node.refusal("give exactly one of the contradictory keys 'models' and 'slices'.")
    own = _parameters(inner)
    slices = (one._replace(parameters=_over(one.parameters, own)) for one in _slices(node, inner))
    return OutputModule(name, tuple(slices))


def _slices(parent: Node, entries: Mapping[str, Node]) -> tuple[OutputSlice, ...]:
    if "slices" in entries:
        return tuple(_output_slice(node) for node in entries["slices"].entries())
    if entries["models"].value == []:
        raise entries["models"].refusal("the list is empty; name at least one model.")
    models = tuple(_whole_model(node) for node in entries["models"].entries())
    return (OutputSlice(models, None, {}),)


def _whole_model(node: Node) -> SourceSlice:
    entries = node.mapping(("model", "parameters"))
    return SourceSlice(read_reference(node.needed(entries, "model")), None, _parameters(entries))


def _output_slice(node: Node) -> OutputSlice:
    entries = node.mapping(_SLICE)
    sources = tuple(_source(entry) for entry in node.needed(entries, "sources").entries())
    lengths = [
        last - first for source in sources if source.layers for first, last in [source.layers]
    ]
    if len(set(lengths)) > 1:
        raise entries["sources"].refusal(
            f"the layer ranges of one slice hold {lengths} layers; make them equally long."
        )
    return OutputSlice(sources, _optional_model(entries), _parameters(entries))


def _source(node: Node) -> SourceSlice:
    entries = node.mapping(("model", "layer_range", "parameters"))
    layer_range = node.needed(entries, "layer_range")
    bounds = [bound.count(0) for bound in layer_range.entries()]
    if len(bounds) != 2 or bounds[0] >= bounds[1]:
        raise layer_range.refusal(
            f"found {bounds}, expected [first, behind the last] with at least one layer; change it."
        )
    model = read_reference(node.needed(entries, "model"))
    return SourceSlice(model, (bounds[0], bounds[1]), _parameters(entries))


def _optional_model(entries: Mapping[str, Node]) -> ModelRef | None:
    return read_reference(entries["base_model"]) if "base_model" in entries else None


def _dtype(node: Node | None) -> str | None:
    if node is None:
        return None
    name = node.text().removeprefix("torch.")
    if name not in _DTYPES:
        raise node.refusal(f"unknown dtype '{name}'. {near(name, list(_DTYPES))}")
    return name


def _tokenizer(root: Node, entries: Mapping[str, Node]) -> TokenizerRequest | None:
    if "tokenizer_source" in entries:
        if "tokenizer" in entries:
            raise root.refusal(
                "'tokenizer' and 'tokenizer_source' are contradictory keys; keep 'tokenizer' alone."
            )
        return TokenizerRequest(_tokenizer_source(entries["tokenizer_source"]))
    if "tokenizer" not in entries:
        return None
    inner = entries["tokenizer"].mapping(("source", "tokens", "pad_to_multiple_of"))
    tokens = inner["tokens"].mapping() if "tokens" in inner else {}
    multiple = inner.get("pad_to_multiple_of")
    return TokenizerRequest(
        _tokenizer_source(inner["source"]) if "source" in inner else "union",
        {token: _token(node) for token, node in tokens.items()},
        None if multiple is None else multiple.count(1),
    )


def _tokenizer_source(node: Node) -> str | ModelRef:
    return str(node.value) if node.value in ("union", "base") else read_reference(node)


def _token(node: Node) -> TokenSource:
    entries = node.mapping(("source", "force"))
    force = entries["force"].value if "force" in entries else False
    if not isinstance(force, bool):
        raise entries["force"].refusal(f"found {force!r}; write true or false.")
    if "source" not in entries:
        if force:
            raise node.refusal("'force' needs to know by what; add 'source'.")
        return TokenSource("default")
    source = entries["source"]
    if not isinstance(source.value, dict) or "kind" not in source.value:
        return TokenSource("model", read_reference(source), force=force)
    return _token_of_kind(source)._replace(force=force)


def _token_of_kind(node: Node) -> TokenSource:
    entries = node.mapping(("kind", "model", "token", "token_id"))
    kind = node.needed(entries, "kind").text()
    if kind not in (kinds := ["zero", "model_token"]):
        raise entries["kind"].refusal(f"unknown kind '{kind}'. {near(kind, kinds)}")
    if kind == "zero":
        node.mapping(("kind",))
        return TokenSource("zero")
    if ("token" in entries) == ("token_id" in entries):
        raise node.refusal("give exactly one of 'token' and 'token_id'.")
    return TokenSource(
        "model_token",
        read_reference(node.needed(entries, "model")),
        entries["token"].text() if "token" in entries else None,
        entries["token_id"].count(0) if "token_id" in entries else None,
    )


def _parameters(entries: Mapping[str, Node]) -> Settings:
    if "parameters" not in entries:
        return {}
    nodes = entries["parameters"].mapping()
    for node in nodes.values():
        _check_setting(node)
    return {name: node.value for name, node in nodes.items()}


def _check_setting(node: Node) -> None:
    """Check that a setting is a scalar, a gradient, a condition or a list of conditions."""
    if isinstance(node.value, dict):
        entries = node.mapping(("filter", "value"))
        if "filter" in entries:
            entries["filter"].text()
        value = node.needed(entries, "value")
        if isinstance(value.value, dict):
            raise value.refusal("a condition stands inside a condition; give a value or a list.")
        _check_gradient(value)
    elif isinstance(node.value, list) and any(isinstance(entry, dict) for entry in node.value):
        for entry in node.entries():
            if not isinstance(entry.value, dict):
                raise entry.refusal(
                    f"found {entry.value!r} among conditions; write it as 'value: {entry.value}'."
                )
            _check_setting(entry)
    else:
        _check_gradient(node)


def _check_gradient(node: Node) -> None:
    for entry in node.entries() if isinstance(node.value, list) else [node]:
        if not isinstance(entry.value, bool | int | float | str):
            raise entry.refusal(
                f"found {entry.value!r}, expected a number, a truth value or a word; change it."
            )


def _over(first: Settings, second: Settings) -> Settings:
    """Return both scopes as one: where no condition of the first matches, the second holds."""
    merged = second | first
    for name in first.keys() & second.keys():
        merged[name] = conditions(first[name]) + conditions(second[name])
    return merged


def _notes(recipe: MergeRecipe, document: Any) -> Iterator[str]:  # Any: YAML, checked before
    if document.get("name") is not None:
        yield "The key 'name' has no effect: the output is called as its folder."
    if any("residual_weight" in entry for entry in _entries_of_slices(document)):
        yield "The key 'residual_weight' has no effect: mergekit reads it and ignores it, too."
    scopes = [recipe.parameters, *(part.parameters for part in recipe.slices)]
    scopes += [source.parameters for part in recipe.slices for source in part.sources]
    for name in sorted(INERT & {name for scope in scopes for name in scope}):
        yield f"The parameter '{name}' has no effect here: masks take one byte or less anyway."


def _entries_of_slices(document: Any) -> list[Any]:  # Any: YAML, checked before
    holders = [document, *(document.get("modules") or {}).values()]
    return [entry for holder in holders for entry in holder.get("slices") or ()]
