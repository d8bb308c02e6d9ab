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

    The scores of prompts stand in a file, [kv_heads, tokens] under the number and the hash of the
    tokens with which a text begins: what a policy could do that knew the answer. Tokens that are
    not scored, generated ones too, stay. `treadle evaluate recall --keeps oracle` measures them.
    """

    name: ClassVar[str] = "oracle"
    paper = Control("the ceiling of scores from a token alone: it knows the answer")

    path: Path | None = None
    """A safetensors file of scores; evaluate recall measures them itself."""

    def score(self, cached: Cached) -> Floats:
        """Return what entries [kv_heads, entries] are worth."""
        known = self._known(cached)
        if known is None or len(known) != len(cached.positions):
            raise SettingsError(
                f"'{self.path}' holds no scores of a prompt of {cached.num_prompt} tokens that is "
                f"asked, in {len(cached.positions)} heads; the oracle answers only prompts whose "
                f"answers were measured: ask by evaluate recall."
            )
        missing = max(0, cached.num_tokens - known.shape[1])
        wide = np.pad(known, ((0, 0), (0, missing)), constant_values=np.inf)
        return np.take_along_axis(wide, np.maximum(cached.positions, 0), axis=1)

    def _known(self, cached: Cached) -> Floats | None:
        """Return the scores of the longest measured start of a text."""
        if self.path is None:
            return None
        tokens, file = cached.tokens[: cached.num_prompt], _read(self.path)
        lengths = sorted({int(name.partition("-")[0]) for name in file}, reverse=True)
        starts = (tokens[:length] for length in lengths if length <= len(tokens))
        return next((file[key] for key in map(prompt_key, starts) if key in file), None)


@lru_cache(maxsize=2)
def _read(path: Path) -> dict[str, Floats]:
    from safetensors.numpy import load_file

    if not path.is_file():
        raise SettingsError(f"No file '{path}' of an oracle's scores; give its path.")
    found: dict[str, Floats] = load_file(path)
    return found
