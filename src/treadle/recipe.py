"""Recipes: a YAML list of steps over named artefacts, each step one call of a verb.

A step whose result is there (same settings, same input hashes) is skipped.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from treadle.core.checkpoint.publish import remove
from treadle.core.disk import told
from treadle.core.errors import DataError, SettingsError
from treadle.core.mistaken import pointed
from treadle.core.registry import near
from treadle.core.result import FORMAT, RESULT_FILE, digest, read_result
from treadle.core.verb import Verb
from treadle.core.written import LONGEST_NAME, check_entries, check_settings, is_plain_name
from treadle.verbs import VERBS

__all__ = [
    "Recipe",
    "RecipePlan",
    "Step",
    "check_names",
    "load_recipe",
    "parse_step",
    "read_document",
    "run_plan",
    "run_recipe",
]

_KEYS = ("name", "out", "artefacts", "temporary", "steps")
_STEPS = ".steps"
"""Folder of notes beside the artefacts: which step began and ended there, and by which settings."""
_KEPT = (RESULT_FILE, "treadle.json")
"""What stays of a temporary artefact: not enough to look like a model."""
_MERGED = "tag:yaml.org,2002:merge"
"""The key << of YAML, which brings the keys of another mapping."""
Settings = dict[str, Any]  # Any: YAML values, checked against the verb's signature


class Step(NamedTuple):
    """One call of a verb, with names of artefacts still unresolved."""

    number: int
    verb: Verb
    settings: Settings
    command: str
    """The words that name the verb, and the action if it is one."""

    @property
    def out(self) -> str:
        """The name of the artefact that the step makes."""
        return str(self.settings["out"])

    @property
    def title(self) -> str:
        """What the step does, in a few words."""
        method = self.settings.get("method", "")
        name = method["method"] if isinstance(method, dict) else method
        places = [p.name for p in self.verb.parameters().values() if p.is_positional]
        inputs = [self.settings[key] for key in places if key != "out" and key in self.settings]
        flat = [str(v) for entry in inputs for v in (entry if isinstance(entry, list) else [entry])]
        return " ".join(filter(None, [self.command, name, *flat, "->", self.out]))

    @property
    def names(self) -> set[str]:
        """Everything in the settings that may name an artefact."""
        values = [self.settings[key] for key in self.settings if self.may_name(key)]
        flat = [entry for v in values for entry in (v if isinstance(v, list) else [v])]
        return {entry for entry in flat if isinstance(entry, str)}

    def may_name(self, key: str) -> bool:
        """Whether a setting may stand for an artefact: an engine's settings and axes do not."""
        entry = self.verb.parameters().get(key)
        is_setting = entry is not None and (bool(entry.owner) or entry.axis is not None)
        return key != "out" and not is_setting


class Recipe(NamedTuple):
    """A checked recipe."""

    name: str
    out: Path
    artefacts: dict[str, str]
    temporary: frozenset[str]
    """Artefacts whose weights are removed after their last use; results and manifests stay."""
    steps: list[Step]
    contents: Mapping[str, str] = {}
    """By the names that steps use, digests of what they stand for: what lies there counts then, not
    its path."""


