"""How rotary factors follow from a text's length: what configs promise, and what modules do."""

import pytest
import torch

from naive import plain_model
from runtime.rope_models import HEAD_DIM, ROPES, overrides, parameters
from treadle.core.errors import UnsupportedModelError
from treadle.model import facts
from treadle.model.rope import RopeLengths, RotaryFactors

FIRST, LONGEST = 64, 256


def folder_of(tiny_model, model_type="llama", **more):
    own = {**overrides(model_type, "dynamic"), "max_position_embeddings": FIRST, **more}
    return tiny_model(model_type, **own)


@pytest.mark.parametrize(
    ("rope", "longest"),
    [
        ({"rope_type": "dynamic", "factor": 2.5}, 160),
        ({"type": "dynamic", "factor": 2}, 128),
        ({"rope_type": "dynamic", "factor": 4, "original_max_position_embeddings": 16}, 64),
        ({"rope_type": "dynamic", "factor": 8, "original_max_position_embeddings": 16}, 128),
        ({"rope_type": "dynamic", "factor": 4.0, "alpha": 1000.0}, 64),
        ({"rope_type": "dynamic", "factor": float("inf")}, 64),
        ({"rope_type": "dynamic", "factor": None}, 64),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, 256),
        ({"rope_type": "yarn", "factor": 4.0}, 64),
        ({"rope_type": "linear", "factor": 4.0}, 64),
        ({"rope_type": "default"}, 64),
        (None, 64),
    ],
)
def test_the_length_that_a_config_promises(rope, longest):
    assert facts.context_length({"max_position_embeddings": 64, "rope_parameters": rope}) == longest
    assert facts.context_length({"max_position_embeddings": 64, "rope_scaling": rope}) == longest


class _Remembers(torch.nn.Module):
    """As InternLM2's own code does it: what a long text set stays for short ones."""

    def __init__(self, first, hides=False):
        super().__init__()
        self.first, self.hidden = first, [None] if hides else None
        self.register_buffer("inv_freq", self.frequencies(10_000.0), persistent=False)

    @staticmethod
    def frequencies(base):
        return 1.0 / (base ** (torch.arange(0, HEAD_DIM, 2).float() / HEAD_DIM))

    def forward(self, x, position_ids):
        length = int(position_ids.max()) + 1
        if length > self.first:
            self.inv_freq = self.frequencies(10_000.0 * (4 * length / self.first - 3) ** 1.1)
            if self.hidden is not None:
                self.hidden[0] = self.inv_freq
        frequencies = self.inv_freq
        if self.hidden is not None and self.hidden[0] is not None:
            frequencies = self.hidden[0]
        turned = position_ids[..., None].float() * frequencies
        both = torch.cat((turned, turned), -1)
        return both.cos(), both.sin()


def test_rotary_embeddings_of_a_checkpoints_own_code(tiny_model):
    model = plain_model(folder_of(tiny_model))
    model.model.rotary_emb = _Remembers(FIRST)
    factors = RotaryFactors(model)
    assert factors.lengths == RopeLengths((), FIRST)
    places = torch.arange(90)[None]
    values = torch.zeros(1)
    right = [_Remembers(FIRST)(values, position_ids=places[:, :n]) for n in (90, 70, 40)]
    for length, turned in zip((90, 70, 40), right, strict=True):
        regimes = torch.full((length,), factors.lengths.regime(length))
        with factors.by_text(regimes):
            found = model.model.rotary_emb(values, position_ids=places[:, :length])
        assert all(torch.equal(one, other) for one, other in zip(found, turned, strict=True))
    model.model.rotary_emb = _Remembers(FIRST, hides=True)
    with pytest.raises(UnsupportedModelError, match="what it remembers is not found"):
        RotaryFactors(model)


def test_dynamic_factors_that_nobody_can_follow_are_refused(tiny_model):
    class Hidden(torch.nn.Module):
        def forward(self, values, places):
            raise NotImplementedError

    model = plain_model(folder_of(tiny_model))
    model.model.rotary_emb = Hidden()
    with pytest.raises(UnsupportedModelError, match="has dynamic rotary factors, and it has no"):
        RotaryFactors(model)
    kinds = ["sliding_attention", "full_attention"]
    both = {kinds[0]: parameters("longrope", bound=20), kinds[1]: parameters("dynamic")}
    mixed = plain_model(
        folder_of(tiny_model, "gemma3_text", layer_types=kinds, rope_parameters=both)
    )
    with pytest.raises(UnsupportedModelError, match=r"beyond \[64\] tokens and by a second set"):
        RotaryFactors(mixed)


def test_a_rope_type_that_nobody_knows_is_tried(tiny_model):
    model = plain_model(folder_of(tiny_model))
    model.model.rotary_emb = _Remembers(FIRST // 2)
    model.model.rotary_emb.rope_type = "newer"
    with pytest.raises(UnsupportedModelError, match="texts of 2 and 64 tokens by other factors"):
        RotaryFactors(model)
    model.model.rotary_emb = _Remembers(FIRST)
    model.model.rotary_emb.rope_type = "newer"
    assert RotaryFactors(model).lengths == RopeLengths((), FIRST)


def test_every_rope_type_of_transformers_has_its_test():
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    assert {*ROPE_INIT_FUNCTIONS, "default"} == set(ROPES)


def test_notes_on_windows_count_what_factors_stretch():
    config = {"model_type": "llama", "max_position_embeddings": 64}
    stretched = {**config, "rope_scaling": {"type": "dynamic", "factor": 4.0}}
    assert len(facts.position_notes(config, 100)) == 1
    assert facts.position_notes(stretched, LONGEST) == []
    (note,) = facts.position_notes(stretched, LONGEST + 1)
    assert "model's 256 positions (max_position_embeddings, stretched by its rotary" in note
