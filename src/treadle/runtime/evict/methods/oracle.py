"""Keep what is known to be attended to later: a bound, for comparison."""

from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np

from treadle.core.errors import SettingsError
from treadle.core.method import Control
from treadle.runtime.evict.base import Eviction
from treadle.runtime.evict.cached import Cached, Floats, prompt_key

__all__ = ["Oracle"]


class Oracle(Eviction):
    """Keep what the true answer's own queries attend to, as it was measured with nothing evicted.

    The scores of whole prompts stand in a file, [kv_heads, tokens] under the hash of each prompt's
    tokens: what a policy could do that knew the answer. Generated tokens all stay.
    """

    name: ClassVar[str] = "oracle"
    paper = Control("the ceiling of scores from a token alone: it knows the answer")

    path: Path
    """A safetensors file of scores."""

    def score(self, cached: Cached) -> Floats:
        """Return what entries [kv_heads, entries] are worth."""
        key = prompt_key(cached.tokens[: cached.num_prompt])
        known = _read(self.path).get(key)
        if known is None or len(known) != len(cached.positions):
            raise SettingsError(
                f"'{self.path}' holds no scores of a prompt of {cached.num_prompt} tokens that is "
                f"asked (hash {key[:12]}, {len(cached.positions)} heads); the oracle answers only "
                f"prompts whose answers were measured: evaluate recall measures them."
            )
        missing = max(0, cached.num_tokens - known.shape[1])
        wide = np.pad(known, ((0, 0), (0, missing)), constant_values=np.inf)
        return np.take_along_axis(wide, np.maximum(cached.positions, 0), axis=1)


@lru_cache(maxsize=2)
def _read(path: Path) -> dict[str, Floats]:
    from safetensors.numpy import load_file

    if not path.is_file():
        raise SettingsError(f"No file '{path}' of an oracle's scores; give its path.")
    found: dict[str, Floats] = load_file(path)
    return found
