"""Draw several answers and take what most of them come to."""

import re
from collections import Counter
from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from treadle.core.method import Paper
from treadle.runtime.decode.base import Controller, Surroundings, TreeWalk
from treadle.runtime.decode.sampled import SampledWalk, TokenDraws
from treadle.runtime.decode.tree import TokenTree

__all__ = ["SelfConsistency"]


class SelfConsistency(Controller):
    """Draw n answers, find in each what it comes to, and take what comes most often.

    Section 2: argmax over a of sum_i 1(a_i = a), where a_i is found in the i-th text by a pattern
    or the caller's own function. Of those that agree, the most probable one stands for all; of
    equally frequent ones, the one whose texts are more probable in all. Texts without an answer do
    not vote. We differ in that no two texts begin with the same token, unless `is_distinct` is off.

    Paper: Self-Consistency Improves Chain of Thought Reasoning in Language Models, Wang et al.,
    2022.
    """

    name: ClassVar[str] = "self_consistency"
    paper = Paper(
        "Self-Consistency Improves Chain of Thought Reasoning in Language Models",
        2022,
        "https://arxiv.org/abs/2203.11171",
    )
    waits: ClassVar[bool] = False

    n: Annotated[int, Field(ge=1)] = 8
    """Answers that are drawn."""
    pattern: str = r"-?\d[\d,]*(?:\.\d+)?"
    """Regular expression of what a text comes to: its last match, of that the first group if there
    is one; the default finds the last number."""
    temperature: Annotated[float, Field(ge=0.0, le=1e6)] = 0.7
    """Divides the logits."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Draw among the most probable tokens that together reach this probability."""
    stop: tuple[str, ...] = ()
    """Strings with which an answer ends; they stay part of it."""
    is_distinct: bool = True
    """Whether no two texts begin with the same token; fewer come where there are fewer."""

    @field_validator("pattern")
    @classmethod
    def _check_pattern(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"expected a regular expression ({error})") from error
        return pattern

    def unused(self, has_scorer: bool, has_extract: bool) -> str | None:
        """Return what has no effect here."""
        return "scorer" if has_scorer else None

    def start(self, around: Surroundings) -> TreeWalk:
        """Return a new search."""
        drawing = TokenDraws(around, self.temperature, self.top_p, self.is_distinct, self.stop)
        return _VotingWalk(drawing, self)

    def found_in(self, text: str) -> str | None:
        """Return what a text comes to by the pattern, or None."""
        found = list(re.finditer(self.pattern, text))
        if not found:
            return None
        last = found[-1]
        own: str | None = last[1] if last.re.groups else last[0]
        return own


class _VotingWalk(SampledWalk):
    def __init__(self, drawing: TokenDraws, settings: SelfConsistency) -> None:
        super().__init__(drawing, settings.n)
        self._settings = settings

    def rank(self, tree: TokenTree) -> list[int]:
        """Score each branch by the share of votes that its answer has."""
        around = self._drawing.around
        extract = around.extract or self._settings.found_in
        nodes = tree.finished()
        answers = {n.id: extract(around.text_of(tree.new_tokens(n.id))) for n in nodes}
        votes = Counter(answer for answer in answers.values() if answer is not None)
        total = Counter[str]()
        for node in nodes:
            answer = answers[node.id]
            node.score = 0.0 if answer is None else votes[answer] / len(nodes)
            if answer is not None:
                total[answer] += node.logprob or 0.0  # type: ignore[assignment]

        def order(number: int) -> tuple[float, float, float, int]:
            node, answer = tree.node(number), answers[number]
            agreed = total[answer] / votes[answer] if answer is not None else 0.0
            return (-(node.score or 0.0), -agreed, -(node.logprob or 0.0), number)

        return sorted(answers, key=order)
