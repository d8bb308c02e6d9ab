"""The collector rests inside, and is afterwards what it was before."""

import gc

import pytest

from treadle.runtime.collecting import collecting_later


def test_it_rests_inside_and_goes_on_behind():
    assert gc.isenabled()
    with collecting_later():
        assert not gc.isenabled()
        with collecting_later():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_who_switched_it_off_finds_it_off():
    gc.disable()
    try:
        with collecting_later():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_an_error_switches_it_on_again():
    with pytest.raises(KeyError), collecting_later():
        raise KeyError
    assert gc.isenabled()
