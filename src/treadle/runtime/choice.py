"""Which executor runs a model: the native step where it can and agrees, else the generic one."""

import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

from treadle.core.checkpoint.described import read_config, refuse_bundle
from treadle.core.errors import CapacityError, SettingsError, UnsupportedModelError
from treadle.core.hardware import available_memory_bytes
from treadle.model.facts import base_config
from treadle.model.load import resolve
from treadle.model.source import open_model
from treadle.native import SlowPathWarning
from treadle.runtime import agreed
from treadle.runtime.cache.pages import KeyValues, PagePool, page_bytes
from treadle.runtime.draft.model_settings import DraftModelSettings
from treadle.runtime.executor import Executor, Floats, StepRows
from treadle.runtime.linear.held import HeldWeights
from treadle.runtime.linear.packed import AUTO, require_form
from treadle.runtime.logits import require_sound
from treadle.runtime.native_step.described import Described, from_note, to_note
from treadle.runtime.native_step.llama import LlamaStep
from treadle.runtime.native_step.names import LLAMA_LIKE
from treadle.runtime.native_step.skipped import without_blocks
from treadle.runtime.price import Price, RoundedWeightsWarning, price_of, tell_price
from treadle.runtime.prompts import Prompts
from treadle.runtime.settings import EngineSettings
from treadle.runtime.speculate.model_drafts import ModelDrafts
from treadle.runtime.typed import whole

__all__ = [
    "Agreement",
    "agreement",
    "choose_executor",
    "draft_model",
    "executor_for",
    "generic_executor",
]

_NUM_TOKENS = 24
_PAGE_SIZE = 16
_NUM_COMPARED = 4096
"""Tokens of two vocabularies that are compared by name, evenly over them."""
_DRAWS = 4
"""Draws of tokens, one of which must agree where matrices are codes: on some random tokens a pruned
model's attention tips over at the least noise (0.76 of the spread in q8, and 0.06 to 0.43 on the
next three draws). A wrong formula is wrong on all."""
_MOST_APART = {"fp32": 1e-3, "fp16": 0.1}
"""Largest difference of a logit that counts as agreement."""
_ORDER_NOISE = 1e-4
"""Noise that other orders of summation explain where logits are large (2.6e-5 on a SmolLM2 pruned
to half, whose logits differed by 1.2e-3; 5e-6 on the dense one)."""
_HALF_NOISE = 0.02
"""Noise of weights that are rounded to float16 (0.0045 on SmolLM2 from float32); a wrong formula
is 20 times as far away."""
_MOST_NOISE = {"q8": 0.5, "q4_0": 1.0, "q4_1": 1.0}
"""Of weights rounded here: the noise in the logits, as a fraction of their spread. Random tokens
are harder than text (q8 gave 0.15 on a pruned SmolLM2), and a wrong formula gives about 1.4."""
_MOST_NOISE_OF_CHOICES = 0.2
"""Of mixtures in fp16: rounding tips the choice of a few experts over."""
_MOST_NOISE_AS_STORED = 0.3
"""Of codes as they are stored: the model beside it has the same weights, so that activations of 8
bits are all the noise (0.095 on SmolLM2 in Q4_1, 0.02 on tiny models)."""


class Agreement(NamedTuple):
    """How close the native step is to transformers on a few tokens."""

    largest: float
    """Largest difference of a logit."""
    noise_fraction: float
    """Root mean square of the differences over the logits' standard deviation."""
    is_mixture: bool = False
    """Whether tokens choose their experts."""

    def holds(self, weights: HeldWeights) -> bool:
        """Say whether the difference is what the form of the weights explains."""
        if weights.is_rounded:
            return self.noise_fraction < max(_MOST_NOISE.get(f, 0.0) for f in weights.forms)
        if weights.forms <= _MOST_APART.keys():
            limit = max(_MOST_APART[form] for form in weights.forms)
            most_noise = _ORDER_NOISE
            if "fp16" in weights.forms:
                most_noise = _MOST_NOISE_OF_CHOICES if self.is_mixture else _HALF_NOISE
            return self.largest < limit or self.noise_fraction < most_noise
        return self.noise_fraction < _MOST_NOISE_AS_STORED


