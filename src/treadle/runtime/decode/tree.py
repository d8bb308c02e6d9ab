"""A tree of tokens that grows at its leaves: which branches there are, and what became of them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from treadle.core.seed import stream_seed
from treadle.runtime.decode.actions import Child

__all__ = ["NodeState", "TokenNode", "TokenTree"]


class NodeState(StrEnum):
    """Where a node stands."""

    ACTIVE = "active"
    """A leaf that grows."""
    HELD = "held"
    """A leaf that waits."""
    SHARED = "shared"
    """The common start of several branches."""
    PRUNED = "pruned"
    FINISHED = "finished"


_LEAVES = (NodeState.ACTIVE, NodeState.HELD)


@dataclass(eq=False)
class TokenNode:
    """A run of tokens without a fork in it."""

    id: int
    parent: int | None
    """None for the prompt."""
    key: int
    """Of the random numbers of its branch; follows from the seed and the way to it."""
    first: int
    """The place of its first token in the text."""
    branched: int
    """The place where it left its siblings; `first` may lie before, in what they shared."""
    tokens: list[int]
    began: int
    """The step of the search in which it came about."""
    ended: int | None = None
    """The step in which it was finished, pruned, or forked."""
    state: NodeState = NodeState.ACTIVE
    score: float | None = None
    logprob: float | None = 0.0
    """Natural log of the probability of all tokens behind the prompt up to here; None where several
    were given at once, of which the model said nothing."""
    reason: str | None = None
    """Why it ended: stop, length, pruned, or why its request did."""
    tag: int = 0
    """What its controller put there."""
    num_shared: int = 0
    """Of its tokens, the first ones that other branches shared, perhaps for a while."""
    num_unrun: int = 0
    """Of its tokens, the last ones that never ran through the model."""
    children: list[int] = field(default_factory=list)
    """All that ever left it, but for those that it was merged with; a leaf may have pruned ones."""

    @property
    def end(self) -> int:
        """The tokens of the text up to its last one."""
        return self.first + len(self.tokens)


class TokenTree:
    """Nodes by their ids; the prompt is node 0 and a leaf until it is forked."""

    def __init__(self, prompt: Sequence[int], seed: int = 0) -> None:
        self.num_prompt = len(prompt)
        key = stream_seed(seed, "branches")
        self.nodes = {0: TokenNode(0, None, key, 0, 0, list(prompt), 0)}
        self.step = 0
        """Counts steps, for when nodes begin and end."""
        self._next = 1
        self._living: dict[int, int] = {}
        """Forked node -> how many of its children are not pruned."""

    def node(self, number: int) -> TokenNode:
        """Return a node."""
        return self.nodes[number]

    def leaves(self) -> list[TokenNode]:
        """Return the leaves that are neither finished nor pruned, in the order of their ids."""
        return [node for node in self.nodes.values() if node.state in _LEAVES]

    def finished(self) -> list[TokenNode]:
        """Return the finished branches, in the order of their ids."""
        return [node for node in self.nodes.values() if node.state is NodeState.FINISHED]

    def ends(self) -> list[TokenNode]:
        """Return the last node of every branch there ever was."""
        return [node for node in self.nodes.values() if node.id not in self._living]

    def ranked(self) -> list[int]:
        """Return the finished branches by score, then by probability, then by id."""

        def order(node: TokenNode) -> tuple[float, float, int]:
            values = (-math.inf if v is None else v for v in (node.score, node.logprob))
            score, logprob = values
            return (-score, -logprob, node.id)

        return [node.id for node in sorted(self.finished(), key=order)]

    def path(self, number: int) -> list[TokenNode]:
        """Return the nodes from the prompt to this one."""
        return list(self._upwards(number))[::-1]

    def text(self, number: int) -> list[int]:
        """Return all tokens up to a node's last one."""
        path = self.path(number)
        ends = [node.first for node in path[1:]] + [path[-1].end]
        # What was pruned may leave its parent, which was merged since, anywhere.
        parts = zip(path, ends, strict=True)
        return [token for node, end in parts for token in node.tokens[: end - node.first]]

    def new_tokens(self, number: int) -> list[int]:
        """Return those behind the prompt."""
        return self.text(number)[self.num_prompt :]

    def fork(self, leaf: int, children: Sequence[Child], logprobs: Sequence[float]) -> list[int]:
        """Let a leaf go on in several ways and return the new leaves.

        Args:
            leaf: Becomes their parent.
            children: What they begin with.
            logprobs: Of the first token of each.
        """
        node = self.nodes[leaf]
        self._end(node, NodeState.SHARED, None)
        node.num_shared = len(node.tokens) if len(children) > 1 else node.num_shared
        for index, (child, logprob) in enumerate(zip(children, logprobs, strict=True)):
            key = stream_seed(node.key, f"branch:{index}")
            own = TokenNode(self._next, leaf, key, node.end, node.end, [], self.step)
            own.logprob, own.score, own.tag = node.logprob, child.score, child.tag
            self.nodes[own.id] = own
            self._next += 1
            self.append(own.id, child.tokens, logprob)
        self._living[leaf] = len(children)
        new = list(range(self._next - len(children), self._next))
        node.children += new
        return new

    def append(self, leaf: int, tokens: Sequence[int], logprob: float) -> None:
        """Let a leaf grow; `logprob` is that of the first token."""
        node = self.nodes[leaf]
        if node.logprob is not None:
            node.logprob = node.logprob + logprob if len(tokens) == 1 else None
        node.tokens += tokens

    def pause(self, leaf: int) -> None:
        """Note that a leaf waits."""
        self.nodes[leaf].state = NodeState.HELD

    def resume(self, leaf: int) -> None:
        """Note that a leaf grows again."""
        self.nodes[leaf].state = NodeState.ACTIVE

    def finish(self, leaf: int, reason: str, num_unrun: int = 0) -> None:
        """Make a leaf an answer, whose last `num_unrun` tokens do not run."""
        self.nodes[leaf].num_unrun = num_unrun
        self._end(self.nodes[leaf], NodeState.FINISHED, reason)

    def prune(self, leaf: int, reason: str = "pruned") -> None:
        """Give a leaf or an answer up.

        A node all of whose branches were given up is given up, too, and one that is left with a
        single branch is merged with it.
        """
        for node in self._upwards(leaf):
            if node.id in self._living:
                self._living[node.id] -= 1
                if self._living[node.id]:
                    self._merge_if_alone(node)
                    return
            self._end(node, NodeState.PRUNED, reason)

    def _merge_if_alone(self, node: TokenNode) -> None:
        if self._living[node.id] > 1 or node.parent is None:
            return
        is_alive = [n for n in node.children if self.nodes[n].state is not NodeState.PRUNED]
        self.merge(is_alive[0])

    def merge(self, number: int) -> None:
        """Make one node of a node and its parent, whose other children were all given up.

        The node keeps its id and takes what was the parent's, so that a path never has more nodes
        than branches left it and live.
        """
        node = self.nodes[number]
        assert node.parent
        parent = self.nodes.pop(node.parent)
        assert self._living.pop(parent.id) == 1, "a parent with several branches stays"
        node.num_shared, node.first = len(parent.tokens), parent.first
        node.tokens = parent.tokens + node.tokens
        node.parent, node.began = parent.parent, parent.began
        siblings = [child for child in parent.children if child != number]
        for child in siblings:
            self.nodes[child].parent = number
        node.children = siblings + node.children
        above = self.nodes[parent.parent if parent.parent is not None else 0].children
        above[above.index(parent.id)] = number

    def _end(self, node: TokenNode, state: NodeState, reason: str | None) -> None:
        node.state, node.reason, node.ended = state, reason, self.step

    def _upwards(self, number: int) -> Iterator[TokenNode]:
        current: int | None = number
        while current is not None:
            node = self.nodes[current]
            yield node
            current = node.parent

    def num_pages(self, leaves: Sequence[int], page_size: int) -> int:
        """Return the pages that these leaves hold together, each of them counted once.

        A page that lies in several nodes is full of what only its last node's branch has.
        """
        seen: set[int] = set()
        partial = 0
        for leaf in leaves:
            partial += self.nodes[leaf].end % page_size > 0
            for node in self._upwards(leaf):
                if node.id in seen:
                    break
                seen.add(node.id)
        spans = [self.nodes[number] for number in seen]
        return partial + sum(n.end // page_size - n.first // page_size for n in spans)