class _UniqueKeys(yaml.SafeLoader):
    """A safe loader that refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        own = [key for key, _ in node.value if key.tag != _MERGED]  # a key may replace a merged one
        keys = [self.construct_object(key, deep=deep) for key in own]
        for key in keys:
            if keys.count(key) > 1:
                line = node.start_mark.line + 1
                raise SettingsError(f"Key '{key}' stands twice in the mapping at line {line}.")
        return super().construct_mapping(node, deep)


def load_recipe(path: Path, out: Path | None = None) -> Recipe:
    """Read and check a recipe: every verb, method, setting and artefact that it names.

    Raises:
        DataError: The file is missing or no YAML.
        SettingsError: Something that it names does not exist; the message suggests the near one.
    """
    path = Path(path)
    document = read_document(path, "recipe", _KEYS)
    if not document["steps"]:
        raise SettingsError(f"'{path}' has an empty list 'steps'; write a verb in each entry.")
    check_entries(path, document)
    steps = [parse_step(number, entry) for number, entry in enumerate(document["steps"], 1)]
    recipe = Recipe(
        str(document.get("name", path.stem)),
        Path(out or document.get("out", f"runs/{path.stem}")),
        dict(document.get("artefacts") or {}),
        frozenset(document.get("temporary") or ()),
        steps,
    )
    check_names(recipe)
    return recipe


def read_document(path: Path, kind: str, keys: Sequence[str]) -> dict[str, Any]:  # Any: YAML values
    """Return what a file of steps holds, a recipe or another `kind`; only `keys` may stand in it.

    Raises:
        DataError: The file is missing or no YAML.
        SettingsError: It has no steps, or an unknown key.
    """
    if not path.is_file():
        raise DataError(f"No {kind} at '{path}'; give a YAML file.")
    if what := pointed(path):
        raise DataError(f"'{path}' is {what}.")
    try:
        text = path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        what = f"'{path}' cannot be read ({error})"
        raise DataError(f"{what}; give a YAML file in UTF-8 that you may read.") from error
    try:
        document = yaml.load(text, Loader=_UniqueKeys)  # a safe loader
    except (yaml.YAMLError, RecursionError) as error:
        raise DataError(f"'{path}' is not YAML: {error}. Mend the line named.") from error
    if not isinstance(document, dict) or not isinstance(document.get("steps"), list):
        raise SettingsError(f"'{path}' has no list 'steps'; write one, a verb in each entry.")
    for key in document:
        if key not in keys:
            known = near(str(key), list(keys))
            raise SettingsError(f"'{path}' has an unknown key '{key}'. {known}")
    return document


def parse_step(number: int, entry: Any) -> Step:  # Any: whatever the YAML holds
    """Return a checked step: its verb, action, method and settings exist and have their types.

    Raises:
        SettingsError: Something does not; the message suggests the near one.
    """
    if not isinstance(entry, dict) or len(entry) != 1:
        raise SettingsError(
            f"Step {number} must be one verb with its settings, as in 'prune: {{...}}'."
        )
    name, settings = _as_verb(*next(iter(entry.items())))
    if name not in VERBS:
        raise SettingsError(
            f"Step {number} names an unknown verb '{name}'. {near(str(name), VERBS)}"
        )
    verb = VERBS[name]
    if not isinstance(settings, dict | None):
        raise SettingsError(
            f"Step {number} ({name}) has no settings but {str(settings)[:60]!r}; write names with "
            f"their values, as in '{name}: {{...}}'."
        )
    settings = dict(settings or {})
    if "action" in settings:
        verb = _action(f"Step {number} ({name})", verb, settings.pop("action"))
        name = f"{name} {verb.name}"
    elif verb.action(settings.get("method")):
        raise SettingsError(
            f"Step {number} ({name}): '{settings['method']}' is no method but an action; write "
            f"'action: {settings['method']}' instead of 'method'."
        )
    if "out" not in verb.parameters():
        raise SettingsError(
            f"Step {number} ({name}): this verb makes no artefact, so it is no step; run it when "
            f"the recipe is done."
        )
    check_settings(f"Step {number} ({name})", verb, settings)
    if settings.get("out") is None:
        raise SettingsError(f"Step {number} ({name}): the setting 'out' is missing; add it.")
    return Step(number, verb, settings, name)


def _as_verb(name: Any, settings: Any) -> tuple[Any, Any]:  # Any: whatever the YAML holds
    """Return a step that is called as on the command line ("curate pack"), or as in Python."""
    for mark in " _":
        verb, _, action = str(name).partition(mark)
        is_action = verb in VERBS and VERBS[verb].action(action) is not None
        if is_action and isinstance(settings, dict | None) and "action" not in (settings or {}):
            return verb, {**(settings or {}), "action": action}
    return name, settings


def _action(where: str, verb: Verb, name: object) -> Verb:
    found = verb.action(name)
    if found is None:
        names = [action.name for action in verb.actions]
        known = near(str(name), names) if names else "It has none."
        raise SettingsError(f"{where}: the verb has no action '{name}'. {known}")
    return found


def check_names(recipe: Recipe) -> None:
    """Require that artefacts are plain names, each made once and before it is used.

    Raises:
        SettingsError: One is not.
    """
    made = [step.out for step in recipe.steps]
    for name in made:
        if not is_plain_name(name):
            raise SettingsError(
                f"The out {name[:80]!r} is no plain name; artefacts lie side by side in "
                f"'{recipe.out}': give a name of 1 to {LONGEST_NAME} bytes, without a slash or "
                f"signs that cannot be printed, and with no dot before it."
            )
        if made.count(name) > 1 or name in recipe.artefacts:
            raise SettingsError(f"Two artefacts are called '{name}'; rename the 'out' of one step.")
    for name in recipe.temporary:
        if name not in made:
            raise SettingsError(
                f"temporary names '{name}', which no step makes. {near(name, made)}"
            )
    for step in recipe.steps:
        for name in sorted(step.names & set(made[step.number - 1 :])):
            raise SettingsError(
                f"Step {step.number} uses '{name}' before a later step makes it; move it down."
            )


class RecipePlan:
    """Which steps have to run, and what can go when they have."""

    def __init__(self, recipe: Recipe, fresh: bool) -> None:
        self.recipe = recipe
        self.keys: dict[str, str] = {}
        for step in recipe.steps:
            used = {name: self.keys[name] for name in sorted(step.names) if name in self.keys}
            known = {**recipe.artefacts, **recipe.contents}
            named = {name: known[name] for name in step.names & set(known)}
            self.keys[step.out] = digest([FORMAT, step.command, step.settings, used, named])
        self.done = {step.out for step in recipe.steps if not fresh and self._is_done(step)}
        self.needed: set[str] = set()
        for step in reversed(recipe.steps):
            if step.out not in self.done or (self._is_wanted(step) and self._is_gone(step)):
                self.needed.add(step.out)

    def folder(self, name: str) -> Path:
        """Return where the artefact `name` stands."""
        return self.recipe.out / name

    def note(self, name: str) -> Path:
        """Return the file that says which settings the artefact was begun and ended with."""
        return self.recipe.out / _STEPS / f"{name}.txt"

    def _is_done(self, step: Step) -> bool:
        """Whether the step's result is there and was made by these settings from these inputs."""
        note, result = self.note(step.out), self.folder(step.out) / RESULT_FILE
        ended = f"ended {self.keys[step.out]}"
        is_noted = result.is_file() and note.is_file() and note.read_bytes() == ended.encode()
        return is_noted and _is_sound(result)

    def _is_wanted(self, step: Step) -> bool:
        return any(s.out in self.needed for s in self.recipe.steps if step.out in s.names)

    def _is_gone(self, step: Step) -> bool:
        return step.out in self.recipe.temporary and not any(
            entry.is_dir() or entry.suffix == ".safetensors"
            for entry in self.folder(step.out).iterdir()
        )

    def arguments(self, step: Step) -> Settings:
        """Return the step's settings with names of artefacts replaced by what they stand for."""
        made = {entry.out for entry in self.recipe.steps}
        found: Settings = {}
        for key, value in step.settings.items():
            if key == "out":
                found[key] = self.folder(value)
            elif not step.may_name(key):
                found[key] = value
            elif isinstance(value, list):
                found[key] = [self._place(entry, made) for entry in value]
            else:
                found[key] = self._place(value, made)
        bound = step.verb.bind(found)
        if (table := step.verb.methods()) is not None:
            bound["method"] = table.resolve(found["method"])
        return bound

    def _place(self, value: Any, made: set[str]) -> Any:  # Any: YAML values
        """Return what a setting stands for: an artefact's folder or source, or itself."""
        if not isinstance(value, str):
            return value
        return self.folder(value) if value in made else self.recipe.artefacts.get(value, value)

    def clear(self, after: int) -> None:
        """Remove the weights of temporary artefacts that no later step of this run uses."""
        later = [s for s in self.recipe.steps[after:] if s.out in self.needed]
        for name in self.recipe.temporary - {used for step in later for used in step.names}:
            if name in {step.out for step in self.recipe.steps[:after]}:
                for entry in self.folder(name).iterdir():
                    if entry.name not in _KEPT:
                        remove(entry)


