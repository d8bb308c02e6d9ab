"""Planned steps that run: against eager PyTorch, bit by bit, with their time and their memory.

Three ways to train the same model on the same batches: eager with PyTorch's fused AdamW; the
captured step in the planned order, under PyTorch's allocator; and the captured step inside one
planned buffer. Memory is what PyTorch's allocator counts, without parameters and states.
"""

import argparse
import copy
from collections.abc import Callable
from typing import Any

import step_models
import store
import torch
from torch import Tensor, nn

from treadle.core.timing import paired
from treadle.learn.plan import LAYOUTS, ORDERS
from treadle.learn.plan.account import offsets_by_value
from treadle.learn.plan.base import Plan
from treadle.learn.plan.methods.memory import Memory
from treadle.learn.plan.replay import replay
from treadle.model.graph.arena import ArenaLayout, ArenaStep
from treadle.model.graph.capture import Captured
from treadle.model.graph.causal_lm import build_model, config_of, whole
from treadle.model.graph.execute import ReorderedStep
from treadle.model.graph.measure import allocated_bytes, eager_peak
from treadle.model.graph.repeats import with_repeats

# model, batch, attention of causal models
CASES = [
    ("gpt2", 1, "eager"),
    ("gpt2", 1, "sdpa"),
    ("gpt2", 4, "sdpa"),
    ("vit_b16_unfused", 1, "auto"),
    ("vit_b16", 1, "auto"),
    ("bert", 1, "auto"),
    ("smollm2", 1, "sdpa"),
    ("alexnet", 2, "auto"),
    ("mobilenet_v2", 2, "auto"),
    ("efficientnet_b0", 2, "auto"),
]
RECOMPUTED = (0.02, 0.1, 0.3)
Data = dict[str, Tensor]


class Eager:
    """The plain loop."""

    def __init__(self, module: nn.Module, loss: Callable[[nn.Module, Data], Tensor]) -> None:
        self.module, self._loss = module, loss
        self._optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, fused=True)

    def __call__(self, **data: Tensor) -> Tensor:
        """Train one step."""
        loss = self._loss(self.module, data)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss.detach()


def parts(
    name: str, batch: int, attention: str
) -> tuple[Callable[[], nn.Module], Callable[[nn.Module, Data], Tensor], Data]:
    if name in step_models.CAUSAL:
        config, _ = config_of(step_models.CAUSAL[name], attention)
        ids = torch.zeros(batch, 128, dtype=torch.long)
        return lambda: build_model(config), whole, {"input_ids": ids}
    model = step_models.MODELS[name]
    return model.build, model.loss, model.inputs(batch)


def random_batch(like: Data, seed: int) -> Data:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(value.shape, generator=generator)
        if value.is_floating_point()
        else torch.randint(0, 1000, value.shape, generator=generator)
        for name, value in like.items()
    }


def planned_with(captured: Captured, recompute_fraction: float) -> Plan:
    method = Memory(recompute_fraction=recompute_fraction)
    return method.plan(captured.graph, ORDERS.resolve("roam"), LAYOUTS.resolve("nested"), 0)


def planned(captured: Captured) -> tuple[list[int], list[tuple[int, int]], ArenaLayout, int]:
    """Return the order, what is written in place, the layout and the planned peak."""
    plan = planned_with(captured, 0.0)
    order = list(plan.ordered.order)
    done = replay(plan.problem, order)
    pairs = [(plan.problem.value_of[a], plan.problem.value_of[b]) for a, b in done.donated]
    return order, pairs, ArenaLayout(offsets_by_value(plan), plan.arena_bytes), done.peak


def same_bits(steps: list[Callable[..., Tensor]], modules: list[nn.Module], like: Data) -> bool:
    """Return whether all train to the same bits over three steps."""
    losses = [[step(**random_batch(like, seed)) for step in steps] for seed in range(3)]
    first = list(modules[0].state_dict().values())
    return all(torch.equal(row[0], other) for row in losses for other in row[1:]) and all(
        torch.equal(value, other)
        for module in modules[1:]
        for value, other in zip(first, module.state_dict().values(), strict=True)
    )


def peak_of(step: Callable[..., Tensor], data: Data) -> int:
    with allocated_bytes() as counted:
        step(**data)
    return counted.peak_bytes


