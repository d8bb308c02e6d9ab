"""smile: each token goes where it excites most what an expert changed; no data is needed."""

from typing import ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from treadle.combine.merge.maths.low_rank import nearest
from treadle.combine.merge.mixture.base import MadeGate, Reads, RoutedMlp, Router
from treadle.combine.merge.site import Floats
from treadle.core.method import Paper

__all__ = ["Smile", "energies"]

Doubles = npt.NDArray[np.float64]
_ROUNDING = 1e-5
"""Energies of float32 that differ by less than this share do not differ."""


class Smile(Router):
    """Send a token to the expert whose changes it excites most, as far as a linear gate can say it.

    An expert's task matrix Δ_e acts on what lies in its leading right singular directions V_e, so
    that the input's part there tells whose input it is. The paper's gate is the norm r_e(x) =
    ‖V_eᵀ x‖, and gates of transformers' mixtures are linear: the one here is the nearest linear
    form in the mean square over inputs of random tokens, g = argmin Σ_x ‖g x - (r(x) - r̄(x))‖² +
    ridge, with r̄ the mean over experts, which softmax does not see. result.json says how often both
    choose alike. r is the sum over the two matrices that read the input. Without a base, Δ_e is the
    difference from the experts' mean: two experts then have the same directions, and tokens go to
    them evenly.

    Paper: Tang et al., 2024.
    """

    name: ClassVar[str] = "smile"
    paper = Paper(
        "SMILE: Zero-Shot Sparse Mixture of Low-Rank Experts Construction From Pre-Trained "
        "Foundation Models",
        2024,
        "https://arxiv.org/abs/2408.10174",
    )

    rank: int = Field(default=16, ge=1)
    """Directions of each task matrix."""
    damp_fraction: float = Field(default=0.01, gt=0.0)
    """Ridge of the fit, as a share of the mean square of the inputs' channels."""

    @property
    def reads(self) -> Reads:
        """What the experts changed, and what enters the MLP of tokens drawn at random."""
        return "changes"

    def gate(self, mlp: RoutedMlp) -> MadeGate:
        """Return the linear form that is nearest to the experts' energies."""
        found = energies(mlp, self.rank).astype(np.float64)
        wanted = found - found.mean(axis=1, keepdims=True)
        if np.abs(wanted).max() <= _ROUNDING * np.abs(found).max():
            return MadeGate(np.zeros((mlp.num_experts, mlp.hidden), np.float32))
        inputs = mlp.inputs.astype(np.float64)
        rows = _ridge(inputs, wanted, self.damp_fraction)
        chosen = np.argmax(inputs @ rows.T, axis=1)
        return MadeGate(rows, float(np.mean(chosen == np.argmax(wanted, axis=1))))


def energies(mlp: RoutedMlp, rank: int) -> Floats:
    """Return how much each input excites what each expert changed: [tokens, experts]."""
    found = np.zeros((len(mlp.inputs), mlp.num_experts), np.float32)
    for expert in range(mlp.num_experts):
        for change in mlp.change(expert):
            if change.any():
                parts = nearest(change, rank, None, mlp.draw)
                lengths = np.linalg.norm(parts.right, axis=1, keepdims=True)
                found[:, expert] += np.linalg.norm(mlp.inputs @ (parts.right / lengths).T, axis=1)
    return found


def _ridge(inputs: Doubles, wanted: Doubles, damp_fraction: float) -> Floats:
    """Return g [experts, hidden] of the least Σ ‖g x - wanted‖² + ridge ‖g‖², in float64.

    The smaller of the two equal systems is solved: of channels, or of tokens.
    """
    tokens, hidden = inputs.shape
    ridge = damp_fraction * max(float(np.square(inputs).sum()) / hidden, 1e-30)
    if hidden <= tokens:
        gram = inputs.T @ inputs + ridge * np.eye(hidden)
        rows = np.linalg.solve(gram, inputs.T @ wanted).T
    else:
        gram = inputs @ inputs.T + ridge * np.eye(tokens)
        rows = (inputs.T @ np.linalg.solve(gram, wanted)).T
    found: Floats = rows.astype(np.float32)
    return found
