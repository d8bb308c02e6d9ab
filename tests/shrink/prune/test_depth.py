"""The action blocks: what is left computes what it did, and any loader takes it."""

import pytest
import torch
from torch import nn

from naive import plain_model
from products import each_kind
from treadle.core.checkpoint import CheckpointReader, read_manifest
from treadle.core.errors import SettingsError, UnsupportedModelError
from treadle.model import tiny
from treadle.model.resize import depth
from treadle.shrink.prune import BLOCK_SCORES, prune_blocks

TOKENS = torch.arange(30)[None] + 20
SIX = {"num_hidden_layers": 6}
OWN = {
    "smollm3": {"no_rope_layers": [1, 1, 0, 1, 0, 1]},
    "qwen2_moe": {"mlp_only_layers": [1, 4]},
}


class Nothing(nn.Module):
    """A block that is left out."""

    def forward(self, hidden, *args, **kwargs):
        return hidden


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("model_type", each_kind(tiny.CONFIGS))
def test_what_is_left_is_the_model_without_them(model_type, tiny_model, tmp_path):
    base = tiny_model(model_type, **SIX, **OWN.get(model_type, {}))
    result = prune_blocks(base, tmp_path / "out", by="any_block", num_blocks=2, seed=3)
    gone = [int(word.strip(",")) for word in result.notes[0].split() if word.strip(",").isdigit()]
    gone = gone[:2]
    whole, short = plain_model(base), plain_model(tmp_path / "out")
    blocks = next(m for m in whole.modules() if isinstance(m, nn.ModuleList) and len(m) == 6)
    for number in gone:
        blocks[number] = Nothing()
    with torch.no_grad():
        expected, found = (m(input_ids=TOKENS, use_cache=False).logits for m in (whole, short))
    assert torch.allclose(expected, found, atol=1e-4)
    left = [m for m in short.modules() if isinstance(m, nn.ModuleList) and len(m) == 4]
    assert left, "four blocks"


@pytest.mark.parametrize("score", BLOCK_SCORES.table)
def test_every_score_drops_what_is_worth_least_but_no_end(score, tiny_model, tmp_path):
    base = tiny_model("llama", **SIX)
    text = {"text": "stdlib:calibration", "num_windows": 2, "window_tokens": 32}
    more = text if BLOCK_SCORES[score].needs_states else {}
    result = prune_blocks(base, tmp_path / "out", by=score, sparsity=0.5, **more)
    assert result.measurement("blocks").value == 3
    assert result.is_control == (score == "any_block")
    assert result.deed == "3 of 6 blocks removed"
    values = result.figures[0].series[0].y
    with CheckpointReader(tmp_path / "out") as reader:
        assert reader.config["num_hidden_layers"] == 3
    if score == "shallow_first":
        assert result.notes == ["Dropped blocks 2, 3, 4 of 0 to 5."]
    worst = sorted(range(1, 5), key=lambda layer: values[layer])[:3]
    assert result.notes == [f"Dropped blocks {', '.join(map(str, sorted(worst)))} of 0 to 5."]
    assert read_manifest(tmp_path / "out").provenance.action == "blocks"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "add --text FILE"),
        ({"by": "shallow_first", "text": "stdlib:heldout"}, "looks at no text"),
        ({"by": "shallow_first", "num_blocks": 5}, r"5 of 6 blocks would go, and 1 to 4 can"),
        ({"by": "shallow_first", "sparsity": 0.1}, "0 of 6 blocks would go"),
        ({"by": "shallow_first", "num_blocks": 1, "sparsity": 0.5}, "Both sparsity and"),
        ({"by": "influenc", "text": "x"}, "Did you mean 'influence'"),
    ],
)
def test_what_cannot_be_done_is_refused(settings, says, tiny_model, tmp_path):
    with pytest.raises(SettingsError, match=says):
        prune_blocks(tiny_model("llama", **SIX), tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_a_config_that_says_by_number_what_a_block_does_is_found_out(tiny_model, tmp_path):
    base = tiny_model("smollm3", **SIX, **OWN["smollm3"])
    reader = depth.open_shallower(base, [0, 2, 5])
    reader.config = {**reader.config, "no_rope_layers": [1, 1, 1]}
    with pytest.raises(UnsupportedModelError, match=r"Block 2 of .* once it is block 1"):
        depth.require_same_blocks(base, reader, [0, 2, 5])
