"""What tests of vocabularies share; not a test itself."""

from collections.abc import Callable

from treadle.combine.merge.recipe.grammar import ModelRef
from treadle.combine.merge.tokens.lenders import Lender
from treadle.core.checkpoint import CheckpointReader

NAME = "model.embed_tokens.weight"
A, B, C = ModelRef("a"), ModelRef("b"), ModelRef("c")
Make = Callable[..., CheckpointReader]
Pairs = list[tuple[ModelRef, CheckpointReader]]


def lenders(pairs: Pairs) -> list[Lender]:
    return [Lender(ref, reader) for ref, reader in pairs]
