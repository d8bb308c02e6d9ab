"""Shape annotations: real where torch is loaded, inert where it is not, checked in the tests."""

import subprocess
import sys
import textwrap

import jaxtyping
import pytest
import torch

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
