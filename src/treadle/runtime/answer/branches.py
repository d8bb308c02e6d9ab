"""What comes of a tree: its answers, its nodes, and what sharing saved."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from treadle.core.result import Figure, Series
from treadle.runtime.answer.outputs import CompletionOutput, RequestOutput
from treadle.runtime.decode.tree import TokenNode
from treadle.runtime.schedule.search import TreeSearch

__all__ = ["BranchOutput", "TreeOutput", "beam_output", "tree_output"]

TextOf = Callable[[Sequence[int]], str]
_MOST_LANES = 60
"""Nodes in a figure: more are too thin to see."""


@dataclass(frozen=True)
class BranchOutput:
    """One finished branch."""

    node: int
    """Its last node."""
    text: str
    """Behind the prompt; empty where the model has no tokenizer."""
    token_ids: list[int]
    score: float | None
    """What its controller found it worth."""
    cumulative_logprob: float | None
    """Natural log of its probability; None where its tokens were given several at once."""
    finish_reason: str | None
    """stop or length; or deadline, cancelled or migrated where its request ended so."""


@dataclass(frozen=True)
class TreeOutput:
    """What a search found."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    controller: dict[str, Any]  # Any: JSON values
    """Its name and settings."""
    branches: list[BranchOutput]
    """The finished ones, best first."""
    nodes: list[TokenNode]
    """All nodes; those whose siblings were given up are one with what was shared."""
    num_steps: int
    """Steps of the engine in which something ran for the tree."""
    num_computed_tokens: int
    """Rows that ran for it, with those that ran again after a preemption; what others had left in
    the cache did not run."""
    num_alone_tokens: int
    """Rows that all branches, the pruned ones too, would have run without sharing."""

    @property
    def best(self) -> BranchOutput | None:
        """The best branch; None where all were pruned."""
        return self.branches[0] if self.branches else None

    @property
    def mean_score(self) -> float | None:
        """What a finished branch taken at random scores on average; None without scores."""
        scores = [branch.score for branch in self.branches if branch.score is not None]
        return sum(scores) / len(scores) if scores else None

    def figure(self) -> Figure:
        """Return a timeline: a bar for each node, from its first step to its last."""
        shown = self.nodes[:_MOST_LANES]
        left_out = len(self.nodes) - len(shown)
        more = f"; {left_out} later nodes are left out" if left_out else ""
        return Figure(
            kind="timeline",
            title=f"The tree of '{self.request_id}' while it was decoded{more}",
            x_label="step",
            y_label="",
            series=[_lane(node, self.num_steps) for node in shown],
        )


def _lane(node: TokenNode, num_steps: int) -> Series:
    end = num_steps if node.ended is None else node.ended
    shared = f", {node.num_shared} shared" if node.num_shared else ""
    return Series(
        name=f"{'prompt' if node.parent is None else node.id}: {len(node.tokens)} tokens{shared}",
        x=[str(node.state)],
        y=[float(end - node.began)],
        low=[float(node.began)],
        high=[float(end)],
    )


def tree_output(search: TreeSearch, prompt: str | None, text_of: TextOf) -> TreeOutput:
    """Return what a search found that is done.

    Args:
        search: It has no error.
        prompt: Its text, where it was one.
        text_of: Returns the text of tokens.
    """
    tree = search.tree
    return TreeOutput(
        search.prompt.id,
        prompt,
        tree.text(0)[: tree.num_prompt],
        search.controller.settings(),
        [_branch(search, number, text_of) for number in search.ranked],
        [copy.copy(node) for node in tree.nodes.values()],
        tree.step,
        search.num_rows,
        sum(node.end - node.num_unrun for node in tree.ends()),
    )


def _branch(search: TreeSearch, number: int, text_of: TextOf) -> BranchOutput:
    node, tokens = search.tree.node(number), search.tree.new_tokens(number)
    text = text_of(tokens)
    return BranchOutput(number, text, tokens, node.score, node.logprob, node.reason)


def beam_output(
    search: TreeSearch, prompt: str | None, count: int, text_of: TextOf
) -> RequestOutput:
    """Return the `count` best answers of a beam search as `generate` gives answers."""
    ends = search.around.end_tokens
    answers = []
    for index, number in enumerate(search.ranked[:count]):
        branch = _branch(search, number, text_of)
        last = branch.token_ids[-1] if branch.token_ids else -1
        stop = last if last in ends and last in search.prompt.params.stop_token_ids else None
        answers.append(
            CompletionOutput(
                index,
                branch.text,
                branch.token_ids,
                branch.finish_reason,
                stop,
                None,
                search.num_cached,
                search.prompt.num_preemptions,
            )
        )
    tokens = search.tree.text(0)[: search.tree.num_prompt]
    return RequestOutput(search.prompt.id, prompt, tokens, answers, None)
