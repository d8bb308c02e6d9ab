"""A method is a frozen model of its settings."""

from typing import Annotated, ClassVar

import pytest
from pydantic import Field, ValidationError

from treadle.core.method import Control, Method, Paper, Standard


class Example(Method):
    """Do an example of something.

    More about it.
    """

    name: ClassVar[str] = "example"
    paper = Paper("A title", 2024, "https://example.org")

    rate: Annotated[float, Field(gt=0.0)] = 0.5
    """How fast."""
    words: tuple[str, ...] = ("a",)


def test_settings_are_plain_json_values() -> None:
    assert Example().settings() == {"method": "example", "rate": 0.5, "words": ["a"]}
    assert Example(rate=2, words=("b", "c")).settings()["words"] == ["b", "c"]


def test_the_summary_is_the_first_line() -> None:
    assert Example.summary() == "Do an example of something."


def test_the_string_under_a_field_is_its_help() -> None:
    assert Example.model_fields["rate"].description == "How fast."


def test_it_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Example().rate = 0.1
    assert Example() == Example()
    assert Example() != Example(rate=0.1)


@pytest.mark.parametrize("fields", [{"rate": 0.0}, {"rate": "fast"}, {"speed": 1.0}])
def test_bounds_types_and_unknown_names(fields: dict) -> None:
    with pytest.raises(ValidationError):
        Example(**fields)


def test_the_kinds_of_sources() -> None:
    assert Example.paper.year == 2024
    assert Standard("line").source == Control("line").source == "line"
