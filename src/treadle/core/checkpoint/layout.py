"""The plan of a checkpoint's files, complete before the first byte is written."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from treadle.core.checkpoint.header import PlannedTensor, TensorInfo, build_header
from treadle.core.checkpoint.reader import SINGLE_FILE
from treadle.core.codec import DTYPES
from treadle.core.errors import SettingsError

__all__ = ["FileLayout", "ShardFile", "plan_layout"]


class ShardFile(NamedTuple):
    """One file: its header, and its size with all tensors in it."""

    file: Path
    header: bytes
    num_bytes: int


class FileLayout(NamedTuple):
    """All files of a checkpoint's weights."""

    shards: tuple[ShardFile, ...]
    tensors: dict[str, TensorInfo]
    index_text: str | None  # None where one file holds all

    @property
    def num_bytes(self) -> int:
        """The bytes of all shards."""
        return sum(shard.num_bytes for shard in self.shards)

    def digest(self) -> str:
        """Return a hash that differs as soon as any byte would lie elsewhere."""
        digest = hashlib.sha256()
        for shard in self.shards:
            digest.update(shard.file.name.encode() + b"\0" + shard.header)
        return digest.hexdigest()


def plan_layout(folder: Path, tensors: Sequence[PlannedTensor], max_shard_bytes: int) -> FileLayout:
    """Distribute tensors over shards in their order; one that exceeds the bound gets its own shard.

    Raises:
        SettingsError: two tensors share a name, or a dtype is unknown.
    """
    _check_plan(tensors, max_shard_bytes)
    groups = _group(tensors, max_shard_bytes)
    names = [SINGLE_FILE]
    if len(groups) > 1:
        last = len(groups)
        names = [f"model-{place:05d}-of-{last:05d}.safetensors" for place in range(1, last + 1)]
    shards = []
    infos: dict[str, TensorInfo] = {}
    for name, group in zip(names, groups, strict=True):
        header, placed = build_header(folder / name, group)
        num_bytes = len(header) + sum(info.num_bytes for info in placed)
        shards.append(ShardFile(folder / name, header, num_bytes))
        infos |= {info.name: info for info in placed}
    return FileLayout(tuple(shards), infos, _index(infos) if len(groups) > 1 else None)


def _check_plan(tensors: Sequence[PlannedTensor], max_shard_bytes: int) -> None:
    if max_shard_bytes < 1:
        raise SettingsError(f"max_shard_bytes is {max_shard_bytes}; give at least 1.")
    name, count = (
        Counter(tensor.name for tensor in tensors).most_common(1)[0] if tensors else ("", 1)
    )
    if count > 1:
        raise SettingsError(f"Tensor {name!r} is planned {count} times; plan each name once.")
    for tensor in tensors:
        if tensor.dtype not in DTYPES:
            raise SettingsError(
                f"Tensor {tensor.name!r} is planned with the unknown dtype {tensor.dtype!r}; "
                f"choose one of: {', '.join(DTYPES)}."
            )


def _group(tensors: Sequence[PlannedTensor], max_shard_bytes: int) -> list[list[PlannedTensor]]:
    groups: list[list[PlannedTensor]] = [[]]
    num_bytes = 0
    for tensor in tensors:
        if groups[-1] and num_bytes + tensor.num_bytes > max_shard_bytes:
            groups.append([])
            num_bytes = 0
        groups[-1].append(tensor)
        num_bytes += tensor.num_bytes
    return groups


def _index(infos: dict[str, TensorInfo]) -> str:
    index = {
        "metadata": {"total_size": sum(info.num_bytes for info in infos.values())},
        "weight_map": {name: info.file.name for name, info in infos.items()},
    }
    return json.dumps(index, indent=2) + "\n"
