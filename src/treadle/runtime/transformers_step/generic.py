"""T0, the generic step: any causal LM of transformers, unchanged, over pages."""

import os
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from treadle.core.checkpoint.described import read_config
from treadle.core.errors import SettingsError
from treadle.model import facts
from treadle.model.adapters import Adapter
from treadle.model.foreign import load_foreign
from treadle.model.load import full
from treadle.model.retaining import RetainingHeads, require_shape
from treadle.model.rope import RotaryFactors
from treadle.native.loader import SlowPathWarning
from treadle.runtime.cache.pages import KeyValues
from treadle.runtime.executor import Floats, Ints, StepRows
from treadle.runtime.head_windows import HeadWindows, checked
from treadle.runtime.probe import Probe, Probed, count_slots
from treadle.runtime.transformers_step.adapters import HookedAdapters
from treadle.runtime.transformers_step.attention import StepPages, register
from treadle.runtime.transformers_step.call import call
from treadle.runtime.transformers_step.isolation import require_isolation
from treadle.runtime.transformers_step.looking import inputs_of, mass_of, watched
from treadle.runtime.transformers_step.noting import SeenInputs, StepNotes
from treadle.runtime.transformers_step.shape import shape_of
from treadle.runtime.transformers_step.shared import takes_kernel
from treadle.runtime.transformers_step.turning import require_turns, turns_of
from treadle.runtime.transformers_step.visibility import Window

if TYPE_CHECKING:
    import torch

__all__ = ["GenericExecutor"]


_NUM_TURNED = 5
"""Tokens on which it is tried how a model turns."""


