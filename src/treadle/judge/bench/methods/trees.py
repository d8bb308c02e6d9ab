"""Trees: what it costs to decode a recorded tree, by each way to attend over it."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from treadle.core.method import Paper
from treadle.core.ports import Generator
from treadle.judge.bench.base import Benchmark, Outcome
from treadle.judge.bench.distinct import distinct

__all__ = ["Trees"]

Mode = Literal["flatten", "cascade", "node", "node_chunk", "path", "dense", "auto"]


class Trees(Benchmark):
    """Replay a recorded tree with every mode of attention, and count what each of them moves.

    The bytes are counted over all trees of the file, exactly and as DeFT's repository does; beside
    them one tree is decoded, and some of its steps run in every mode one after the other, so that
    their seconds are paired and their logits can be compared. Table 1 and section 4 of the paper.

    Paper: DeFT: Decoding with Flash Tree-Attention, Yao et al., 2025.
    """

    name: ClassVar[str] = "trees"
    paper = Paper(
        "DeFT: Decoding with Flash Tree-Attention for Efficient Tree-structured LLM Inference",
        2025,
        "https://arxiv.org/abs/2404.00242",
    )
    repeats_prompts: ClassVar[bool] = True

    tree: Path
    """JSON file of recorded trees: DeFT's, or plain ones ({prompt, nodes: [{parent, tokens}]})."""
    number: Annotated[int, Field(ge=0)] = 0
    """Which tree of the file is decoded."""
    pad_tokens: Annotated[int, Field(ge=1)] | None = None
    """Tokens to which the prompt is repeated; unless given, those that it was recorded with."""
    modes: Annotated[tuple[Mode, ...], Field(min_length=1), AfterValidator(distinct)] = (
        *("path", "flatten", "cascade", "node", "node_chunk", "dense"),
    )
    """Ways to attend; the first is what the others are compared with."""
    most_steps: Annotated[int, Field(ge=0)] = 32
    """Steps that run in every mode, evenly over the tree; 0 only counts."""

    def measure(self, model: Generator, seed: int) -> Outcome:
        """Return bytes by mode over the file, and seconds by mode of one tree."""
        from treadle.judge.bench.replayed import replayed

        return replayed(self, model)
