"""Writing a checkpoint folder: planned whole, filled in any order, renamed at the end."""

import errno
import logging
import os
import shutil
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from treadle.core.checkpoint.hashing import hash_tensors, remember_hash
from treadle.core.checkpoint.header import MappedFiles, PlannedTensor, TensorInfo
from treadle.core.checkpoint.journal import JOURNAL_FILE, Journal
from treadle.core.checkpoint.layout import plan_layout
from treadle.core.checkpoint.manifest import MANIFEST_FILE, Manifest
from treadle.core.checkpoint.publish import (
    carry_files,
    prepare_target,
    publish,
    remove,
    require_carried,
    sync,
    write_text,
)
from treadle.core.checkpoint.reader import INDEX_FILE, CheckpointReader
from treadle.core.claim import claimed
from treadle.core.codec import DTYPES, Array, as_numpy, cast
from treadle.core.disk import FULL
from treadle.core.errors import CapacityError, CheckpointError, SettingsError, TreadleError

if TYPE_CHECKING:
    import torch

__all__ = ["MAX_SHARD_BYTES", "CheckpointWriter"]

MAX_SHARD_BYTES = 5_000_000_000

logger = logging.getLogger(__name__)

_CHUNK_ELEMENTS = 4 << 20  # what a cast holds in memory at a time: 16 MiB of float32
# File systems that cannot reserve space still write; they fail later if it runs out.
_CANNOT_RESERVE = (errno.EOPNOTSUPP, errno.EINVAL)


