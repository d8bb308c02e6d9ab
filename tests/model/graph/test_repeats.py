import pytest

from treadle.core.errors import SettingsError
from treadle.learn.plan.recompute import recompute
from treadle.model.graph.capture import capture_model
from treadle.model.graph.repeats import AGAIN, with_repeats

from .plans import peak_bytes, shuffled, updates_early
from .test_execute import require_both_ways, tiny_lm
from .training import token_batches, trained


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_repeating_saves_memory_and_keeps_the_bits(model_type):
    model, batches = tiny_lm(model_type), token_batches(3, batch=4, seq=64)
    captured = capture_model(model.config, batch=4, seq=64, learning_rate=1e-2)
    graph = recompute(captured.graph, 0.2).graph
    assert any(operator.name.endswith(AGAIN) for operator in graph.operators)
    early = updates_early(graph)
    assert peak_bytes(graph, early) < 0.97 * peak_bytes(
        captured.graph, updates_early(captured.graph)
    )
    step, expected = with_repeats(captured, graph), trained(model, batches)
    require_both_ways(step, model, expected, batches, early)
    require_both_ways(step, model, expected, batches, shuffled(graph, 5))


def test_graph_without_repeats_is_the_same_step():
    captured = capture_model(tiny_lm("gpt2").config, batch=1, seq=8)
    again = with_repeats(captured, captured.graph)
    assert again.members == captured.members
    assert again.graph == captured.graph


def test_foreign_graph_is_refused():
    captured = capture_model(tiny_lm("gpt2").config, batch=1, seq=8)
    other = capture_model(tiny_lm("llama").config, batch=1, seq=8)
    with pytest.raises(SettingsError, match="which was not captured"):
        with_repeats(captured, other.graph)
