"""The walk over blocks: a verb's changes are called in order, on inputs that they made."""

from pathlib import Path

import pytest
import torch

from treadle.core.checkpoint import CheckpointReader, CheckpointWriter, Manifest, PlannedTensor
from treadle.core.checkpoint.manifest import Provenance
from treadle.model import layers, tiny
from treadle.model.blockwise import Calibration, Change, Rewriter, layers_of, rewrite, stored
from treadle.model.layers import LayeredModel

TOKENS = torch.arange(5 * 8).reshape(5, 8) % 60


class Scaled(Change):
    """Multiplies every matrix, and remembers what it was told of its input."""

    def __init__(self, rewriter, view):
        self.rewriter, self.view = rewriter, view

    def change(self, matrices, known):
        for matrix in matrices:
            self.rewriter.order.append(matrix.name)
            self.rewriter.known[matrix.name] = known.get(matrix.input)
            self.view(matrix).mul_(self.rewriter.factor)

    def written(self, matrices):
        for name in dict.fromkeys(matrix.tensor for matrix in matrices):
            yield name, stored(self.rewriter.reader, name, matrices, self.view)


class Scale(Rewriter):
    title = "scale"

    def __init__(self, reader, factor):
        self.reader, self.factor, self.order, self.known = reader, factor, [], {}
        self.crash_at = None

    def replaced(self, matrices):
        return list(dict.fromkeys(matrix.tensor for matrix in matrices))

    names = replaced

    def open(self, layer, view):
        if layer == self.crash_at:
            raise KeyboardInterrupt
        return Scaled(self, view)


def walk(folder: Path, out: Path, factor: float, calibration=None, crash_at=None):
    with CheckpointReader(folder) as reader:
        planned = [
            PlannedTensor(name, info.dtype, info.shape)
            for name, info in reader.tensors.items()
            if name not in reader.tied
        ]
        scale = Scale(reader, factor)
        scale.crash_at = crash_at
        model = None if calibration is None else LayeredModel(reader)
        with CheckpointWriter(out, planned, parent=reader, fingerprint="same") as writer:
            done = rewrite(
                reader, writer, scale, fingerprint="same", model=model, calibration=calibration
            )
            writer.finish(Manifest(provenance=Provenance(verb="scale")), "")
    return done, scale


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    with CheckpointReader(folder) as reader:
        return {name: reader.tensor(name).clone() for name in reader.tensors}


@pytest.fixture(params=["llama", "gpt2", "mixtral"])
def folder(request, tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(layers, "_CHUNK_TOKENS", 16)
    return tiny.build(request.param, tmp_path / "model")


def test_read_or_run_every_matrix_is_changed_once_and_all_else_is_copied(folder, tmp_path):
    _, read = walk(folder, tmp_path / "read", 0.5)
    _, ran = walk(folder, tmp_path / "ran", 0.5, Calibration(TOKENS, False))
    before, after = tensors(folder), tensors(tmp_path / "read")
    with CheckpointReader(folder) as reader:
        matrices = [matrix for found in layers_of(reader) for matrix in found]
    assert sorted(read.order) == sorted(ran.order) == sorted(m.name for m in matrices)
    touched = {matrix.tensor for matrix in matrices}
    for name, values in before.items():
        assert torch.equal(after[name], values * 0.5 if name in touched else values), name
    for name, values in tensors(tmp_path / "ran").items():
        assert torch.equal(after[name], values)
    assert all(entry is None for entry in read.known.values())


def test_statistics_are_those_of_the_inputs_that_the_changed_model_has(folder, tmp_path):
    for has_two_passes in (False, True):
        out = tmp_path / f"out{has_two_passes}"
        calibration = Calibration(TOKENS, True, has_two_passes)
        _, scale = walk(folder, out, 0.5, calibration)
        with CheckpointReader(out) as reader:
            last = layers_of(reader)[-1]
            model = LayeredModel(reader)
            hidden = model.embed(TOKENS)
            for layer, block in model.visit("check"):
                if layer == last[0].layer:
                    expected = block.module.get_submodule(last[0].parameter.rpartition(".")[0])
                    seen = []
                    handle = expected.register_forward_pre_hook(
                        lambda _, args, seen=seen: seen.append(args[0].flatten(0, -2))
                    )
                model.run(block, layer, hidden)
            handle.remove()
        x = torch.cat(seen).double()
        gram = scale.known[last[0].name].gram.double()
        assert torch.allclose(gram, x.T @ x, rtol=1e-4, atol=1e-4)


def test_clean_inputs_are_those_of_the_unchanged_model(folder, tmp_path):
    done, scale = walk(folder, tmp_path / "out", 0.5, Calibration(TOKENS, True, False, True))
    first = scale.order[0]
    known = scale.known[first]
    assert torch.allclose(known.cross, known.gram, rtol=1e-5), "nothing is changed before"
    with CheckpointReader(folder) as reader, CheckpointReader(tmp_path / "out") as changed:
        models = LayeredModel(changed), LayeredModel(reader)
        streams = [model.embed(TOKENS) for model in models]
        last = layers_of(reader)[-1]
        name = last[0].parameter.rpartition(".")[0]
        inputs, drift = [], []
        for layer in range(last[0].layer + 1):
            for model, hidden in zip(models, streams, strict=True):
                with model.block(layer) as block:
                    handle = block.module.get_submodule(name).register_forward_pre_hook(
                        lambda _, args, layer=layer: inputs.append(
                            (layer, args[0].flatten(0, -2).double())
                        )
                    )
                    hidden.copy_(model.forward(block, layer, hidden))
                    handle.remove()
            gap = (streams[0] - streams[1]).double().norm() / streams[1].double().norm()
            drift.append(float(gap))
    (_, x), (_, clean) = [entry for entry in inputs if entry[0] == last[0].layer]
    cross = scale.known[last[0].name].cross.double()
    assert torch.allclose(cross, x.T @ clean, rtol=1e-3, atol=1e-4)
    assert done.drift == pytest.approx(drift, rel=1e-3)


def test_unchanged_models_do_not_drift(folder, tmp_path):
    done, _ = walk(folder, tmp_path / "out", 1.0, Calibration(TOKENS, False, False, True))
    assert done.drift == [0.0] * len(done.drift)
    assert len(done.drift) > 1


@pytest.mark.parametrize("is_paired", [False, True])
def test_a_killed_walk_goes_on_with_the_same_bytes(folder, tmp_path, is_paired):
    calibration = Calibration(TOKENS, True, False, is_paired)
    whole, _ = walk(folder, tmp_path / "whole", 0.5, calibration)
    with pytest.raises(KeyboardInterrupt):
        walk(folder, tmp_path / "out", 0.5, calibration, crash_at=1)
    done, scale = walk(folder, tmp_path / "out", 0.5, calibration)
    assert done.first_layer == 1
    assert done.drift == whole.drift
    with CheckpointReader(folder) as reader:
        first = {matrix.name for matrix in layers_of(reader)[0]}
    assert not first & set(scale.order)
    found = tensors(tmp_path / "out")
    for name, values in tensors(tmp_path / "whole").items():
        assert torch.equal(found[name], values)
    assert not list(tmp_path.glob(".out*"))
