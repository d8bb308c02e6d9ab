"""Merge: what is the merged tensor? Every published way, streamed in float32 runs."""

from treadle.combine.merge.apply import merge, merge_yaml
from treadle.combine.merge.conflict.apply import merge_conflict
from treadle.combine.merge.conflict.materialise import merge_materialise
from treadle.combine.merge.extract import merge_extract_lora
from treadle.combine.merge.glue.apply import merge_glue
from treadle.combine.merge.inspect import merge_inspect
from treadle.combine.merge.mixture.apply import merge_moe
from treadle.combine.merge.tables import METHODS

__all__ = [
    "METHODS",
    "merge",
    "merge_conflict",
    "merge_extract_lora",
    "merge_glue",
    "merge_inspect",
    "merge_materialise",
    "merge_moe",
    "merge_yaml",
]
