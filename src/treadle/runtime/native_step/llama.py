"""The native step: a whole forward pass of a decoder in one call of C.

It knows the architectures of `names.NAMES`, in any widths, also where blocks differ (treadle's
non-uniform folders). A row's numbers do not depend on the rows beside it:
each sum runs in a fixed order, whatever the batch and the number of threads.
"""

import ctypes
from collections.abc import Sequence
from itertools import repeat
from pathlib import Path

import numpy as np

from treadle.core import hardware
from treadle.core.errors import CapacityError, UnsupportedModelError
from treadle.model import facts
from treadle.model.adapters import Adapter
from treadle.model.retaining import RetainingHeads
from treadle.model.source import open_model
from treadle.native.loader import library
from treadle.runtime.cache.pages import KeyValues
from treadle.runtime.executor import Floats, Ints, ModelShape, StepRows, Targets
from treadle.runtime.head_windows import HeadWindows, checked
from treadle.runtime.linear.held import HeldWeights
from treadle.runtime.linear.packed import AUTO, PackedLayout, require_form
from treadle.runtime.linear.sparse import ExpertChanges
from treadle.runtime.native_step.adapters import NativeAdapters
from treadle.runtime.native_step.described import Described, ask
from treadle.runtime.native_step.experts import NativeExperts
from treadle.runtime.native_step.loading import ModelLoader
from treadle.runtime.native_step.looking import ProbeRoom
from treadle.runtime.native_step.names import BUNDLED, LLAMA_LIKE
from treadle.runtime.native_step.retaining import NativeNotes
from treadle.runtime.native_step.rope import turn
from treadle.runtime.native_step.sharing import NativeSharing
from treadle.runtime.native_step.structs import (
    MIRRORS,
    Cache,
    HeadTables,
    Rows,
    View,
)
from treadle.runtime.probe import Probe, Probed
from treadle.runtime.sharing.account import SlotsRead

__all__ = ["LLAMA_LIKE", "LlamaStep"]

_KV_TYPES = {"fp32": 0, "fp16": 1, "int8": 2, "int4": 3}


