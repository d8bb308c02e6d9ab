"""What learns and what does not: the frozen keeps its bytes, zeros stay, all is restored."""

import pytest
import torch
from torch import nn

from treadle.core.errors import SettingsError
from treadle.core.seed import torch_stream
from treadle.model import tiny
from treadle.model.fit import FitSettings, Objective, fit, random_batches
from treadle.model.fit.learning import sorted_by_place

TOKENS = torch.randint(0, 320, (400,), generator=torch_stream(0, "tokens"))
BATCHES = random_batches(TOKENS, 4, 16, seed=1)
SETTINGS = FitSettings(steps=2, learning_rate=1e-2)


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def changed(model, before):
    return {name for name, value in weights(model).items() if not torch.equal(value, before[name])}


def test_those_learn_that_require_a_gradient():
    model = tiny.model("llama").requires_grad_(False)
    norms = {name for name, _ in model.named_parameters() if "norm" in name}
    for name in norms:
        model.get_parameter(name).requires_grad_(True)
    before = weights(model)
    fit(model, BATCHES, SETTINGS)
    assert changed(model, before) == norms
    assert {name for name, p in model.named_parameters() if p.requires_grad} == norms


@pytest.mark.parametrize(
    ("model_type", "pattern", "expected"),
    [
        ("llama", r"norm", lambda name: "norm" in name),
        ("llama", r"layers\.1\.mlp", lambda name: "layers.1.mlp" in name),
        ("llama", r"lm_head", lambda name: "embed_tokens" in name),  # tied: the name of either
        ("gpt2", r"\.bias$", lambda name: name.endswith(".bias")),
        ("qwen2_moe", r".", lambda name: True),
    ],
)
def test_a_pattern_chooses_what_learns(model_type, pattern, expected):
    model = tiny.model(model_type)
    before, chosen = weights(model), []

    def evaluate(_):
        chosen.append({name for name, p in model.named_parameters() if p.requires_grad})
        return {}

    fit(model, BATCHES, SETTINGS, learn=pattern, evaluate=evaluate)
    wanted = {name for name in before if expected(name)}
    assert chosen == [wanted, wanted]
    assert changed(model, before) == wanted
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_modes_are_as_before_and_dropout_does_nothing():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.9), nn.Linear(4, 4)).train()
    model[2].eval()
    loss = Objective(lambda model, batch: (model(batch) - batch).square().mean())
    settings = FitSettings(steps=20, learning_rate=0.05)
    rows = torch.randn(8, 4, generator=torch_stream(0, "rows"))
    runs = [fit(model, lambda step, losses: rows, settings, objective=loss) for _ in range(2)]
    assert [m.training for m in model] == [True, True, False]
    assert model.training
    assert runs[1].losses[-1] < runs[0].losses[0] / 4  # nine of ten values dropped would stay far


def test_it_is_restored_after_a_failure():
    model = tiny.model("llama").train()

    def failing(step, losses):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(model, failing, SETTINGS, learn="norm")
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


def test_a_gradient_from_before_has_no_part_in_it():
    one, two = tiny.model("llama"), tiny.model("llama")
    for parameter in two.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert fit(one, BATCHES, SETTINGS).gradient_norms == fit(two, BATCHES, SETTINGS).gradient_norms


@pytest.mark.parametrize(
    ("learn", "says"),
    [
        (None, r"None of the model's 20 parameters requires a gradient"),
        ("lora_", r"'lora_' is found in no name .* called like 'model.embed_tokens.weight'"),
        ("(", r"no regular expression"),
        ([], r"^learn = \[\] is no text; give a regular expression .*such as 'norm'"),
        (["norm"], r"^learn = \['norm'\] is no text"),
        (3, r"^learn = 3 is no text"),
        (b"norm", r"^learn = b'norm' is no text"),
    ],
)
def test_a_model_of_which_nothing_learns_is_refused(learn, says):
    model = tiny.model("llama").requires_grad_(False)
    with pytest.raises(SettingsError, match=says):
        fit(model, BATCHES, SETTINGS, learn=learn)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_zeros_stay_zero_and_the_others_learn(optimizer):
    model = tiny.model("llama")
    gone = {}
    for name, parameter in model.named_parameters():
        if "proj" in name:
            gone[name] = torch.rand(parameter.shape, generator=torch_stream(1, name)) < 0.5
            parameter.data[gone[name]] = 0
    before = weights(model)
    settings = SETTINGS.model_copy(update={"keep_zeros": True})
    kept = fit(model, BATCHES, settings, optimizer=optimizer)
    for name, value in weights(model).items():
        assert not value[gone[name]].any() if name in gone else True
        stay = ~gone[name] if name in gone else torch.ones_like(value, dtype=torch.bool)
        assert float((value != before[name])[stay].float().mean()) > 0.9 or "embed" in name
    free = tiny.model("llama")
    free.load_state_dict(before, strict=False)
    without = fit(free, BATCHES, SETTINGS, optimizer=optimizer)
    assert bool(weights(free)["model.layers.0.mlp.up_proj.weight"].ne(0).all())
    assert kept.gradient_norms[0] < without.gradient_norms[0]  # of what learns alone


def test_a_matrix_of_nothing_but_zeros_is_no_pruned_one():
    model = tiny.model("llama")
    model.model.layers[0].mlp.up_proj.weight.data.zero_()
    settings = SETTINGS.model_copy(update={"keep_zeros": True})
    with pytest.raises(SettingsError, match=r"'model.layers.0.mlp.up_proj.weight'.* zero through"):
        fit(model, BATCHES, settings)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "opt", "qwen2_moe"])
def test_hidden_matrices_are_neither_embeddings_nor_head_nor_vectors(model_type):
    model = tiny.model(model_type)
    names = {id(p): name for name, p in model.named_parameters()}
    hidden, others = sorted_by_place(model, dict(model.named_parameters()))
    assert len(hidden) + len(others) == len(names)
    ends = ("embed", "wte", "wpe", "lm_head", "norm", "bias", "ln_")
    for parameter in hidden:
        assert not any(word in names[id(parameter)] for word in ends)
    matrices = [p for p in others if p.dim() == 2]
    assert all(any(word in names[id(p)] for word in ends) for p in matrices)
