import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker

from treadle.core.errors import SettingsError
from treadle.model import tiny
from treadle.model.graph.capture import capture_model
from treadle.model.graph.causal_lm import build_model, config_of, whole
from treadle.model.graph.measure import allocated_bytes, eager_model_peak

from .plans import donated, peak_bytes, updates_early

CONFIG, _ = config_of(tiny.model("gpt2", vocab_size=2000).config, "auto")  # without dropout


@pytest.mark.parametrize("seq", [8, 96])
@pytest.mark.parametrize("chunked_loss", [None, 4])
def test_replay_of_program_order_agrees_with_eager(seq, chunked_loss):
    graph = capture_model(CONFIG, batch=2, seq=seq, chunked_loss=chunked_loss).graph
    program = range(len(graph.operators))
    sums = donated(graph, program, eager=True)
    measured = eager_model_peak(CONFIG, batch=2, seq=seq, chunked_loss=chunked_loss)
    assert peak_bytes(graph, program, sums) == pytest.approx(measured, rel=0.02)


def test_fake_run_agrees_with_memtracker_on_a_real_one():
    """Both see dispatched operators alone, for which the engine sums out of place."""
    model, data = build_model(CONFIG), {"input_ids": torch.zeros(2, 64, dtype=torch.long)}
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step():
        whole(model, data).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    tracker = MemTracker()
    tracker.track_external(model, optimizer, *data.values())
    with tracker:
        before = tracker.get_tracker_snapshot("current")[torch.device("cpu")]["Total"]
        step()
    tracked = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"] - before
    found = eager_model_peak(CONFIG, batch=2, seq=64, fake=True)
    assert found == pytest.approx(tracked, rel=0.02)
    graph = capture_model(CONFIG, batch=2, seq=64).graph
    assert peak_bytes(graph, range(len(graph.operators))) == pytest.approx(tracked, rel=0.02)


def test_hooks_take_less_where_gradients_dominate():
    after = eager_model_peak(CONFIG, batch=1, seq=8)
    hooks = eager_model_peak(CONFIG, batch=1, seq=8, update="in_backward")
    assert hooks < 0.9 * after
    graph = capture_model(CONFIG, batch=1, seq=8).graph
    assert peak_bytes(graph, updates_early(graph)) == pytest.approx(hooks, rel=0.02)


def test_allocator_counts_what_lives_and_what_lived():
    with allocated_bytes() as counted:
        kept = torch.zeros(1000)
        gone = torch.zeros(5000)
        del gone
    assert counted.live_bytes == kept.nbytes
    assert counted.peak_bytes >= 24000


def test_clipping_refuses_hooks():
    with pytest.raises(SettingsError, match="needs all gradients at once"):
        eager_model_peak(CONFIG, batch=1, seq=8, clip_norm=1.0, update="in_backward")
