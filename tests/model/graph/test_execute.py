import copy

import pytest
import torch
from torch import nn

from products import fast_where, few
from treadle.core.errors import DataError, SettingsError
from treadle.model import tiny
from treadle.model.graph.arena import ArenaLayout, ArenaStep
from treadle.model.graph.capture import capture_model, capture_step
from treadle.model.graph.execute import ReorderedStep
from treadle.model.graph.measure import allocated_bytes

from .plans import donated, layout, peak_bytes, shuffled, updates_early
from .training import OPTIMIZERS, require_same, token_batches, trained

NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "dropout": 0.0}


def tiny_lm(model_type):
    model = tiny.model(model_type, **NO_DROPOUT).train()
    model.config.loss_type = "ForCausalLM"
    return model


def require_both_ways(captured, module, expected, batches, order):
    pairs = donated(captured.graph, order)
    own = copy.deepcopy(module)
    require_same(ReorderedStep(captured, own, order, pairs), own, expected, batches)
    own = copy.deepcopy(module)
    plan = layout(captured.graph, order, pairs)
    require_same(ArenaStep(captured, own, order, plan), own, expected, batches)


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "gemma2", "mixtral", "opt"])
def test_architectures_train_to_the_same_bits(model_type):
    model, batches = tiny_lm(model_type), token_batches()
    captured = capture_model(model.config, batch=2, seq=16, learning_rate=1e-2)
    order = updates_early(captured.graph)
    require_both_ways(captured, model, trained(model, batches), batches, order)


def test_dynamic_rotary_factors_beyond_the_first_length_train_to_the_same_bits():
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    model = tiny.model(
        "llama", num_hidden_layers=1, max_position_embeddings=8, rope_parameters=rope
    ).train()
    model.config.loss_type = "ForCausalLM"
    batches = token_batches()
    captured = capture_model(model.config, batch=2, seq=16, learning_rate=1e-2)
    order = updates_early(captured.graph)
    require_both_ways(captured, model, trained(model, batches), batches, order)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", tiny.CONFIGS)
def test_every_architecture_trains_to_the_same_bits(model_type):
    model, batches = tiny_lm(model_type), token_batches(seq=48)
    captured = capture_model(model.config, batch=2, seq=48, learning_rate=1e-2, clip_norm=0.5)
    order = shuffled(captured.graph, seed=1)
    require_both_ways(captured, model, trained(model, batches, clip_norm=0.5), batches, order)


@pytest.mark.parametrize(
    ("optimizer", "clip_norm"),
    fast_where(
        lambda optimizer, clip_norm: optimizer == "adamw" or clip_norm is None,
        *(OPTIMIZERS, [None, 0.5]),
    ),
)
def test_optimizers_agree_with_pytorchs(optimizer, clip_norm):
    model, batches = tiny_lm("llama"), token_batches()
    captured = capture_model(
        model.config,
        batch=2,
        seq=16,
        optimizer=optimizer,
        learning_rate=1e-2,
        clip_norm=clip_norm,
    )
    order = range(len(captured.graph.operators))
    require_both_ways(
        captured, model, trained(model, batches, optimizer, clip_norm), batches, order
    )


@pytest.mark.parametrize("seed", few([0, 1, 2], 0))
def test_any_order_gives_the_same_bits(seed):
    model, batches = tiny_lm("gpt2"), token_batches()
    model.set_attn_implementation("eager")
    captured = capture_model(model.config, batch=2, seq=16, learning_rate=1e-2, attention="eager")
    order = shuffled(captured.graph, seed)
    require_both_ways(captured, model, trained(model, batches), batches, order)


class Convolutions(nn.Module):
    """What language models lack: batch norms with running statistics, in-place ReLU, pooling."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, groups=8),
            nn.Hardswish(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 5),
        )
        self.scale = nn.Parameter(torch.ones(1, 3, 1, 1))
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, image):
        return self.body(image * self.scale)


def image_loss(module, data):
    return nn.functional.cross_entropy(module(data["image"]), data["label"])


def test_convolutions_train_to_the_same_bits_and_keep_their_statistics():
    torch.manual_seed(0)
    model = Convolutions()
    batches = [
        {"image": torch.randn(4, 3, 12, 12), "label": torch.randint(0, 5, (4,))} for _ in range(3)
    ]
    captured = capture_step(
        Convolutions, inputs=batches[0], loss=image_loss, optimizer="sgd", learning_rate=1e-2
    )
    expected = trained(model, batches, "sgd", loss=image_loss)
    require_both_ways(captured, model, expected, batches, shuffled(captured.graph, 3))
    own = copy.deepcopy(model)
    step = ReorderedStep(captured, own)
    for batch in batches:
        step(**batch)
    for name, buffer in expected[1].named_buffers():
        assert torch.equal(dict(own.named_buffers())[name], buffer)


class Constants(nn.Module):
    """Makes tensors in its forward pass that depend on nothing."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, rows):
        return (self.linear(rows) * torch.tensor([1.0, 2.0, 3.0]) + torch.arange(3)).sum()


