"""The model as its own draft, without some blocks."""

import numpy as np
import pytest
import torch

from naive import plain_model, tokens_of
from runtime.flat import pool_of, rows_of
from treadle.core.errors import SettingsError
from treadle.core.simulate import VirtualClock
from treadle.native.loader import library
from treadle.runtime import LLM, SamplingParams
from treadle.runtime.draft.base import DraftTarget
from treadle.runtime.draft.tables import DRAFTERS
from treadle.runtime.native_step.llama import LlamaStep
from treadle.runtime.native_step.skipped import without_blocks
from treadle.runtime.transformers_step.generic import GenericExecutor

needs_kernel = pytest.mark.skipif(library("step") is None, reason="needs a C compiler")


@needs_kernel
@pytest.mark.parametrize("kind", ["llama", "gemma2"])
@pytest.mark.parametrize("blocks", [(0,), (1, 3)])
def test_it_computes_what_the_blocks_that_are_left_compute(kind, blocks, tiny_model):
    folder = tiny_model(kind, num_hidden_layers=4)
    step = LlamaStep(folder, "fp32", 1)
    own = without_blocks(step, blocks)
    model = plain_model(folder)
    (tokens,) = tokens_of(1, 30).tolist()
    whole = step.forward(rows_of([(tokens, 0, list(range(4)))]), pool_of(step))
    types = getattr(model.config, "layer_types", None)
    kept = [n for n in range(4) if n not in blocks]
    model.model.layers = torch.nn.ModuleList(model.model.layers[n] for n in kept)
    if types is not None:
        model.config.layer_types = [types[n] for n in kept]
    model.config.num_hidden_layers = len(kept)
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].numpy()
    found = own.forward(rows_of([(tokens, 0, list(range(4)))]), pool_of(own))
    np.testing.assert_allclose(found, expected, atol=1e-3)
    own.close()  # the whole one goes on
    again = step.forward(rows_of([(tokens, 0, list(range(4)))]), pool_of(step))
    assert np.array_equal(again, whole)
    step.close()


@needs_kernel
@pytest.mark.parametrize("kind", [{"temperature": 0}, {"temperature": 0.8, "seed": 2}])
def test_answers_are_those_without(kind, llama):
    step = LlamaStep(llama, "fp32", 1)
    params = SamplingParams(max_tokens=16, ignore_eos=True, **kind)
    prompts = tokens_of(3, 20, seed=3).tolist()

    def answered(speculate):
        engine = LLM(
            *(llama,), executor=step, cache_bytes=2**20, clock=VirtualClock(), speculate=speculate
        )
        answers = [out.outputs[0].token_ids for out in engine.generate(prompts, params)]
        return answers, engine.load_report().drafted

    plain, _ = answered("none")
    last = step.shape.num_layers - 1
    found, drafted = answered({"method": "skip", "blocks": (last,)})
    assert found == plain
    assert drafted.num_drafted > 0 or kind["temperature"]  # draws of a tiny model differ soon
    step.close()


@needs_kernel
def test_what_cannot_be_skipped_is_refused(llama):
    step = LlamaStep(llama, "fp32", 1)
    count = step.shape.num_layers
    for blocks, word in (([count], f"block {count}"), (list(range(count)), "all blocks")):
        with pytest.raises(SettingsError, match=f"{word} to be skipped of a model with {count}"):
            without_blocks(step, blocks)
    step.close()
    generic = GenericExecutor.from_folder(llama)
    with pytest.raises(SettingsError, match="Blocks are skipped in the native step"):
        LLM(llama, executor=generic, speculate={"method": "skip", "blocks": [0]})
    with pytest.raises(SettingsError, match="blocks"):
        DRAFTERS.resolve({"method": "skip", "blocks": []})
    with pytest.raises(SettingsError, match="This engine loads no drafting model"):
        DRAFTERS.resolve({"method": "skip", "blocks": [0]}).open(DraftTarget(10))
