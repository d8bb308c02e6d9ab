"""Documents in one row, of which no token sees another document, and logits where they are wanted.

Attention runs document by document inside the row, so that nothing is spent on pairs that may not
see each other; all else of a transformer treats tokens alone. Whether that is so of a model is
found by trying: one whose documents change each other (state-space layers, convolutions, positions
of its own) gets them in rows of their own, filled up at their ends.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal

from treadle.core.seed import torch_stream
from treadle.core.shapes import Float, Int, Tensor

if TYPE_CHECKING:
    import torch

    from treadle.model.classes import CausalLM

__all__ = ["Compute", "PackedModel"]

Compute = Literal["float32", "bfloat16"]

_lengths: ContextVar[tuple[int, ...]] = ContextVar("_lengths", default=())
"""Of the documents in the row that runs; none: a call as any other."""
_PROBE_LENGTHS = (5, 3, 7)
_PROBE_TOLERANCE = 1e-3
"""Of the logits' spread; a document that sees another one is off by a good part of it."""


class PackedModel:
    """A causal language model that is called on documents.

    Args:
        model: In evaluation mode. Its attention is replaced while `active`.
        compute: In which numbers products are computed; weights, sums over tokens and what is kept
            between blocks stay float32.

    Attributes:
        is_packed: Whether documents share a row.
    """

    def __init__(self, model: "CausalLM", compute: Compute = "float32") -> None:
        import torch

        self.model, self.compute = model, compute
        self._takes_places = _takes(model, "logits_to_keep")
        self._takes_positions = _takes(model, "position_ids")
        self.is_packed, self._is_active = True, False
        with self.active(), self.exactly(), torch.no_grad():
            self.is_packed = self._takes_positions and self._keeps_apart()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let documents share rows, inside the block."""
        if self._is_active:
            yield
            return
        configs = _configs(self.model)
        before = [config._attn_implementation for config in configs]
        try:
            for config, original in zip(configs, before, strict=True):
                config._attn_implementation = _register(original or "eager")
            self._is_active = True
            yield
        finally:
            self._is_active = False
            for config, original in zip(configs, before, strict=True):
                config._attn_implementation = original

    @contextmanager
    def exactly(self) -> Iterator[None]:
        """Compute in float32, inside the block."""
        before: Compute = self.compute
        self.compute = "float32"
        try:
            yield
        finally:
            self.compute = before

    def logits(
        self,
        tokens: Int[Tensor, "tokens"],
        lengths: Sequence[int],
        wanted: Int[Tensor, "wanted"],
    ) -> Float[Tensor, "wanted vocab"]:
        """Return the logits at some places, each by what stands before it in its own document.

        Args:
            tokens: The documents, one after the other.
            lengths: Their tokens.
            wanted: Places in `tokens`.
        """
        if self.is_packed and len(lengths) > 1:
            return self._in_a_row(tokens, lengths, wanted)
        return self._in_rows(tokens, lengths, wanted)

    def _in_a_row(
        self, tokens: "torch.Tensor", lengths: Sequence[int], wanted: "torch.Tensor"
    ) -> "torch.Tensor":
        import torch

        positions = torch.cat([torch.arange(length) for length in lengths]).to(tokens.device)
        reset = _lengths.set(tuple(lengths))
        try:
            # A mask of ones: without any, transformers looks for documents by itself.
            return self._call(
                wanted,
                input_ids=tokens[None],
                position_ids=positions[None],
                attention_mask=torch.ones_like(tokens[None]),
            )[0]
        finally:
            _lengths.reset(reset)

    def _in_rows(
        self, tokens: "torch.Tensor", lengths: Sequence[int], wanted: "torch.Tensor"
    ) -> "torch.Tensor":
        """Run each document in a row of its own; what fills its end is seen by nothing."""
        import torch

        longest = max(lengths)
        rows = tokens.new_zeros(len(lengths), longest)
        starts = torch.tensor([0, *lengths[:-1]], device=tokens.device).cumsum(0)
        for row, (start, length) in enumerate(zip(starts.tolist(), lengths, strict=True)):
            rows[row, :length] = tokens[start : start + length]
        row_of = torch.searchsorted(starts, wanted, right=True) - 1
        places, kept = torch.unique(wanted - starts[row_of], return_inverse=True)
        mask = torch.ones_like(rows)
        return self._call(places, input_ids=rows, attention_mask=mask)[row_of, kept]

    def _call(self, places: "torch.Tensor", **inputs: "torch.Tensor") -> "torch.Tensor":
        """Return the logits of all rows at some places."""
        import torch

        is_less = self.compute == "bfloat16"
        with torch.autocast(places.device.type, torch.bfloat16, enabled=is_less):
            if self._takes_places:
                found: torch.Tensor = self.model(
                    **inputs, use_cache=False, logits_to_keep=places
                ).logits
                return found
            whole: torch.Tensor = self.model(**inputs, use_cache=False).logits
            return whole[:, places]

    def _keeps_apart(self) -> bool:
        """Say whether documents in one row are what they are alone."""
        import torch

        size = self.model.get_input_embeddings().weight.shape[0]
        drawn = torch_stream(0, "documents")
        tokens = torch.randint(size, (sum(_PROBE_LENGTHS),), generator=drawn)
        everywhere = torch.arange(len(tokens))
        alone = self._in_rows(tokens, _PROBE_LENGTHS, everywhere)
        try:
            packed = self._in_a_row(tokens, _PROBE_LENGTHS, everywhere)
        except (TypeError, ValueError, RuntimeError):  # it takes rows in its own ways only
            return False
        spread = float(alone.std()) + 1e-12
        return float((packed - alone).abs().max()) < _PROBE_TOLERANCE * spread


def _configs(model: "CausalLM") -> list[Any]:  # Any: transformers' configs
    """Return the configs by which a model's parts choose their attention; blocks may have own."""
    found = [model.config, *(getattr(part, "config", None) for part in model.modules())]
    return list({id(one): one for one in found if hasattr(one, "_attn_implementation")}.values())