def test_constants_of_the_forward_pass_are_kept():
    torch.manual_seed(0)
    model, batches = Constants(), [{"rows": torch.randn(4, 3)} for _ in range(3)]

    def loss(module, data):
        return module(data["rows"])

    captured = capture_step(Constants, inputs=batches[0], loss=loss, learning_rate=1e-2)
    phases = {operator.op: operator.phase for operator in captured.graph.operators}
    assert phases["aten.lift_fresh_copy.default"] == phases["aten.arange.default"] == "constant"
    expected = trained(model, batches, loss=loss)
    require_both_ways(captured, model, expected, batches, shuffled(captured.graph, 2))


def test_frozen_parameters_of_a_module_that_exists_stay():
    torch.manual_seed(0)
    model = Convolutions()
    model.body[0].requires_grad_(False)
    batches = [{"image": torch.randn(2, 3, 12, 12), "label": torch.zeros(2, dtype=torch.long)}]
    captured = capture_step(
        lambda: model, inputs=batches[0], loss=image_loss, optimizer="sgd", learning_rate=1e-2
    )
    frozen = [value.name for value in captured.graph.values if value.kind == "parameter"]
    assert "body.0.weight" in frozen
    assert "update_body_0_weight" not in {operator.name for operator in captured.graph.operators}
    expected = trained(model, batches, "sgd", loss=image_loss)
    require_both_ways(captured, model, expected, batches, updates_early(captured.graph))


def test_reordered_step_takes_what_the_replay_says():
    model = tiny_lm("gpt2")
    captured = capture_model(model.config, batch=4, seq=64)
    (batch,) = token_batches(1, batch=4, seq=64)
    program = list(range(len(captured.graph.operators)))
    for order in (program, updates_early(captured.graph)):
        for pairs in ([], donated(captured.graph, order)):
            step = ReorderedStep(captured, model, order, pairs)
            step(**batch)
            with allocated_bytes() as measured:
                step(**batch)
            expected = peak_bytes(captured.graph, order, pairs)
            assert measured.peak_bytes == pytest.approx(expected, rel=0.02)


def test_what_escapes_the_arena_is_counted():
    captured = capture_model(tiny_lm("gpt2").config, batch=2, seq=16, attention="eager")
    order = range(len(captured.graph.operators))
    step = ArenaStep(captured, tiny_lm("gpt2"), order, layout(captured.graph, order))
    values = captured.graph.values
    of_norms = sum(
        values[value].num_bytes
        for operator in captured.graph.operators
        if "layer_norm" in operator.op
        for value in operator.outputs
    )
    made = sum(values[v].num_bytes for op in captured.graph.operators for v in op.outputs)
    assert (step.escaped_bytes, step.made_bytes) == (of_norms, made)
    assert 0 < step.escaped_bytes < 0.2 * step.made_bytes


def test_bad_orders_layouts_and_batches_are_named():
    model = tiny_lm("gpt2")
    captured = capture_model(model.config, batch=2, seq=16)
    num = len(captured.graph.operators)
    with pytest.raises(SettingsError, match=f"{num - 1} entries for {num} operators"):
        ReorderedStep(captured, model, range(num - 1))
    with pytest.raises(SettingsError, match=r"before '.*', which it needs"):
        ReorderedStep(captured, model, range(num - 1, -1, -1))
    with pytest.raises(SettingsError, match="no place for"):
        ArenaStep(captured, model, range(num), ArenaLayout({}, 0))
    with pytest.raises(SettingsError, match="has no parameter"):
        ReorderedStep(captured, nn.Linear(2, 2))
    with pytest.raises(SettingsError, match=r"was captured; a step has fixed shapes"):
        ReorderedStep(captured, tiny.model("gpt2", vocab_size=400))
    with pytest.raises(SettingsError, match="cannot be written over"):
        ReorderedStep(captured, model, donated=[(0, 1)])
    step = ReorderedStep(captured, model)
    with pytest.raises(DataError, match="batch holds nothing, the step reads input_ids"):
        step()
    with pytest.raises(DataError, match=r"shape \(2, 8\), but \(2, 16\)"):
        step(input_ids=torch.zeros(2, 8, dtype=torch.long))
