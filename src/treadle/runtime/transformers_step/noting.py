"""What the generic step notes of entries for who chooses which of them stay, and what it sees."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from treadle.core.errors import UnsupportedModelError
from treadle.model.retaining import GATE_WIDTH, LayerHeads, RetainingHeads
from treadle.runtime.executor import EntryNotes, Floats, HeadTables
from treadle.runtime.transformers_step.visibility import EntrySource, tensor

if TYPE_CHECKING:
    import torch

__all__ = ["SeenInputs", "StepNotes", "scores_of_rows"]

_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
_GATE_EPSILON = 1e-6


class SeenInputs:
    """What the attention modules of a model read and what their matrices make of it, in a call.

    Args:
        modules: The attention module of each layer.
    """

    def __init__(self, modules: Sequence[Any]) -> None:  # Any: modules of transformers
        self._modules = list(modules)
        self.hidden: dict[int, torch.Tensor] = {}
        """[rows, hidden] of each layer."""
        self.projections: dict[int, list[torch.Tensor]] = {}
        """Queries, keys and values [rows, heads * dim] before norms of heads; of each layer."""

    @property
    def has_projections(self) -> bool:
        """Whether each module has a matrix of its own for queries, for keys and for values."""
        return all(hasattr(m, name) for m in self._modules for name in _PROJECTIONS)

    def require_projections(self) -> None:
        """Refuse a model whose queries, keys and values come out of one matrix.

        Raises:
            UnsupportedModelError: They do.
        """
        if not self.has_projections:
            raise UnsupportedModelError(
                f"{type(self._modules[0]).__name__} has no matrices {', '.join(_PROJECTIONS)}, so "
                f"that its queries are not seen before they are turned; choose a policy that does "
                f"not read them (kvzap, gated, snapkv, key_norm)."
            )

    @contextmanager
    def open(self) -> Iterator["SeenInputs"]:
        """Hang hooks on the modules while this is open."""
        with ExitStack() as hooks:
            for layer, module in enumerate(self._modules):
                hook = module.register_forward_pre_hook(self._before(layer), with_kwargs=True)
                hooks.callback(hook.remove)
                for name in _PROJECTIONS if self.has_projections else ():
                    own = getattr(module, name).register_forward_hook(self._after(layer))
                    hooks.callback(own.remove)
            yield self

    def _before(self, layer: int) -> Any:  # Any: hooks of torch
        def keep(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            read = args[0] if args else kwargs["hidden_states"]
            self.hidden[layer], self.projections[layer] = read[0], []

        return keep

    def _after(self, layer: int) -> Any:
        def keep(module: Any, args: tuple[Any, ...], output: Any) -> None:
            self.projections[layer].append(output[0])

        return keep

    def queries(self, layer: int, dim: int) -> "torch.Tensor":
        """Return the queries [rows, heads, dim] of a layer after norms of heads, not turned."""
        found = self.projections[layer][0]
        found = found.reshape(len(found), -1, dim)
        norm = getattr(self._modules[layer], "q_norm", None)
        normed: torch.Tensor = found if norm is None else norm(found)
        return normed.float()

    def read_by(self, heads: RetainingHeads, layer: int, rows: slice) -> "torch.Tensor":
        """Return what trained heads read of rows [rows, inputs]."""
        import torch

        if heads.reads == "hidden":
            return self.hidden[layer][rows].float()
        return torch.cat([part[rows] for part in self.projections[layer]], dim=-1).float()


def scores_of_rows(
    heads: RetainingHeads, layer: int, read: "torch.Tensor", kv_heads: int
) -> "torch.Tensor":
    """Return the scores [rows, kv_heads] that trained heads give tokens (see `RetainingHeads`)."""
    import torch
    from torch.nn import functional

    own = heads.layers[layer]
    first, bias = _tensor(own.first, read), _tensor(own.first_bias, read)
    scores: torch.Tensor = functional.linear(read, first, bias)
    if heads.kind == "gate":
        return _gated(own, scores, kv_heads)
    if heads.kind == "mlp":
        inner: torch.Tensor = getattr(functional, heads.activation)(scores)
        second, bias = _tensor(own.second, read), _tensor(own.second_bias, read)
        scores = functional.linear(inner, second, bias)
    return scores


def _gated(own: LayerHeads, inner: "torch.Tensor", kv_heads: int) -> "torch.Tensor":
    import torch

    parts = inner.view(len(inner), -1, GATE_WIDTH)
    parts = parts * torch.rsqrt(parts.square().mean(-1, keepdim=True) + _GATE_EPSILON)
    norms, sinks = _tensor(own.norms, inner), _tensor(own.sinks, inner)
    queries = (parts[:, :-kv_heads] * norms[0]).view(len(inner), kv_heads, -1, GATE_WIDTH)
    keys = parts[:, -kv_heads:] * norms[1]
    bias = _tensor(own.bias, inner).view(kv_heads, -1)
    z = (queries * keys[:, :, None]).sum(-1) / 4 + bias
    others = torch.einsum("rhgd,hsd->rhgs", queries, sinks)
    found: torch.Tensor = (1 / (1 + (others - z[..., None]).exp().sum(-1))).mean(-1)
    return found


def _tensor(part: Any, like: "torch.Tensor") -> Any:  # Any: a numpy array or nothing
    import torch

    return None if part is None else torch.from_numpy(part).to(like.device)


class StepNotes:
    """What is noted in one step.

    Args:
        tables: Of the step.
        held: Trained heads by name.
        seen: What attention reads.
        heads: Query heads of each layer.
    """

    def __init__(
        self,
        tables: HeadTables,
        held: Mapping[str, RetainingHeads],
        seen: SeenInputs,
        heads: Sequence[int],
    ) -> None:
        self._tables, self._held, self._seen, self._heads = tables, held, seen, list(heads)

    def note(
        self,
        segment: int,
        layer: int,
        rows: slice,
        key: "torch.Tensor",
        positions: "torch.Tensor",
        written: "torch.Tensor",
        scores: Any,  # Any: an array, or a tensor on a device
    ) -> None:
        """Note the new entries of a segment in a layer.

        Args:
            segment: Its number.
            layer: The layer.
            rows: Of the segment in the step.
            key: [kv_heads, rows, dim] of the segment.
            positions: [rows] of the segment.
            written: [rows * kv_heads] slots in the arena, of all heads of a row side by side.
            scores: Of the arena.
        """
        notes = self._tables.notes_of(segment)
        if notes is None:
            return
        if notes.kind != "nothing":
            found = self._scores(notes, layer, rows, key)
            tensor(scores).view(-1).index_copy_(0, written, found.flatten())
        if notes.queries is not None:
            queries = self._seen.queries(layer, key.shape[-1])[rows]
            first = sum(self._heads[:layer])
            own = notes.queries[first : first + self._heads[layer]]
            _add_queries(queries[positions >= notes.first_query], own)

    def _scores(
        self, notes: EntryNotes, layer: int, rows: slice, key: "torch.Tensor"
    ) -> "torch.Tensor":
        """Return the scores [rows, kv_heads] of new entries."""
        if notes.kind == "key_norm":
            lengths: torch.Tensor = key.float().norm(dim=-1)
            return -lengths.T
        if notes.kind == "zero":
            return key.new_zeros(key.shape[1], key.shape[0]).float()
        heads = self._held[notes.heads]
        return scores_of_rows(heads, layer, self._seen.read_by(heads, layer, rows), len(key))

    def counts(self, segment: int, num_rows: int) -> bool:
        """Whether weights that rows of a segment give to entries are added to their scores."""
        notes = self._tables.notes_of(segment)
        return (
            notes is not None
            and notes.first_counted is not None
            and (notes.first_counted < num_rows)
        )

    def count(self, segment: int, weights: "torch.Tensor", source: EntrySource) -> None:
        """Add probabilities [heads, rows, context] of a segment's counted rows to its entries."""
        import torch

        notes = self._tables.notes_of(segment)
        assert notes is not None
        assert source.lengths is not None
        size, own = source.arrays.positions.shape[-1], weights[:, notes.first_counted :].float()
        by_head = own.reshape(len(source.planes), -1, own.shape[-1])
        slot = torch.arange(source.context, device=own.device)
        is_held = slot < source.lengths[:, None]
        at = (source.planes[:, slot // size] * size + slot % size)[is_held]
        scores = tensor(source.arrays.scores).view(-1)
        if notes.counts_largest:
            scores[at] = torch.maximum(scores[at], by_head.amax(dim=1)[is_held])
        else:
            scores[at] += by_head.sum(dim=1)[is_held]


def _add_queries(queries: "torch.Tensor", sums: Floats) -> None:
    """Add queries [rows, heads, dim] and their products with themselves to sums of a layer."""
    import torch

    own = queries.transpose(0, 1)
    found = torch.cat([own.sum(1), (own.transpose(1, 2) @ own).flatten(1)], dim=1)
    sums += found.cpu().numpy()