def measure(name: str, batch: int, attention: str, rounds: int) -> dict[str, Any]:
    build, loss, like = parts(name, batch, attention)
    options = {"attention": attention} if name in step_models.CAUSAL else {}
    captured = step_models.capture(name, batch, **options)
    order, pairs, layout, peak = planned(captured)
    torch.manual_seed(0)
    modules = [build()]
    modules += [copy.deepcopy(modules[0]) for _ in range(2)]
    eager = Eager(modules[0], loss)
    arena = ArenaStep(captured, modules[1], order, layout)
    ordered = ReorderedStep(captured, modules[2], order, pairs)
    is_same = same_bits([eager, arena, ordered], modules, like)
    data = random_batch(like, 9)
    reordered_peak, outside = peak_of(ordered, data), peak_of(arena, data)
    del ordered, modules[2]
    timing = paired(lambda: eager(**data), lambda: arena(**data), rounds=rounds)
    return {
        "model": name,
        "batch": batch,
        "attention": attention,
        "same_bits_over_three_steps": is_same,
        "eager_peak_bytes": eager_peak(build, inputs=like, loss=loss),
        "planned_peak_bytes": peak,
        "reordered_measured_peak_bytes": reordered_peak,
        "arena_bytes": arena.arena_bytes,
        "measured_outside_the_arena_bytes": outside,
        "escaped_fraction": arena.escaped_bytes / arena.made_bytes,
        "eager_cpu_seconds": timing.baseline_cpu_seconds,
        "arena_cpu_seconds": timing.candidate_cpu_seconds,
        "times_faster_than_eager": timing.cpu_ratio._asdict(),
    }


def recomputing(rounds: int) -> list[dict[str, Any]]:
    """Return what repeating a part of the arithmetic saves and takes: GPT-2, batch 4, chunked."""
    config, _ = config_of(step_models.CAUSAL["gpt2"], "auto")
    captured = step_models.capture("gpt2", 4, seq=256, chunked_loss=8)
    torch.manual_seed(0)
    module = build_model(config)
    return [recompute_row(captured, module, fraction, rounds) for fraction in RECOMPUTED]


def recompute_row(
    captured: Captured, module: nn.Module, fraction: float, rounds: int
) -> dict[str, Any]:
    like = {"input_ids": torch.zeros(4, 256, dtype=torch.long)}
    modules = [copy.deepcopy(module) for _ in range(2)]
    plans = [planned_with(captured, spent) for spent in (0.0, fraction)]
    keeping, repeating = (
        ArenaStep(
            with_repeats(captured, plan.graph),
            own,
            list(plan.ordered.order),
            ArenaLayout(offsets_by_value(plan), plan.arena_bytes),
        )
        for own, plan in zip(modules, plans, strict=True)
    )
    is_same = same_bits([keeping, repeating], modules, like)
    data = random_batch(like, 9)
    timing = paired(lambda: keeping(**data), lambda: repeating(**data), rounds=rounds)
    total = sum(operator.flops for operator in captured.graph.operators)
    row = {
        "recompute_fraction": fraction,
        "repeated_fraction": plans[1].extra_flops / total,
        "same_bits_over_three_steps": is_same,
        "keeping_all_arena_bytes": keeping.arena_bytes,
        "arena_bytes": repeating.arena_bytes,
        "times_faster_than_keeping_all": timing.cpu_ratio._asdict(),
    }
    print(row, flush=True)
    return row


def show(row: dict[str, Any]) -> None:
    ratio, mega = row["times_faster_than_eager"], 1e6
    print(
        f"{row['model']:16} batch {row['batch']} {row['attention']:5} same bits "
        f"{row['same_bits_over_three_steps']}  MB: eager {row['eager_peak_bytes'] / mega:.1f}, "
        f"plan {row['planned_peak_bytes'] / mega:.1f}, reordered, measured "
        f"{row['reordered_measured_peak_bytes'] / mega:.1f}, arena "
        f"{row['arena_bytes'] / mega:.1f} and "
        f"{row['measured_outside_the_arena_bytes'] / mega:.1f} outside; escaped "
        f"{row['escaped_fraction']:.1%}; {ratio['median']:.3f} times as fast "
        f"[{ratio['lower']:.3f}, {ratio['upper']:.3f}]",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[])
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for case in CASES:
        if not args.names or case[0] in args.names:
            row = measure(*case, args.rounds)
            rows.append(row)
            show(row)
    repeated = recomputing(args.rounds) if not args.names else []
    print(store.write("step_execute", {"rows": rows, "recomputing": repeated}))


if __name__ == "__main__":
    main()
