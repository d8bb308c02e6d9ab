import pytest
import torch
from torch import nn

from treadle.core.errors import SettingsError
from treadle.model.seams import replaced_forward, replaced_output


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, str]:
        return x + 1, "beside"


def test_an_output_is_replaced_while_it_is_asked_for() -> None:
    linear, x = nn.Linear(3, 3), torch.ones(2, 3)
    before = linear(x)
    with replaced_output({linear: lambda read, given: given + 10 * read}):
        assert torch.equal(linear(x), before + 10)
    assert torch.equal(linear(x), before)


def test_what_stands_behind_hidden_states_stays() -> None:
    pair, x = Pair(), torch.ones(2, 3)
    with replaced_output({pair: lambda read, given: given * 0}):
        assert torch.equal(pair(x)[0], torch.zeros(2, 3))
        assert pair(x)[1] == "beside"


def test_an_error_inside_leaves_no_hook() -> None:
    linear = nn.Linear(3, 3)
    with pytest.raises(ZeroDivisionError), replaced_output({linear: lambda read, given: given}):
        raise ZeroDivisionError
    assert not linear._forward_hooks


class Named(nn.Module):
    def forward(self, *, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states * 2


def test_what_is_read_may_have_a_name() -> None:
    x = torch.ones(2, 3)
    with replaced_output({(module := Named()): lambda read, given: given + read}):
        assert torch.equal(module(hidden_states=x), 3 * x)


def test_the_output_of_a_whole_model_is_changed(tiny_model) -> None:
    from naive import plain_model

    model, tokens = plain_model(tiny_model("llama")), torch.arange(5)[None]
    plain = model.model(tokens)
    with replaced_output({model.model: lambda read, given: given * 0}):
        changed = model.model(tokens)
        assert not changed.last_hidden_state.any()
        assert not model(tokens).logits.any()
    assert changed.past_key_values is not None
    assert plain.last_hidden_state.any()


def test_a_change_that_gives_nothing_is_named() -> None:
    linear = nn.Linear(3, 3)
    with (
        replaced_output({linear: lambda read, given: None}),
        pytest.raises(SettingsError, match="Found NoneType in place of the output of Linear"),
    ):
        linear(torch.ones(2, 3))


def test_forwards_may_be_replaced_inside_one_another() -> None:
    linear, x = nn.Linear(3, 3), torch.ones(2, 3)
    with replaced_forward([linear], [lambda x: x * 2]):
        with replaced_forward([linear], [lambda x: x * 3]):
            assert torch.equal(linear(x), 3 * x)
        assert torch.equal(linear(x), 2 * x)
    assert "forward" not in vars(linear)
    with pytest.raises(ValueError, match="shorter"), replaced_forward([linear], []):
        pass
    assert "forward" not in vars(linear)
