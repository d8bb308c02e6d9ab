"""Which policy a request's cache has, and what the executor needs for it."""

from collections.abc import Callable

import numpy as np

from treadle.core.errors import SettingsError, UnsupportedModelError
from treadle.model.retaining import RetainingHeads
from treadle.runtime.asked.params import KEEP_ALL, SamplingParams
from treadle.runtime.cache.units import unit_form
from treadle.runtime.evict.keeping import Keeping, choose_keeping
from treadle.runtime.executor import Executor
from treadle.runtime.request import Request
from treadle.runtime.settings import EngineSettings

__all__ = ["Policies"]


class Policies:
    """Chooses what requests keep of their caches.

    Args:
        executor: Computes the steps.
        settings: Say what a request keeps that says nothing; None: everything.
        read_heads: Reads the trained heads of a policy, by its name; None: there are none.

    Raises:
        SettingsError: The usual policy needs what this model does not have.
    """

    def __init__(
        self,
        executor: Executor,
        settings: EngineSettings | None = None,
        read_heads: Callable[[str], RetainingHeads] | None = None,
    ) -> None:
        self._executor, self._read_heads = executor, read_heads
        self._settings = usual = settings or EngineSettings()
        self._usual = choose_keeping(usual.keep, usual.keep_budget)
        self._ready: set[str] = set()
        self._hashes: dict[str, str] = {}
        self.require(self._usual)

    def of(self, params: SamplingParams) -> Keeping | None:
        """Return what a request keeps.

        Raises:
            SettingsError: Its policy needs what this model does not have.
            CheckpointError: The trained heads are damaged, or of another model.
        """
        if params.keep == KEEP_ALL:
            return None
        keeping = params.keeping or self._usual
        self.require(keeping)
        return keeping

    def require(self, keeping: Keeping | None) -> None:
        """Let the executor take in what a policy needs.

        Raises:
            SettingsError: This model does not have it.
            CheckpointError: The trained heads are damaged, or of another model.
        """
        if keeping is None:
            return
        method, settings = keeping.method, self._settings
        if method.packed_bits:
            dim = self._executor.shape.head_dim
            unit_form(method.packed_bits, settings.kv_dtype, settings.page_size, dim)
        if method.name in self._ready:
            return
        try:
            if method.heads:
                heads = self._heads_of(method.heads)
                self._executor.add_heads(method.heads, heads)
                self._hashes[method.name] = heads.digest
            if "queries" in method.reads:
                self._executor.turns(np.arange(1, dtype=np.int32))
        except UnsupportedModelError as error:
            raise SettingsError(f"keep='{method.name}' cannot be had here: {error}") from error
        self._ready.add(method.name)

    def hash_of(self, keeping: Keeping | None) -> str:
        """Return the hash of a policy's trained heads; empty where it has none."""
        return "" if keeping is None else self._hashes.get(keeping.method.name, "")

    def require_same(self, request: Request) -> None:
        """Refuse a request whose policy has other heads here than where it came from.

        Raises:
            SettingsError: It has, or cannot be had here.
            CheckpointError: The heads here are damaged, or of another model.
        """
        self.require(request.keep)
        here = self.hash_of(request.keep)
        if here != request.heads_hash:
            assert request.keep is not None
            raise SettingsError(
                f"Request '{request.id}' keeps entries by heads of '{request.keep.method.name}' "
                f"with the hash {request.heads_hash[:12]}, and those here have {here[:12]}; move "
                f"it to an engine of the same folder."
            )

    def _heads_of(self, name: str) -> RetainingHeads:
        if self._read_heads is None:
            raise SettingsError(
                f"keep='{name}' needs trained heads, and this engine was made without a folder "
                f"that could hold them; load the model by its folder."
            )
        return self._read_heads(name)
