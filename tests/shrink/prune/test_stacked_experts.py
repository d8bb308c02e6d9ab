"""Experts that lie on each other in one tensor are pruned as those of a tensor each."""

from pathlib import Path

import pytest
import torch

from naive import all_matrices, plain_losses, plain_model, tokens_of, weights_of
from products import few
from shrink.prune.runs import needs_text, run
from treadle.core.checkpoint import CheckpointReader
from treadle.core.errors import CheckpointError
from treadle.model import facts
from treadle.shrink.prune import METRICS

MIXTURES = sorted(name for name, fact in facts.ARCHITECTURES.items() if fact.num_experts)


def by_role(folder: Path) -> dict[tuple[int, str, str], torch.Tensor]:
    weights = weights_of(folder)
    return {(m.layer, m.input, m.role): weights[m.name] for m in all_matrices(folder)}


WAYS = [(m, p) for m in METRICS.table for p in ("rows", "2:4", "global", "neurons")]


@pytest.mark.parametrize("way", few(WAYS, ("wanda", "rows"), ("magnitude", "neurons")))
@pytest.mark.parametrize("model_type", few(MIXTURES, "mixtral", "qwen2_moe"))
def test_both_forms_give_the_same_weights(
    way: tuple[str, str], model_type: str, tiny_model, text: str, tmp_path: Path
) -> None:
    metric, pattern = way
    options = {"pattern": pattern} | ({"update": "none"} if pattern == "neurons" else {})
    needs = METRICS.resolve(metric).needs if pattern == "neurons" else needs_text(metric)
    options |= {"text": text} if needs else {}
    found = {}
    for is_stacked in (False, True):
        folder = tiny_model(model_type, is_stacked=is_stacked)
        out = tmp_path / str(is_stacked)
        result = run(folder, out, metric, sparsity=0.5, **options)
        (sparsity,) = (m.value for m in result.measurements if m.name == "sparsity")
        found[is_stacked] = by_role(out), sparsity, plain_model(out)
    (single, sparsity, plain), (stacked, stacked_sparsity, module) = found[False], found[True]
    assert stacked_sparsity == sparsity
    assert single.keys() == stacked.keys()
    if metric == "random":  # its draws are named after tensors
        assert all(stacked[key].shape == weight.shape for key, weight in single.items())
        return
    for key, weight in single.items():
        assert torch.equal(stacked[key], weight), key
    tokens = tokens_of(2, 20)
    torch.testing.assert_close(plain_losses(plain, tokens), plain_losses(module, tokens))


def test_experts_that_the_config_does_not_count(tiny_model, tmp_path: Path) -> None:
    folder = tiny_model("mixtral", is_stacked=True)
    with CheckpointReader(folder) as reader:
        shapes = {name: info.shape for name, info in reader.tensors.items()}
        config = reader.config
    with pytest.raises(CheckpointError, match=r"shape \[4, 192, 64\], but .* 3 experts"):
        facts.linears({**config, "num_local_experts": 3}, 0, shapes)
    both = {**shapes, "model.layers.0.block_sparse_moe.experts.1.w1.weight": (96, 64)}
    with pytest.raises(CheckpointError, match="stored twice"):
        facts.linears(config, 0, both)
    del shapes["model.layers.0.mlp.experts.down_proj"]
    with pytest.raises(CheckpointError, match=r"experts.down_proj' is missing"):
        facts.linears(config, 0, shapes)
