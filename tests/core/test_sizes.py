from typing import Annotated

import pytest
from pydantic import TypeAdapter, ValidationError

from treadle.core.arguments import checked
from treadle.core.errors import SettingsError
from treadle.core.sizes import (
    WRITTEN,
    Bytes,
    is_bytes,
    parse_bytes,
    share_of,
    spoken,
    written,
)


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("24GiB", 24 * 2**30),
        ("24 gb", 24 * 10**9),
        ("1.5MiB", 3 * 2**19),
        ("800 B", 800),
        ("2e9 B", 2 * 10**9),
        ("1TB", 10**12),
        ("3 KiB", 3072),
        ("7B", 7),
        ("24Gi", 24 * 2**30),
        ("24gi", 24 * 2**30),
        ("512Mi", 2**29),
        ("24G", 24 * 10**9),
        ("24g", 24 * 10**9),
        ("4 G", 4 * 10**9),
        ("1.5G", 15 * 10**8),
        (".5 GB", 5 * 10**8),
        ("512M", 512 * 10**6),
        ("64k", 64_000),
        ("64Ki", 65_536),
        ("2T", 2 * 10**12),
        ("2Ti", 2 * 2**40),
        ("24 GiB", 24 * 2**30),
        ("1.5e+9B", 15 * 10**8),
    ],
)
def test_a_budget_is_read(text, num_bytes):
    assert parse_bytes(text) == num_bytes


@pytest.mark.parametrize("text", ["", "GiB", "-1GB", "4GBs", "4i", ".G", "many", "1,5GB"])
def test_a_budget_that_cannot_be_read_is_refused(text):
    with pytest.raises(
        SettingsError, match=r"cannot be read, expected a number and a unit.*G, T\) in"
    ):
        parse_bytes(text)


def test_sizes_are_spoken_in_the_largest_unit():
    assert [spoken(n) for n in (0, 999, 1000, 2_500_000, 3e9, 4e12)] == [
        "0 B",
        "999 B",
        "1.00 kB",
        "2.50 MB",
        "3.00 GB",
        "4.00 TB",
    ]


@pytest.mark.parametrize("text", ["800", "2e9", "1.5"])
def test_a_bare_number_is_refused_where_a_unit_is_meant(text):
    with pytest.raises(SettingsError, match=f"'{text}' has no unit; write {text}GiB"):
        parse_bytes(text)


def test_python_takes_numbers_and_what_is_written_takes_units():
    adapter = TypeAdapter(Bytes | None)
    assert adapter.validate_python(2000) == 2000
    assert adapter.validate_python("2kB") == 2000
    assert adapter.validate_python("2kB", context=WRITTEN) == 2000
    assert adapter.validate_python(None, context=WRITTEN) is None
    for value in (2000, "2000", 2e3):
        with pytest.raises(ValidationError, match="has no unit"):
            adapter.validate_python(value, context=WRITTEN)


@pytest.mark.parametrize("number", [1, 24, 80, 1023])
def test_a_small_bare_number_in_python_is_refused_with_the_unit(number):
    @checked
    def verb(budget: Bytes | str | None = None, cache_bytes: Bytes = 1) -> object:
        return budget, cache_bytes

    with pytest.raises(SettingsError, match=f"budget = {number} is {number} bytes.*'{number}GiB'"):
        verb(budget=number)
    assert verb(budget=f"{number}B", cache_bytes=number) == (number, number)
    assert verb(budget=4096) == (4096, 1)
    assert verb() == (None, 1)


def test_sizes_are_known_by_their_type():
    assert is_bytes(Bytes)
    assert is_bytes(Bytes | None)
    assert not is_bytes(int)
    assert not is_bytes(Annotated[int, "bytes"])


@pytest.mark.parametrize("size", [1, 999, 1024, 4 << 20, 3 * 2**30, 2**40, 10**9])
def test_a_size_is_written_as_it_is_read(size):
    assert parse_bytes(written(size)) == size


def test_shares_are_said_as_people_say_them():
    said = [share_of(fraction, "the weights") for fraction in (0.5, 0.25, 0.3, 1 / 3, 1.0)]
    assert said == [
        "half of the weights",
        "a quarter of the weights",
        "30 % of the weights",
        "33.33 % of the weights",
        "all of the weights",
    ]
