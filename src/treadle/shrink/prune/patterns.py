"""Patterns: among which scores the lowest are removed."""

import re
from typing import NamedTuple

from treadle import native
from treadle.core import keep
from treadle.core.errors import SettingsError
from treadle.core.registry import near
from treadle.core.shapes import Bool, Float, Tensor

__all__ = ["KINDS", "Pattern", "choose", "parse_pattern", "pattern_sparsity"]

KINDS = {
    "rows": "the lowest scores of each output row (Wanda's comparison group)",
    "tensor": "the lowest scores of each matrix (SparseGPT: of each block of columns)",
    "global": "the lowest scores of the whole model",
    "n:m": "all but n of every m consecutive inputs, such as 2:4",
    "neurons": "whole MLP neurons: the matrices and the config really shrink",
    "heads": "whole attention heads (with grouped queries: a key-value head and its queries)",
}


class Pattern(NamedTuple):
    """A parsed pattern."""

    kind: str
    """rows, tensor, global, n:m, neurons or heads."""
    n: int = 0
    m: int = 0

    @property
    def is_structured(self) -> bool:
        """Whether whole neurons or heads go, so that tensors shrink."""
        return self.kind in ("neurons", "heads")

    def __str__(self) -> str:
        return f"{self.n}:{self.m}" if self.kind == "n:m" else self.kind


def parse_pattern(text: str) -> Pattern:
    """Return the pattern that `text` names.

    Raises:
        SettingsError: It is none of KINDS, or n:m keeps nothing or everything.
    """
    if found := re.fullmatch(r"(\d+):(\d+)", text):
        n, m = int(found[1]), int(found[2])
        if not 0 < n < m:
            raise SettingsError(
                f"pattern {text} keeps {n} of every {m}; give 0 < n < m, such as 2:4."
            )
        return Pattern("n:m", n, m)
    if text not in KINDS or text == "n:m":
        raise SettingsError(
            f"Unknown pattern '{text}'. {near(text, KINDS)} n:m stands for numbers such as 2:4."
        )
    return Pattern(text)


def pattern_sparsity(pattern: Pattern, sparsity: float | None) -> float:
    """Return the sparsity that a run aims at: n:m fixes its own, otherwise the default is 0.5.

    Raises:
        SettingsError: `sparsity` is outside 0..1, or contradicts n:m.
    """
    if sparsity is not None:
        keep.num_pruned(1, sparsity)
    if pattern.kind != "n:m":
        return 0.5 if sparsity is None else sparsity
    fixed = 1.0 - pattern.n / pattern.m
    if sparsity is not None and abs(sparsity - fixed) > 1e-9:
        raise SettingsError(
            f"pattern {pattern} removes {fixed:g} of the weights, but sparsity = {sparsity} was "
            f"given; leave sparsity "
            f"out, or choose another pattern."
        )
    return fixed


def require_divisible(pattern: Pattern, in_size: int, tensor: str) -> None:
    """Check that n:m fits the rows of `tensor`.

    Raises:
        SettingsError: m does not divide the number of inputs.
    """
    if pattern.kind == "n:m" and in_size % pattern.m:
        raise SettingsError(
            f"pattern {pattern} does not fit tensor '{tensor}': its {in_size} inputs are no "
            f"multiple of {pattern.m}; "
            f"choose an m that divides {in_size}."
        )


def choose(
    score: Float[Tensor, "out in"], pattern: Pattern, sparsity: float
) -> Bool[Tensor, "out in"]:
    """Return the keep-mask of one matrix under `pattern`: rows, tensor or n:m."""
    import torch

    array, threads = native.array_of(score.contiguous()), torch.get_num_threads()
    if pattern.kind == "n:m":
        mask = native.keep_n_of_m(array, pattern.n, pattern.m, num_threads=threads)
    elif pattern.kind == "rows":
        num_prune = keep.num_pruned(score.shape[1], sparsity)
        mask = native.keep_rows(array, num_prune, num_threads=threads)
    else:
        mask = native.smallest_in_tensor(array, keep.num_pruned(score.numel(), sparsity))
    return torch.from_numpy(mask)
