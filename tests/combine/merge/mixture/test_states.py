"""What enters the MLPs is what transformers' own modules are given, and the mean over models."""

import numpy as np
import pytest
import torch

from naive import plain_model
from treadle.combine.merge.mixture.states import layer_states
from treadle.core.checkpoint import CheckpointReader

TEXTS = [[5, 9, 200], [7], [5, 8, 201], list(range(30, 70))]


def given_to(folder, text: list[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each layer the residual stream before it, and what enters its MLP, by hooks."""
    module, entered = plain_model(folder), []
    for block in module.model.layers:
        block.mlp.register_forward_pre_hook(lambda _, args: entered.append(args[0][0].numpy()))
    with torch.no_grad():
        streams = module(input_ids=torch.tensor([text]), output_hidden_states=True).hidden_states
    return [(stream[0].numpy(), own) for stream, own in zip(streams, entered, strict=False)]


@pytest.mark.parametrize("model_type", ["mistral", "qwen3"])
def test_states_are_those_of_transformers_and_their_mean(model_type, kin) -> None:
    folders = kin(model_type).experts[:2]
    readers = [CheckpointReader(folder) for folder in folders]
    found = list(layer_states(readers, TEXTS))
    assert len(found) == 2
    for place, text in enumerate(TEXTS):
        both = zip(*(given_to(folder, text) for folder in folders), strict=True)
        for states, ((left, ours), (right, theirs)) in zip(found, both, strict=True):
            expected = (left + right) / 2
            np.testing.assert_allclose(states.residual[place], expected, rtol=1e-3, atol=1e-4)
            expected = (ours + theirs) / 2
            np.testing.assert_allclose(states.mlp[place], expected, rtol=1e-3, atol=1e-4)
    for reader in readers:
        reader.close()
