"""Tables of lazy methods: names, near names, settings, and what other packages add."""

import importlib.metadata
import sys
import types
from pathlib import Path
from typing import Annotated, ClassVar

import pytest
from pydantic import Field

from treadle.core.errors import SettingsError
from treadle.core.method import Control, Method
from treadle.core.registry import Registry, near


class Paint(Method):
    """Paint something."""

    name: ClassVar[str] = "paint"
    paper = Control("none")

    coats: Annotated[int, Field(ge=1, le=3)] = 2
    colour: str = "red"


class Sand(Method):
    """Sand something."""

    name: ClassVar[str] = "sand"
    paper = Control("none")


@pytest.fixture
def table() -> Registry[Method]:
    return Registry("finish", {"paint": f"{__name__}:Paint", "sand": f"{__name__}:Sand"})


def message(table: Registry[Method], value: object) -> str:
    with pytest.raises(SettingsError) as caught:
        table.resolve(value)
    return str(caught.value)


def test_a_name_a_mapping_and_an_instance(table: Registry[Method]) -> None:
    assert table.resolve("paint") == Paint()
    assert table.resolve({"method": "paint", "coats": 3}) == Paint(coats=3)
    mine = Paint(colour="blue")
    assert table.resolve(mine) is mine
    fields = {"method": "paint", "coats": 1}
    table.resolve(fields)
    assert fields == {"method": "paint", "coats": 1}, "the caller's mapping is not changed"


def test_an_unknown_name(table: Registry[Method]) -> None:
    assert message(table, "pant") == (
        "Unknown finish 'pant'. Did you mean 'paint'? Choose one of: paint, sand."
    )
    assert message(table, "zzz") == "Unknown finish 'zzz'. Choose one of: paint, sand."


def test_an_unknown_setting(table: Registry[Method]) -> None:
    assert message(table, {"method": "paint", "coat": 1}) == (
        "finish 'paint' has no setting 'coat'. Did you mean 'coats'? Choose one of: coats, colour."
    )
    assert message(table, {"method": "sand", "grit": 1}) == (
        "finish 'sand' has no setting 'grit'. It has none."
    )


@pytest.mark.parametrize("value", [0, 4, "many", None])
def test_a_value_out_of_bounds(table: Registry[Method], value: object) -> None:
    said = message(table, {"method": "paint", "coats": value})
    assert said.startswith(f"finish 'paint': coats = {value!r} is refused: ")
    assert "--help shows the bounds" in said


def test_a_mapping_without_a_method(table: Registry[Method]) -> None:
    said = message(table, {"coats": 1})
    assert said.startswith("No finish is chosen, but coats is given; choose one.")
    assert said.endswith("Choose one of: paint."), "sand has no such setting"


@pytest.mark.parametrize("value", [3, ["paint"], {"method": None}, {"method": ["paint"]}, 2.5])
def test_what_is_no_name_of_a_method(table: Registry[Method], value: object) -> None:
    assert "paint, sand" in message(table, value)


def test_a_setting_of_another_method_names_that_one(table: Registry[Method]) -> None:
    said = message(table, {"method": "sand", "coats": 2})
    assert "'sand' has no setting 'coats', but 'paint' has: choose that one." in said


def test_methods_are_imported_on_use() -> None:
    lazy = Registry("finish", {"paint": "no.such.module:Paint"})
    with pytest.raises(ModuleNotFoundError):
        lazy["paint"]


def test_its_names(table: Registry[Method]) -> None:
    assert list(table) == list(table.table)
    assert len(table) == len(table.table) > 0
    assert next(iter(table)) in table
    assert "none" not in table
    assert 0 not in table


def test_a_path_where_a_name_belongs(table: Registry[Method], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="It is a path: have two arguments changed places"):
        table[str(tmp_path / "out")]


def test_the_table_is_a_copy() -> None:
    given = {"paint": f"{__name__}:Paint"}
    made: Registry[Method] = Registry("finish", given)
    given["late"] = "x:Y"
    assert list(made.table) == ["paint"]


def test_other_packages_add_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("somebody_elses")
    module.Sand = Sand  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "somebody_elses", module)

    def entries(*, group: str) -> list[importlib.metadata.EntryPoint]:
        assert group == "treadle.methods"
        names = ("finish/scrape", "other axis/scrape", "finish/", "finish")
        return [importlib.metadata.EntryPoint(n, "somebody_elses:Sand", group) for n in names]

    monkeypatch.setattr("treadle.core.registry.entry_points", entries)
    table: Registry[Method] = Registry("finish", {"paint": f"{__name__}:Paint"})
    assert list(table.table) == ["paint", "scrape"]
    assert table.resolve("scrape") == Sand()


def test_near_words() -> None:
    assert near("ros", ["rows", "tensor"]) == "Did you mean 'rows'? Choose one of: rows, tensor."
    assert near("", {"a": 1}) == "Choose one of: a."
