"""Moving a live request to another engine: its state and its pages, without changing a token.

The order is: while the request runs, `export_pages` its full pages and `import_pages` them, once or
more; then pause it, export the rest, import it, `commit` there and `forget` it here. If anything
fails before the commit, `resume` it here. Pages only ever grow at their end, so what was copied
once stays right; where a text grew beyond one of the model's `rope_bounds` in between, the importer
drops what it has and computes it again.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.errors import CapacityError, SettingsError
from treadle.runtime.request import Request, RequestState
from treadle.runtime.schedule.batch import Batch
from treadle.runtime.schedule.holdings import Saved

__all__ = ["ExportedPages", "Origin", "export_pages", "import_pages", "require_same"]

_TIMES = ("arrival", "deadline", "first_token")
"""Fields on the engine's clock; they travel relative to now."""


class Origin(NamedTuple):
    """What must be equal for the pages of one engine to mean the same in another one."""

    model: str
    """Hash of the model's numbers and config."""
    weights: str
    """The forms in which matrices are held: keys and values follow from rounded weights."""
    kv_dtype: str
    page_size: int


class ExportedPages(NamedTuple):
    """A request's state and a run of its pages."""

    state: dict[str, Any]
    """`Request.to_dict`, with times relative to the export; JSON values."""
    first_page: int
    num_computed: int
    """Tokens whose keys and values the importer has after this run of pages."""
    content: list[npt.NDArray[np.generic]]
    """Every array of every layer, cut to [pages, ...]."""
    origin: Origin | None = None
    """Of the engine that exported it."""
    lengths: list[int] | None = None
    """Entries of each head, where heads keep their own: then `content` is that of all planes."""
    queries: npt.NDArray[np.float32] | None = None
    """Sums of the text's queries, where its policy asks for them."""

    @property
    def num_pages(self) -> int:
        """The number of pages in this run, or of those that its planes take."""
        if self.lengths is None:
            return len(self.content[0])
        return -(-len(self.content[0]) // len(self.lengths))

    @property
    def num_bytes(self) -> int:
        """The bytes of the pages."""
        return sum(array.nbytes for array in self.content)


def require_same(exported: ExportedPages, here: Origin) -> None:
    """Check that pages come from an engine of the same model, in the same forms.

    Raises:
        SettingsError: They do not, or do not say where they come from.
    """
    there = Origin("", "", "", 0) if exported.origin is None else Origin(*exported.origin)
    for name, found, expected in zip(Origin._fields, there, here, strict=True):
        if found != expected:
            raise SettingsError(
                f"The pages come from another model, weight form, page size or dtype: {name} is "
                f"{str(found)[:16] or 'unknown'} there and {str(expected)[:16]} here; move "
                f"requests between engines of equal models, weights, kv_dtype and page_size only."
            )


def export_pages(
    batch: Batch,
    request_id: str,
    first_page: int,
    clock: Callable[[], float],
    origin: Origin | None = None,
) -> ExportedPages:
    """Return the state of an unfinished request and its pages from `first_page` on.

    Of a paused request all pages that are in use; of any other one the full pages. What heads keep
    of their own changes while the request runs, so it comes only of a paused one, from page 0 on.
    """
    request, size = batch.get(request_id), batch.pool.page_size
    is_paused = request.state is RequestState.MIGRATING
    last = -(-request.num_computed // size) if is_paused else request.num_computed // size
    last = last if request.keep is None else 0
    if request.rope_bounds and request.regime:
        # What was exported before it grew into this one is worth nothing.
        last = max(first_page, last)
    if not 0 <= first_page <= last:
        raise SettingsError(
            f"Found first_page={first_page}, but request '{request_id}' has {last} pages to "
            f"export; give 0 to {last}."
        )
    state = request.to_dict()
    for name in _TIMES:
        if state[name] is not None:
            state[name] -= clock()
    saved = batch.preemption.saved(request, first_page, last)
    num_computed = min(request.num_computed, last * size)
    if request.keep is not None:
        num_computed = request.num_computed if is_paused else 0
        saved = saved if is_paused else _nothing_of(saved)
    own = (saved.content, origin, saved.lengths, saved.queries)
    return ExportedPages(state, first_page, num_computed, *own)


def _nothing_of(saved: Saved) -> Saved:
    """Return a copy of no entries."""
    return Saved([part[:0] for part in saved.content], [0 for _ in saved.lengths or ()])


def import_pages(
    batch: Batch, exported: ExportedPages, max_length: int, clock: Callable[[], float]
) -> None:
    """Take what another engine exported; the request stays paused until it is committed.

    Raises:
        SettingsError: The id is in use, the run does not follow on what came before, or the pages
            are of another shape.
        CapacityError: Too few pages are free; nothing is changed.
    """
    state = dict(exported.state)
    for name in _TIMES:
        if state[name] is not None:
            state[name] += clock()
    request = Request.from_dict(state)
    known = batch.paused.get(request.id)
    if known is not None and _has_outgrown(known, request):
        batch.preemption.drop(known)
    if known is None or (exported.first_page == 0 and known.holds_cache):
        batch.accept(request, max_length)
        known = None
    else:
        request.pages = known.pages
        request.number, request.longest = known.number, known.longest
    has_lost_pages = known is not None and not request.pages and exported.first_page > 0
    if not has_lost_pages and exported.first_page != len(request.pages):
        raise SettingsError(
            f"The run starts with page {exported.first_page} of request '{request.id}', and "
            f"{len(request.pages)} pages came before; export from "
            f"first_page={len(request.pages)}."
        )
    request.state = RequestState.MIGRATING
    if has_lost_pages:  # somebody else needed them: it will be computed again
        request.num_computed = 0
    else:
        _take(batch, request, exported)
        request.num_computed = exported.num_computed
    batch.paused[request.id] = request


def _has_outgrown(known: Request, request: Request) -> bool:
    """Say whether a text has grown beyond a bound of the model since its first pages came."""
    is_same = known.tokens == request.tokens[: len(known.tokens)]
    return is_same and known.regime != request.regime


def _take(batch: Batch, request: Request, exported: ExportedPages) -> None:
    """Put what was exported into free pages."""
    pool, needed = batch.pool, exported.num_pages
    if exported.lengths is not None:
        needed = batch.holdings.planes.pages_for(len(exported.content[0]))
    batch.tree.evict(needed - pool.num_free)
    if needed > pool.num_free:
        raise CapacityError(
            f"{needed} pages are to be imported and {pool.num_free} are free; import "
            f"them when requests have ended, or into another engine."
        )
    saved = Saved(exported.content, exported.lengths, exported.queries)
    batch.holdings.restore(request, saved)
