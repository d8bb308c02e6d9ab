"""A package that the command does without, although it is installed."""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["do_without"]


class _Absent(MetaPathFinder, Loader):
    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Answer for the package, and for nothing else."""
        return ModuleSpec(name, self) if name == self._package else None

    def create_module(self, spec: ModuleSpec) -> None:
        """Refuse, as where the package is not installed."""
        raise ModuleNotFoundError(f"The command does without {spec.name}.", name=spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Never called."""


def do_without(package: str) -> None:
    """Let imports of a package fail in this process from now on, unless it is imported already."""
    sys.meta_path.insert(0, _Absent(package))
