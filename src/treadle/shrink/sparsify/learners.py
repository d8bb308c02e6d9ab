"""How heads learn: step by step from one sample after the other, or at once from sums over all."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from treadle.core.errors import CapacityError
from treadle.core.hardware import available_memory_bytes
from treadle.core.shapes import Bool, Float, Tensor
from treadle.shrink.sparsify.base import HeadDesign, HeadTraining
from treadle.shrink.sparsify.heads import LayerSize, fresh_layer, scores_of

if TYPE_CHECKING:
    import torch

__all__ = ["HeadLearner", "LayerLesson", "learner_for"]

_RIDGE = 1e-3
"""Added to the sums' diagonal, of its mean."""


class LayerLesson(NamedTuple):
    """What a sample teaches the heads of a layer."""

    inputs: Float[Tensor, "tokens in"]
    aim: Float[Tensor, "tokens kv_heads"]
    is_seen: Bool[Tensor, "tokens kv_heads"]
    """Where the aim says anything."""


class HeadLearner(Protocol):
    """Heads of all layers that learn."""

    def learn(self, lessons: Sequence[LayerLesson], done_fraction: float, share: float) -> float:
        """Learn one sample and return its loss before; of sums, 0.

        Args:
            lessons: Of each layer.
            done_fraction: Of all samples, what was learned before this one.
            share: Of all samples, what this one is.
        """
        ...

    def layers(self) -> "list[dict[str, torch.Tensor]]":
        """Return the heads of each layer as they are now."""
        ...

    def state(self) -> "dict[str, torch.Tensor]":
        """Return all that goes on where a run is resumed."""
        ...

    def restore(self, state: "dict[str, torch.Tensor]") -> None:
        """Go on from a state."""
        ...


def learner_for(
    method: HeadTraining, design: HeadDesign, sizes: Sequence[LayerSize], width: int, seed: int
) -> HeadLearner:
    """Return heads that have learned nothing yet.

    Raises:
        CapacityError: The sums of a closed form do not fit into memory.
    """
    if design.solver == "ridge":
        return _Summed(method, design, sizes)
    own = [fresh_layer(design, size, width, seed, layer) for layer, size in enumerate(sizes)]
    return _Descending(method, design, own)


class _Descending:
    """Follows gradients, layer by layer: one layer's graph is in memory at a time."""

    def __init__(
        self, method: HeadTraining, design: HeadDesign, layers: "list[dict[str, torch.Tensor]]"
    ) -> None:
        import torch

        self._method, self._design, self._layers = method, design, layers
        flat = [part.requires_grad_() for own in layers for part in own.values()]
        self._flat, rate = flat, method.learning_rate
        self._optimizer: torch.optim.Optimizer
        if design.solver == "adamw":
            self._optimizer = torch.optim.AdamW(
                flat, rate, betas=design.betas, weight_decay=0.0, foreach=True
            )
        else:
            self._optimizer = torch.optim.SGD(flat, rate, design.momentum, foreach=True)

    def learn(self, lessons: Sequence[LayerLesson], done_fraction: float, share: float) -> float:
        count = len(lessons[0].inputs)
        size = self._design.batch_tokens or count
        starts = [first for _ in range(self._method.passes) for first in range(0, count, size)]
        losses = []
        for number, first in enumerate(starts):
            done = done_fraction + share * (number + 1) / len(starts)
            self._set_rate(min(1.0, done), share / len(starts))
            losses.append(self._step(lessons, slice(first, first + size)))
        return losses[0]

    def _set_rate(self, done: float, step: float) -> None:
        """Set the rate of a step after which `done` of all is done."""
        warm, rate = self._design.warmup_fraction, self._method.learning_rate
        if done <= warm:
            rate *= done / warm
        else:
            left = (1.0 - done + step) / (1.0 - warm)
            is_cosine = self._design.decay == "cosine"
            left = min(1.0, left)
            rate *= (1 - math.cos(math.pi * left)) / 2 if is_cosine else left
        for group in self._optimizer.param_groups:
            group["lr"] = rate

    def _step(self, lessons: Sequence[LayerLesson], rows: slice) -> float:
        import torch

        self._optimizer.zero_grad(set_to_none=False)
        total = 0.0
        if not any(bool(lesson.is_seen[rows].any()) for lesson in lessons):
            return total
        for own, lesson in zip(self._layers, lessons, strict=True):
            inputs, aim, is_seen = (part[rows] for part in lesson)
            if not bool(is_seen.any()):
                continue
            scores = scores_of(self._design, own, inputs)
            loss = self._method.loss(scores, aim, is_seen, len(lessons))
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        if self._design.clip_value is not None:
            torch.nn.utils.clip_grad_value_(self._flat, self._design.clip_value)
        if self._design.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._flat, self._design.clip_norm)
        self._optimizer.step()
        return total

    def layers(self) -> "list[dict[str, torch.Tensor]]":
        return [{name: part.detach() for name, part in own.items()} for own in self._layers]

    def state(self) -> "dict[str, torch.Tensor]":
        found = {}
        for layer, own in enumerate(self._layers):
            for name, part in own.items():
                found[f"{layer} {name}"] = part.detach()
                for key, value in self._optimizer.state[part].items():
                    if value is not None:
                        found[f"{layer} {name} {key}"] = value
        return found

    def restore(self, state: "dict[str, torch.Tensor]") -> None:
        for layer, own in enumerate(self._layers):
            for name, part in own.items():
                _require_like(state[f"{layer} {name}"], part)
        for layer, own in enumerate(self._layers):
            for name, part in own.items():
                place = f"{layer} {name}"
                part.data.copy_(state[place])
                self._optimizer.state[part] = {
                    key.removeprefix(f"{place} "): value
                    for key, value in state.items()
                    if key.startswith(f"{place} ")
                }


