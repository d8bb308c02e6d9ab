"""Asks a drafter before each step, lets those drafts run that pay, and learns what came of them."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import inf
from typing import Any

import numpy as np

from treadle.runtime.draft.acceptance import Acceptance, TextAcceptance
from treadle.runtime.draft.base import Drafter, Drafting, DraftTarget
from treadle.runtime.draft.pace import admitted, cut
from treadle.runtime.draft.proposal import Draft, DraftText, Law
from treadle.runtime.draft.step_seconds import StepSeconds
from treadle.runtime.draft.tables import DRAFTERS
from treadle.runtime.executor import Floats, StepRows
from treadle.runtime.request import Request, RequestState
from treadle.runtime.schedule.batch import Batch
from treadle.runtime.schedule.rows import RowChunk
from treadle.runtime.speculate.depth import Depth
from treadle.runtime.speculate.picking import picker
from treadle.runtime.speculate.shapes import is_chain, likeliest_path, start

__all__ = ["Speculation", "open_speculation"]

_LEAST_GAIN = 0.02
"""Fewer tokens a second more are within what a machine's load changes."""
_CHEAP = 0.01
"""Part of a step that asking may always take."""
_LONGEST_REST = 16
"""Steps without a question where drafts did not pay."""
_FADING = 0.1
_OUTLIER = 3.0

Allow = Callable[[Request, Draft], Draft]
EndsOf = Callable[[Request], frozenset[int]]


@dataclass
class _Watched:
    """A text that is drafted for."""

    key: Hashable
    acceptance: TextAcceptance = field(default_factory=TextAcceptance)
    draft: Draft | None = None
    """What was proposed for the step that runs, all of it."""
    has_run: bool = False
    """Whether some of it runs."""
    followed: tuple[Draft, int] | None = None
    """A draft that did not run to its end, and the place that the text has come to in it."""


