"""How the runtime holds a model and its cache, as one frozen object."""

from typing import Literal

from pydantic import Field

from treadle.core.settings import Settings

__all__ = ["EngineSettings"]


class EngineSettings(Settings):
    """How an engine holds weights and cache, and how it fills a step."""

    weights: str = "auto"
    """How matrices are held by the native step: fp32, fp16, q8, q4_0 or q4_1; auto keeps the codes
    of a quantised model as they are, and holds others in fp32."""
    kv_dtype: Literal["fp32", "fp16", "int8"] = "fp32"
    """How keys and values are stored."""
    num_threads: int | None = Field(default=None, gt=0)
    """Threads of the native step (default: the physical cores)."""
    device: str = "cpu"
    """cpu, or a CUDA device (experimental)."""
    cache_bytes: int | None = Field(default=None, gt=0)
    """Of keys and values; unless given, what all requests of full length take, but at most a
    quarter of the free memory."""
    page_size: int = Field(default=16, gt=0)
    """Tokens of a page."""
    max_num_seqs: int | None = Field(default=None, gt=0)
    """Requests in a batch."""
    max_num_batched_tokens: int = Field(default=256, gt=0)
    """Tokens of a step."""
    enable_prefix_caching: bool = True
    """Whether equal starts of texts are computed once."""
