"""Beam search: the most probable texts, all of them grown at once."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field

from treadle.core.method import Standard
from treadle.runtime.decode.actions import Action, Append, Branch, Child, Prune
from treadle.runtime.decode.base import Controller, Floats, Surroundings, TreeWalk
from treadle.runtime.decode.chance import log_normaliser
from treadle.runtime.decode.tree import TokenTree

__all__ = ["Beam"]


class Beam(Controller):
    """Keep the `width` most probable unfinished texts, and the best finished ones.

    At each step the best max(2, 1 + end tokens) * width continuations of all beams are looked at by
    their sum of log-probabilities s. Those of the first `width` that end are scored by
    s / length^length_penalty, and the `width` best of all are kept; the best `width` of the others
    go on. As transformers' generate does it, so that answers are equal up to ties.
    """

    name: ClassVar[str] = "beam"
    paper = Standard("Lowerre, The HARPY speech recognition system, 1976; here as in transformers")

    width: Annotated[int, Field(ge=1)] = 4
    """Texts that are kept; 1 takes the most probable token."""
    length_penalty: Annotated[float, Field(ge=-10, le=10)] = 1.0
    """Power of the length by which a finished text's log-probability is divided: above 0 longer
    texts win more often, at 0 the sum itself counts."""
    early_stopping: Literal["enough", "heuristic", "never"] = "heuristic"
    """When to stop: once `width` texts are finished (enough; transformers' True), once the best
    unfinished one is worth less at its present length than all of these (heuristic; False), or at
    the length that suits it best (never)."""

    def unused(self, has_scorer: bool, has_extract: bool) -> str | None:
        """Return what has no effect here."""
        return "scorer" if has_scorer else "extract" if has_extract else None

    def start(self, around: Surroundings) -> TreeWalk:
        """Return a new search."""
        return _BeamWalk(self, around)


class _Continued(NamedTuple):
    """A beam with one token more."""

    leaf: int
    token: int
    total: float
    """Sum of log-probabilities."""


class _Ended(NamedTuple):
    score: float
    node: int | None
    """Of one that was finished before."""
    new: _Continued | None


class _BeamWalk(TreeWalk):
    def __init__(self, settings: Beam, around: Surroundings) -> None:
        self._settings, self._around = settings, around

    def step(self, tree: TokenTree, logits: Mapping[int, Floats]) -> list[Action]:
        settings, width = self._settings, self._settings.width
        length = tree.node(next(iter(logits))).end + 1 - tree.num_prompt
        best = self._best(tree, logits)
        is_last = length >= self._around.max_tokens
        is_end = [is_last or c.token in self._around.end_tokens for c in best]
        finished = [_Ended(node.score or 0.0, node.id, None) for node in tree.finished()]
        for one, ends in zip(best[:width], is_end, strict=False):
            if ends:
                finished.append(_Ended(one.total / length**settings.length_penalty, None, one))
        finished.sort(key=lambda one: -one.score)
        kept, lost = finished[:width], finished[width:]
        going = [c for c, ends in zip(best, is_end, strict=True) if not ends][:width]
        if not going or self._is_enough(kept, going[0].total, length):
            going = []
        dropped = [Prune(one.node) for one in lost if one.node is not None]
        return [*dropped, *self._moves(logits, going, kept)]

    def _best(self, tree: TokenTree, logits: Mapping[int, Floats]) -> list[_Continued]:
        """Return the best continuations of all beams, best first; of equals the earlier beam's."""
        beams = sorted(logits, key=lambda leaf: -(tree.node(leaf).logprob or 0.0))
        count = max(2, 1 + len(self._around.end_tokens)) * self._settings.width
        found: list[_Continued] = []
        for leaf in beams:
            values = logits[leaf]
            before = (tree.node(leaf).logprob or 0.0) - log_normaliser(values)
            last = max(0, values.size - count)  # numpy partitions faster than it finds places
            likely = np.flatnonzero(values >= np.partition(values, last)[last])
            found += [_Continued(leaf, int(t), before + float(values[t])) for t in likely]
        return sorted(found, key=lambda one: -one.total)[:count]

    def _is_enough(self, kept: list[_Ended], best: float, length: int) -> bool:
        """Say whether no unfinished text is worth going on with."""
        if len(kept) < self._settings.width:
            return False
        how, penalty = self._settings.early_stopping, self._settings.length_penalty
        if how == "enough":
            return True
        reached = self._around.max_tokens if how == "never" and penalty > 0 else length
        return best <= kept[-1].score * float(reached**penalty)

    def _moves(
        self, logits: Mapping[int, Floats], going: list[_Continued], kept: list[_Ended]
    ) -> list[Action]:
        children: dict[int, list[Child]] = {leaf: [] for leaf in logits}
        for one in going:
            children[one.leaf].append(Child([one.token]))
        for ended in kept:
            if ended.new is not None:
                child = Child([ended.new.token], is_finished=True, score=ended.score)
                children[ended.new.leaf].append(child)
        return [_moved(leaf, own) for leaf, own in children.items()]


def _moved(leaf: int, children: list[Child]) -> Action:
    if not children:
        return Prune(leaf)
    is_single = len(children) == 1 and not children[0].is_finished
    return Append(leaf, children[0].tokens) if is_single else Branch(leaf, children)
