"""The one ceremony of a verb: keep what is there, clock the work, write its account.

Every verb that leaves a result runs inside `recorded`.
"""

import contextlib
import datetime
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treadle.core import hardware
from treadle.core.claim import claimed
from treadle.core.disk import told
from treadle.core.errors import SettingsError
from treadle.core.method import Control, Method
from treadle.core.result import (
    RESULT_FILE,
    Figure,
    Input,
    Measurement,
    Result,
    Role,
    Table,
    fingerprint,
    write_result,
)
from treadle.core.timing import Stopwatch

if TYPE_CHECKING:
    from treadle.core.checkpoint import Manifest, Parent, SideFile

__all__ = ["Recording", "is_control", "recorded"]

_PACKAGES = ("treadle", "torch", "transformers", "numpy")


class Recording:
    """The account of a run while it is being made.

    Attributes:
        measurements: What the result says was measured; likewise `figures`, `tables`, `notes`,
            `samples` (values by example), `bytes` (counted from files) and `protocol`.
        is_resumed: Whether an interrupted run's work was taken up; see `resumed`.
        deed: What is done to a model, in plain words that name no method.
    """

    def __init__(
        self,
        verb: str,
        action: str,
        method: Method | str,
        settings: dict[str, Any],  # Any: JSON values
        seed: int,
        out: Path | None,
    ) -> None:
        self.verb, self.action, self.settings = verb, action, settings
        self.method = method if isinstance(method, str) else method.name
        self.seed, self.out = seed, out
        self.is_control = is_control(method)
        self.is_resumed = False
        self.deed = ""
        self.inputs: list[Input] = []
        self.measurements: list[Measurement] = []
        self.figures: list[Figure] = []
        self.tables: list[Table] = []
        self.notes: list[str] = []
        self.samples: dict[str, list[float]] = {}
        self.bytes: dict[str, int] = {}
        self.protocol: dict[str, Any] | None = None  # Any: JSON values
        self._started = datetime.datetime.now(datetime.UTC)
        self._watch = Stopwatch()
        self._watch.__enter__()
        self._result: Result | None = None

    def read(self, name: str, path: str | Path, content_hash: str, role: Role) -> None:
        """Note that the run reads something; all of it before the fingerprint is asked for."""
        assert "fingerprint" not in vars(self), "the fingerprint covers all inputs"
        self.inputs.append(Input(name=name, path=str(path), content_hash=content_hash, role=role))

    def resumed(self, what: str) -> None:
        """Note that the run goes on where an interrupted one ended, which `what` says."""
        self.is_resumed = True
        self.notes.append(
            f"Resumed: an interrupted run {what}; seconds, CPU seconds and memory are those of "
            f"this run only."
        )

    @cached_property
    def fingerprint(self) -> str:
        """The hash that says "the same run", from verb, settings, seed and inputs."""
        hashes = {entry.name: entry.content_hash for entry in self.inputs}
        return fingerprint(f"{self.verb} {self.action}".strip(), self.settings, self.seed, hashes)

    def finish(self, folder: Path | None) -> Result:
        """Stop the clock and write result.json into `folder`, if there is one.

        Verbs that make a folder call it before they publish; for all others `recorded` does.
        """
        self._watch.__exit__(None, None, None)
        self._result = Result(
            verb=self.verb,
            action=self.action,
            method=self.method,
            is_control=self.is_control,
            is_resumed=self.is_resumed,
            deed=self.deed,
            settings=self.settings,
            seed=self.seed,
            inputs=self.inputs,
            output="" if self.out is None else str(self.out),
            fingerprint=self.fingerprint,
            started=self._started.isoformat(timespec="seconds"),
            seconds=self._watch.wall_seconds,
            cpu_seconds=self._watch.cpu_seconds,
            peak_memory_bytes=hardware.peak_memory_bytes(),
            bytes=self.bytes,
            protocol=self.protocol,
            measurements=self.measurements,
            figures=self.figures,
            tables=self.tables,
            samples=self.samples,
            notes=self.notes,
            versions=_versions(),
            hardware=hardware.describe(),
        )
        if folder is not None:
            write_result(self._result, folder)
        return self._result

    @property
    def is_finished(self) -> bool:
        """Whether the result has been made."""
        return self._result is not None

    @property
    def result(self) -> Result:
        """The account, once the run is finished."""
        assert self._result is not None, "the run is not finished"
        return self._result

    def manifest(
        self,
        side_files: "Sequence[SideFile]",
        parents: "Sequence[Parent] | None" = None,
        settings: dict[str, Any] | None = None,  # Any: JSON values
    ) -> "Manifest":
        """Return the manifest of what the run made; it is published with the folder.

        Args:
            side_files: What lies beside the weights.
            parents: What it was made of (default: the models that were read, by their paths).
            settings: As the manifest tells them, where they differ from the result's.
        """
        from treadle.core.checkpoint import Manifest, Parent, Provenance  # help needs none

        if parents is None:
            models = (entry for entry in self.inputs if entry.role in ("model", "base"))
            parents = [Parent(name=one.path, content_hash=one.content_hash) for one in models]
        return Manifest(
            side_files=tuple(side_files),
            provenance=Provenance(
                verb=self.verb,
                action=self.action,
                method=self.method,
                settings=self.settings if settings is None else settings,
                seed=self.seed,
                parents=tuple(parents),
                fingerprint=self.fingerprint,
            ),
        )


