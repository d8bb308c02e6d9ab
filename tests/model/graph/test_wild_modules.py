"""Modules as people write them: what can be captured trains as eager does, the rest is named."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from treadle.core.errors import SettingsError, UnsupportedModelError
from treadle.learn.plan import LAYOUTS, ORDERS
from treadle.learn.plan.account import offsets_by_value
from treadle.learn.plan.methods.memory import Memory
from treadle.model import tiny
from treadle.model.graph.arena import ArenaLayout, ArenaStep
from treadle.model.graph.capture import capture_step
from treadle.model.graph.execute import ReorderedStep
from treadle.model.graph.repeats import with_repeats

from .training import trained


def mean_square(module, data):
    return module(**data).square().mean()


class Body(nn.Module):
    """A block with dropout, run under one kind of checkpointing or none."""

    def __init__(self, use_reentrant):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
        self.block = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.Tanh())
        self.use_reentrant = use_reentrant

    def forward(self, rows):
        hidden = self.first(rows)
        for _ in range(2):
            if self.use_reentrant is None:
                hidden = self.block(hidden)
            else:
                hidden = checkpoint(self.block, hidden, use_reentrant=self.use_reentrant)
            hidden = nn.functional.dropout(hidden, 0.2)
        return self.last(hidden)


class Settings(nn.Module):
    """Takes plain settings, None, a list of tensors and a dict beside its tensors."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, rows, parts, masks, is_scaled=False, power=1, bias=None):
        rows = self.linear(rows + parts[0] * parts[1]) * masks["keep"]
        return (rows * 2 if is_scaled else rows) ** power if bias is None else rows + bias


class Tied(nn.Module):
    """Two names of one matrix, and one layer used twice."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 5), nn.Linear(5, 7, bias=False)
        self.middle = nn.Linear(5, 5)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(self.middle(self.middle(self.embed(ids)).relu()))


class Averaging(nn.Module):
    """Buffers changed in place, by index, and assigned anew."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("seen", torch.zeros(3))
        self.register_buffer("count", torch.zeros((), dtype=torch.long), persistent=False)

    def forward(self, rows):
        rows = self.linear(rows) - self.mean
        self.mean = 0.9 * self.mean + 0.1 * rows.detach().mean(0)
        self.seen[1] += 1
        self.count += 1
        rows = rows.clone()
        rows[:, 0] = rows[:, 0] * 2
        return rows.mul_(self.count) + torch.rand_like(rows)


class Reparametrised(nn.Module):
    """Draws whose parameters learn."""

    def __init__(self):
        super().__init__()
        self.mean, self.scale = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, rows):
        mean, scale = self.mean(rows), self.scale(rows).exp()
        return torch.normal(mean.detach(), 0.1) + mean + scale * torch.randn_like(scale)


class Branching(nn.Module):
    """Control flow by data in the form that a graph can hold."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, rows):
        rows = self.linear(rows)
        return torch.where(rows.mean() > 0, rows, -2 * rows)


class Frozen(nn.Module):
    """Some learn, some do not, one is never read."""

    def __init__(self):
        super().__init__()
        self.base, self.adapter = nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 4)
        self.unread = nn.Parameter(torch.ones(3))

    def forward(self, rows):
        return self.base(rows) + self.adapter(rows)


TIED = Tied()
ROWS = torch.linspace(-1, 1, 20).reshape(5, 4)
CASES = {
    "dropout": (lambda: Body(None), {"rows": ROWS}),
    "checkpoint": (lambda: Body(False), {"rows": ROWS}),
    "reentrant": (lambda: Body(True), {"rows": ROWS}),
    "settings": (
        Settings,
        {
            "rows": ROWS,
            "parts": [ROWS, 3.0],
            "masks": {"keep": ROWS > 0},
            "is_scaled": True,
            "power": 2,
            "bias": None,
        },
    ),
    "tied": (Tied, {"ids": torch.arange(7)}),
    "buffers": (Averaging, {"rows": ROWS}),
    "draws": (Reparametrised, {"rows": ROWS}),
    "where": (Branching, {"rows": ROWS}),
    "frozen": (Frozen, {"rows": ROWS}),
    "evaluation": (lambda: Body(None).eval(), {"rows": ROWS}),
    "copy": (lambda: copy.deepcopy(TIED), {"ids": torch.arange(7)}),
    "tied half": (lambda: Tied().to(torch.bfloat16), {"ids": torch.arange(7)}),
    "half": (lambda: nn.Sequential(nn.Linear(4, 4)).bfloat16(), {"input": ROWS.bfloat16()}),
}


def seeded(function):
    def run(*args, **kwargs):
        torch.manual_seed(1)
        return function(*args, **kwargs)

    return run


def planned(captured, fraction):
    return Memory(recompute_fraction=fraction).plan(
        captured.graph, ORDERS.resolve("roam"), LAYOUTS.resolve("nested"), seed=0
    )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "form", [pytest.param("program", marks=pytest.mark.slow), "planned", "arena"]
)
def test_a_captured_step_trains_as_eager_does(case, form):
    build, batch = CASES[case]
    torch.manual_seed(0)
    module = build()
    captured = capture_step(build, inputs=batch, loss=mean_square, learning_rate=1e-2)
    expected, wanted, _ = trained(module, [batch] * 3, loss=seeded(mean_square))
    plan = planned(captured, 0.5 if form == "arena" else 0.0)
    if form == "arena":
        layout = ArenaLayout(offsets_by_value(plan), plan.arena_bytes)
        step = ArenaStep(with_repeats(captured, plan.graph), module, plan.ordered.order, layout)
    else:
        step = ReorderedStep(captured, module, plan.ordered.order if form == "planned" else None)
    for loss in expected:
        assert torch.equal(seeded(step)(**batch), loss)
    values = wanted.state_dict() | dict(wanted.named_buffers())
    for name, value in (module.state_dict() | dict(module.named_buffers())).items():
        assert torch.equal(value, values[name]), name


def numbers_of_a_model(batch=2, seq=12):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, tiny.VOCAB_SIZE, (batch, seq), generator=generator)
    return {"input_ids": ids, "labels": ids, "use_cache": False}


@pytest.mark.parametrize(
    ("model_type", "use_reentrant"),
    [
        ("llama", True),
        ("mixtral", False),
        pytest.param("llama", False, marks=pytest.mark.slow),
        *(
            pytest.param(name, kind, marks=pytest.mark.slow)
            for name, kind in [("mixtral", None), ("mixtral", True), ("qwen3_moe", None)]
        ),
        *(pytest.param("qwen3_moe", kind, marks=pytest.mark.slow) for kind in (False, True)),
    ],
)
def test_models_of_transformers_train_as_eager_does(model_type, use_reentrant):
    """Experts, whose products are another kernel's, up to rounding."""

    def build():
        model = tiny.model(model_type, num_hidden_layers=1).train()
        if use_reentrant is not None:
            settings = {"use_reentrant": use_reentrant}
            model.activation_checkpointing_enable(settings)
        return model

    module, batch = build(), numbers_of_a_model()
    forms = module.get_experts_implementation()
    captured = capture_step(lambda: module, inputs=batch, optimizer="sgd", learning_rate=1e-2)
    assert module.get_experts_implementation() == forms
    assert not captured.notes  # it runs in a form of fixed shapes by itself
    expected, wanted, _ = trained(
        module, [batch] * 2, optimizer="sgd", loss=lambda module, data: module(**data).loss
    )
    step = ReorderedStep(captured, module)
    losses = [step(**batch) for _ in expected]
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)
    for value, other in zip(module.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-3, atol=1e-4)


