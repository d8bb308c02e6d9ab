"""The structs of the native step (step_model.h and the headers below it), as ctypes fills them.

They are compared with C's own when the kernel is loaded (native/mirror.py), and own what they point
to (native/pointers.py).
"""

import ctypes

from treadle.native.pointers import OwningStructure
from treadle.runtime.linear.packed import Matrix

__all__ = [
    "MIRRORS",
    "NUM_NORMS",
    "ROLES",
    "Cache",
    "Dense",
    "ExpertLayer",
    "ExpertMlp",
    "GroupRows",
    "HeadTables",
    "Heads",
    "Layer",
    "LowRank",
    "Model",
    "Noted",
    "Planned",
    "Probe",
    "Retaining",
    "Rows",
    "Run",
    "Shares",
    "Sharing",
    "Sparse",
    "View",
]

ROLES = ("q", "k", "v", "o", "gate", "up", "down")
"""A layer's matrices, in the order of the targets of step_lora.h."""


class Heads(OwningStructure):
    """The attention heads of a layer."""

    _fields_ = (
        ("heads", ctypes.c_int32),
        ("kv_heads", ctypes.c_int32),
        ("dim", ctypes.c_int32),
        ("window", ctypes.c_int32),
        ("first", ctypes.c_int32),
        ("scale", ctypes.c_float),
        ("softcap", ctypes.c_float),
        ("windows", ctypes.c_void_p),
        ("factors", ctypes.c_void_p),
    )
    _points_to_ = (("i4", ("windows",)), ("f4", ("factors",)))


_NORMS = (
    *("attention_norm", "mlp_norm", "attention_after", "mlp_after", "q_norm", "k_norm"),
    *("attention_shift", "mlp_shift", "q_whole", "k_whole"),
)
NUM_NORMS = len(_NORMS)


class ExpertMlp(OwningStructure):
    """The matrices of one expert of a mixture."""

    _fields_ = tuple((role, Matrix) for role in ("gate", "up", "down"))


class ExpertLayer(OwningStructure):
    """The experts of a decoder block."""

    _fields_ = (
        ("router", Matrix),
        ("experts", ctypes.c_void_p),
        ("shared_gate", ctypes.c_void_p),
        *((n, ctypes.c_int32) for n in ("num_experts", "top_k", "is_normed", "is_rounded")),
    )
    _points_to_ = (("f4", ("shared_gate",)),)


class Layer(OwningStructure):
    """A decoder block."""

    _fields_ = (
        *((role, Matrix) for role in ROLES),
        *((name, ctypes.c_void_p) for name in _NORMS),
        ("experts", ctypes.c_void_p),
        ("heads", Heads),
        ("rope", ctypes.c_int32),
        ("turned", ctypes.c_int32),
    )
    _points_to_ = (("f4", _NORMS),)


class Cache(OwningStructure):
    """The arrays of a layer of the pool, or of its arena."""

    _fields_ = tuple(
        (name, ctypes.c_void_p)
        for name in ("keys", "values", "positions", "key_scales", "value_scales", "scores")
    )
    _points_to_ = (("i4", ("positions",)), ("f4", ("key_scales", "value_scales", "scores")))


_OF_MODEL = ("norm", "shift", "positions")


class Model(OwningStructure):
    """A whole decoder."""

    _fields_ = (
        ("embedding", Matrix),
        ("head", Matrix),
        *((name, ctypes.c_void_p) for name in _OF_MODEL),
        ("layers", ctypes.c_void_p),
        ("caches", ctypes.c_void_p),
        *((n, ctypes.c_int32) for n in ("num_layers", "hidden", "activation")),
        *((n, ctypes.c_float) for n in ("epsilon", "norm_offset", "embedding_scale", "softcap")),
        ("clip", ctypes.c_float),
        *((n, ctypes.c_int32) for n in ("is_centred", "is_parallel", "kv_dtype", "page_size")),
    )
    _points_to_ = (("f4", _OF_MODEL),)


class Noted(OwningStructure):
    """What is noted of a segment's entries."""

    _fields_ = (
        ("heads", ctypes.c_void_p),
        ("queries", ctypes.c_void_p),
        *((n, ctypes.c_int32) for n in ("note", "first_counted", "counts_largest", "first_query")),
    )
    _points_to_ = (("f4", ("queries",)),)


_OF_RETAINING = ("second", "second_bias", "norms", "sinks", "bias")


class Retaining(OwningStructure):
    """A layer's heads that score what enters the cache."""

    _fields_ = (
        ("first", Matrix),
        *((name, ctypes.c_void_p) for name in _OF_RETAINING),
        *((name, ctypes.c_int32) for name in ("kind", "reads", "activation", "num_sinks")),
    )
    _points_to_ = (("f4", _OF_RETAINING),)


class HeadTables(OwningStructure):
    """Tables of segments whose heads keep different entries."""

    _fields_ = (
        *(
            (name, ctypes.c_void_p)
            for name in ("numbers", "lengths", "planes", "arena", "noted", "packed")
        ),
        ("num_heads", ctypes.c_int32),
        ("most", ctypes.c_int32),
    )
    _points_to_ = (("i4", ("numbers", "lengths", "planes", "packed")),)


