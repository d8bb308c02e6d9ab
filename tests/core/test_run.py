"""The one ceremony of a verb."""

from pathlib import Path
from typing import ClassVar

import pytest

from treadle.core.checkpoint import Parent, side_file
from treadle.core.errors import SettingsError
from treadle.core.method import Control, Method, Standard
from treadle.core.result import Measurement, read_result
from treadle.core.run import Recording, is_control, recorded


class Coin(Method):
    """A control."""

    name: ClassVar[str] = "coin"
    paper = Control("What a coin would say.")
    sides: int = 2


class Judge(Method):
    """No control."""

    name: ClassVar[str] = "judge"
    paper = Standard("Old.")


def run(out: Path | None, **options: object) -> Recording:
    with recorded("decide", Coin(), seed=3, out=out, **options) as made:
        made.read("model", "m", "abc", "model")
        made.read("text", "t", "def", "data")
        made.measurements.append(Measurement(name="heads", value=0.5))
        made.bytes["input"] = 3
        made.notes.append("A note.")
    return made


def test_the_block_leaves_its_account(tmp_path: Path) -> None:
    made = run(tmp_path / "new" / "out").result
    assert read_result(tmp_path / "new" / "out") == made
    assert (made.verb, made.method, made.seed) == ("decide", "coin", 3)
    assert made.settings == {"method": "coin", "sides": 2}
    assert made.measurement("heads").value == 0.5
    assert [entry.role for entry in made.inputs] == ["model", "data"]
    assert (made.is_control, made.is_resumed) == (True, False)
    assert made.output == str(tmp_path / "new" / "out")


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(None).result.output == ""
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), recorded("decide", out=tmp_path / "out"):
        raise ZeroDivisionError
    assert not (tmp_path / "out").exists()


def test_a_result_is_replaced_only_when_asked(tmp_path: Path) -> None:
    first = run(tmp_path, overwrite=False).result
    with pytest.raises(SettingsError, match="holds a result already; pass --overwrite"):
        run(tmp_path, overwrite=False)
    assert read_result(tmp_path) == first
    assert run(tmp_path, overwrite=True).result.fingerprint == first.fingerprint


def test_two_runs_at_once_do_not_replace_each_other(tmp_path: Path) -> None:
    with recorded("decide", out=tmp_path) as slow:
        for overwrite in (False, True):
            with pytest.raises(SettingsError, match=r"is being written by process \d+ on .*; wait"):
                run(tmp_path, overwrite=overwrite)
    assert read_result(tmp_path) == slow.result


def test_a_folder_that_the_verb_publishes_itself(tmp_path: Path) -> None:
    with recorded("decide", out=tmp_path / "out", overwrite=None) as made:
        result = made.finish(tmp_path / "partial")
    assert made.result is result
    assert read_result(tmp_path / "partial").output == str(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_fingerprint_ignores_where_an_input_lay_and_notices_the_action() -> None:
    def print_of(path: str, action: str) -> str:
        with recorded("v", "m", action=action) as made:
            made.read("model", path, "abc", "model")
        return made.fingerprint

    assert print_of("here", "") == print_of("elsewhere", "")
    assert print_of("here", "") != print_of("here", "look")


def test_controls_are_known_by_what_they_say_of_themselves() -> None:
    assert is_control(Coin())
    assert not is_control(Judge())
    assert not is_control("random")


def test_a_resumed_run_says_so() -> None:
    with recorded("decide") as made:
        made.resumed("had tossed 3 of 7 coins")
    assert made.result.is_resumed
    assert made.result.notes[0].startswith("Resumed: an interrupted run had tossed 3 of 7 coins;")


def test_the_manifest_tells_what_it_was_made_of(tmp_path: Path) -> None:
    made = run(None)
    manifest = made.manifest([side_file("result", "result.json")])
    assert manifest.provenance.parents == (Parent(name="m", content_hash="abc"),)
    assert manifest.provenance.fingerprint == made.fingerprint
    assert manifest.completed("123").side_files[0].base_hash == "123"
    named = made.manifest([], [Parent(name="x", content_hash="y")], {"sides": 6}).provenance
    assert (named.parents[0].name, named.settings) == ("x", {"sides": 6})
