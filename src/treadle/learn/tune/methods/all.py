"""All weights learn."""

from collections.abc import Mapping
from typing import ClassVar

from treadle.core.method import Standard
from treadle.learn.tune.base import Learner


class All(Learner):
    """Let every weight learn, embeddings, norms and head too."""

    name: ClassVar[str] = "all"
    paper = Standard("Full fine-tuning, as in Devlin et al., BERT, 2019, section 3.2.")

    def names(self, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
        """Return all names."""
        return list(shapes)
