"""A model with no past: from a config to weights as its architecture initialises them.

And a tokenizer with none, made of the texts that the model will read.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treadle.core.errors import UnsupportedModelError
from treadle.core.seed import stream_seed

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

__all__ = ["fresh_model", "fresh_tokenizer", "save_whole"]

_END = "<|end|>"


def fresh_model(config: dict[str, Any], seed: int) -> "PreTrainedModel":  # Any: JSON values
    """Return a causal language model of float32 weights in main memory, in evaluation mode.

    Each module's weights are drawn as its architecture draws them, from a stream of `seed` that is
    named after its first parameter, so that they depend on no other module. The random state of the
    process is left as it was; the whole model is held in memory.

    Args:
        config: As in config.json, with its `model_type`; what it lacks is the architecture's
            default.
        seed: Of the weights.

    Raises:
        UnsupportedModelError: transformers has no causal language model of that type, or refuses
            the config.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from treadle.model.load import auto_class

    fields = {key: value for key, value in config.items() if key != "model_type"}
    model_type = config.get("model_type", "")
    # Seeding reaches every device, so the state of every device is kept.
    with torch.random.fork_rng():
        try:
            if auto_class(model_type) != "AutoModelForCausalLM":
                raise ValueError("it has no causal language model")
            made = AutoConfig.for_model(model_type, **fields)
            built = AutoModelForCausalLM.from_config(made, dtype=torch.float32)
        except Exception as error:  # a config's class refuses in whatever way it likes
            raise UnsupportedModelError(
                f"transformers makes no model of this config (model_type '{model_type}'): {error}. "
                f"Mend the config, or name another model_type."
            ) from error
        _initialise(built, seed)
    model: PreTrainedModel = built.eval()
    return model


def _initialise(model: "PreTrainedModel", seed: int) -> None:
    """Draw module by module, the inner ones first: some architectures scale what these hold."""
    import torch

    for name, module in reversed(list(model.named_modules())):
        own = next((own for own, _ in module.named_parameters(recurse=False)), "")
        torch.manual_seed(stream_seed(seed, f"{name}.{own}"))
        with torch.no_grad():
            model._init_weights(module)


def fresh_tokenizer(texts: Iterable[str], vocab_size: int) -> "PreTrainedTokenizerFast":
    """Return a byte-level BPE tokenizer made from texts, in which every digit is a token.

    Args:
        texts: What its merges are counted in.
        vocab_size: Most tokens; few texts give fewer. 256 are the bytes, and one ends a text.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([digits, plain])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=_END, pad_token=_END)


def save_whole(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: Path
) -> None:
    """Write a model that is in memory, and its tokenizer, into `folder`, as they are published."""
    from transformers.utils import logging

    has_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model.save_pretrained(folder, save_original_format=True)
        tokenizer.save_pretrained(folder)
    finally:
        if has_bars:
            logging.enable_progress_bar()