class CheckpointWriter:
    """Writes `out` by way of the sibling folder ``.{name}.partial``, which a killed run resumes.

    Use it as a context manager. An interruption keeps the partial folder: the same call with the
    same `fingerprint` finds the tensors of `done` there; a TreadleError inside removes it. `write`,
    `write_range`, `read` and `mark_done` may be called from any thread. Callers write side files
    into `folder` before `finish` (on a resumed run again).

    Args:
        out: The folder to make.
        tensors: All tensors in the order in which they shall lie on disk; no tied names.
        parent: The model whose tokenizer and other small files (and config) go along.
        config: The content of config.json, where it is not the parent's.
        overwrite: Replace an existing model folder, once the new one is complete.
        max_shard_bytes: The bound on a shard's tensors; a larger tensor gets its own shard.
        fingerprint: A text that is equal if and only if the run would write the same numbers.

    Raises:
        SettingsError: `out` exists, or the plan contradicts itself.
        CapacityError: the disk cannot take the whole checkpoint; nothing is left behind.
    """

    def __init__(
        self,
        out: Path,
        tensors: Sequence[PlannedTensor],
        *,
        parent: CheckpointReader | None,
        config: dict[str, Any] | None = None,
        overwrite: bool = False,
        max_shard_bytes: int = MAX_SHARD_BYTES,
        fingerprint: str,
    ) -> None:
        self.out = Path(out).absolute()
        self.folder = self.out.with_name(f".{self.out.name}.partial")
        self._overwrite = overwrite
        self._parent = parent
        self._config = _choose_config(config, parent)
        self._layout = plan_layout(self.folder, tensors, max_shard_bytes)
        if parent is not None:
            require_carried(parent.folder)
        self._lock = threading.Lock()
        self._written: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._done: set[str] = set()
        self._files = MappedFiles()
        self._descriptors: dict[Path, int] = {}
        with ExitStack() as held:
            held.enter_context(claimed(self.out))
            prepare_target(self.out, overwrite)
            _make(self.folder)
            self._journal = Journal(self.folder, f"{fingerprint} {self._layout.digest()}")
            held.callback(self._close_files)
            with self._room():
                self._open()
            self._held = held.pop_all()

    @property
    def done(self) -> set[str]:
        """The tensors that are safely on disk."""
        with self._lock:
            return set(self._done)

    def write(self, name: str, values: "Array | torch.Tensor") -> None:
        """Write a whole tensor; a float is cast to the planned dtype in chunks.

        Raises:
            CheckpointError: the tensor was not planned, or not in this shape.
            SettingsError: it cannot be cast to the planned dtype.
            CapacityError: the disk is full; the partial folder is removed.
        """
        info = self._find(name)
        if tuple(values.shape) != info.shape:
            raise CheckpointError(
                f"Tensor {name!r} of {self.out} has shape {list(values.shape)}, but "
                f"{list(info.shape)} was planned; reshape it, or plan it so."
            )
        self.write_range(name, 0, values)

    def write_range(self, name: str, first_element: int, values: "Array | torch.Tensor") -> None:
        """Write a run of elements of the flattened tensor; errors as for `write`."""
        info = self._find(name)
        flat = as_numpy(values).reshape(-1)
        stop = first_element + flat.size
        if first_element < 0 or stop > info.num_elements:
            raise CheckpointError(
                f"Elements {first_element}..{stop} do not fit into tensor {name!r} of {self.out}, "
                f"which has {info.num_elements}; write a run inside it."
            )
        for first in range(0, flat.size, _CHUNK_ELEMENTS):
            chunk = cast(flat[first : first + _CHUNK_ELEMENTS], info.dtype, name)
            self._store(info, first_element + first, chunk)
        with self._lock:
            self._written[name].append((first_element, stop))

    def read(self, name: str) -> Array:
        """Return a read-only view of what was written to a tensor so far."""
        view = self._files.view(self._find(name))
        view.flags.writeable = False
        return view

    def release(self, name: str) -> None:
        """Let the pages that `read` showed leave memory; the views stay valid."""
        self._files.release(self._find(name))

    def mark_done(self, names: Iterable[str]) -> None:
        """Make whole tensors durable, so that a resumed run finds them in `done`.

        Raises:
            CheckpointError: one of them is not wholly written.
        """
        names = set(names)
        self._require_complete(names)
        with self._room():
            for file in {self._find(name).file for name in names}:
                os.fsync(self._descriptors[file])
            with self._lock:
                self._journal.add(names)
                self._done |= names

    def finish(self, manifest: Manifest, card: str) -> Manifest:
        """Add the small files and rename the folder into place.

        Args:
            manifest: What goes into treadle.json; the content hash is filled in here.
            card: The text of README.md.

        Returns:
            The manifest as written.

        Raises:
            CheckpointError: tensors are not wholly written, or a side file is not in `folder`.
            CapacityError: the disk is full; the partial folder is removed, an old `out` stays.
        """
        self._require_complete(self._layout.tensors)
        self._require_side_files(manifest)
        digest = hash_tensors(self._layout.tensors, self.read, self.release)
        manifest = manifest.completed(digest)
        with self._room():
            if self._parent is not None:
                carry_files(self._parent.folder, self.folder)
            write_text(self.folder / "config.json", self._config)
            write_text(self.folder / MANIFEST_FILE, manifest.model_dump_json(indent=2) + "\n")
            write_text(self.folder / "README.md", card)
            prepare_target(self.out, self._overwrite)
            publish(self.folder, self.out)
        (self.out / JOURNAL_FILE).unlink()
        self.close()
        remember_hash(self.out, digest)
        return manifest

    def close(self) -> None:
        """Close all files, and let the output go; a partial folder stays where it is."""
        self._held.close()

    def _close_files(self) -> None:
        self._journal.close()
        self._files.close()
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close_files()
        if isinstance(error, TreadleError):
            # The same call would meet the same mistake: nothing is left to resume.
            shutil.rmtree(self.folder, ignore_errors=True)
        self.close()

    def _open(self) -> None:
        done = self._resumable()
        kept = {JOURNAL_FILE}
        if done is not None:
            self._done = done
            kept |= {shard.file.name for shard in self._layout.shards}
        for path in self.folder.iterdir():
            if path.name not in kept:
                remove(path)
        for shard in self._layout.shards:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._descriptors[shard.file] = os.open(shard.file, flags, 0o666)
        if done is None:
            self._lay_out()
        if self._layout.index_text is not None:
            write_text(self.folder / INDEX_FILE, self._layout.index_text)

    def _resumable(self) -> set[str] | None:
        """Return what an earlier run finished, or None if there is nothing to resume."""
        done = self._journal.read()
        if done is not None and all(
            _has_size(shard.file, shard.num_bytes) for shard in self._layout.shards
        ):
            return done
        if any(path.name != JOURNAL_FILE for path in self.folder.iterdir()):
            logger.warning(
                "Discarding what an interrupted run left for %s: it was begun with other "
                "settings or inputs.",
                self.out,
            )
        return None

    def _require_space(self) -> None:
        needed_bytes = self._layout.num_bytes
        free_bytes = shutil.disk_usage(self.folder).free
        if needed_bytes > free_bytes:
            raise CapacityError(
                f"{self.out} needs {needed_bytes} bytes, but its disk has {free_bytes} bytes free; "
                "free space, or choose a folder on another disk."
            )

    def _lay_out(self) -> None:
        self._require_space()
        for shard in self._layout.shards:
            descriptor = self._descriptors[shard.file]
            try:
                os.posix_fallocate(descriptor, 0, shard.num_bytes)
            except OSError as error:
                if error.errno not in _CANNOT_RESERVE:
                    raise
                os.ftruncate(descriptor, shard.num_bytes)
            _write_all(descriptor, memoryview(shard.header), 0)
            os.fsync(descriptor)
        sync(self.folder)
        self._journal.start()

    def _store(self, info: TensorInfo, first_element: int, values: Array) -> None:
        data = np.ascontiguousarray(values).view(np.uint8).data
        start_byte = info.start_byte + first_element * DTYPES[info.dtype].itemsize
        with self._room():
            _write_all(self._descriptors[info.file], data, start_byte)

    @contextmanager
    def _room(self) -> Iterator[None]:
        """Turn a full disk into a CapacityError, and leave nothing behind."""
        try:
            yield
        except CapacityError:
            self._discard()
            raise
        except OSError as error:
            if error.errno not in FULL:
                raise
            self._discard()
            raise CapacityError(
                f"The disk filled up while {self.out} was written, which needs "
                f"{self._layout.num_bytes} bytes; the partial folder was removed. Free space, or "
                "choose a folder on another disk."
            ) from error

    def _discard(self) -> None:
        # The files stay open until `close`: other threads may still write to their descriptors.
        with self._lock:
            remove(self.folder)

    def _require_complete(self, names: Iterable[str]) -> None:
        with self._lock:
            missing = [name for name in names if not self._is_complete(name)]
        if missing:
            raise CheckpointError(
                f"{len(missing)} of the {len(self._layout.tensors)} tensors of {self.out} are not "
                f"wholly written, among them {min(missing)!r}; write every element before."
            )

    def _is_complete(self, name: str) -> bool:
        if name in self._done:
            return True
        reached = 0
        for first, stop in sorted(self._written.get(name, [])):
            if first <= reached:
                reached = max(reached, stop)
        return reached == self._find(name).num_elements

    def _require_side_files(self, manifest: Manifest) -> None:
        for side_file in manifest.side_files:
            is_config = side_file.path == "config.json"  # `finish` writes it
            if not is_config and not (self.folder / side_file.path).is_file():
                raise CheckpointError(
                    f"The side file {side_file.path} of {self.out} does not exist; write it into "
                    f"{self.folder} before finishing."
                )

    def _find(self, name: str) -> TensorInfo:
        if name not in self._layout.tensors:
            raise CheckpointError(
                f"Tensor {name!r} is not among the {len(self._layout.tensors)} planned for "
                f"{self.out}; plan it, or leave it out (a tied name is written once, under its "
                "source)."
            )
        return self._layout.tensors[name]


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"Cannot create a folder in {folder.parent} ({error.strerror}); choose another output."
        ) from error


def _choose_config(
    config: dict[str, Any] | None, parent: CheckpointReader | None
) -> dict[str, Any]:
    if config is not None:
        return config
    if parent is None:
        raise SettingsError("A checkpoint needs a config.json; give the parent or the config.")
    return parent.config


def _has_size(file: Path, num_bytes: int) -> bool:
    return file.is_file() and file.stat().st_size == num_bytes


def _write_all(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
