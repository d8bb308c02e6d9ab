"""Roles of tensors per architecture, as data; numbers of configs, and matrices of blocks."""

from treadle.model.facts.architectures import ARCHITECTURES, Architecture, LinearFact
from treadle.model.facts.matrices import Linear, Shapes, block_prefix, disk_names, linears, renamed
from treadle.model.facts.names import names_among, own_name
from treadle.model.facts.sizes import (
    NONUNIFORM,
    Config,
    base_config,
    facts_of,
    head_dim,
    hidden_size,
    is_wrapper,
    num_experts,
    num_heads,
    num_kv_heads,
    num_layers,
    position_notes,
    require_positions,
    text_config,
    whole_config,
    with_text,
)

__all__ = [
    "ARCHITECTURES",
    "NONUNIFORM",
    "Architecture",
    "Config",
    "Linear",
    "LinearFact",
    "Shapes",
    "base_config",
    "block_prefix",
    "disk_names",
    "facts_of",
    "head_dim",
    "hidden_size",
    "is_wrapper",
    "linears",
    "names_among",
    "num_experts",
    "num_heads",
    "num_kv_heads",
    "num_layers",
    "own_name",
    "position_notes",
    "renamed",
    "require_positions",
    "text_config",
    "whole_config",
    "with_text",
]
