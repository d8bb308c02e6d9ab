"""Statistics of the unique inputs of a block's matrices, and of gradients.

Collected once, saved and reused by hash.
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from treadle.core.disk import system_errors
from treadle.core.errors import CheckpointError
from treadle.core.progress import steps
from treadle.core.shapes import Float, Int, Tensor
from treadle.model import facts
from treadle.model.layers import Block, LayeredModel
from treadle.model.load import full, on_disk, parameter_view
from treadle.model.seams import observed

if TYPE_CHECKING:
    import torch

__all__ = [
    "BlockStatistics",
    "InputStatistics",
    "collect_block",
    "collect_gradients",
    "collect_grams",
    "collect_importance",
    "load_statistics",
    "save_statistics",
]

_GRAM_BLOCK = 384
"""Columns of a Gram block: only blocks on and above the diagonal are multiplied, so small ones save
up to half."""


class InputStatistics:
    """What is known of one unique input X [tokens, in].

    Sums of squares accumulate in float64 over chunks, the Gram matrix in float32. An input that no
    token reached (an expert that the router never chose) counts as white noise, so that a metric
    falls back on the weights alone.
    """

    def __init__(self, size: int, needs_gram: bool, needs_cross: bool = False) -> None:
        import torch

        self._cross = torch.zeros(size, size) if needs_cross else None
        self.num_tokens = 0
        self._sum_squares = torch.zeros(size, dtype=torch.float64)
        self._upper_gram = torch.zeros(size, size) if needs_gram else None
        self._gram: torch.Tensor | None = None
        self._cholesky: dict[float, torch.Tensor] = {}

    def add(
        self,
        values: Float[Tensor, "tokens in"],
        clean: "Float[Tensor, 'tokens in'] | None" = None,
    ) -> None:
        """Count `values` in; `clean` are those that the unchanged model has there."""
        import torch

        if self._cross is not None and clean is not None:
            self._cross.addmm_(values.T, clean)
        self.num_tokens += values.shape[0]
        for chunk in torch.split(values, 1024):
            self._sum_squares += chunk.square().sum(dim=0)
        if self._upper_gram is not None:
            for first in range(0, values.shape[1], _GRAM_BLOCK):
                last = min(first + _GRAM_BLOCK, values.shape[1])
                self._upper_gram[first:last, first:].addmm_(
                    values[:, first:last].T, values[:, first:]
                )

    @property
    def sum_squares(self) -> Float[Tensor, "in"]:
        """Sum over tokens of x², per channel, float32."""
        import torch

        return self._sum_squares.float() if self.num_tokens else torch.ones(len(self._sum_squares))

    @property
    def cross(self) -> Float[Tensor, "in in"]:
        """X^T X°, summed over tokens: inputs of the changed model by those of the clean one.

        Where tokens went other ways in the two (experts), nothing can be paired: then X^T X.
        """
        if self._cross is None:
            raise AssertionError("the clean inputs were not asked for")
        return self._cross if bool(self._cross.any()) else self.gram

    @property
    def gram(self) -> Float[Tensor, "in in"]:
        """X^T X, summed over tokens."""
        import torch

        if self._upper_gram is None:
            raise AssertionError("the Gram matrix was not asked for")
        if self._gram is None:
            upper = self._upper_gram.triu()
            self._gram = upper + upper.triu(1).T if self.num_tokens else torch.eye(len(upper))
            self._upper_gram = torch.empty(0)
        return self._gram

    def inverse_cholesky(self, damp_fraction: float) -> Float[Tensor, "in in"]:
        """Return the upper Cholesky factor U of (H + damp·mean(diag H)·I)⁻¹ = UᵀU.

        H is the Gram matrix; channels that never fired get H_jj = 1.

        Raises:
            CheckpointError: H is not positive definite even so; the mend is more damping or more
                tokens.
        """
        import torch

        if damp_fraction not in self._cholesky:
            hessian = self.gram.clone()
            diagonal = hessian.diagonal()
            diagonal[diagonal == 0] = 1.0
            diagonal += damp_fraction * diagonal.mean()
            lower, fault = torch.linalg.cholesky_ex(hessian)
            if int(fault) == 0:
                inverse = torch.cholesky_inverse(lower)
                upper, fault = torch.linalg.cholesky_ex(inverse, upper=True)
            if int(fault) != 0:
                raise CheckpointError(
                    f"The Hessian of an input of {len(hessian)} channels is not positive definite "
                    f"with damping "
                    f"{damp_fraction}; raise the update's damp_fraction or calibrate on more "
                    f"tokens."
                )
            self._cholesky = {damp_fraction: upper}
        return self._cholesky[damp_fraction]

    def state(self) -> dict[str, "torch.Tensor"]:
        """Return the tensors that `from_state` restores."""
        import torch

        found = {"num_tokens": torch.tensor(self.num_tokens), "sum_squares": self._sum_squares}
        return found | ({"gram": self.gram} if self._upper_gram is not None else {})

    @classmethod
    def from_state(cls, state: dict[str, "torch.Tensor"]) -> "InputStatistics":
        """Restore what `state` returned."""
        import torch

        made = cls(0, False)
        made.num_tokens, made._sum_squares = int(state["num_tokens"]), state["sum_squares"]
        if "gram" in state:
            made._gram, made._upper_gram = state["gram"], torch.empty(0)
        return made


BlockStatistics = dict[str, InputStatistics]
"""Name of the unique input -> its statistics."""


class _Stop(Exception):
    """Ends a block's forward pass once the last statistic was taken."""


