"""The rules of the house that a linter cannot see."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import treadle
from treadle.core.method import Control, Method, Paper, Standard
from treadle.core.registry import Registry
from treadle.core.verb import Verb
from treadle.model.optimizers import OPTIMIZERS
from treadle.recipe import load_recipe
from treadle.runtime.tables import TABLES
from treadle.verbs import VERBS, WINGS

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "treadle"
FILES = sorted(SOURCE.rglob("*.py"))
TREES = {file: ast.parse(file.read_text()) for file in FILES}
MOST_FILES = {"core": 28, "model": 33, "text/curate": 30, "learn/plan": 24}
"""Folders that have yet to get rooms, and what they may hold until then."""
FORBIDDEN_NAMES = {"utils", "helpers", "common", "misc", "manager", "handler"}


def verbs_and_actions() -> list[tuple[str, Verb]]:
    """Return every verb and action with its family's folder."""
    return [
        (f"{verb.wing}/{verb.name}", one)
        for verb in VERBS.values()
        for one in (verb, *verb.actions)
    ]


def axes() -> list[tuple[str, Registry[Method]]]:
    found: list[tuple[str, Registry[Method]]] = [("model/optimizers", OPTIMIZERS)]
    found += [(f"runtime/{folder}", table) for folder, table in TABLES.items()]
    for _, verb in verbs_and_actions():
        tables = [verb.methods(), *(p.axis for p in verb.parameters().values())]
        # What lies on a lower floor, for several families, has its folder there.
        below = [table for _, table in found]
        found += [(home_of(one), one) for one in tables if one is not None and one not in below]
    return found


def home_of(table: Registry[Method]) -> str:
    """The folder of a table's methods: the family's, or a room of it."""
    target = next(iter(table.table.values()))
    return target.partition(".methods.")[0].removeprefix("treadle.").replace(".", "/")


def test_every_family_has_table_equal_to_files_and_tests():
    for folder in {folder for folder, _ in axes()}:
        listed = {
            target.partition(":")[0].rpartition(".")[2]
            for home, table in axes()
            if home == folder
            for target in table.table.values()
        }
        files = {p.stem for p in (SOURCE / folder / "methods").glob("*.py")} - {"__init__"}
        tested = {p.stem.removeprefix("test_") for p in (ROOT / "tests" / folder).glob("test_*.py")}
        assert listed == files
        assert files <= tested, f"no test file for {sorted(files - tested)} of {folder}"


def test_every_method_names_itself_and_its_source():
    for _, table in axes():
        for name in table.table:
            method = table[name]
            assert method.name == name
            assert isinstance(method.paper, Paper | Standard | Control)
            assert method.model_config["frozen"]
            assert method.summary().endswith(".")
            if isinstance(method.paper, Paper):
                assert re.fullmatch(r"https://\S+", method.paper.url)
                assert "Paper:" in (method.__doc__ or "")


def test_every_field_of_every_method_has_help():
    for _, table in axes():
        for name in table.table:
            for key, field in table[name].model_fields.items():
                assert field.description, f"{name}.{key} has no help"


def test_every_parameter_of_every_verb_has_help_and_its_wing_exists():
    for folder, verb in verbs_and_actions():
        assert verb.wing in WINGS
        for parameter in verb.parameters().values():
            assert parameter.help, f"{folder}: {verb.name}: {parameter.name} has no help"


def test_names_of_actions_are_no_methods():
    for verb in VERBS.values():
        table = verb.methods()
        names = [action.name for action in verb.actions]
        assert not set(names) & set(table.table if table is not None else ())
        assert not any(action.actions for action in verb.actions)


def over_limit(files: list[Path], limit_of) -> list[str]:
    lengths = {file: len(file.read_text().splitlines()) for file in files}
    return [
        f"{file.relative_to(ROOT)}: {lines} lines, limit {limit_of(file)}"
        for file, lines in lengths.items()
        if lines > limit_of(file)
    ]


