"""Samples that a user brings: prompts with their answers."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from treadle.core.errors import DataError
from treadle.core.seed import numpy_stream
from treadle.core.table.questions import read_lines
from treadle.model.text import puts_bos
from treadle.shrink.sparsify.samples import Sample

if TYPE_CHECKING:
    from treadle.model.classes import Tokenizer

__all__ = ["Pairs", "pairs_in"]

_FORM = '{"prompt": "...", "answer": "..."} (texts, or lists of token ids)'


class Pairs(NamedTuple):
    """Samples in the order in which they are learned, and those that are held out."""

    learned: list[Sample]
    held: list[Sample]


class _Pair(NamedTuple):
    prompt: str | list[int]
    answer: str | list[int]


def pairs_in(
    file: Path, tokenizer: "Tokenizer", num_tokens: int, num_samples: int, num_held: int, seed: int
) -> tuple[Pairs, str]:
    """Return samples of a JSONL file, shuffled, and its text.

    Args:
        file: Lines of a prompt and an answer each.
        tokenizer: Of the model.
        num_tokens: Most tokens of a sample; longer ones are left out.
        num_samples: How many are taken.
        num_held: Of these, how many are held out.
        seed: Of the order.

    Raises:
        DataError: The file is missing or damaged, or has too few samples of that length.
    """
    found, text = read_lines(file, _pair, _FORM)
    bos = [int(tokenizer.bos_token_id)] if puts_bos(tokenizer, "auto") else []
    samples = [_sample(pair, tokenizer, bos) for pair in found]
    fitting = [sample for sample in samples if len(sample.tokens) <= num_tokens]
    if len(fitting) < num_samples:
        longest = max(len(sample.tokens) for sample in samples)
        raise DataError(
            f"'{file}' has {len(fitting)} pairs of at most {num_tokens} tokens (of {len(samples)}; "
            f"the longest has {longest}), and num_samples = {num_samples}; give more, raise "
            f"--sample-tokens, or lower --num-samples."
        )
    order = numpy_stream(seed, "pairs").permutation(len(fitting))[:num_samples]
    drawn = [fitting[place] for place in order]
    return Pairs(drawn[num_held:], drawn[:num_held]), text


def _pair(line: Any) -> _Pair:  # Any: JSON values
    if not isinstance(line, Mapping):
        raise TypeError("no object")
    return _Pair(*(_part(line[name], name) for name in ("prompt", "answer")))


def _part(value: Any, name: str) -> str | list[int]:  # Any: JSON values
    is_ids = isinstance(value, list) and all(type(one) is int and one >= 0 for one in value)
    if not value or not (is_ids or isinstance(value, str)):
        raise ValueError(f"{name} is neither a text nor a list of token ids, or it is empty")
    found: str | list[int] = value
    return found


def _sample(pair: _Pair, tokenizer: "Tokenizer", bos: list[int]) -> Sample:
    """Return a pair as tokens; a text begins as the model's texts do, token ids as they are."""
    parts = [
        part if isinstance(part, list) else list(tokenizer.encode(part, add_special_tokens=False))
        for part in pair
    ]
    prompt = parts[0] if isinstance(pair.prompt, list) else [*bos, *parts[0]]
    tokens = np.asarray([*prompt, *parts[1]], np.int32)
    return Sample("pair", tokens, len(prompt))
