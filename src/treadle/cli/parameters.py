"""Parameters of verbs and fields of methods as the command line takes them."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from operator import or_
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from cyclopts import Group, Parameter
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from treadle.core.errors import SettingsError
from treadle.core.method import Method, first_mistake
from treadle.core.sizes import WRITTEN, is_bytes, written
from treadle.core.verb import VerbParameter
from treadle.core.verb import annotated as type_of

__all__ = [
    "Bind",
    "Flag",
    "axis_flags",
    "method_flags",
    "plain_flag",
    "positionals",
    "read_all",
    "verb_flag",
]

_BARE_COMMA = re.compile(r",(?!\s)")
"""What parts the values of a list; a comma before a blank belongs to a sentence."""


class Flag(NamedTuple):
    """One parameter of a command, and what its words mean."""

    name: str
    """As users write it, with underscores and a dot before a setting of an axis's method."""
    parameter: inspect.Parameter
    annotation: Any  # Any: the type that the verb or the method declares

    def read(self, value: Any) -> Any:  # Any: what the command line made of the words
        """Return the value in its declared type: sizes come as they were written.

        Raises:
            SettingsError: The words cannot be read as that type.
        """
        if not is_bytes(self.annotation):
            return value
        try:
            return TypeAdapter(self.annotation).validate_python(value, context=WRITTEN)
        except ValidationError as error:
            flag = f"--{self.name.replace('_', '-')}"
            raise SettingsError(
                f"{flag} {value} is refused: {first_mistake(error).expected}"
            ) from error


Bind = Callable[[tuple[Any, ...]], dict[str, Any]]  # Any: words and values of the command line
"""From the words of a command that are no flags to the arguments they stand for."""


def _is_list(annotation: Any) -> bool:  # Any: a type
    """Return whether a type, or a member of it where it is a union, takes several values."""
    if get_origin(annotation) in (list, tuple):
        return True
    is_wrapped = get_origin(annotation) in (Annotated, Union, UnionType)
    return is_wrapped and any(map(_is_list, get_args(annotation)))


def _parted(words: Sequence[str]) -> Iterator[str]:
    """Yield the values of a list written with spaces or commas; a file's name stays whole."""
    for word in words:
        if "," not in word or Path(word).exists():
            yield word
        else:
            yield from filter(None, _BARE_COMMA.split(word))


def _read_list(annotation: Any, tokens: Sequence[Any]) -> Any:  # Any: a type, cyclopts' tokens
    """Return the values of a list; what cannot be read is said by cyclopts with the flag's name."""
    words = list(_parted([token.value for token in tokens]))
    try:
        return TypeAdapter(annotation).validate_python(words)
    except ValidationError as error:
        found = first_mistake(error)
        raise ValueError(f"{found.expected}, found {found.value!r}.") from error