class _Summed:
    """Adds up products of inputs and aims in float64, and solves the normal equations.

    Raises:
        CapacityError: The sums do not fit into memory.
    """

    def __init__(
        self, method: HeadTraining, design: HeadDesign, sizes: Sequence[LayerSize]
    ) -> None:
        import torch

        widths = [(size.num_inputs(design) + 1, size.kv_heads) for size in sizes]
        needed = sum(8 * inputs * (inputs + outputs) for inputs, outputs in widths)
        if needed > available_memory_bytes():
            raise CapacityError(
                f"The sums of {method.name}'s closed form take {needed} bytes, more than the "
                f"{available_memory_bytes()} that are free; choose --form mlp."
            )
        self._grams = [torch.zeros(n, n, dtype=torch.float64) for n, _ in widths]
        self._products = [torch.zeros(n, m, dtype=torch.float64) for n, m in widths]

    def learn(self, lessons: Sequence[LayerLesson], done_fraction: float, share: float) -> float:
        import torch

        for number, (inputs, aim, is_seen) in enumerate(lessons):
            rows = is_seen.all(dim=1)
            own = torch.nn.functional.pad(inputs[rows].double(), (0, 1), value=1.0)
            self._grams[number].addmm_(own.T, own)
            self._products[number].addmm_(own.T, aim[rows].double())
        return 0.0

    def layers(self) -> "list[dict[str, torch.Tensor]]":
        return [
            _solved(gram, product)
            for gram, product in zip(self._grams, self._products, strict=True)
        ]

    def state(self) -> "dict[str, torch.Tensor]":
        found = {f"{n} gram": gram for n, gram in enumerate(self._grams)}
        return found | {f"{n} product": product for n, product in enumerate(self._products)}

    def restore(self, state: "dict[str, torch.Tensor]") -> None:
        for number, (gram, product) in enumerate(zip(self._grams, self._products, strict=True)):
            _require_like(state[f"{number} gram"], gram)
            _require_like(state[f"{number} product"], product)
        for number in range(len(self._grams)):
            self._grams[number].copy_(state[f"{number} gram"])
            self._products[number].copy_(state[f"{number} product"])


def _require_like(found: "torch.Tensor", own: "torch.Tensor") -> None:
    """Refuse a part of a state that does not fit, before any part is put back.

    Raises:
        ValueError: It has another shape, or numbers that are not finite.
    """
    if found.shape != own.shape or not bool(found.isfinite().all()):
        raise ValueError(f"a part has the shape {tuple(found.shape)}, or is not finite")


def _solved(gram: "torch.Tensor", product: "torch.Tensor") -> "dict[str, torch.Tensor]":
    """Return the ridge regression of sums; the constant, which comes last, is not drawn to 0."""
    import torch

    damping = gram.diagonal().clone()
    damping[:-1] = _RIDGE * damping[:-1].mean()
    damping[-1] = 0.0
    if float(gram[-1, -1]) == 0:  # nothing was seen
        return {
            "first": torch.zeros(product.shape[1], len(gram) - 1),
            "first_bias": torch.zeros(product.shape[1]),
        }
    solved = torch.linalg.solve(gram + damping.diag(), product).float()
    return {"first": solved[:-1].T.contiguous(), "first_bias": solved[-1].clone()}
