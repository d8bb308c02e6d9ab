"""Answers are made once, and made again where they are lost or belong to another version."""

import logging
import subprocess
import sys

import pytest

from combine.merge.models import run
from treadle.combine.merge.inputs import remembered as answers
from treadle.combine.merge.inputs.remembered import remembered


def test_an_answer_is_made_once(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TREADLE_CACHE", str(tmp_path))
    made = []

    def make() -> tuple[float, ...]:
        made.append(1)
        return (float("inf"), 2.0)

    assert remembered("how much?", make) == remembered("how much?", make) == [float("inf"), 2.0]
    assert len(made) == 1
    remembered("how many?", make)
    assert len(made) == 2
    (one, _) = (tmp_path / "anatomy").iterdir()
    one.write_text("{half")
    assert remembered("how much?", make) == remembered("how many?", make) == [float("inf"), 2.0]
    assert len(made) == 3
    monkeypatch.setattr(answers, "_versions", lambda: "another version")
    remembered("how much?", make)
    assert len(made) == 4


def test_the_oldest_answers_go(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TREADLE_CACHE", str(tmp_path))
    monkeypatch.setattr(answers, "_MOST", 3)
    for number in range(6):
        remembered(str(number), lambda: 0)
    assert len(list((tmp_path / "anatomy").iterdir())) == 3


def test_a_mistake_is_not_remembered(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TREADLE_CACHE", str(tmp_path))

    def fail() -> None:
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            remembered("why?", fail)
    assert remembered("why?", lambda: 1) == 1


def test_a_cache_that_cannot_be_written_is_no_hindrance(tmp_path, monkeypatch, caplog) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TREADLE_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        assert remembered("who?", lambda: "me") == "me"
    assert "set TREADLE_CACHE" in caplog.text


def test_the_second_merge_of_a_kind_needs_no_transformers(family, tmp_path) -> None:
    command = (
        "import sys; from treadle.combine.merge import merge; "
        "merge(sys.argv[1:3], sys.argv[3], 'linear'); print('transformers' in sys.modules)"
    )
    run(family.experts[:2], tmp_path / "first", "linear")
    arguments = [*map(str, family.experts[:2]), str(tmp_path / "second")]
    found = subprocess.run(
        [sys.executable, "-c", command, *arguments], capture_output=True, text=True, check=True
    )
    assert found.stdout == "False\n"
