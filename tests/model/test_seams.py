import pytest
import torch
from torch import nn

from treadle.model.seams import replaced_output


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