def _is_sound(result: Path) -> bool:
    """Whether a result can be read: a damaged one is made again."""
    found = result.stat()
    return _is_readable(result, found.st_mtime_ns, found.st_size, found.st_ino)


@cache  # a sweep asks for each cell several times
def _is_readable(result: Path, *_stamp: int) -> bool:
    try:
        read_result(result)
    except DataError:
        return False
    return True


def run_recipe(
    path: Path, *, out: Path | None = None, dry_run: bool = False, fresh: bool = False
) -> Iterator[str]:
    """Run a recipe's steps in order, yielding a line for each as it is done.

    Args:
        path: The YAML file.
        out: Folder for the artefacts, in place of the recipe's own.
        dry_run: Only say which steps would run.
        fresh: Run every step, whatever results exist.

    Raises:
        TreadleError: A step's; what earlier steps made stays, and the same call goes on there.
    """
    yield from run_plan(RecipePlan(load_recipe(path, out), fresh), dry_run)


def run_plan(plan: RecipePlan, dry_run: bool = False) -> Iterator[str]:
    """Run the steps that have to run, yielding a line for each step as `run_recipe` does."""
    recipe = plan.recipe
    for step in recipe.steps:
        label = f"{step.number}/{len(recipe.steps)} {step.title}"
        if step.out not in plan.needed:
            yield f"{label}: there already"
            continue
        if dry_run:
            yield f"{label}: would run"
            continue
        with told(recipe.out):
            said = _run_step(plan, step)
            plan.clear(step.number)
        yield f"{label}: {said}"


def _run_step(plan: RecipePlan, step: Step) -> str:
    arguments = plan.arguments(step)
    function, folder, note = step.verb.function(), plan.folder(step.out), plan.note(step.out)
    if folder.exists() and not note.is_file():
        raise SettingsError(
            f"Step {step.number} would replace '{folder}', which no run of this recipe made; "
            f"move it away, or rename the step's 'out'."
        )
    was_noted = note.is_file()
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text("begun")
    if folder.exists() and not (folder / "config.json").exists():
        shutil.rmtree(folder)
    if "overwrite" in step.verb.parameters():
        arguments["overwrite"] = True
    try:
        function(**arguments)
    except Exception:
        if not was_noted and not folder.exists():  # refused: there is nothing to go on with
            note.unlink(missing_ok=True)
        raise
    note.write_text(f"ended {plan.keys[step.out]}")
    result = read_result(folder / RESULT_FILE)
    scores = ", ".join(f"{m.name} {m.value:.4g}" for m in result.measurements[:2])
    return f"{result.seconds:.1f} s, {scores}"