def is_control(method: Method | str) -> bool:
    """Return whether a method says of itself that it is a control."""
    return isinstance(method, Method) and isinstance(type(method).paper, Control)


@contextlib.contextmanager
def recorded(
    verb: str,
    method: Method | str = "",
    settings: dict[str, Any] | None = None,  # Any: JSON values
    *,
    action: str = "",
    seed: int = 0,
    out: Path | None = None,
    overwrite: bool | None = False,
    is_shared: bool = False,
) -> Iterator[Recording]:
    """Clock a run and, when the block ends, write its account into `out`.

    An error in the block leaves nothing. `Recording.result` holds the account afterwards. The run
    holds `out` meanwhile (`core.claim`), and what the system says of it is told in plain words.

    Args:
        verb: Name of the verb.
        method: The method, or its name where it is none of the table.
        settings: What determines the outcome beside inputs and seed (default: the method's).
        action: Name of the action, where the run is one.
        seed: Of everything that is drawn.
        out: Folder of the result; nothing is written where there is none.
        overwrite: Whether a result in `out` may be replaced; None where the verb itself makes and
            guards the folder.
        is_shared: Whether other runs may hold `out`, too, because they share the work.

    Raises:
        SettingsError: `out` holds a result and may not be replaced, another run writes it, or it
            cannot be written.
        CapacityError: The disk is full.
    """
    own = settings if settings is not None else _settings_of(method)
    with contextlib.ExitStack() as held:
        if out is not None:
            held.enter_context(claimed(out, is_whole=True, is_shared=is_shared))
            held.enter_context(told(out))
        _require_vacant(out, overwrite)
        if out is not None and overwrite is False and not out.exists():
            held.push(_leaving_nothing(out))
        run = Recording(verb, action, method, own, seed, out)
        yield run
        if not run.is_finished:
            run.finish(out)


def _leaving_nothing(out: Path) -> Callable[..., None]:
    """Return what removes an output that an error left without a result, as an ExitStack calls it.

    An interrupted run may have left there what the next one goes on with.
    """

    def leave(kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, Exception):
            shutil.rmtree(out, ignore_errors=True)

    return leave


def _require_vacant(out: Path | None, overwrite: bool | None) -> None:
    if overwrite is False and out is not None and (out / RESULT_FILE).exists():
        raise SettingsError(f"'{out}' holds a result already; pass --overwrite or another folder.")


def _settings_of(method: Method | str) -> dict[str, Any]:  # Any: JSON values
    return {} if isinstance(method, str) else method.settings()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