class GenericExecutor:
    """Runs transformers' own modules in float32; only attention reads and writes the pool.

    Keys are cached as the model hands them over: with their rotary position. On a CUDA device
    (experimental) the pool must be one of `runtime.store`.
    """

    stores_rotated_keys = True
    is_timed = False
    tree_attention = "auto"
    """How rows that share pages attend: one of `sharing.plan.MODES`; auto is by node here, and by
    blocks where the kernel for GPUs runs."""

    def __init__(
        self,
        module: Any,  # Any: a causal LM
        device: str = "cpu",
        name: str = "the module",
        is_isolated: bool = False,
    ) -> None:
        """Make a step of a module.

        Args:
            module: A causal LM of transformers; it is moved to the device.
            device: cpu or cuda.
            name: Of the model, for errors.
            is_isolated: Whether it is known that its numbers depend on one text alone.

        Raises:
            UnsupportedModelError: They depend on more, or its attention cannot be paged.
            CheckpointError: The model computes no numbers.
        """
        import torch

        self._module = module.to(device).eval()
        self._device = torch.device(device)
        self._process = os.getpid()
        original = str(module.config._attn_implementation).removeprefix("treadle_")
        name = register(original if original in ("eager", "sdpa") else "eager")
        for part in module.modules():
            config: Any = getattr(part, "config", None)
            if hasattr(config, "_attn_implementation"):
                config._attn_implementation = name
        self._rotary = RotaryFactors(module)
        shape, self._heads, modules = shape_of(module, self._device, name)
        self._seen, self._retaining = SeenInputs(modules), dict[str, RetainingHeads]()
        bounds, dynamic_from = self._rotary.lengths
        self.shape = shape._replace(
            max_positions=max(shape.max_positions, self._rotary.longest),
            rope_bounds=bounds,
            rope_dynamic_from=dynamic_from,
        )
        self._own_windows, self._has_known_turns = self.shape.windows, False
        self._windows: list[Window] = list(self._own_windows)
        self._adapters = HookedAdapters(module, self._device)
        if not is_isolated:
            require_isolation(module, self, self._device)

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        device: str = "cpu",
        trust_remote_code: bool = False,
        is_isolated: bool = False,
    ) -> "GenericExecutor":
        """Load the model of `folder` in float32.

        Raises:
            SettingsError: There is no such device.
            UnsupportedModelError: Its attention cannot be paged, or texts share more than that.
            CheckpointError: The model computes no numbers.
        """
        import torch

        if device != "cpu" and not torch.cuda.is_available():
            raise SettingsError(f"No device '{device}' here; use device='cpu'.")
        return cls(_load(folder, trust_remote_code), device, str(folder), is_isolated)

    @property
    def weight_bytes(self) -> int:
        """The bytes of all weights, each counted once."""
        return sum(weight.nbytes for weight in self._module.parameters())

    def forward(self, rows: StepRows, pool: KeyValues) -> Floats:
        """Write the rows' keys and values into `pool` and return logits [wanted, vocab]."""
        wanted = self._wanted(rows)
        logits = self._run(self._module, rows, self._step(rows, pool), logits_to_keep=wanted).logits
        found: Floats = logits[0].float().cpu().numpy()
        return found

    def hidden(self, rows: StepRows, pool: KeyValues) -> Floats:
        """Do the same, but return the last hidden states [wanted, hidden]."""
        backbone = self._module.get_submodule(self._module.base_model_prefix)
        states = self._run(backbone, rows, self._step(rows, pool)).last_hidden_state[
            0, self._wanted(rows)
        ]
        found: Floats = states.float().cpu().numpy()
        return found

    def probe(self, rows: StepRows, pool: KeyValues, probe: Probe) -> Probed:
        """Do what `forward` does, and return what `probe` asks for beside the logits.

        Raises:
            SettingsError: The step has no such segment or row.
            UnsupportedModelError: The model's blocks are not found, and their states are asked for.
        """
        probe.check(rows)
        seen = self._seen.open() if probe.has_inputs else nullcontext()
        with watched(self._module, probe) as states, seen:
            wanted = self._wanted(rows)
            step = self._step(rows, pool, probe)
            logits = self._run(self._module, rows, step, logits_to_keep=wanted).logits
        mass = mass_of(step, count_slots(rows, probe.segment)) if probe.mass else None
        return Probed(
            logits[0].float().cpu().numpy(),
            mass,
            np.stack(states) if probe.has_states else None,
            inputs_of(step, self._seen) if probe.has_inputs else None,
        )

    def set_head_windows(self, windows: HeadWindows | None) -> None:
        """Give each query head a window of its own; None: the model's windows again.

        Raises:
            SettingsError: They do not fit the model's layers and heads.
        """
        found = checked([None] * len(self._heads) if windows is None else windows, self._heads)
        pairs = zip(found, self._own_windows, strict=True)
        self._windows = [own if layer is None else layer for layer, own in pairs]
        self.shape = self.shape.with_windows(found, self._own_windows)

    def add_adapter(self, slot: int, adapter: Adapter) -> None:
        """Take an adapter in, for segments whose rows name its slot."""
        self._adapters.add(slot, adapter)

    def remove_adapter(self, slot: int) -> None:
        """Let an adapter go."""
        self._adapters.remove(slot)

    @property
    def query_heads(self) -> tuple[int, ...]:
        """The query heads of each layer."""
        return self._heads

    def turns(self, positions: Ints) -> list[tuple[Floats, Floats]]:
        """Return the cosines and sines [positions, dim / 2] by which each layer turns.

        Raises:
            UnsupportedModelError: It turns otherwise than by halves of a head, or not at all.
        """
        if not self._has_known_turns:
            self._seen.require_projections()
            few = np.arange(_NUM_TURNED, dtype=np.int32)
            require_turns(self, self._seen, turns_of(self._module, few))
            self._has_known_turns = True
        self._rotary.reset()
        return turns_of(self._module, positions)

    def add_heads(self, name: str, heads: RetainingHeads) -> None:
        """Take heads in that score entries of the cache.

        Raises:
            CheckpointError: They are of another shape.
            UnsupportedModelError: They read what the model does not show.
        """
        if heads.reads == "projections":
            self._seen.require_projections()
        dim = self.shape.head_dim
        shapes = [(q, kv, dim) for q, kv in zip(self._heads, self.shape.kv_heads, strict=True)]
        require_shape(heads, shapes, self.shape.hidden_size)
        self._retaining[name] = heads

    def _wanted(self, rows: StepRows) -> "torch.Tensor":
        import torch

        return torch.from_numpy(rows.wanted.astype(np.int64)).to(self._device)

    def _require_threads(self) -> None:
        """Do without torch's threads in a forked child: they stayed behind, and it would hang."""
        import torch

        if os.getpid() == self._process:
            return
        self._process = os.getpid()
        if torch.get_num_threads() > 1:
            torch.set_num_threads(1)
            warnings.warn(
                "torch's threads do not survive a fork, so the model runs on one thread here; load "
                "it in this process (start method 'spawn') for all of them.",
                SlowPathWarning,
                stacklevel=2,
            )

    def _step(self, rows: StepRows, pool: KeyValues, probe: Probe | None = None) -> StepPages:
        mode = self.tree_attention
        if mode == "auto":
            mode = "flatten" if takes_kernel(self._device) else "node"
        notes = None
        if rows.heads is not None and rows.heads.has_notes:
            notes = StepNotes(rows.heads, self._retaining, self._seen, self._heads)
        return StepPages(rows, pool, self._device, self._windows, probe, mode, notes)

    def _run(self, module: Any, rows: StepRows, step: StepPages, **options: Any) -> Any:
        import torch

        self._require_threads()
        regimes = torch.from_numpy(rows.rope_regimes(self.shape)).to(self._device)
        adapted = self._adapters.hooked(rows.adapter_runs(), len(rows.tokens))
        is_read = rows.heads is not None and rows.heads.reads_inputs
        seen = self._seen.open() if is_read else nullcontext()
        with adapted, seen, self._rotary.by_text(regimes):
            return call(
                module,
                torch.from_numpy(rows.tokens).to(self._device, torch.int64),
                torch.from_numpy(rows.positions).to(self._device, torch.int64),
                step,
                **options,
            )


def _load(folder: Path, trust_remote_code: bool) -> Any:  # Any: a causal LM
    """Return the model in float32: by its facts, or as transformers reads an unknown folder."""
    config_file = folder / "config.json"
    config = read_config(config_file) if config_file.is_file() else {}
    model_type = str(facts.text_config(config).get("model_type", ""))
    is_known = model_type in facts.ARCHITECTURES or not config
    if is_known or "quantization_config" in config or "treadle_base" in config:
        return full(folder, "float32", trust_remote_code)
    return load_foreign(folder, trust_remote_code)
