"""The backend that torch finds by its name: roam's order, eager's numbers."""

import pytest
import torch
from torch import nn

from treadle.learn.plan import compiled
from treadle.model.graph.order import peak_bytes


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_torch_knows_the_backend():
    assert "treadle" in torch._dynamo.list_backends(exclude_tags=())
    assert torch._dynamo.lookup_backend("treadle") is compiled.treadle


def test_training_by_name_equals_eager():
    def model():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8), nn.Tanh())

    rows = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    plain, own = model(), model()
    num_before = len(compiled.treadle.halves)
    for module in (plain, torch.compile(own, backend="treadle", fullgraph=True, dynamic=False)):
        module(rows).square().mean().backward()
    for one, other in zip(plain.parameters(), own.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    halves = compiled.treadle.halves[num_before:]
    assert len(halves) == 2
    for graph, order in halves:
        assert peak_bytes(graph, order) <= peak_bytes(graph, range(len(order)))
