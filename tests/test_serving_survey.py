"""Every line of the serving survey is served, open or left out, and says by what or why."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import treadle.runtime
from treadle.verbs import VERBS

ROOT = Path(__file__).parent.parent
SURVEY = ROOT / "docs" / "serving-survey.md"
STATES = {"served", "open", "documented only"}
PARTS = {  # of the survey's outline
    *("Decoding", "Speculative", "Non-autoregressive", "Early exit", "Cascade of models"),
    *("Architecture", "Compression", "Low bits", "Parallel", "Memory", "Scheduling", "Kernels"),
}


def rows() -> list[list[str]]:
    lines = [line for line in SURVEY.read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


@cache
def names_in(file: Path) -> set[str]:
    return {n.name for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.FunctionDef)}


def flaw(row: list[str]) -> str | None:
    """What is wrong with a row, or None."""
    if len(row) != 5 or not all(row):
        return "a cell is empty"
    _, state, door, issue, why = row
    if state not in STATES:
        return f"'{state}' is no state"
    name = door.strip("`")
    if name not in VERBS and name not in treadle.runtime.__all__:
        return f"{door} is no verb"
    if not re.fullmatch(r"#\d+", issue):
        return f"'{issue}' is no issue"
    if state != "served":
        return None if len(why.split()) > 4 and "::" not in why else "no reason"
    found = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", why)
    if found is None or not (ROOT / found[1]).is_file():
        return f"{why} names no test"
    return None if found[2] in names_in(ROOT / found[1]) else f"there is no {found[2]}"


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_every_line_says_what_it_should(row):
    assert flaw(row) is None


def test_every_part_of_the_outline_is_there_once():
    names = [row[0] for row in rows()]
    assert len(set(names)) == len(names)
    assert {name.partition(":")[0] for name in names} == PARTS


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["a", "served", "`LLM`", "#1", ""], "empty"),
        (["a", "done", "`LLM`", "#1", "x"], "no state"),
        (["a", "served", "`cook`", "#1", "x"], "no verb"),
        (["a", "served", "`LLM`", "one", "x"], "no issue"),
        (["a", "open", "`LLM`", "#1", "later"], "no reason"),
        (["a", "served", "`LLM`", "#1", "`tests/none.py::test_x`"], "names no test"),
        (["a", "served", "`LLM`", "#1", "`tests/test_serving_survey.py::test_x`"], "there is no"),
    ],
)
def test_a_wrong_line_is_found(row, message):
    assert message in flaw(row)