def collect_block(
    model: LayeredModel,
    block: Block,
    layer: int,
    hidden: Float[Tensor, "batch seq hidden"],
    needs_gram: bool,
    *,
    and_run: bool,
) -> BlockStatistics:
    """Return the statistics of all inputs of `block` on `hidden`.

    With `and_run` the block's output replaces `hidden`; without it each chunk stops before its last
    matrix product.
    """
    found = {m.input: InputStatistics(block.view(m).shape[1], needs_gram) for m in block.matrices}
    last = block.matrices[-1].input
    can_stop = not and_run and block.matrices[-1].expert is None

    def observer(name: str, values: "torch.Tensor") -> None:
        found[name].add(values)
        if can_stop and name == last:
            raise _Stop

    with observed(block.module, block.matrices, observer):
        for chunk in model.chunks(hidden):
            with contextlib.suppress(_Stop):
                output = model.forward(block, layer, chunk)
                if and_run:
                    chunk.copy_(output)
    return found


def collect_gradients(
    folder: Path, tokens: Int[Tensor, "batch seq"], trust_remote_code: bool = False
) -> dict[str, Float[Tensor, "_out _in"]]:
    """Return sqrt(Σ_s g_s²) of every matrix over the windows s, float32, by `Linear.name`.

    Takes one backward pass a window. Loads the whole model and holds one accumulator as large as
    its matrices: peak memory is about three times the model in float32. Each gradient is folded in
    and freed as soon as it is complete.
    """
    import torch

    model = full(folder, trust_remote_code=trust_remote_code)
    facts.require_positions(model.config.to_dict(), tokens.shape[1])
    matrices = model_matrices(folder)
    wanted: dict[str, list[facts.Linear]] = {}
    prefix = facts.facts_of(model.config.to_dict()).blocks
    for matrix in matrices:
        wanted.setdefault(prefix.format(layer=matrix.layer) + matrix.parameter, []).append(matrix)
    sums: dict[str, torch.Tensor] = {}
    for name in wanted:
        parameter = model.get_parameter(name)
        parameter.requires_grad_(True)
        sums[name] = torch.zeros_like(parameter)
        parameter.register_post_accumulate_grad_hook(_fold(sums[name]))
    with steps("gradients", len(tokens)) as bar:
        for row in tokens:
            model(input_ids=row[None], labels=row[None], use_cache=False).loss.backward()
            bar.advance()
    return {
        matrix.name: parameter_view(sums[name].sqrt_() if index == 0 else sums[name], matrix)
        for name, parts in wanted.items()
        for index, matrix in enumerate(parts)
    }


def collect_importance(
    folder: Path, tokens: Int[Tensor, "batch seq"], trust_remote_code: bool = False
) -> dict[str, Float[Tensor, "..."]]:
    """Return the mean over windows of g² of every weight, float32, by its name on disk.

    Loads the whole model and takes one backward pass a window: peak memory is about three times the
    model in float32.
    """
    import torch

    model = full(folder, trust_remote_code=trust_remote_code)
    facts.require_positions(model.config.to_dict(), tokens.shape[1])
    sums: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(True)
        sums[name] = torch.zeros_like(parameter)
        parameter.register_post_accumulate_grad_hook(_fold(sums[name]))
    with steps("importance", len(tokens)) as bar:
        for row in tokens:
            model(input_ids=row[None], labels=row[None], use_cache=False).loss.backward()
            bar.advance()
    return {
        name: value / len(tokens) for name, value in on_disk(folder, sums, model_matrices(folder))
    }


def collect_grams(
    folder: Path, tokens: Int[Tensor, "batch seq"], trust_remote_code: bool = False
) -> dict[str, Float[Tensor, "_in _in"]]:
    """Return X^T X of every unique input as "layer/input", one block in memory at a time."""
    from treadle.core.checkpoint import CheckpointReader

    found: dict[str, torch.Tensor] = {}
    with CheckpointReader(folder) as reader:
        model = LayeredModel(reader, trust_remote_code)
        hidden = model.embed(tokens)
        for layer, block in model.visit("inputs"):
            known = collect_block(model, block, layer, hidden, True, and_run=True)
            found |= {f"{layer}/{name}": entry.gram for name, entry in known.items()}
    return found


def _fold(total: "torch.Tensor") -> "Callable[[torch.Tensor], None]":
    def fold(parameter: "torch.Tensor") -> None:
        if parameter.grad is not None:
            total.addcmul_(parameter.grad, parameter.grad)
            parameter.grad = None

    return fold


def model_matrices(folder: Path) -> list[facts.Linear]:
    """Return the matrices of all blocks of the model in `folder`."""
    from treadle.core.checkpoint import CheckpointReader
    from treadle.model.belonging import shapes_of
    from treadle.model.facts import base_config

    with CheckpointReader(folder) as reader:
        config, shapes = base_config(reader.config), shapes_of(reader)
    return [
        m for layer in range(facts.num_layers(config)) for m in facts.linears(config, layer, shapes)
    ]


def save_statistics(statistics: BlockStatistics, path: Path) -> None:
    """Write the statistics of one block, beside and renamed into place."""
    from safetensors.torch import save_file

    tensors = {
        f"{name}/{key}": value.contiguous()
        for name, entry in statistics.items()
        for key, value in entry.state().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with system_errors():
        save_file(tensors, beside)
    os.replace(beside, path)


def load_statistics(path: Path) -> BlockStatistics:
    """Read what `save_statistics` wrote."""
    from safetensors.torch import load_file

    states: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in load_file(path).items():
        name, _, field = key.rpartition("/")
        states.setdefault(name, {})[field] = value
    return {name: InputStatistics.from_state(state) for name, state in states.items()}


def group_by_input(matrices: Sequence[facts.Linear]) -> dict[str, list[facts.Linear]]:
    """Return the matrices by the unique input that they read, in running order."""
    groups: dict[str, list[facts.Linear]] = {}
    for matrix in matrices:
        groups.setdefault(matrix.input, []).append(matrix)
    return groups