def _first_that_holds(folder: Path, native: LlamaStep) -> Agreement:
    """Return the first agreement that holds, else the last.

    Exact forms have one draw, but for mixtures, whose choices may tie.
    """
    is_exact = native.weights.forms <= _MOST_APART.keys() and not native.described.top_k
    for draw in range(1 if is_exact else _DRAWS):
        found = agreement(folder, native, draw)
        if found.holds(native.weights):
            break
    return found


def choose_executor(
    folder: Path,
    weights: str = AUTO,
    num_threads: int | None = None,
    trust_remote_code: bool = False,
) -> Executor:
    """Return the native step, if it computes the model and agrees with transformers' blocks.

    Otherwise return the generic executor, with a warning that names the reason. What agreed once is
    not compared again while the content of its files and the kernel stay the same, and neither
    torch nor transformers' modelling is imported for it.

    Args:
        folder: A model folder, or a GGUF file.
        weights: auto, fp32, fp16, q8, q4_0 or q4_1.
        num_threads: Of the native step; None for the physical cores.
        trust_remote_code: Whether code from the checkpoint may run.

    Raises:
        SettingsError: The generic executor has to run the model, which it does in fp32 only; or a
            setting is refused.
        CheckpointError: The model computes no numbers.
        UnsupportedModelError: The folder holds several models.
    """
    refuse_bundle(folder)
    form = require_form(weights)
    if num_threads is not None:
        num_threads = whole("num_threads", num_threads, 1)
    signature = agreed.sign(folder, form) if _may_be_native(folder) else ""
    is_known = agreed.is_known(signature)
    known = from_note(agreed.description_of(signature)) if is_known else None
    try:
        native = LlamaStep(folder, form, num_threads, known)
    except UnsupportedModelError as error:
        reason = str(error)
    else:
        found = None if is_known else _first_that_holds(folder, native)
        if found is None or found.holds(native.weights):
            _remember(signature, native.described, is_known, known is not None)
            _tell_price(folder, native, signature)
            return native
        native.close()
        reason = (
            f"The native step disagrees with transformers on '{folder}' (largest difference "
            f"{found.largest:.2g}, noise {found.noise_fraction:.2g} of the spread); please report "
            f"this model."
        )
    if form not in (AUTO, "fp32"):
        raise SettingsError(
            f"{reason} The generic executor has no weights in {form}; leave weights at auto."
        )
    # First, so that a model that nothing can run is refused without a word of another way.
    generic = generic_executor(folder, "cpu", trust_remote_code)
    warnings.warn(f"{reason} Running through transformers: slower.", SlowPathWarning, stacklevel=2)
    return generic


def _may_be_native(folder: Path) -> bool:
    """Say whether it is worth while to read all of a model's files, by its config alone."""
    file = folder / "config.json"
    return not file.is_file() or base_config(read_config(file)).get("model_type") in LLAMA_LIKE


def _remember(signature: str, described: Described, is_known: bool, is_described: bool) -> None:
    """Note that a model agreed and what transformers says of it, where that is new."""
    if not is_known:
        agreed.remember(signature)
    said = None if is_described else to_note(described)
    if said is not None:
        agreed.remember_description(signature, said)


def _tell_price(folder: Path, native: LlamaStep, signature: str) -> None:
    """Say what the form of its weights costs a model; what was measured is remembered."""
    if native.weights.forms <= _MOST_APART.keys():
        return
    noted = agreed.price_of(signature)
    if noted is None:
        price = price_of(folder, native)
        agreed.remember_price(signature, [float(value) for value in price])
    else:
        price = Price(noted[0], int(noted[1]), noted[2] > 0)
    tell_price(price, folder, native.weights)


