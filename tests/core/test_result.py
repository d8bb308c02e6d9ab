"""The account of a run: what it says, and what its fingerprint notices."""

import json
import math
from pathlib import Path

import pytest

from treadle.core.errors import DataError
from treadle.core.result import (
    Column,
    Entry,
    Figure,
    Input,
    Measurement,
    Result,
    Series,
    Table,
    digest,
    fingerprint,
    read_result,
    write_result,
)
from treadle.core.run import recorded

INPUTS = [Input(name="model", path="m", content_hash="abc", role="model")]


def result(**outcome: object) -> Result:
    with recorded("prune", "wanda", {"sparsity": 0.5}, seed=3) as run:
        run.inputs += INPUTS
    return run.result.model_copy(update=outcome)


def test_a_round_trip(tmp_path: Path) -> None:
    series = [Series(name="s", x=[1.0, "two"], y=[0.5, 1.5], low=[0.0, 1.0], high=[1.0, 2.0])]
    figure = Figure(kind="interval", title="t", x_label="x", y_label="y", series=series)
    measured = [
        Measurement(name="perplexity", value=12.5, low=12.0, high=13.0, better="lower"),
        Measurement(name="broken", value=math.inf),
    ]
    made = result(
        measurements=measured, figures=[figure], samples={"nll": [1.0, 2.0]}, bytes={"in": 3}
    )
    path = write_result(made, tmp_path / "new" / "folder")
    assert path.name == "result.json"
    assert [file.name for file in path.parent.iterdir()] == ["result.json"]
    assert read_result(path) == read_result(path.parent) == made
    json.loads(path.read_text())


def test_what_a_recording_notes() -> None:
    made = result()
    assert (made.verb, made.method, made.seed, made.output) == ("prune", "wanda", 3, "")
    assert made.seconds >= 0.0
    assert made.cpu_seconds >= 0.0
    assert made.peak_memory_bytes > 1_000_000
    assert {"python", "treadle", "torch", "transformers", "numpy"} == set(made.versions)
    assert made.started.endswith("+00:00")
    assert made.hardware


def test_the_fingerprint_notices_everything_that_determines_the_output() -> None:
    base = {"verb": "prune", "settings": {"a": 1, "b": 2}, "seed": 0, "inputs": {"model": "x"}}
    changes = [
        {"verb": "merge"},
        {"settings": {"a": 1, "b": 3}},
        {"settings": {"a": 1}},
        {"settings": {"a": 1, "b": "2"}},
        {"seed": 1},
        {"inputs": {"model": "y"}},
        {"inputs": {"model": "x", "text": "t"}},
    ]
    prints = [fingerprint(**base), *(fingerprint(**{**base, **change}) for change in changes)]
    assert len(set(prints)) == len(prints)
    assert fingerprint(**{**base, "settings": {"b": 2, "a": 1}}) == prints[0]
    assert result().fingerprint == fingerprint("prune", {"sparsity": 0.5}, 3, {"model": "abc"})


def test_a_digest_is_canonical() -> None:
    assert digest({"a": [1, 2], "b": None}) == digest({"b": None, "a": (1, 2)})
    assert digest([1, 2]) != digest([2, 1])
    assert digest("ab") != digest(["ab"])


def test_a_measurement_by_name() -> None:
    made = result(measurements=[Measurement(name="a", value=1.0), Measurement(name="b", value=2)])
    assert made.measurement("b").value == 2.0
    with pytest.raises(DataError, match=r"'prune wanda' has no measurement 'c' \(it has: a, b\)"):
        made.measurement("c")
    with pytest.raises(DataError, match=r"\(it has: none\)"):
        result().measurement("c")


def test_no_result(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No result at '.*result\.json'; give the output folder"):
        read_result(tmp_path)


def test_a_result_of_a_newer_treadle(tmp_path: Path) -> None:
    path = write_result(result(), tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(DataError, match="written by a newer treadle"):
        read_result(tmp_path)


def test_a_result_says_its_format(tmp_path: Path) -> None:
    path = write_result(result(), tmp_path)
    written = json.loads(path.read_text())
    del written["format"]
    path.write_text(json.dumps(written))
    with pytest.raises(DataError, match="is not a result that treadle wrote"):
        read_result(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff\xfe", b'{"verb": "prune"'])
def test_a_file_that_is_no_result(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(DataError, match="is not a result that treadle wrote"):
        read_result(tmp_path)


def test_a_result_with_a_key_too_many(tmp_path: Path) -> None:
    path = write_result(result(), tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "surprise": 1}))
    with pytest.raises(DataError, match="is not a result"):
        read_result(tmp_path)


def test_a_result_of_an_older_treadle_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    path = write_result(result(), tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 1}))
    with pytest.raises(DataError, match="written by an older treadle"):
        read_result(tmp_path)


def test_the_command_names_verb_and_action() -> None:
    assert result().command == "prune"
    assert result(action="pack").command == "prune pack"


def test_a_failed_write_leaves_the_old_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_result(result(), tmp_path)
    before = (tmp_path / "result.json").read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="no space"):
        write_result(result(notes=["new"]), tmp_path)
    assert (tmp_path / "result.json").read_bytes() == before


def _set(raw: dict, path: str, value: object) -> dict:
    """Return a result's JSON with another value at a path such as figures.0.kind."""
    changed = json.loads(json.dumps(raw))
    place = changed
    *way, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    for key in way:
        place = place[key]
    place[last] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("figures.0.series.0.x", [1.0], r"figures.0.series.0: .*'s' has 1 values of x and 2 of y"),
        ("figures.0.series.0.low", [1.0], r"1 values of low and 2 of y"),
        ("figures.0.series.0.high", [], r"0 values of high and 2 of y"),
        ("figures.0.kind", "timeline", r"lane 's' of a timeline names its spans"),
        ("tables.0.rows.0", [], r"row 1 of table 't' has 0 places for 1 columns"),
        ("peak_memory_bytes", 10**400, r"a whole number of 401 digits"),
        ("bytes.in", -(10**400), r"a whole number of 402 digits"),
        ("settings.sparsity", 10**400, r"a whole number of 401 digits"),
        ("measurements", {}, r"measurements: Input should be a valid"),
    ],
)
def test_a_result_that_no_page_could_draw_is_named(
    path: str, value: object, says: str, tmp_path: Path
) -> None:
    series = Series(name="s", x=["one", "two"], y=[0.5, 1.5])
    figure = Figure(kind="bar", title="f", x_label="x", y_label="y", series=[series])
    table = Table(title="t", columns=[Column(name="c")], rows=[[Entry(value=1.0)]])
    file = write_result(result(figures=[figure], tables=[table], bytes={"in": 3}), tmp_path)
    assert read_result(file).tables == [table]
    file.write_text(json.dumps(_set(json.loads(file.read_text()), path, value)))
    with pytest.raises(DataError, match=rf"'{file}' is not a result.*{says}.*run its verb again"):
        read_result(file)
