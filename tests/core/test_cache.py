"""Where the cache lies."""

from pathlib import Path

import pytest

from treadle.core.cache import cache_folder


@pytest.mark.parametrize(
    ("own", "shared", "expected"),
    [
        (None, None, "home/.cache/treadle"),
        (None, "{tmp}/xdg", "xdg/treadle"),
        ("{tmp}/own", "{tmp}/xdg", "own"),
        ("", "", "home/.cache/treadle"),
        (None, "relative", "home/.cache/treadle"),  # the specification says: ignore it
    ],
)
def test_own_words_win_over_xdg(tmp_path, monkeypatch, own, shared, expected):
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    for name, value in (("TREADLE_CACHE", own), ("XDG_CACHE_HOME", shared)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value.format(tmp=tmp_path))
    assert cache_folder() == tmp_path / expected
