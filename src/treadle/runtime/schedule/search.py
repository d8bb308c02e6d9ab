"""Trees in a batch: every branch is a request, and a controller chooses for all of them.

A leaf's request runs like any other; its logits come here instead of choosing a token. What they
were is remembered, so that a leaf that waits for others may lose its pages and is not lost itself.
"""

from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.errors import CapacityError, SettingsError
from treadle.runtime.decode.actions import Action, Append, Branch, Child, Finish, Prune
from treadle.runtime.decode.base import Controller, Surroundings
from treadle.runtime.decode.chance import log_normaliser
from treadle.runtime.decode.tree import NodeState, TokenTree
from treadle.runtime.request import Request, RequestState
from treadle.runtime.schedule.batch import Batch
from treadle.runtime.schedule.rows import RowChunk

__all__ = ["TreeSearch"]

Floats = npt.NDArray[np.float32]


class _Moves(NamedTuple):
    """What a controller's actions ask of the batch."""

    ended: list[tuple[Request, str]]
    forked: list[tuple[int, Request, list[int]]]
    """New leaf, the request that it leaves, its own tokens."""
    extended: list[tuple[Request, list[int]]]


class TreeSearch:
    """One tree: its nodes, the requests of its leaves, and who decides on them.

    Args:
        batch: In which it runs.
        prompt: The request of the prompt, which waits there.
        controller: Decides.
        around: What the controller may know.
    """

    def __init__(
        self, batch: Batch, prompt: Request, controller: Controller, around: Surroundings
    ) -> None:
        self.prompt, self.controller, self.around = prompt, controller, around
        self.tree = TokenTree(prompt.tokens, around.seed)
        self.ranked: list[int] = []
        """The finished branches, best first, once all is done."""
        self.error: Exception | None = None
        self.is_done = False
        self.num_rows = 0
        """Rows that ran for it."""
        self.num_cached = 0
        """Tokens of the prompt that were found in the cache."""
        self._batch, self._walk = batch, controller.start(around)
        self._requests = {0: prompt}
        self._logits: dict[int, Floats] = {}
        self._paused: set[int] = set()
        self._has_news = self._is_asking = self._has_run = False

    @property
    def requests(self) -> list[Request]:
        """The requests of its leaves."""
        return list(self._requests.values())

    def leaf_of(self, request_id: str) -> int | None:
        """Return the leaf whose request has this id, or None."""
        found = (leaf for leaf, own in self._requests.items() if own.id == request_id)
        return next(found, None)

    def id_of(self, name: str) -> str | None:
        """Return the request of the leaf that is named ID/NODE; None: it is none of this tree."""
        tree, _, node = name.rpartition("/")
        leaf = int(node) if tree == self.prompt.id and node.isdecimal() else -1
        return self._requests[leaf].id if leaf in self._requests else None

    def note(self, leaf: int, chunk: RowChunk, logits: Floats) -> None:
        """Take the results of a leaf's rows."""
        request = chunk.request
        self._requests[leaf] = request  # another object where it left and came back
        first = request.num_computed
        if leaf == 0:
            self.num_cached = min(request.num_cached, request.num_prompt)
        num_input = max(0, min(first + chunk.num_rows, request.num_prompt) - first)
        self._batch.policy.computed(request, num_input, 0)
        request.drafts, request.draft_parents = [], []
        self._batch.advance(chunk, max(0, chunk.num_choices - 1), num_added=0)
        self.num_rows += chunk.num_rows
        self._has_run = True
        if chunk.num_choices:
            self._logits[leaf] = logits[-chunk.num_choices].copy()
            self._has_news = True

    def decide(self) -> None:
        """Let the controller move the leaves that it may, and hold the others."""
        if self.is_done or self._is_asking:  # a scorer may run the engine
            return
        self.tree.step += self._has_run
        self._has_run = False
        try:
            self._lose_ended()
            self._see_resumed()
            while self._has_news and not self.is_done:
                self._has_news = False
                self._ask()
            self._hold()
        except Exception as error:  # whatever a controller or a scorer raises is its tree's alone
            self.error = error
            self.close()

    def close(self) -> None:
        """End what is unfinished."""
        for request in self._requests.values():
            if request.id in self._batch:
                self._batch.finish(self._batch.get(request.id), "cancelled")
        for node in self.tree.leaves():
            self.tree.finish(node.id, "cancelled", self._num_unrun(node.id))
        self._requests.clear()
        self._logits.clear()
        self.is_done = True

    def _num_unrun(self, leaf: int) -> int:
        is_run = leaf in self._logits or leaf not in self._requests
        return 0 if is_run else self._requests[leaf].num_remaining

    def _lose_ended(self) -> None:
        """Make answers of the leaves whose requests ended otherwise."""
        for leaf, request in list(self._requests.items()):
            if request.id in self._batch:
                self._requests[leaf] = self._batch.get(request.id)
                continue
            self.tree.finish(leaf, request.finish_reason or "cancelled", self._num_unrun(leaf))
            self._logits.pop(leaf, None)
            del self._requests[leaf]
            self._has_news = True

    def _see_resumed(self) -> None:
        """Look again at leaves that somebody had paused: their logits may be all that lacked."""
        states = {leaf: request.state for leaf, request in self._requests.items()}
        paused = {leaf for leaf, state in states.items() if state is RequestState.MIGRATING}
        self._has_news |= not self._paused <= paused
        self._paused = paused

    def _ask(self) -> None:
        """Ask the controller once, if all is there that it waits for."""
        if not self._requests:
            self._rank()
            return
        is_here = {n: r.state is not RequestState.MIGRATING for n, r in self._requests.items()}
        ready = {leaf: own for leaf, own in sorted(self._logits.items()) if is_here[leaf]}
        if not ready or (self.controller.waits and len(ready) < len(self._requests)):
            return
        self._is_asking = True
        try:
            actions = self._walk.step(self.tree, ready)
        finally:
            self._is_asking = False
        self._lose_ended()
        self._require_actions(actions)
        self._apply(actions, ready)
        if not self._requests:
            self._rank()
        elif ready.keys() >= self._requests.keys() == self._logits.keys():
            self._has_news = len(actions) > 0  # fewer leaves are left to choose among
            if not self._has_news:
                raise self._mistake(
                    f"moved none of the {len(ready)} leaves, and no other one runs",
                    "finish or prune those that are of no use",
                )

    def _rank(self) -> None:
        self._is_asking = True
        try:
            self.ranked = self._walk.rank(self.tree)
        finally:
            self._is_asking = False
        self.is_done = True

    def _apply(self, actions: Sequence[Action], ready: dict[int, Floats]) -> None:
        """Change the tree as the controller says, and then the batch."""
        moves = _Moves([], [], [])
        moved: set[int] = set()
        try:
            for action in actions:
                if action.leaf in ready and action.leaf not in self._requests:
                    continue  # it ended while the controller thought
                self._check(action, ready, moved)
                moved.add(action.leaf)
                self._change(action, moves)
        finally:  # the tree no longer knows of them
            for request, reason in moves.ended:
                self._batch.finish(request, reason)
        if moves.forked:
            self._require_room(ready.keys() - moved)
        for leaf, parent, tokens in moves.forked:
            self._fork(leaf, parent, tokens)
        for request, tokens in moves.extended:
            self._batch.policy.computed(request, 0, len(tokens))
            self._batch.extend(request, tokens)

    def _require_actions(self, actions: object) -> None:
        """Refuse what is no list of actions of whole tokens."""
        mend = "return a list of Append, Branch, Prune and Finish, with lists of token ids"
        if not isinstance(actions, list | tuple):
            raise self._mistake(f"returned {str(actions)[:80]!r}", mend)
        for action in actions:
            parts: list[object] = []
            if isinstance(action, Branch):
                children = action.children if isinstance(action.children, list | tuple) else [None]
                parts = [getattr(child, "tokens", None) for child in children]
            elif isinstance(action, Append | Finish):
                parts = [action.tokens]
            elif not isinstance(action, Prune):
                raise self._mistake(f"returned {str(action)[:80]!r} among its actions", mend)
            if not all(map(_are_tokens, parts)):
                raise self._mistake(f"returned {str(action)[:80]}", mend)

    def _check(self, action: Action, ready: dict[int, Floats], moved: set[int]) -> None:
        """Refuse what makes no sense."""
        known = self.tree.nodes.get(action.leaf)
        is_answer = known is not None and known.state is NodeState.FINISHED
        if action.leaf in moved or not (
            action.leaf in ready or (is_answer and isinstance(action, Prune))
        ):
            state = "moved already" if action.leaf in moved else known.state if known else "unknown"
            raise self._mistake(
                f"moves leaf {action.leaf}, which is {state}", "move each leaf of its logits once"
            )
        starts = [action.tokens] if isinstance(action, Append) else []
        if isinstance(action, Branch):
            starts = [child.tokens for child in action.children]
            if not starts:
                raise self._mistake(
                    f"forks leaf {action.leaf} into 0 branches", "give one at least, or prune it"
                )
        size = 0 if action.leaf not in ready else len(ready[action.leaf])
        if isinstance(action, Finish):
            starts = [action.tokens] if len(action.tokens) else []
        for tokens in starts:
            if not len(tokens) or not all(0 <= token < size for token in tokens):
                raise self._mistake(
                    f"gives leaf {action.leaf} the tokens {list(tokens)[:8]}",
                    f"give one token at least, each of them 0 to {size - 1}",
                )

    def _mistake(self, found: str, mend: str) -> SettingsError:
        name = self.controller.name
        return SettingsError(f"The controller '{name}' {found}; mend its step(): {mend}.")

    def _change(self, action: Action, moves: _Moves) -> None:
        """Change the tree by one action."""
        if isinstance(action, Prune) and action.leaf not in self._requests:
            self.tree.prune(action.leaf)
            return
        logits = self._logits.pop(action.leaf)
        self.tree.resume(action.leaf)
        if isinstance(action, Append):
            self._append(action, logits, moves)
        elif isinstance(action, Branch):
            self._branch(action, logits, moves)
        else:
            request = self._requests.pop(action.leaf)
            if isinstance(action, Prune):
                self.tree.prune(action.leaf)
                moves.ended.append((request, "pruned"))
                return
            tokens = self._fitting(action.leaf, action.tokens)
            if tokens:
                self.tree.append(action.leaf, tokens, _logprob(logits, tokens[0]))
            if action.score is not None:
                self.tree.node(action.leaf).score = action.score
            self.tree.finish(action.leaf, action.reason, len(tokens))
            moves.ended.append((request, action.reason))

    def _append(self, action: Append, logits: Floats, moves: _Moves) -> None:
        leaf, tokens = action.leaf, self._fitting(action.leaf, action.tokens)
        self.tree.append(leaf, tokens, _logprob(logits, tokens[0]))
        if self._is_full(leaf):
            self.tree.finish(leaf, "length", len(tokens))
            moves.ended.append((self._requests.pop(leaf), "length"))
        else:
            moves.extended.append((self._requests[leaf], tokens))

    def _branch(self, action: Branch, logits: Floats, moves: _Moves) -> None:
        """Fork a leaf; the first branch that goes on takes over its request."""
        children = [
            child._replace(tokens=self._fitting(action.leaf, child.tokens))
            for child in action.children
        ]
        logprobs = [_logprob(logits, child.tokens[0]) for child in children]
        parent = self._requests.pop(action.leaf)
        new = zip(self.tree.fork(action.leaf, children, logprobs), children, strict=True)
        going = [(leaf, list(child.tokens)) for leaf, child in new if not self._ends(leaf, child)]
        if not going:
            moves.ended.append((parent, "stop"))
            return
        (first, tokens), *others = going
        self._requests[first] = parent
        moves.extended.append((parent, tokens))
        moves.forked.extend((leaf, parent, own) for leaf, own in others)

    def _ends(self, leaf: int, child: Child) -> bool:
        """Say whether a new branch ends at once."""
        is_full = self._is_full(leaf)
        if is_full or child.is_finished:
            is_cut = is_full and child.tokens[-1] not in self.around.end_tokens
            self.tree.finish(leaf, "length" if is_cut else "stop", len(child.tokens))
        return is_full or child.is_finished

    def _fitting(self, leaf: int, tokens: Sequence[int]) -> list[int]:
        done = self.tree.node(leaf).end - self.tree.num_prompt
        return [int(token) for token in tokens[: self.around.max_tokens - done]]

    def _is_full(self, leaf: int) -> bool:
        return self.tree.node(leaf).end - self.tree.num_prompt >= self.around.max_tokens

    def _require_room(self, idle: set[int]) -> None:
        """Refuse a tree that the cache cannot hold while all of its leaves run.

        Raises:
            CapacityError: It cannot.
        """
        pool, holdings = self._batch.pool, self._batch.holdings
        leaves = [n.id for n in self.tree.leaves() if n.state is NodeState.ACTIVE]
        running = [leaf for leaf in leaves if leaf not in idle]
        if self.prompt.keep is None:
            needed = self.tree.num_pages(running, pool.page_size)
        else:
            ends = [self.tree.node(leaf).end for leaf in running]
            needed = sum(holdings.needed(self.prompt, end) for end in ends)
        if needed > pool.num_pages:
            raise CapacityError(
                f"The tree '{self.prompt.id}' forks into {len(running)} branches, which need "
                f"{needed} pages of {pool.page_size} tokens at once (what they share counted "
                f"once), and the cache has {pool.num_pages}; raise cache_bytes, or lower the "
                f"controller's width or the number of tokens."
            )

    def _fork(self, leaf: int, parent: Request, tokens: list[int]) -> None:
        own = replace(
            parent,
            id=f"{self.prompt.id}/{leaf}",
            tokens=[*parent.tokens, *tokens],
            num_computed=0,
            num_cached=0,
            num_preemptions=0,
            pages=[],
            entries=None,
        )
        self._batch.fork(own, parent, parent.longest, len(parent.tokens))
        self._requests[leaf] = own

    def _hold(self) -> None:
        """Stop running leaves whose logits are known."""
        for leaf in self._logits:
            request = self._requests[leaf]
            if request.state not in (RequestState.MIGRATING, RequestState.HELD):
                self._batch.hold(request)
            self.tree.pause(leaf)


def _are_tokens(values: object) -> bool:
    is_list = isinstance(values, Sequence | np.ndarray) and not isinstance(values, str | bytes)
    return is_list and all(isinstance(one, Integral) for one in list(values))  # type: ignore[call-overload]


def _logprob(logits: Floats, token: int) -> float:
    """Return the natural log of a token's probability."""
    return float(logits[token]) - log_normaliser(logits)
