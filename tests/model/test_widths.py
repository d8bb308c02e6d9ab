"""Shapes that grow: what shrinks is tested along with pruning."""

from pathlib import Path

import pytest
import torch

from treadle.core.checkpoint import CheckpointReader
from treadle.core.errors import SettingsError
from treadle.model import facts
from treadle.model.belonging import shapes_of
from treadle.model.fresh import fresh_model
from treadle.model.load import full
from treadle.model.resize.widths import couplings, picked, picks, resized_config


def grown(folder: Path, copied: list[int]) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Return a model, and one in which some neurons stand twice, each with half of its output."""
    reader = CheckpointReader(folder)
    model = full(folder)
    config, shapes = reader.config, shapes_of(reader)
    blocks = [
        couplings("neurons", facts.linears(config, layer, shapes), config, shapes)
        for layer in range(facts.num_layers(config))
    ]
    chosen = [
        (coupling, [*range(coupling.num_groups), *copied]) for block in blocks for coupling in block
    ]
    widths = [
        [(coupling, coupling.num_groups + len(copied)) for coupling in block] for block in blocks
    ]
    larger = fresh_model(resized_config("neurons", config, widths, False), 0)
    places = picks(chosen, shapes)
    values = {}
    for name, tensor in model.state_dict().items():
        values[name] = picked(tensor, places.get(name))
    for coupling, indices in chosen:
        times = torch.bincount(torch.tensor(indices))[torch.tensor(indices)]
        axis = places[coupling.last.tensor].axis
        values[coupling.last.tensor] /= times if axis == 1 else times[:, None]
    larger.load_state_dict(values)
    return model, larger


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_neurons_that_are_picked_twice_make_a_wider_model_of_the_same_function(
    tiny_model, model_type: str
) -> None:
    model, larger = grown(tiny_model(model_type), [0, 5, 5, 7])
    tokens = torch.arange(20)[None]
    torch.testing.assert_close(larger(tokens).logits, model(tokens).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("groups", [[0, 96], [-1], []])
def test_groups_that_are_not_there_are_refused(llama: Path, groups: list[int]) -> None:
    reader = CheckpointReader(llama)
    shapes = shapes_of(reader)
    matrices = facts.linears(reader.config, 0, shapes)
    (coupling,) = couplings("neurons", matrices, reader.config, shapes)
    with pytest.raises(SettingsError, match="which has 96; choose from 0 to 95"):
        picks([(coupling, groups)], shapes)
    with pytest.raises(SettingsError, match="leave at least one"):
        resized_config("neurons", reader.config, [[(coupling, 0)]], False)
