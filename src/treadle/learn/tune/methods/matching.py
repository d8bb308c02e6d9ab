"""Weights that are called by name learn."""

import re
from collections.abc import Mapping
from typing import ClassVar

from treadle.core.method import Standard
from treadle.learn.tune.base import Learner


class Matching(Learner):
    """Let those weights learn in whose names a regular expression is found.

    `--learn 'mlp|norm'` is short for `--learn matching --learn.pattern 'mlp|norm'`.
    """

    name: ClassVar[str] = "matching"
    paper = Standard("Freezing layers, as in Howard and Ruder, ULMFiT, 2018, section 3.3.")

    pattern: str
    """Searched in each name, such as model.layers.0.self_attn.q_proj.weight."""

    def names(self, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
        """Return the names in which the pattern is found.

        Raises:
            SettingsError: It is no regular expression, or is found in none.
        """
        from treadle.core.errors import SettingsError

        try:
            found = [name for name in shapes if re.search(self.pattern, name)]
        except re.error as error:
            raise SettingsError(
                f"learn = {self.pattern!r} is neither all, lora nor norms, and no regular "
                f"expression ({error}); give one of the former, or mend it."
            ) from error
        if not found:
            raise SettingsError(
                f"learn = {self.pattern!r} is neither all, lora nor norms, and is found in no name "
                f"of the model's parameters, which are called like '{next(iter(shapes))}'; give "
                f"one of the former, or a part of such names."
            )
        return found