class LlamaStep:
    """An executor (see `treadle.runtime.executor`) whose forward pass is one native call.

    Args:
        folder: A model folder of one of `LLAMA_LIKE`, or a GGUF file.
        weights: The form in which matrices are held (see `HeldWeights`); activations meet 8- and
            4-bit weights rounded to 8 bits, in blocks of 32.
        num_threads: Threads that share each step; None for the physical cores.
        known: What `described` says of these very files, which were loaded and compared before:
            then transformers is not asked, and the weights are known to be finite.

    Raises:
        UnsupportedModelError: The architecture is another one, or no compiler made the kernel.
        CheckpointError: The folder cannot be read, or holds NaN.
    """

    shape: ModelShape
    stores_rotated_keys = True
    is_timed = False

    def __init__(
        self,
        folder: Path,
        weights: str = AUTO,
        num_threads: int | None = None,
        known: Described | None = None,
    ) -> None:
        form = require_form(weights)
        kernel = library("step", *MIRRORS)
        if kernel is None:
            raise UnsupportedModelError(
                "The native step needs its machine code; install gcc (treadle doctor says more)."
            )
        self._kernel = kernel
        self._kernel.step_open.restype = ctypes.c_void_p
        self._kernel.step_attention_seconds.restype = ctypes.c_double
        layout = PackedLayout(kernel.step_lanes(), kernel.step_offset())
        self.weights = HeldWeights(form, layout, is_finite=known is not None)
        with open_model(folder) as reader:
            config = facts.base_config(reader.config)
            self.described = known or ask(reader, config)
            loaded = ModelLoader(reader, config, self.described, self.weights, layout).load(form)
            self.weights.warn(reader)
        self._model, self._layers, self._caches, self.shape = loaded[:4]
        self._arena, self._ropes = Cache(), self.described.ropes
        self._adapters = NativeAdapters(loaded.adapted)
        self._experts = NativeExperts(loaded.places, layout.lanes)
        self._model_type = str(config["model_type"])
        wanted = num_threads or hardware.usable_physical_cores()
        self._step = ctypes.c_void_p(self._kernel.step_open(ctypes.c_int32(wanted)))
        self._pool: KeyValues | None = None
        heads = [layer.heads for layer in self._layers]
        self._notes = NativeNotes(heads, self.shape.hidden_size, self.weights, layout)
        self.sharing = NativeSharing(kernel, layout.lanes, heads, self.num_threads)
        """Which rows meet the cache together."""

    @property
    def num_threads(self) -> int:
        """How many threads share each step."""
        return int(self._kernel.step_threads(self._step))

    @property
    def query_heads(self) -> tuple[int, ...]:
        """The query heads of each layer."""
        return tuple(layer.heads.heads for layer in self._layers)

    @property
    def tokens_read(self) -> SlotsRead:
        """Cached tokens that attention has read in each KV head since the start."""
        return self.sharing.slots

    @property
    def tree_attention(self) -> str:
        """How rows that share pages attend: one of `sharing.plan.MODES`."""
        return self.sharing.mode

    @tree_attention.setter
    def tree_attention(self, mode: str) -> None:
        self.sharing.mode = mode

    def time_attention(self, is_timed: bool) -> float:
        """Measure what attention takes from now on, or no more; returns what it took so far.

        Seconds of all threads' processors since they were asked for last.
        """
        found = float(self._kernel.step_attention_seconds(self._step))
        self._kernel.step_time(self._step, ctypes.c_int32(is_timed))
        return found

    @property
    def weight_bytes(self) -> int:
        """The bytes of all weights that one token reads: every matrix and norm, the head once."""
        return self.weights.num_bytes

    @property
    def num_weights(self) -> int:
        """The numbers of all matrices that one token meets, the head once."""
        return self.weights.num_weights

    def close(self) -> None:
        """End the threads; the executor cannot be used any more."""
        if self._step:
            self._kernel.step_close(self._step)
            self._step = ctypes.c_void_p()

    def forward(self, rows: StepRows, pool: KeyValues) -> Floats:
        """Write the rows' keys and values into `pool` and return logits [wanted, vocab]."""
        return self._run(rows, pool, self._logits_of(rows))

    def log_probs(self, rows: StepRows, pool: KeyValues, targets: Targets) -> Floats:
        """Do the same, but return the log-probabilities [targets] of tokens behind wanted rows.

        No logits are kept, so that rows of a large vocabulary take no more memory than others.
        """
        out = np.empty(len(targets.tokens), np.float32)
        return self._run(rows, pool, out, targets=targets)

    def hidden(self, rows: StepRows, pool: KeyValues) -> Floats:
        """Do the same, but return the last hidden states [wanted, hidden], after the final norm."""
        out = np.empty((len(rows.wanted), self.shape.hidden_size), np.float32)
        return self._run(rows, pool, out, wants_hidden=True)

    def probe(self, rows: StepRows, pool: KeyValues, probe: Probe) -> Probed:
        """Do what `forward` does, and return what `probe` asks for beside the logits.

        Raises:
            SettingsError: The step has no such segment or row.
        """
        probe.check(rows)
        room = ProbeRoom(probe, rows, [own.heads for own in self._layers], self.shape.hidden_size)
        return room.probed(self._run(rows, pool, self._logits_of(rows), room=room))

    def set_head_windows(self, windows: HeadWindows | None) -> None:
        """Give each query head a window of its own; None: the model's windows again.

        Raises:
            SettingsError: They do not fit the model's layers and heads.
        """
        heads = [layer.heads.heads for layer in self._layers]
        found = checked([None] * len(heads) if windows is None else windows, heads)
        for layer, own in zip(self._layers, found, strict=True):
            widths = None if own is None else np.array([window or 0 for window in own], np.int32)
            layer.heads.windows = widths
        own_windows = [layer.heads.window or None for layer in self._layers]
        self.shape = self.shape.with_windows(found, own_windows)

    def add_adapter(self, slot: int, adapter: Adapter) -> None:
        """Take an adapter in, for segments whose rows name its slot."""
        self._adapters.add(slot, adapter)

    def remove_adapter(self, slot: int) -> None:
        """Let an adapter, or a mixture of experts, go."""
        (self._experts if self._experts.holds(slot) else self._adapters).remove(slot)

    def add_heads(self, name: str, heads: RetainingHeads) -> None:
        """Take heads in that score entries of the cache."""
        self._notes.add(name, heads)

    def turns(self, positions: Ints) -> list[tuple[Floats, Floats]]:
        """Return the cosines and sines [positions, dim / 2] by which each layer turns.

        Raises:
            UnsupportedModelError: Not all numbers of a head turn.
        """
        dim = self.shape.head_dim
        for layer, own in enumerate(self._layers):
            if own.turned != dim:
                raise UnsupportedModelError(
                    f"Layer {layer} turns {own.turned} of a head's {dim} numbers, expected all of "
                    f"them; choose a policy that does not foresee queries (snapkv, key_norm)."
                )
        last = self.shape.rope_lengths.regime(int(positions.max()) + 1)
        regimes = np.full(len(positions), last, np.int32)
        found = [turn(rope, positions, regimes) for rope in self._ropes]
        return [found[layer.rope] for layer in self._layers]

    def hold_experts(self, experts: Sequence[ExpertChanges]) -> None:
        """Take experts in, of which segments may take parts.

        Raises:
            CheckpointError: They are of another model.
            UnsupportedModelError: The step adds none to such a model.
        """
        if self._model_type not in BUNDLED:
            raise UnsupportedModelError(
                f"The native step adds experts to models of type {', '.join(BUNDLED)}, not "
                f"'{self._model_type}'; make a plain model of one expert or of a mixture: treadle "
                f"merge materialise."
            )
        self._experts.hold(experts)

    def add_mixture(self, slot: int, weights: Floats) -> None:
        """Let segments whose rows name a slot take parts of the experts [experts]."""
        self._experts.mix(slot, weights)

    def _logits_of(self, rows: StepRows) -> Floats:
        return np.empty((len(rows.wanted), self.shape.vocab_size), np.float32)

    def _run(
        self,
        rows: StepRows,
        pool: KeyValues,
        out: Floats,
        *,
        wants_hidden: bool = False,
        targets: Targets | None = None,
        room: ProbeRoom | None = None,
    ) -> Floats:
        """Run a step that fills `out`, and return it."""
        self._bind(pool)
        regimes = rows.rope_regimes(self.shape)
        full, sliding = self._ropes
        turns = [turn(full, rows.positions, regimes)] * 2
        if sliding is not full:
            turns[1] = turn(sliding, rows.positions, regimes)
        view = View(
            *(rows.positions, rows.row_starts, rows.context_lengths),
            *(rows.page_starts, rows.pages, rows.prefix_lengths),
            rows.ancestors,
            0 if rows.ancestors is None else rows.ancestors.shape[1],
            _KV_TYPES[pool.dtype],
            pool.page_size,
            self._heads_of(rows),
        )
        is_counting = rows.heads is not None and rows.heads.counts_weights
        call = Rows(
            *(rows.tokens, rows.slots, rows.wanted),
            view,
            [cosines for cosines, _ in turns],
            [sines for _, sines in turns],
            len(rows.tokens),
            len(rows.context_lengths),
            len(rows.wanted),
            wants_hidden,
            *(targets or (None, None)),
            out,
            None if room is not None or is_counting else self.sharing.of(rows, pool),
            None if room is None else room.struct,
            *self._adapters.call(rows),
            *self._experts.call(rows),
        )
        if self._kernel.step_run(self._step, ctypes.byref(self._model), ctypes.byref(call)):
            raise CapacityError(
                f"No memory for a step of {len(rows.tokens)} rows; lower max_num_batched_tokens."
            )
        return out

    def _heads_of(self, rows: StepRows) -> HeadTables:
        tables = rows.heads
        if tables is None:
            return HeadTables()
        own = (self._arena, self._notes.of(tables))
        return HeadTables(*tables[:3], *own, tables.packed, *tables.planes.shape[1:])

    def _bind(self, pool: KeyValues) -> None:
        """Point the model's caches at the arrays of `pool`."""
        if pool is self._pool:
            return
        for cache, layer in zip(
            (*self._caches, self._arena), (*pool.layers, pool.arena), strict=True
        ):
            for name, array in zip(layer._fields, layer, strict=True):
                setattr(cache, name, array)
        for own, divided_by in zip(self._layers, pool.key_factors or repeat(None), strict=False):
            own.heads.factors = divided_by
        self._model.kv_dtype = _KV_TYPES[pool.dtype]
        self._model.page_size = pool.page_size
        self._pool = pool
