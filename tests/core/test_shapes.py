"""Shape annotations: real where torch is loaded, inert where it is not, checked in the tests."""

import subprocess
import sys
import textwrap
from dataclasses import dataclass
from typing import Optional

import jaxtyping
import pytest
import torch

from shape_checks import check
from treadle.core import shapes
from treadle.model.text import Windows
from treadle.shrink.prune.patterns import choose, parse_pattern


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_without_torch_they_are_inert() -> None:
    out = run(
        """
        import sys, typing
        from treadle.core.shapes import Bool, Float, Int, Tensor
        assert Float[Tensor, "out in"] is Int[Tensor, "..."] is Bool["x", 3] is typing.Any
        Tensor | None
        assert "torch" not in sys.modules
        """
    )
    assert out == ""


def test_signatures_derive_without_torch() -> None:
    out = run(
        """
        import sys
        from treadle.verbs import VERBS
        for verb in VERBS.values():
            verb.parameters()
            table = verb.methods()
            for name in table.table if table else ():
                table[name].model_json_schema()
        heavy = {"torch", "transformers", "scipy", "matplotlib"} & set(sys.modules)
        print(sorted(heavy))
        """
    )
    assert out == "[]\n"


def test_with_torch_they_are_real() -> None:
    assert shapes.Tensor is torch.Tensor
    assert shapes.Float is jaxtyping.Float
    assert isinstance(torch.zeros(2, 3), shapes.Float[shapes.Tensor, "out in"])
    assert not isinstance(torch.zeros(2), shapes.Float[shapes.Tensor, "out in"])


def test_the_tests_check_them() -> None:
    """A wrong shape or dtype fails at the call, which proves that the import hook is on."""
    with pytest.raises(jaxtyping.TypeCheckError):
        choose(torch.zeros(4), parse_pattern("rows"), 0.5)
    with pytest.raises(jaxtyping.TypeCheckError):
        choose(torch.zeros(4, 4, dtype=torch.int64), parse_pattern("rows"), 0.5)
    assert choose(torch.zeros(4, 4), parse_pattern("rows"), 0.5).shape == (4, 4)
    assert Windows.__annotations__["tokens"] is not None


Square = jaxtyping.Float[torch.Tensor, "size size"]


def plain(size: int, names: "list[str]") -> "tuple[Unknown, ...]":
    return (size, *names)


def as_it_is(values: Square) -> None: ...


def within(values: Square | tuple[Square, ...] | None) -> None: ...


def in_words(values: "Square") -> None: ...


def in_words_within(values: Optional["Square"]) -> None: ...


def returned(values: object) -> Square:
    return values


@dataclass
class Held:
    values: Square


def test_a_function_without_shapes_is_left_as_it_is() -> None:
    assert jaxtyping.jaxtyped(typechecker=check)(plain) is plain


@pytest.mark.parametrize("named", [as_it_is, within, in_words, in_words_within, returned, Held])
def test_shapes_are_found_wherever_they_are_named(named) -> None:
    checked = jaxtyping.jaxtyped(typechecker=check)(named)
    checked(torch.zeros(2, 2))
    with pytest.raises(jaxtyping.TypeCheckError):
        checked(torch.zeros(2, 3))