def _kinds(annotation: Any) -> Iterator[Any]:  # Any: types
    """Yield the plain types that a type is made of, without their bounds."""
    if get_origin(annotation) is Annotated:
        yield from _kinds(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for member in get_args(annotation):
            yield from _kinds(member)
    else:
        yield annotation


def _is_number(annotation: Any) -> bool:  # Any: a type
    """Return whether a type is a number, or one of several kinds of numbers."""
    members = set(_kinds(annotation))
    return not members.isdisjoint({int, float}) and members <= {int, float, type(None)}


def _read_number(annotation: Any, tokens: Sequence[Any]) -> Any:  # Any: a type, cyclopts' tokens
    """Return a number as it is written: cyclopts would round 2.7 to a whole one without a word."""
    (word,) = [token.value for token in tokens]
    is_fraction = any(sign in word.lower() for sign in (".", "e", "n"))  # 1.0, 1e3, inf, nan
    members = get_args(annotation)
    kind = float if is_fraction and {int, float} <= set(members) else annotation
    try:
        return TypeAdapter(kind).validate_python(word)
    except ValidationError as error:
        raise ValueError(f"{first_mistake(error).expected}, found {word!r}.") from error


def annotated(
    annotation: Any, text: str, group: Group | None, is_flag: bool, name: str | None = None
) -> Any:  # Any: a type
    """Return a type with its help, as cyclopts reads it."""
    extras: dict[str, Any] = {} if group is None else {"group": group}  # Any: of a Parameter
    if name is not None:
        extras["name"] = name
    if is_flag:
        extras["negative"] = ()
    if _is_list(annotation):
        extras |= {"consume_multiple": True, "negative": (), "converter": _read_list}
    if is_bytes(annotation):
        annotation = str | None if type(None) in get_args(annotation) else str
    elif _is_number(annotation):
        extras["converter"] = _read_number
        # Bounds are checked by what declares them, which says them in words.
        annotation = reduce(or_, _kinds(annotation))
    return Annotated[annotation, Parameter(help=text, **extras)]


def plain_flag(parameter: inspect.Parameter, text: str) -> Flag:
    """Return the parameter of a command that is no verb."""
    kind = parameter.annotation
    made = parameter.replace(annotation=annotated(kind, text, None, kind is bool))
    return Flag(parameter.name, made, kind)


def verb_flag(entry: VerbParameter) -> Flag:
    """Return a verb's parameter; an axis becomes a choice of names."""
    annotation: Any = entry.annotation
    if entry.axis is not None:
        annotation = Literal[tuple(entry.axis.table)] if entry.axis.otherwise is None else str
        if entry.default is None:
            annotation = annotation | None
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    kind = kinds[entry.is_positional]
    shown = _without_bounds(annotation) if entry.owner else annotation
    group = Group(f"Settings of the {entry.owner}", sort_key=3) if entry.owner else None
    text = entry.help if not entry.owner else _with_bounds(entry.help, _extras(annotation))
    is_switch = _bare(annotation) is bool and not entry.default
    wrapped = annotated(shown, text, group, is_switch)
    is_size = is_bytes(annotation) and isinstance(entry.default, int)
    default = written(entry.default) if is_size else entry.default
    made = inspect.Parameter(entry.name, kind, default=default, annotation=wrapped)
    return Flag(entry.name, made, annotation)


def _bare(annotation: Any) -> Any:  # Any: a type
    """Return a type without what bounds it."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _without_bounds(annotation: Any) -> Any:  # Any: a type
    """Return a type, or a union, that the command line only reads: the settings judge it."""
    if is_bytes(annotation):
        return annotation
    if get_origin(annotation) in (Union, UnionType):
        return Union[tuple(map(_bare, get_args(annotation)))]  # noqa: UP007  # of a tuple
    return _bare(annotation)


def method_flags(method: type[Method]) -> list[Flag]:
    """Return the fields of a method, in a group of their own."""
    group = Group(f"Settings of {method.name}", sort_key=2)
    return [_field(name, name, field, group) for name, field in method.model_fields.items()]


def axis_flags(entry: VerbParameter, words: Sequence[str]) -> list[Flag]:
    """Return the settings of an axis's methods: of the one that `words` choose, or of all."""
    if entry.axis is None:
        return []
    chosen = _chosen(entry.name, words)
    names = [chosen] if chosen in entry.axis.table else list(entry.axis.table)
    group = Group(f"Settings of --{entry.name.replace('_', '-')}", sort_key=4)
    found: dict[str, Flag] = {}
    tables = [entry.axis[name].fields() for name in names]
    for name, fields in zip(names, tables, strict=True):
        for key, field in fields.items():
            named = f"{entry.name}.{key}"
            is_everywhere = all(key in others for others in tables)
            prefix = " " if is_everywhere else f"{name}:"
            flag = _field(named, f"{entry.name}__{key}", field, group, prefix)
            if named not in found:
                found[named] = flag
            elif found[named].annotation != flag.annotation:  # read when the method is known
                found[named] = _field(named, f"{entry.name}__{key}", field, group, f"{name}:", str)
    return list(found.values())


def _chosen(axis: str, words: Sequence[str]) -> str | None:
    """Return the method of an axis that the words of a command name."""
    flag = f"--{axis.replace('_', '-')}"
    for place, word in enumerate(words):
        if word == flag:
            return words[place + 1] if place + 1 < len(words) else None
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None


def _field(
    shown: str,
    name: str,
    field: FieldInfo,
    group: Group,
    prefix: str = "",
    kind: Any = None,  # Any: a type
) -> Flag:
    declared = type_of(field) if kind is None else kind
    plain = _unbounded(field.annotation) if kind is None else kind
    text = _with_bounds(
        " ".join(filter(None, [prefix.strip(), field.description])),
        _extras(field.annotation, field),
    )
    default = inspect.Parameter.empty if field.is_required() and not prefix else field.default
    if prefix and (field.is_required() or kind is not None):  # its default is of another type
        default, plain = None, plain | None
    is_switch = field.annotation is bool and not field.default  # True needs its --no- form
    flag = f"--{shown.replace('_', '-')}" if "." in shown else None
    wrapped = annotated(declared if is_bytes(declared) else plain, text, group, is_switch, flag)
    made = inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=wrapped
    )
    return Flag(shown, made, declared if is_bytes(declared) else plain)