def generic_executor(folder: Path, device: str, trust_remote_code: bool = False) -> Executor:
    """Return the step through transformers.

    What it took to be sure of (`transformers_step.isolation`) is not tried again while the model's
    files and transformers stay as they are.

    Raises:
        SettingsError: There is no such device.
        UnsupportedModelError: Its attention cannot be paged, or texts would share more than that.
        CheckpointError: The model computes no numbers.
    """
    from treadle.runtime.transformers_step.generic import GenericExecutor

    signature = agreed.sign_states(folder, f"transformers {version('transformers')}")
    is_known = agreed.is_known(signature)
    generic = GenericExecutor.from_folder(folder, device, trust_remote_code, is_known)
    if not is_known:
        agreed.remember(signature)
    return generic


_READ_ALIKE = "The quick brown fox, 3.14 + 2e-7; def f(x):\n\treturn [x] # naïve 日本 🙂 <|end|>"
"""A text that other tokenizers cut otherwise: words, numbers, blanks, signs, bytes."""


def draft_model(
    target: Executor, prompts: Prompts, settings: EngineSettings, method: DraftModelSettings
) -> ModelDrafts:
    """Return a model that drafts for another one.

    Args:
        target: What is drafted for.
        prompts: Of the target.
        settings: Of its engine.
        method: Names the model.

    Raises:
        SettingsError: It has another vocabulary or tokenizer, or more bytes of weights.
    """
    if method.blocks:
        if not isinstance(target, LlamaStep):
            raise SettingsError(
                "Blocks are skipped in the native step, and this model runs through transformers; "
                "choose suffix, ngram or recycling, or a drafting model."
            )
        executor: Executor = without_blocks(target, method.blocks)
    else:
        executor = _drafting_model(target, prompts, settings, method)
    shape, num_pages = executor.shape, -(-method.cache_tokens // _PAGE_SIZE)
    needed = num_pages * page_bytes(shape.kv_heads, shape.head_dim, _PAGE_SIZE, "fp16")
    if needed > available_memory_bytes():
        raise CapacityError(
            f"A cache of cache_tokens={method.cache_tokens} for the drafting model takes {needed} "
            f"bytes, more than the {available_memory_bytes()} that are free here; lower it."
        )
    store = KeyValues(shape.kv_heads, shape.head_dim, num_pages, _PAGE_SIZE, "fp16")
    return ModelDrafts(executor, PagePool(store), method.most_tokens, method.verification)


def _drafting_model(
    target: Executor, prompts: Prompts, settings: EngineSettings, method: DraftModelSettings
) -> Executor:
    """Load a model of the same vocabulary and tokenizer that has no more weights."""
    folder = resolve(method.path, takes_files=True)
    with warnings.catch_warnings():  # what rounding costs it changes no answer
        warnings.simplefilter("ignore", RoundedWeightsWarning)
        executor = choose_executor(
            folder, method.weights, settings.num_threads, settings.trust_remote_code
        )
    found, expected = executor.shape.vocab_size, target.shape.vocab_size
    other = (
        "choose a smaller model of the same vocabulary, such as the model itself pruned or in 4 "
        "bits ({'method': 'model', 'path': FOLDER, 'weights': 'q4_0'}), or speculate='suffix'"
    )
    if found != expected:
        raise SettingsError(
            f"The drafting model '{method.path}' has {found} tokens in its vocabulary, and the "
            f"model that it is to draft for {expected}; {other}."
        )
    own = Prompts(folder, executor.shape)
    if own.has_tokenizer and prompts.has_tokenizer:
        texts = [reader(_READ_ALIKE).input_ids for reader in (own.reader, prompts.reader)]
        known = range(0, expected, max(1, expected // _NUM_COMPARED))
        names = [
            [reader.convert_ids_to_tokens(token) for token in known]
            for reader in (own.reader, prompts.reader)
        ]
        if list(texts[0]) != list(texts[1]) or names[0] != names[1]:
            raise SettingsError(
                f"The drafting model '{method.path}' has a tokenizer that reads texts otherwise "
                f"than that of the model that it is to draft for; {other}."
            )
    sizes = [int(getattr(one, "weight_bytes", 0)) for one in (executor, target)]
    if sizes[0] > sizes[1] > 0:
        raise SettingsError(
            f"The drafting model '{method.path}' has {sizes[0]} bytes of weights, more than the "
            f"{sizes[1]} of the model that it is to draft for, and so cannot be faster; {other}."
        )
    return executor


def agreement(folder: Path, native: LlamaStep, draw: int = 0) -> Agreement:
    """Compare the logits of a few tokens with those of transformers' blocks, one at a time.

    The tokens are compared as the start of a text in each of the model's regimes (`model.rope`).

    Raises:
        CheckpointError: The model computes no numbers, or the same for all tokens.
    """
    lengths = native.shape.rope_lengths
    num_tokens = lengths.within_first(_NUM_TOKENS)
    tokens = np.random.default_rng(draw).integers(0, native.shape.vocab_size, num_tokens)
    regimes: Sequence[int] = range(len(lengths.bounds) + 1)
    if (
        lengths.dynamic_from is not None
    ):  # every length is one: the first and the last stand for all
        regimes = (0, 1, lengths.regime(native.shape.max_positions))
    expected = _expected(folder, tokens, regimes)
    require_sound(expected, folder, "fp32")
    found = np.concatenate([_found(native, tokens.astype(np.int32), r) for r in regimes])
    if native.weights.forms != {"fp32"}:
        require_sound(found, folder, ", ".join(sorted(native.weights.forms)))
    apart = np.abs(found - expected)
    noise = float(np.sqrt((apart.astype(np.float64) ** 2).mean()) / expected.std())
    return Agreement(float(apart.max()), noise, native.described.top_k > 0)


def _found(native: LlamaStep, tokens: np.ndarray, regime: int) -> Floats:
    count, shape = len(tokens), native.shape
    num_pages = -(-count // _PAGE_SIZE)
    pool = KeyValues(shape.kv_heads, shape.head_dim, num_pages, _PAGE_SIZE, "fp32")
    places, pages = np.arange(count, dtype=np.int32), np.arange(num_pages, dtype=np.int32)
    starts, context = np.array([0, count], np.int32), np.array([count], np.int32)
    page_starts = np.array([0, num_pages], np.int32)
    text = np.array([max(count, shape.rope_lengths.first_place(regime) + 1)], np.int32)
    rows = StepRows(
        *(tokens, places, places, starts, context, page_starts, pages, places), text_lengths=text
    )
    return native.forward(rows, pool)


def _expected(folder: Path, tokens: np.ndarray, regimes: Sequence[int]) -> Floats:
    import torch

    from treadle.model.layers import LayeredModel

    rows = torch.from_numpy(tokens.astype(np.int64))[None]
    with open_model(folder) as reader, torch.no_grad():
        model = LayeredModel(reader)
        found = []
        for regime in regimes:
            hidden = model.embed(rows, regime)
            for layer in range(model.num_layers):
                with model.block(layer) as block:
                    model.run(block, layer, hidden)
            found.append(model.logits(rows, hidden)[0].float())
    logits: Floats = torch.cat(found).numpy()
    return logits


def executor_for(folder: Path, chosen: EngineSettings) -> Executor:
    """Return what computes a model on the device, and in the form, that settings say.

    Raises:
        SettingsError: The device does not hold weights in this form.
    """
    found = _executor_on(folder, chosen)
    if isinstance(found, LlamaStep) or hasattr(found, "tree_attention"):
        found.tree_attention = chosen.tree_attention
    return found


def _executor_on(folder: Path, chosen: EngineSettings) -> Executor:
    if chosen.device == "cpu":
        return choose_executor(folder, chosen.weights, chosen.num_threads, chosen.trust_remote_code)
    if chosen.weights not in (AUTO, "fp32"):
        raise SettingsError(
            f"weights = '{chosen.weights}' is for the CPU; leave it at auto on {chosen.device}."
        )
    return generic_executor(folder, chosen.device, chosen.trust_remote_code)