def test_experts_in_a_form_that_depends_on_data_are_captured_in_another_and_noted():
    module = tiny.model("mixtral", num_hidden_layers=1).train()
    module.set_experts_implementation("eager")
    batch = numbers_of_a_model()
    captured = capture_step(lambda: module, inputs=batch, optimizer="sgd", learning_rate=1e-2)
    assert any("'grouped_mm'" in note and "eager depend on" in note for note in captured.notes)
    assert set(module.get_experts_implementation().values()) == {"eager"}
    expected, _, _ = trained(
        module, [batch] * 2, optimizer="sgd", loss=lambda module, data: module(**data).loss
    )
    step = ReorderedStep(captured, module)
    torch.testing.assert_close([step(**batch) for _ in expected], expected, rtol=1e-5, atol=1e-6)


def counted(rows):
    return rows.sum() if rows.sum().item() > 0 else rows.mean()


def compiled(rows):
    return torch.compile(torch.sum, backend="eager")(rows)


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (counted, UnsupportedModelError, r"out of a tensor .*line \d+ of .*test_wild_mod.*where"),
        (lambda rows: rows[rows > 0].sum(), UnsupportedModelError, r"depends on data.*fixed sh"),
        (lambda rows: rows.detach().numpy().sum(), UnsupportedModelError, "fails while it is capt"),
        (lambda rows: rows.missing, UnsupportedModelError, r"line \d+ of .*AttributeError: 'T?"),
        (compiled, UnsupportedModelError, "fails while it is captured"),
        (lambda rows: 3.0, SettingsError, "The loss is a float, expected a tensor"),
        (lambda rows: rows.detach().sum(), SettingsError, "depends on no parameter that learns"),
        (lambda rows: torch.ones((), requires_grad=False), SettingsError, "on no parameter"),
    ],
)
def test_what_cannot_be_captured_is_named_with_its_line(loss, error, message):
    with pytest.raises(error, match=message):
        capture_step(
            lambda: nn.Linear(4, 4),
            inputs={"input": ROWS},
            loss=lambda module, data: loss(module(**data)),
        )


def test_inputs_that_are_no_mapping_are_named():
    with pytest.raises(SettingsError, match="inputs is a list, expected tensors by keyword"):
        capture_step(lambda: nn.Linear(4, 4), inputs=lambda: [ROWS], loss=mean_square)


def test_modules_that_read_numbers_while_they_are_made_are_built():
    class Drawn(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)
            nn.init.trunc_normal_(self.linear.weight)
            self.rates = [rate.item() for rate in torch.linspace(0, 1, 3, device="cpu")]

        def forward(self, rows):
            return self.linear(rows) * self.rates[1]

    graph = capture_step(Drawn, inputs={"rows": ROWS}, loss=mean_square).graph
    assert any("mm" in operator.op for operator in graph.operators)