_PLACES = (
    *("positions", "row_starts", "context_lengths", "page_starts"),
    *("pages", "prefix_lengths"),
)


class View(OwningStructure):
    """What rows see."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in (*_PLACES, "ancestors")),
        ("ancestor_words", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
        ("page_size", ctypes.c_int32),
        ("heads", HeadTables),
    )
    _points_to_ = (("i4", _PLACES), ("u8", ("ancestors",)))


class Planned(OwningStructure):
    """Rows that meet slots of the cache together."""

    _fields_ = tuple(
        (name, ctypes.c_int32)
        for name in (
            *("first", "num_rows", "first_range", "num_ranges"),
            *("first_block", "num_blocks", "first_tail", "num_tails"),
            *("begin", "end", "partial"),
        )
    )


class Dense(OwningStructure):
    """A tree whose rows meet all of its slots."""

    _fields_ = tuple(
        (name, ctypes.c_int32)
        for name in ("first", "num_rows", "first_page", "num_slots", "first_mask")
    )


_SHARED = ("members", "segments", "ranges", "block_starts", "pieces", "tails")


class Sharing(OwningStructure):
    """Who meets the cache together in a step."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in (*_SHARED, "tiles", "partial_starts", "partials")),
        *((name, ctypes.c_void_p) for name in ("dense", "dense_pages", "mask")),
        *((n, ctypes.c_int32) for n in ("num_tiles", "num_dense", "num_partials")),
        *((n, ctypes.c_int32) for n in ("dense_numbers", "most_rows")),
        *((n, ctypes.c_int32) for n in ("most_layouts", "most_pieces")),
    )
    _points_to_ = (
        ("i4", (*_SHARED[:4], "partial_starts", "partials", "dense_pages")),
        ("f4", ("mask",)),
    )


class Probe(OwningStructure):
    """What somebody looks at inside a step."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("states", "inputs", "mass")),
        ("num_slots", ctypes.c_int64),
        *((n, ctypes.c_int32) for n in ("num_heads", "segment", "first_row", "is_by_row")),
    )
    _points_to_ = (("f4", ("states", "inputs", "mass")),)


class LowRank(OwningStructure):
    """What an adapter adds to a matrix."""

    _fields_ = (
        ("rank", ctypes.c_int32),
        ("unused", ctypes.c_int32),
        ("narrow", ctypes.c_void_p),
        ("widen", ctypes.c_void_p),
    )
    _points_to_ = (("f4", ("narrow", "widen")),)


class Run(OwningStructure):
    """Neighbouring rows of one adapter."""

    _fields_ = tuple((name, ctypes.c_int32) for name in ("first", "count", "adapter"))


class Sparse(OwningStructure):
    """What an expert changes in a matrix."""

    _fields_ = (
        ("rows", ctypes.c_int32),
        ("scale", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("starts", "columns", "values", "halves")),
    )
    _points_to_ = (("i4", ("starts",)), ("u2", ("columns", "halves")), ("f4", ("values",)))


class GroupRows(OwningStructure):
    """A few rows that take a part of one expert."""

    _fields_ = tuple((name, ctypes.c_int32) for name in ("expert", "first", "count"))


class Shares(OwningStructure):
    """Which rows take how much of which experts."""

    _fields_ = (
        ("groups", ctypes.c_void_p),
        ("rows", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("num_groups", ctypes.c_int32),
    )
    _points_to_ = (("i4", ("rows",)), ("f4", ("weights",)))


class Rows(OwningStructure):
    """The call of one step."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("tokens", "slots", "wanted")),
        ("view", View),
        ("cosines", ctypes.c_void_p * 2),
        ("sines", ctypes.c_void_p * 2),
        *((n, ctypes.c_int32) for n in ("num_rows", "num_segments", "num_wanted", "wants_hidden")),
        *((name, ctypes.c_void_p) for name in ("targets", "target_starts", "out")),
        ("sharing", ctypes.c_void_p),
        ("probe", ctypes.c_void_p),
        ("adapters", ctypes.c_void_p),
        ("runs", ctypes.c_void_p),
        ("num_runs", ctypes.c_int32),
        ("max_rank", ctypes.c_int32),
        ("gates", ctypes.c_void_p),
        ("experts", ctypes.c_void_p),
        ("shares", Shares),
        ("wanted_shares", Shares),
        ("vectors", ctypes.c_void_p),
    )
    _points_to_ = (
        ("i4", ("tokens", "slots", "wanted", "targets", "target_starts")),
        ("f4", ("out",)),
    )


MIRRORS = (
    *(Matrix, Heads, ExpertMlp, ExpertLayer, Layer, Cache, Model, Noted, Retaining, HeadTables),
    *(View, Planned, Dense, Sharing, Probe, LowRank, Run, Sparse, GroupRows, Shares, Rows),
)