class Speculation:
    """The drafts of one engine. Which of them run changes when tokens come, never which."""

    def __init__(self, drafting: Drafting, clock: Callable[[], float]) -> None:
        self._drafting, self._clock = drafting, clock
        self._watched: dict[Request, _Watched] = {}
        self._acceptance, self._step_seconds = Acceptance(), StepSeconds()
        self._num_watched = 0
        self._own_seconds = 0.0
        """Mean of what asking and learning takes."""
        self._spent = 0.0
        """The same of the step that runs."""
        self._rest = self._last_rest = 0
        self._depth = Depth()

    def propose(
        self, batch: Batch, requests: Sequence[Request], allow: Allow, ends_of: EndsOf
    ) -> None:
        """Give the requests of a batch the drafts that are to run in its next step.

        Args:
            batch: Before its schedule is made.
            requests: The running ones that choose for themselves: no branches of trees.
            allow: Returns the part of a draft that the form of a request's answer allows.
            ends_of: Returns the tokens that end a request.
        """
        began = self._clock()
        self._finish()
        texts = []
        for request in requests:
            if request.num_remaining == 1:
                texts.append(request)
            elif request not in self._watched:
                self._drafting.read(self._watch(request))
        most = self._room(batch, texts) if len(texts) == len(requests) else 0
        has_laws = self._drafting.verification != "coupled"  # then draws follow drafts
        if texts and most > 0 and (has_laws or not self._is_resting()):
            drafts = self._ask(texts, most, allow, ends_of)
            self._admit(texts, drafts, most)
        self._spent = self._clock() - began

    def ran(
        self, chunks: Sequence[RowChunk], rows: StepRows, logits: Floats, seconds: float
    ) -> None:
        """Learn what a step computed, and how long it took."""
        began = self._clock()
        if all(chunk.num_rows == chunk.num_choices for chunk in chunks):
            self._step_seconds.observe(len(rows.tokens), seconds)
        if self._drafting.wants_logits and self._rest <= 0:
            self._learn(chunks, rows, logits)
        self._spent += self._clock() - began

    def chose(self, request: Request, tokens: Sequence[int]) -> None:
        """Learn which tokens a step chose for a request."""
        began, watched = self._clock(), self._watched.get(request)
        if watched is None:
            return
        draft, watched.draft = watched.draft, None
        if draft is not None and (watched.has_run or watched.followed is None):
            watched.followed = (draft, -1)
        if watched.followed is not None:
            followed, place = watched.followed
            found = self._acceptance.observe(followed, watched.acceptance, tokens, place)
            watched.followed = None if found is None else (followed, found)
        watched.has_run = False
        self._spent += self._clock() - began

    def done(self) -> None:
        """Take note that the step is over."""
        # A prompt is read once; its time is no step's.
        spent = min(self._spent, _OUTLIER * self._own_seconds) if self._own_seconds else self._spent
        self._own_seconds += _FADING * (spent - self._own_seconds)

    def _room(self, batch: Batch, texts: Sequence[Request]) -> int:
        """Return how many drafts may run beside all other rows."""
        limits = batch.limits
        places = limits.max_num_seqs - len(batch.running)
        waiting = sum(r.num_remaining for r in islice(batch.waiting.values(), max(0, places)))
        return limits.max_num_batched_tokens - len(batch.running) - waiting

    def _watch(self, request: Request) -> DraftText:
        if request not in self._watched:
            self._num_watched += 1
            self._watched[request] = _Watched(self._num_watched)
        return _text_of(request, self._watched[request].key)

    def _is_resting(self) -> bool:
        self._rest -= 1
        return self._rest >= 0

    def _ask(
        self, texts: Sequence[Request], most: int, allow: Allow, ends_of: EndsOf
    ) -> list[Draft]:
        """Return what may follow each text, as far as it can run there."""
        asked = [self._watch(request) for request in texts]
        if self._drafting.is_costly:
            drafts = self._ask_costly(texts, asked, most, ends_of)
        else:
            drafts = self._drafting.propose(asked, most)
        found = []
        for request, draft in zip(texts, drafts, strict=True):
            if request.keep is not None:
                draft = likeliest_path(draft)
            draft = allow(request, start(draft, request.most_drafts))
            watched = self._watched[request]
            watched.draft = draft if draft.tokens else None
            found.append(draft)
        return found

    def _ask_costly(
        self, texts: Sequence[Request], asked: list[DraftText], most: int, ends_of: EndsOf
    ) -> list[Draft]:
        """Ask a drafter whose tokens take time for as many as pay, and for which texts they do."""
        drafting, count = self._drafting, len(texts)
        has_laws = drafting.verification != "coupled"
        depth, gain = min(most // count, drafting.most_tokens), inf
        if not has_laws:
            share, seconds = self._acceptance.share(drafting.source), self._step_seconds.of
            depth, gain = self._depth.choose(count, depth, share, seconds)
        each = self._step_seconds.of([count])[0] / count
        chosen = {}
        for place, (request, text) in enumerate(zip(texts, asked, strict=True)):
            left = request.longest - len(request.tokens)
            unread = drafting.num_unread(text)
            if has_laws or self._depth.pays(unread, left, gain, each):
                own = has_laws and request.params.structured_outputs is None
                chosen[place] = text._replace(pick=picker(request, ends_of(request), own))
        num_unread = sum(drafting.num_unread(text) for text in chosen.values())
        began = self._clock()
        drafts = [Draft([], [], [])] * count
        if depth and chosen:
            for place, draft in zip(
                chosen, drafting.propose(list(chosen.values()), depth), strict=True
            ):
                drafts[place] = draft
            self._depth.observe(num_unread, len(chosen), depth, self._clock() - began)
        return drafts

    def laws_of(self, request: Request) -> Sequence[Law]:
        """Return what a request's drafts were drawn from, where that counts."""
        watched = self._watched.get(request)
        return () if watched is None or watched.draft is None else watched.draft.laws

    @property
    def verification(self) -> str:
        """How drafts that have laws are verified."""
        return self._drafting.verification

    def _admit(self, texts: Sequence[Request], drafts: list[Draft], most: int) -> None:
        reached = [
            self._acceptance.reached(draft, self._watched[request].acceptance)
            for request, draft in zip(texts, drafts, strict=True)
        ]
        count = min(most, sum(chance > 0 for own in reached for chance in own))
        seconds = self._step_seconds.of(range(len(texts), len(texts) + count + 1))
        own = self._own_seconds if self._step_seconds.num_observed else 0.0
        if self._drafting.is_costly:
            own = 0.0  # it is spent, whether they run or not
        if any(draft.laws for draft in drafts):  # which run must not depend on what they are
            places = [list(range(len(draft.tokens))) for draft in drafts]
        else:
            places = admitted(drafts, reached, [one + own for one in seconds], _LEAST_GAIN)
        for request, draft, kept in zip(texts, drafts, places, strict=True):
            part = cut(draft, kept)
            request.drafts = part.tokens
            request.draft_parents = [] if is_chain(part) else part.parents
            self._watched[request].has_run = bool(kept)
        if any(places) or own < _CHEAP * seconds[0]:
            self._last_rest = 0
        else:
            self._last_rest = min(_LONGEST_REST, 2 * self._last_rest + 1)
        self._rest = self._last_rest

    def _learn(self, chunks: Sequence[RowChunk], rows: StepRows, logits: Floats) -> None:
        first = 0
        for chunk in chunks:
            last = first + len(chunk.wanted)
            begin = last - chunk.num_choices
            if chunk.num_choices:
                tokens = rows.tokens[rows.wanted[begin:last]].astype(np.int64)
                self._drafting.learn(chunk.request.cache_group, tokens, logits[begin:last])
            first = last

    def _finish(self) -> None:
        ended = [r for r in self._watched if r.state is RequestState.FINISHED]
        for request in ended:
            self._drafting.finish(_text_of(request, self._watched.pop(request).key))


def _text_of(request: Request, key: Hashable) -> DraftText:
    return DraftText(key, request.tokens, request.num_prompt, request.cache_group)


def open_speculation(
    speculate: Drafter | str | Mapping[str, Any],  # Any: a method's settings
    target: DraftTarget,
    clock: Callable[[], float],
) -> Speculation | None:
    """Return what drafts in an engine, or None where nothing does.

    Raises:
        SettingsError: There is no such drafter, a setting is refused, or a drafting model does not
            fit the target.
    """
    drafting = DRAFTERS.resolve(speculate).open(target)
    return None if drafting is None else Speculation(drafting, clock)