def _unbounded(annotation: Any) -> Any:  # Any: a type
    """Return a tuple's type without the bounds of its values: the method itself says them best."""
    if get_origin(annotation) is not tuple or get_origin(get_args(annotation)[0]) is not Annotated:
        return annotation
    plain: Any = get_args(get_args(annotation)[0])[0]  # Any: a type
    return tuple[plain, ...]


def _extras(annotation: Any, field: FieldInfo | None = None) -> list[Any]:  # Any: constraints
    """Return what bounds a value, or each of its values where it holds several."""
    inner = get_args(annotation)[:1] if get_origin(annotation) is tuple else (annotation,)
    wrapped = [x for one in inner if get_origin(one) is Annotated for x in get_args(one)[1:]]
    found = [e for extra in wrapped for e in getattr(extra, "metadata", [extra])]
    return [*(field.metadata if field is not None else ()), *found]


def _with_bounds(text: str, metadata: list[Any]) -> str:  # Any: pydantic's constraint objects
    signs = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
    found = [
        f"{sign} {getattr(entry, key)}"
        for key, sign in signs
        for entry in metadata
        if getattr(entry, key, None) is not None
    ]
    return " ".join(filter(None, [text, f"({', '.join(found)})" if found else ""]))


def positionals(parameters: list[inspect.Parameter]) -> tuple[list[inspect.Parameter], Bind]:
    """Return the parameters as the command line takes them, and how its words become arguments.

    A list that other positionals follow ("MODELS... OUT") cannot say where it ends: all words are
    taken together, and the last ones go to what follows the list.
    """
    ahead = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    flags = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    is_list = [get_origin(get_args(p.annotation)[0]) is list for p in ahead]
    if True not in is_list:
        return parameters, lambda words: dict(zip((p.name for p in ahead), words, strict=False))
    place = is_list.index(True)
    num_after = len(ahead) - place - 1
    shown = " ".join(p.name.upper() + ("..." if p is ahead[place] else "") for p in ahead)
    texts = [f"{p.name.upper()}: {_help_of(p)}" for p in ahead]
    everything = Annotated[str, Parameter(name=shown, help="\n\n".join(texts))]
    taken = inspect.Parameter("words", inspect.Parameter.VAR_POSITIONAL, annotation=everything)

    def bind(words: tuple[Any, ...]) -> dict[str, Any]:  # Any: values in their types
        if len(words) < len(ahead):
            one = ahead[place].name.removesuffix("s")
            others = "".join(f" and {p.name.upper()}" for p in ahead if p is not ahead[place])
            raise SettingsError(
                f"Expected {shown}, but {len(words)} {'was' if len(words) == 1 else 'were'} given; "
                f"name at least one {one}{others}."
            )
        stop = len(words) - num_after
        values = [*words[:place], list(words[place:stop]), *words[stop:]]
        return {p.name: _typed(p, v) for p, v in zip(ahead, values, strict=True)}

    return [taken, *flags], bind


def _help_of(parameter: inspect.Parameter) -> str:
    return str(get_args(parameter.annotation)[1].help)


def _typed(parameter: inspect.Parameter, value: Any) -> Any:  # Any: words of the command line
    return TypeAdapter(get_args(parameter.annotation)[0]).validate_python(value)


def read_all(
    flags: Mapping[str, Flag], given: Mapping[str, Any]
) -> dict[str, Any]:  # Any: what the command line made of the words, and the same in their types
    """Return the values given for flags by the names that users write, in their types."""
    return {flags[key].name: flags[key].read(value) for key, value in given.items()}
