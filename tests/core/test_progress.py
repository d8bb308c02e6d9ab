"""Progress: silent without a terminal, a bar with one."""

import io
import sys

import pytest

from treadle.core.progress import steps, track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_silence_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with steps("work", 3) as bar:
        bar.advance()
        bar.advance(2)
    assert list(track(iter("abc"), "letters", 3)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_a_bar_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    assert list(track(range(4), "counting sheep", 4)) == [0, 1, 2, 3]
    shown = terminal.getvalue()
    assert "counting sheep" in shown
    assert "4/4" in shown
    assert capsys.readouterr().out == "", "standard output is for results"


def test_an_error_ends_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    for _ in range(2):  # a bar that was left running would refuse the second
        with pytest.raises(ZeroDivisionError), steps("work", 2) as bar:
            bar.advance(1 / 0)


def test_track_is_lazy() -> None:
    def endless():
        place = 0
        while True:
            yield place
            place += 1

    tracked = track(endless(), "endless", 10)
    assert [next(tracked) for _ in range(3)] == [0, 1, 2]
    tracked.close()


def test_a_bar_says_what_is_being_done(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with steps("work", 2) as bar:
        bar.show("[the first]")
        bar.advance()
    assert "[the first]" in terminal.getvalue()
