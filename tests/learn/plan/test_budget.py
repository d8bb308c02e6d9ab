import pytest

from treadle.core.errors import SettingsError
from treadle.learn.plan.budget import parse_bytes, spoken


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("24GiB", 24 * 2**30),
        ("24 gb", 24 * 10**9),
        ("1.5MiB", 3 * 2**19),
        ("800", 800),
        ("2e9", 2 * 10**9),
        ("1TB", 10**12),
        ("3 KiB", 3072),
        ("7B", 7),
    ],
)
def test_a_budget_is_read(text, num_bytes):
    assert parse_bytes(text) == num_bytes


@pytest.mark.parametrize("text", ["", "GiB", "-1GB", "4GBs", "4 G", "many", "1,5GB"])
def test_a_budget_that_cannot_be_read_is_refused(text):
    with pytest.raises(SettingsError, match="cannot be read, expected a number and a unit"):
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