def test_files_keep_their_size():
    def limit(file: Path) -> int:
        return 80 if file.name == "base.py" else 250 if file.parent.name == "methods" else 400

    kernels = [*SOURCE.rglob("*.c"), *SOURCE.rglob("*.h")]
    tests = sorted((ROOT / "tests").rglob("*.py"))
    assert kernels
    assert not over_limit([*FILES, *kernels, *tests], limit)


def test_files_have_names_that_say_something():
    assert not [file for file in FILES if file.stem in FORBIDDEN_NAMES]


def test_rooms_keep_their_size():
    """A folder that holds more files than a person keeps in mind wants rooms."""
    found = {}
    for folder in {file.parent for file in FILES} - {SOURCE}:
        name = folder.relative_to(SOURCE).as_posix()
        modules = [file for file in folder.glob("*.py") if file.name != "__init__.py"]
        if folder.name != "methods" and len(modules) > MOST_FILES.get(name, 24):
            found[name] = len(modules)
    assert not found


def is_mirror(node: ast.ClassDef) -> bool:
    """A struct of C, which bears the name that it has there."""
    return any("Structure" in ast.unparse(base) for base in node.bases)


def test_one_name_stands_for_one_class():
    """Methods are named as in their papers, and looked up by their family."""
    homes: dict[str, list[str]] = {}
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            is_ours = isinstance(node, ast.ClassDef) and file.parent.name != "methods"
            if is_ours and not node.name.startswith("_") and not is_mirror(node):
                homes.setdefault(node.name, []).append(str(file.relative_to(SOURCE)))
    assert not {name: files for name, files in homes.items() if len(files) > 1}


def imports_at_module_level(tree: ast.Module) -> set[str]:
    found = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_torch_is_imported_inside_functions_only():
    heavy = {"torch", "transformers", "matplotlib"}
    assert not [file for file, tree in TREES.items() if imports_at_module_level(tree) & heavy]


def test_library_prints_nothing_and_leaves_no_notes():
    found = []
    for file, tree in TREES.items():
        calls = {
            n.func.id
            for n in ast.walk(tree)
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
        }
        text = file.read_text()
        found += [file] if "print" in calls else []
        found += [file] if re.search(r"\b(TODO|FIXME|XXX)\b", text) else []
        found += [file] if "from __future__ import annotations" in text else []
        found += [file] if "noqa: E402" in text else []
    assert not found


def test_public_names_are_the_verbs():
    assert set(VERBS) <= set(dir(treadle))
    for name in VERBS:
        assert callable(getattr(treadle, name))
    with pytest.raises(AttributeError, match="no verb 'prunne'"):
        _ = treadle.prunne


def test_every_all_names_what_exists():
    for file, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                names = ast.literal_eval(node.value)
                module = ".".join(file.relative_to(SOURCE.parent).with_suffix("").parts)
                loaded = __import__(module.removesuffix(".__init__"), fromlist=names)
                missing = [name for name in names if not hasattr(loaded, name)]
                assert not missing, f"{module}: {missing}"


def test_help_imports_no_torch():
    script = (
        "import sys; from treadle.cli import main\n"
        "for words in ('--help', 'prune --help', 'prune wanda --help', 'prune wnda'):\n"
        "    try: main(words.split())\n"
        "    except SystemExit: pass\n"
        "    bad = {'torch', 'transformers', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "    if bad: sys.exit(f'{words}: imported {bad}')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_recipe_parses():
    for recipe in sorted((ROOT / "recipes").glob("*.yaml")):
        assert load_recipe(recipe).steps, recipe.name


def test_every_decision_record_is_linked():
    text = (ROOT / "docs" / "architecture.md").read_text()
    for record in (ROOT / "docs" / "decisions").glob("*.md"):
        assert f"decisions/{record.name}" in text


def test_golden_numbers_name_their_source():
    import json

    for file in (ROOT / "tests" / "golden").glob("*.json"):
        for name, entry in json.loads(file.read_text()).items():
            assert {"value", "tolerance", "source"} <= set(entry), f"{file.name}: {name}"
            assert entry["source"]
