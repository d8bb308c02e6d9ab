"""Plans that recompute, run on a real model: the same bits as without."""

import pytest
import torch

from treadle.learn.plan import LAYOUTS, ORDERS
from treadle.learn.plan.account import offsets_by_value
from treadle.learn.plan.methods.memory import Memory
from treadle.model.graph.arena import ArenaLayout, ArenaStep
from treadle.model.graph.capture import capture_step
from treadle.model.graph.execute import ReorderedStep
from treadle.model.graph.repeats import with_repeats
from treadle.model.tiny import model

BATCH, SEQ = 4, 32


def ids(seed):
    return torch.randint(0, 320, (BATCH, SEQ), generator=torch.Generator().manual_seed(seed))


def loss(module, data):
    return module(**data, labels=data["input_ids"], use_cache=False).loss


def trained(step, module):
    losses = [step(input_ids=ids(seed)).item() for seed in range(3)]
    return losses, {name: p.detach().clone() for name, p in module.named_parameters()}


@pytest.mark.parametrize("model_type", ["gpt2", pytest.param("llama", marks=pytest.mark.slow)])
def test_three_steps_give_the_same_bits(model_type):
    def build():
        torch.manual_seed(0)  # what the tiny model leaves to transformers' own initialisation
        return model(model_type).train()

    captured = capture_step(
        build, inputs={"input_ids": torch.zeros(BATCH, SEQ, dtype=torch.long)}, loss=loss
    )
    quick = ORDERS.resolve({"method": "roam", "max_steps": 500, "total_steps": 2000})
    plan = Memory(recompute_fraction=0.3).plan(captured.graph, quick, LAYOUTS.resolve("nested"), 0)
    assert len(plan.recomputed) > 5
    again = with_repeats(captured, plan.graph)
    module = build()
    expected = trained(ReorderedStep(captured, module), module)
    module = build()
    found = trained(ReorderedStep(again, module, plan.ordered.order), module)
    assert found[0] == expected[0]
    assert all(torch.equal(found[1][name], expected[1][name]) for name in expected[1])
    module = build()
    placed = ArenaLayout(offsets_by_value(plan), plan.arena_bytes)
    arena = ArenaStep(again, module, plan.ordered.order, placed)
    found = trained(arena, module)
    assert found[0] == expected[0]
    assert all(torch.equal(found[1][name], expected[1][name]) for name in expected[1])
