"""Teachers: asked as training goes, or once before it, with their likeliest tokens kept on disk."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from treadle.core.errors import CapacityError, DataError
from treadle.core.progress import track
from treadle.learn.tune.base import TeacherSays
from treadle.learn.tune.lessons import Group, collate, parts_of

if TYPE_CHECKING:
    from treadle.model.classes import Tokenizer
    from treadle.model.packed import PackedModel

__all__ = ["KeptTeacher", "LiveTeacher", "Part", "Teacher", "keep", "require_same_tokens"]

Part = dict[str, Any]  # Any: tensors, as `lessons.collate` makes them
_IDS, _LOG_PROBS = "teacher_ids.npy", "teacher_log_probs.npy"


class Teacher(Protocol):
    """Says what it finds likely at the places of a part."""

    def says(self, part: Part) -> TeacherSays:
        """Return what it makes of each place."""


class LiveTeacher:
    """A model in memory, which is asked about each part as it comes."""

    def __init__(self, asked: "PackedModel") -> None:
        self._asked = asked

    def says(self, part: Part) -> TeacherSays:
        """Return all logits."""
        import torch

        lengths = part["lengths"][0].tolist()
        with torch.no_grad(), self._asked.active():
            return TeacherSays(self._asked.logits(part["input_ids"][0], lengths, part["wanted"][0]))


class KeptTeacher:
    """The likeliest tokens of every place, in files that are mapped.

    Args:
        folder: Where `keep` wrote.
        groups: What it was asked about.
    """

    def __init__(self, folder: Path, groups: Sequence[Group]) -> None:
        self._ids = np.load(folder / _IDS, mmap_mode="r")
        self._log_probs = np.load(folder / _LOG_PROBS, mmap_mode="r")
        self._starts = _starts(groups)

    def says(self, part: Part) -> TeacherSays:
        """Return the likeliest tokens, and their log-probabilities."""
        import torch

        starts = self._starts
        places = np.concatenate(
            [np.arange(starts[n], starts[n + 1]) for n in part["groups"][0].tolist()]
        )
        ids = torch.from_numpy(self._ids[places].astype(np.int64))
        return TeacherSays(ids=ids, log_probs=torch.from_numpy(self._log_probs[places]).float())


def keep(
    asked: "PackedModel",
    groups: Sequence[Group],
    numbers: Sequence[int],
    top: int,
    temperature: float,
    part_tokens: int,
    folder: Path,
) -> int:
    """Write a teacher's likeliest tokens for some groups into `folder`; return the bytes.

    What an interrupted run wrote whole is taken as it is. Log-probabilities are kept in float16.

    Raises:
        CapacityError: The disk is full.
        DataError: There are fewer tokens than shall be kept.
    """
    import torch

    size = asked.model.get_input_embeddings().weight.shape[0]
    if top >= size:
        raise DataError(
            f"top = {top}, and the teacher's vocabulary has {size} tokens; give fewer, or leave "
            f"--top out: then all are used."
        )
    files = [folder / _IDS, folder / _LOG_PROBS]
    starts = _starts(groups)
    if not all(file.is_file() for file in files):
        folder.mkdir(parents=True, exist_ok=True)
        beside = [file.with_name(f".{file.name}") for file in files]
        try:
            shape = (int(starts[-1]), top)
            ids, log_probs = (
                _array(beside[0], np.int32, shape),
                _array(beside[1], np.float16, shape),
            )
            parts = parts_of(groups, numbers, part_tokens)
            for some in track(parts, "teacher", len(parts)):
                part = collate(groups, some)
                logits = LiveTeacher(asked).says(part).logits
                assert logits is not None
                best = (logits.float() / temperature).log_softmax(dim=-1).topk(top, dim=-1)
                places = np.concatenate([np.arange(starts[n], starts[n + 1]) for n in some])
                ids[places] = best.indices.to(torch.int32).numpy()
                log_probs[places] = best.values.to(torch.float16).numpy()
            for array, there, file in zip((ids, log_probs), beside, files, strict=True):
                array.flush()
                os.replace(there, file)
        except OSError as error:
            raise CapacityError(
                f"What the teacher says could not be kept in '{folder}' ({error}); make room, or "
                f"lower --top."
            ) from error
    return sum(file.stat().st_size for file in files)


def _array(file: Path, kind: type[np.generic], shape: tuple[int, int]) -> np.memmap[Any, Any]:
    """Return a new array in a file whose room is taken, so that a full disk is said before."""
    array = np.lib.format.open_memmap(file, "w+", kind, shape)
    with file.open("rb+") as stream:
        os.posix_fallocate(stream.fileno(), 0, file.stat().st_size)
    return array


def _starts(groups: Sequence[Group]) -> npt.NDArray[np.int64]:
    """Return where each group's places begin, and where the last one's end."""
    counts = [sum(one.num_answers for one in group) for group in groups]
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def require_same_tokens(own: "Tokenizer", teacher: "Tokenizer", name: str) -> None:
    """Check that a teacher reads and writes the same tokens.

    Raises:
        DataError: It has another vocabulary.
    """
    ours, theirs = own.get_vocab(), teacher.get_vocab()
    if ours == theirs:
        return
    differing = next((t for t in theirs if ours.get(t) != theirs[t]), None) or next(
        t for t in ours if t not in theirs
    )
    raise DataError(
        f"The teacher '{name}' has another vocabulary ({len(theirs)} tokens, and the model "
        f"{len(ours)}; {differing!r} is {theirs.get(differing)} there and {ours.get(differing)} "
        f"here); give a teacher with the model's own tokenizer, or let the model learn the "
        f"teacher's answers by sft."
    )
