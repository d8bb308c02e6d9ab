"""Arguments of verbs are checked where Python hands them in."""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest

from treadle.core.arguments import checked
from treadle.core.errors import SettingsError
from treadle.core.method import Method
from treadle.core.registry import Registry
from treadle.core.settings import Settings, Without
from treadle.core.sizes import Bytes
from treadle.verbs import VERBS

AXIS: Registry[Method] = Registry("axis", {})


class Engine(Settings):
    """Settings for the tests."""

    rows: int = 4
    """How many."""
    seed: int = 0
    """Not a keyword here."""


@checked
def drive(
    model: str | Path,
    out: Path | None = None,
    method: str = "m",
    *,
    rate: float | None = None,
    count: int = 1,
    kind: Literal["a", 4] = "a",
    words: list[str] | None = None,
    weights: tuple[float, ...] = (),
    size: Bytes | None = None,
    gloss: Annotated[str | None, AXIS] = None,
    engine: Annotated[Engine | None, Without.fields("seed")] = None,
    is_new: bool = False,
) -> dict[str, object]:
    """Return what arrives."""
    return locals()


def test_what_is_right_passes_in_pythons_own_types() -> None:
    found = drive("m", "out", rate=1, count=np.int64(3), kind=4, words=("x",), size="2kB")
    assert found["out"] == Path("out")
    assert found["model"] == "m"
    assert (found["rate"], type(found["count"]), found["kind"]) == (1, int, 4)
    assert (found["words"], found["size"]) == (["x"], 2000)
    assert type(drive("m", rate=np.float32(0.5))["rate"]) is float
    assert drive(Path("m"), size=3000)["size"] == 3000
    assert drive("m", gloss=3)["gloss"] == 3, "methods are left to their tables"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"rate": "0.5"}, "rate = '0.5' is refused: expected a number or None"),
        ({"rate": True}, "rate = True is refused"),
        ({"count": 2.0}, "count = 2.0 is refused: expected a whole number; change it"),
        ({"count": None}, "count = None is refused"),
        ({"count": "2"}, "count = '2' is refused"),
        ({"kind": "b"}, "kind = 'b' is refused: expected 'a', 4"),
        ({"kind": 4.0}, "kind = 4.0 is refused"),
        ({"words": "x"}, r"words = 'x' is one text, but a list was expected; write \['x'\]"),
        ({"words": ["x", 3]}, "words = "),
        ({"weights": [0.5, "x"]}, "weights = "),
        ({"size": "24"}, "has no unit"),
        ({"is_new": "no"}, "is_new = 'no' is refused: expected True or False"),
        ({"is_new": 1}, "is_new = 1 is refused"),
        ({"out": 3}, "out = 3 is refused: expected a path or None"),
        ({"engine": 3}, r"engine = 3 is refused: expected Engine\(...\), or a mapping"),
        ({"engine": {"rowz": 1}}, "no setting 'rowz'. Did you mean 'rows'"),
        ({"engine": Engine(seed=3)}, "engine.seed has no effect here"),
        ({"engine": Engine(), "rows": 3}, "Found engine and rows, which is a part of it"),
    ],
)
def test_what_is_wrong_is_refused_with_the_name(given, says) -> None:
    with pytest.raises(SettingsError, match=says):
        drive("m", **given)


def test_fields_of_settings_are_keywords_too() -> None:
    assert drive("m", rows=2)["engine"] == Engine(rows=2)
    assert drive("m", engine={"rows": 2})["engine"] == Engine(rows=2)
    assert drive("m")["engine"] is None
    with pytest.raises(TypeError, match="unexpected keyword argument 'rowz'"):
        drive("m", rowz=3)


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_and_action_checks_its_arguments(name) -> None:
    for verb in (VERBS[name], *VERBS[name].actions):
        assert hasattr(verb.function(), "__wrapped__"), f"{name} {verb.name} is not checked"
