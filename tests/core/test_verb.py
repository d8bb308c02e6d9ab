"""A verb's signature and docstring are the one definition of its parameters."""

import inspect
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field, model_validator

from treadle.core.errors import SettingsError
from treadle.core.method import Method
from treadle.core.registry import Registry
from treadle.core.settings import Settings, Without, make_settings
from treadle.core.sizes import Bytes
from treadle.core.verb import Verb, argument_help
from treadle.verbs import VERBS, WINGS

AXIS: Registry[Method] = Registry("axis", {})


def polish(
    model: str | Path,
    method: str,
    *,
    gloss: Annotated[str, AXIS, "else"] = "matt",
    seed: int = 0,
) -> None:
    """Polish a model.

    Args:
        model: Folder: with a colon.
        method: Not shown.
        gloss: How it
            shines, over two lines.

    Returns:
        Nothing.
    """


VERB = Verb("polish", "shrink", "Polish.", f"{__name__}:polish", f"{__name__}:AXIS")


def test_parameters_follow_the_signature() -> None:
    found = VERB.parameters()
    assert list(found) == ["model", "gloss", "seed"]
    assert found["model"].is_required
    assert found["model"].is_positional
    assert found["model"].annotation == str | Path
    assert found["model"].help == "Folder: with a colon."
    assert found["gloss"].annotation is str
    assert found["gloss"].axis is AXIS
    assert found["gloss"].help == "How it shines, over two lines."
    assert (found["gloss"].default, found["gloss"].is_required) == ("matt", False)
    assert not found["seed"].is_positional
    assert (found["seed"].axis, found["seed"].help) == (None, "")


def test_function_and_table_are_loaded_by_name() -> None:
    assert VERB.function() is polish
    assert VERB.methods() is AXIS
    assert Verb("v", "shrink", "S.", f"{__name__}:polish").methods() is None


def test_no_args_section() -> None:
    def bare() -> None:
        """Do nothing."""

    assert argument_help(bare) == {}
    assert argument_help(lambda: None) == {}


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_of_the_house(name: str) -> None:
    verb = VERBS[name]
    assert verb.wing in WINGS
    assert verb.summary.endswith((".", "?"))
    signature = inspect.signature(verb.function())
    for parameter in verb.parameters().values():
        assert parameter.help.endswith("."), f"{name}: {parameter.name} has no help"
        assert parameter.annotation is not inspect.Parameter.empty
        if not parameter.owner:
            assert signature.parameters[parameter.name].default is parameter.default
    # Curating draws nothing by chance: its methods hash with settings of their own.
    assert verb.wing == "text" or "seed" in verb.parameters()
    assert name == "serve" or {"out", "overwrite"} <= set(verb.parameters())
    reads_records = verb.wing == "text" or name == "route"
    read = {"data"} if reads_records else {"model", "models"}
    assert read & set(verb.parameters())
    assert ("method" in signature.parameters) == (verb.methods() is not None)


def test_the_axes_of_prune() -> None:
    from treadle.shrink.prune import ALLOCATIONS, UPDATES

    axes = {name: p.axis for name, p in VERBS["prune"].parameters().items() if p.axis}
    assert axes == {"update": UPDATES, "allocation": ALLOCATIONS}


class Engine(Settings):
    """Settings for the tests."""

    room_bytes: Bytes | None = None
    """How much room there is."""
    rows: int = Field(default=4, ge=1)
    """How many rows there are."""
    seed: int = 0
    """Not a flag here."""


def drive(
    model: str,
    *,
    gloss: Annotated[str | None, AXIS] = None,
    engine: Annotated[Engine | None, Without.fields("seed")] = None,
    seed: int = 1,
) -> None:
    """Drive a model.

    Args:
        model: Folder.
        gloss: How it shines.
        engine: Not shown itself.
        seed: Of the driver.
    """


DRIVE = Verb("drive", "shrink", "Drive.", f"{__name__}:drive")


def test_fields_of_settings_are_parameters_of_the_verb() -> None:
    found = DRIVE.parameters()
    assert list(found) == ["model", "gloss", "room_bytes", "rows", "seed"]
    assert (found["rows"].owner, found["rows"].default) == ("engine", 4)
    assert found["rows"].help == "How many rows there are."
    assert (found["seed"].owner, found["seed"].default) == ("", 1)


def test_binding_gathers_settings_and_methods_of_axes() -> None:
    assert DRIVE.bind({"model": "m", "seed": 3}) == {"model": "m", "seed": 3}
    bound = DRIVE.bind({"model": "m", "rows": 2, "gloss.depth": 3})
    assert bound == {"model": "m", "engine": Engine(rows=2), "gloss": {"depth": 3}}
    assert DRIVE.bind({"gloss": "matt", "gloss.depth": 3})["gloss"] == {
        "method": "matt",
        "depth": 3,
    }
    with pytest.raises(SettingsError, match=r"rows = 0 is refused: expected greater than"):
        DRIVE.bind({"rows": 0})


def test_settings_are_checked_by_name_and_value() -> None:
    assert make_settings(Engine, {"room_bytes": "2kB"}).room_bytes == 2000
    with pytest.raises(SettingsError, match="no setting 'rowz'"):
        make_settings(Engine, {"rowz": 1})


class Strict(Settings):
    """Settings with a check of their own."""

    rows: int = 1
    """How many rows there are."""

    @model_validator(mode="after")
    def _is_even(self) -> "Strict":
        if self.rows % 2:
            raise SettingsError("Found an odd number of rows; give an even one.")
        return self


def test_what_settings_refuse_themselves_is_said_in_their_words() -> None:
    with pytest.raises(SettingsError) as caught:
        make_settings(Strict, {"rows": 3})
    assert str(caught.value) == "Found an odd number of rows; give an even one."
