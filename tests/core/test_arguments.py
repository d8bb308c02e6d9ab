"""Arguments of verbs are checked where Python hands them in."""

import inspect
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest

from treadle.core.arguments import checked
from treadle.core.errors import DataError, SettingsError
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


@checked
def read(
    data: str | Path,
    out: Path,
    method: Method | str | dict[str, object] = "fine",
    *,
    overwrite: bool = False,
    **method_settings: object,
) -> object:
    if not Path(data).exists():
        raise DataError(f"Nothing at '{data}'; give a corpus.")
    if isinstance(method, dict) and "overwite" in method:
        raise SettingsError("method 'fine' has no setting 'overwite'. It has none.")
    assert not method_settings
    return method


def test_settings_of_the_method_are_keywords_too(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert read(tmp_path, out, threshold=0.8) == {"method": "fine", "threshold": 0.8}
    assert read(tmp_path, out, "rough", threshold=0.8) == {"method": "rough", "threshold": 0.8}
    assert read(tmp_path, out, {"method": "a", "b": 1}, c=2) == {"method": "a", "b": 1, "c": 2}
    assert read(tmp_path, out, "rough") == "rough"
    with pytest.raises(SettingsError, match=r"Unknown keyword 'overwite'. Did you mean 'overwr"):
        read(tmp_path, out, overwite=True)
    with pytest.raises(SettingsError, match="with its settings already, so threshold has no eff"):
        read(tmp_path, out, Method(), threshold=0.8)


def test_two_places_in_the_wrong_order_are_recognised(tmp_path: Path) -> None:
    missing = tmp_path / "new"
    with pytest.raises(DataError, match=r"'.*new' does not exist and '.*' does: data and out may"):
        read(missing, tmp_path)
    with pytest.raises(DataError, match=r"^Nothing at '.*new'"):
        read(missing, tmp_path / "out")
    for source in ("packaged:x", "org/name", str(tmp_path / "*.jsonl"), f"{missing} + {missing}"):
        with pytest.raises(DataError, match=r"^Nothing at"):
            read(source, tmp_path)


@pytest.mark.parametrize("name", [name for name, verb in VERBS.items() if verb.table])
def test_every_verb_with_methods_takes_their_settings_as_keywords(name: str) -> None:
    taken = inspect.signature(VERBS[name].function()).parameters["method_settings"]
    assert taken.kind is inspect.Parameter.VAR_KEYWORD
    assert "method_settings" not in VERBS[name].parameters()