def _takes(model: "CausalLM", word: str) -> bool:
    import inspect

    return word in inspect.signature(model.forward).parameters


def _register(original: str) -> str:
    """Register attention that keeps documents apart around `original`, and return its name."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    name = f"treadle_packed_{original}"
    own_mask = ALL_MASK_ATTENTION_FUNCTIONS[original]

    def attend(module: Any, *args: Any, **kwargs: Any) -> Any:  # Any: each model has its own words
        own = _own_attention(module, original)
        names = ("query", "key", "value", "attention_mask")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if not _lengths.get():
            return own(module, **given)
        return _apart(own, module, given), None

    def mask(*args: Any, **kwargs: Any) -> Any:
        lengths = _lengths.get()
        if not lengths:
            return own_mask(*args, **kwargs)
        # Of the longest document alone: the others see what its beginning sees.
        sizes = {"q_length": max(lengths), "kv_length": max(lengths), "attention_mask": None}
        return own_mask(*args, **{**kwargs, **sizes})

    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, mask)
    return name


def _apart(own: Any, module: Any, given: dict[str, Any]) -> "torch.Tensor":
    """Attend document by document: [1, tokens, heads, dim]."""
    import torch

    mask, found, start = given["attention_mask"], [], 0
    for length in _lengths.get():
        part = slice(start, start + length)
        some = {name: given[name][:, :, part] for name in ("query", "key", "value")}
        seen = None if mask is None else mask[..., :length, :length]
        found.append(own(module, **{**given, **some, "attention_mask": seen})[0])
        start += length
    return torch.cat(found, dim=1)


def _own_attention(module: Any, original: str) -> Any:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if original == "eager":
        return sys.modules[type(module).__module__].eager_attention_forward
    return ALL_ATTENTION_FUNCTIONS[original]
