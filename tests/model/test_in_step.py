"""Chunks of calibration tokens run a block in step."""

import gc

import pytest
import torch

from treadle.core.checkpoint import CheckpointReader
from treadle.model import layers, tiny
from treadle.model.in_step import run_in_step
from treadle.model.layers import LayeredModel


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setattr(layers, "_CHUNK_TOKENS", 16)
    with CheckpointReader(tiny.build("mixtral", tmp_path / "mixtral")) as reader:
        yield LayeredModel(reader)


def test_all_chunks_arrive_before_any_goes_on_and_the_output_is_the_blocks(model):
    tokens = torch.arange(5 * 8).reshape(5, 8)
    hidden = model.embed(tokens)
    events: list[str] = []
    with model.block(0) as block:
        expected = torch.cat([model.forward(block, 0, chunk) for chunk in model.chunks(hidden)])
        run_in_step(
            model,
            block,
            0,
            hidden,
            collect=lambda name, values, _: events.append(name),
            complete=lambda name: events.append(f"{name} complete"),
        )
        inputs = list(dict.fromkeys(matrix.input for matrix in block.matrices))
    assert events == [e for name in inputs for e in [*[name] * 3, f"{name} complete"]]
    assert torch.equal(hidden, expected)


def test_a_matrix_changed_when_its_input_is_complete_is_used_changed(model):
    tokens = torch.arange(5 * 8).reshape(5, 8)
    first, second = model.embed(tokens), model.embed(tokens)
    with model.block(0) as block:
        output = next(m for m in block.matrices if m.role == "o")

        def complete(name: str) -> None:
            if name == output.input:
                block.view(output).zero_()

        run_in_step(model, block, 0, first, lambda name, values, _: None, complete)
        model.run(block, 0, second)
    assert torch.equal(first, second)


def test_an_error_ends_all_chunks_and_leaves_the_gradient_mode_alone(model):
    hidden = model.embed(torch.arange(5 * 8).reshape(5, 8))

    def fail(name: str) -> None:
        raise ZeroDivisionError(name)

    with model.block(0) as block, pytest.raises(ZeroDivisionError, match="attn_in"):
        run_in_step(model, block, 0, hidden, lambda name, values, _: None, fail)
    gc.collect()
    assert torch.is_grad_enabled()
