"""A zoo of tiny models and what they are asked; not a test itself."""

from pathlib import Path
from typing import NamedTuple

from treadle.combine.merge.glue.items import Item, encoded
from treadle.core.checkpoint import CheckpointReader
from treadle.core.result import Result
from treadle.model.load import load_tokenizer
from treadle.model.scoring import BlockScorer


class Zoo(NamedTuple):
    kin: list[Path]
    """Three variants of one base; the last one is mostly noise."""
    foreign: Path
    """Of the same shape, from other random weights."""
    other: Path
    """Of another architecture."""
    questions: list[Path]
    """Two files: what the first of the kin, and what the foreign model would say."""


def losses_of(model: Path, items: list[Item]) -> list[float]:
    """What a model on disk loses on each item."""
    rows = encoded(load_tokenizer(model), items, None)
    with CheckpointReader(model) as reader:
        losses = BlockScorer(reader).token_losses([row.tokens for row in rows])
    pairs = zip(losses, rows, strict=True)
    return [float(one[row.first - 1 :].double().sum()) for one, row in pairs]


def data(zoo: Zoo) -> list[str]:
    return [str(file) for file in zoo.questions]


def value(result: Result, name: str) -> float:
    return result.measurement(name).value
