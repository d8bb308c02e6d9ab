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
    for folder, verb in verbs_and_actions():
        tables = [verb.methods(), *(p.axis for p in verb.parameters().values())]
        # What lies on a lower floor, for several families, has its folder there.
        below = [table for _, table in found]
        found += [(folder, one) for one in tables if one is not None and one not in below]
    return found


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


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_file_keeps_its_size_and_name(file):
    lines = len(file.read_text().splitlines())
    limit = 80 if file.name == "base.py" else 250 if file.parent.name == "methods" else 400
    assert lines <= limit, f"{lines} lines, limit {limit}"
    assert file.stem not in FORBIDDEN_NAMES


def imports_at_module_level(file: Path) -> set[str]:
    found = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_torch_is_imported_inside_functions_only(file):
    assert not imports_at_module_level(file) & {"torch", "transformers", "matplotlib"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_library_prints_nothing_and_leaves_no_notes(file):
    tree = ast.parse(file.read_text())
    calls = {
        n.func.id
        for n in ast.walk(tree)
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    }
    assert "print" not in calls
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", file.read_text())
    assert "from __future__ import annotations" not in file.read_text()


def test_public_names_are_the_verbs():
    assert set(VERBS) <= set(dir(treadle))
    for name in VERBS:
        assert callable(getattr(treadle, name))
    with pytest.raises(AttributeError, match="no verb 'prunne'"):
        _ = treadle.prunne


def test_every_all_names_what_exists():
    for file in FILES:
        tree = ast.parse(file.read_text())
        for node in tree.body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                names = ast.literal_eval(node.value)
                module = ".".join(file.relative_to(SOURCE.parent).with_suffix("").parts)
                loaded = __import__(module.removesuffix(".__init__"), fromlist=names)
                missing = [name for name in names if not hasattr(loaded, name)]
                assert not missing, f"{module}: {missing}"


@pytest.mark.parametrize(
    "words", [["--help"], ["prune", "--help"], ["prune", "wanda", "--help"], ["prune", "wnda"]]
)
def test_help_imports_no_torch(words):
    script = (
        "import sys; from treadle.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "bad = {'torch', 'transformers', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.name)
def test_every_recipe_parses(recipe):
    assert load_recipe(recipe).steps


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
