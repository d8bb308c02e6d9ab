"""What the experts of a bundle are called: after their models, each once."""

from collections.abc import Sequence

from treadle.core.checkpoint.layered import DENSE

__all__ = ["expert_names", "plain_name"]


def plain_name(path: str) -> str:
    """Return the last part of a model's path as the name of a folder."""
    last = path.rstrip("/").rpartition("/")[2].partition("+")[0]
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in last).strip("-.") or "model"


def expert_names(paths: Sequence[str]) -> list[str]:
    """Return names that differ; ``dense`` is what the model beside the experts is called."""
    names = [plain_name(path) for path in paths]
    found: list[str] = []
    for number, name in enumerate(names, 1):
        is_free = names.count(name) == 1 and name != DENSE and name not in found
        own = name if is_free else f"{name}-{number}"
        while own in found or (own in names and own != name):
            own += "-"
        found.append(own)
    return found
