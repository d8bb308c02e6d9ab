"""What the models' own data says: squared gradients and Gram matrices, collected model by model.

They lie in files beside the output while a merge runs, so that a killed one finds them again, and
are read back in runs.
"""

import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from treadle.combine.merge.base import MergeMethod
from treadle.combine.merge.inputs.entropy import layer_row, learned_coefficients
from treadle.combine.merge.inputs.merged_prefix import merged_grams
from treadle.combine.merge.inputs.models import Model
from treadle.combine.merge.inputs.sources import WeightFiles
from treadle.combine.merge.inputs.towers import TEXT, parse_name
from treadle.combine.merge.methods.adamerging import AdaMerging
from treadle.combine.merge.site import Floats
from treadle.core.checkpoint import TensorInfo
from treadle.core.checkpoint.header import read_header
from treadle.core.checkpoint.publish import remove
from treadle.core.disk import system_errors
from treadle.core.errors import SettingsError, UnsupportedModelError
from treadle.core.result import Input, digest
from treadle.model.text import Bos

if TYPE_CHECKING:
    import torch

    from treadle.model.text import Windows

__all__ = ["Data", "DataRequest", "requested"]

Need = Literal["", "importance", "gram", "merged_gram", "coefficients"]
TOGETHER = ("merged_gram", "coefficients")
"""What is found by running models merged."""


class DataRequest(NamedTuple):
    """Which text speaks for which model."""

    text: tuple[str, ...]
    num_windows: int
    window_tokens: int
    bos: Bos

    def settings(self) -> dict[str, Any]:  # Any: JSON values
        """Return what determines the statistics beside the texts' content."""
        return self._asdict() | {"text": list(self.text)}


def requested(
    text: Sequence[str] | None, num_windows: int, window_tokens: int, bos: Bos
) -> DataRequest | None:
    """Return what a verb was asked to look at, or None without a text.

    Raises:
        SettingsError: A setting of windows stands without a text.
    """
    if bos != "auto" and not text:
        raise SettingsError(
            f"bos = '{bos}' has no effect without a text; add --text, or leave it out."
        )
    return DataRequest(tuple(text), num_windows, window_tokens, bos) if text else None


class _Known(NamedTuple):
    """What is known of one tensor of one model, once it was collected."""

    data: "Data"
    place: int
    name: str

    def importance(self, first: int, target: Floats) -> None:
        """Write the mean squared gradient of the elements from `first` on into `target`."""
        info = self.data.infos(self.place)[self.name]
        self.data.files.read(info.file, info.start_byte + 4 * first, target.view(np.uint8))

    def gram(self) -> Floats | None:
        """Return X^T X [in, in] of the inputs of a matrix; None where the tensor is no matrix."""
        key, _ = self.data.inputs_of(self.place).get(self.name, ("", False))
        info = self.data.infos(self.place).get(key)
        if info is None:
            return None
        found = np.empty(info.shape, np.float32)
        self.data.files.read(info.file, info.start_byte, found.reshape(-1).view(np.uint8))
        return found

    def coefficient(self) -> float:
        """Return the factor of the model's task vector that was learned for the layer."""
        return self.data.coefficient(self.place, self.name)

    @property
    def is_transposed(self) -> bool:
        """Whether the matrix lies as [in, out] and not as [out, in]."""
        return self.data.inputs_of(self.place).get(self.name, ("", False))[1]


class Data:
    """The statistics of all models of a merge, collected when they are first wanted.

    Args:
        request: The texts.
        models: Whose they are.
        need: What to collect.
        seed: Of the windows.
        method: The one that asks, where models are run merged.
        base: The base, where coefficients of task vectors are learned.
    """

    def __init__(
        self,
        request: DataRequest,
        models: Sequence[Model],
        need: Need,
        seed: int,
        method: MergeMethod | None = None,
        base: Model | None = None,
    ) -> None:
        if len(request.text) not in (1, len(models)):
            raise SettingsError(
                f"{len(request.text)} texts were given for {len(models)} models; give one for all, "
                f"or one for each, in their order and without the base."
            )
        for model in models if base is None else (*models, base):
            if model.ref.adapter is not None:
                raise SettingsError(
                    f"'{model.ref}' is a model with an adapter, which cannot be run on its text; "
                    f"merge the adapter into a folder first (treadle merge passthrough)."
                )
        self.files = WeightFiles()
        self._models, self._need, self._seed, self._method = models, need, seed, method
        self._request = request
        self._windows = [self._cut(place) for place in range(len(models))]
        self._base = base
        self.learned: dict[str, Floats] = {}
        """Coefficients [models, layers + 1], and entropies [steps], where they were asked for."""
        self._infos: list[dict[str, TensorInfo]] = []
        self._folder = Path()
        self._wanted: list[_Known] = []

    def _cut(self, place: int) -> "Windows":
        from treadle.model.load import load_tokenizer
        from treadle.model.text import sampled_windows

        request, model = self._request, self._models[place]
        text = request.text[place if len(request.text) > 1 else 0]
        tokenizer = load_tokenizer(model.reader.folder)
        return sampled_windows(
            *(text, tokenizer, request.num_windows, request.window_tokens),
            *(self._seed, request.bos),
        )

    @property
    def names(self) -> list[str]:
        """What the models are called in figures: the last parts of their references."""
        short = [Path(str(model.ref)).name for model in self._models]
        return short if len(set(short)) == len(short) else [str(m.ref) for m in self._models]

    @property
    def num_windows(self) -> int:
        """How many windows there are of each text."""
        return self._request.num_windows

    @property
    def num_predicted(self) -> int:
        """How many tokens of each window a loss is the mean of."""
        return self._request.window_tokens - 1

    def inputs(self) -> list[Input]:
        """Return the texts as inputs of the result."""
        return [
            Input(
                name=f"text {place + 1}",
                path=windows.protocol.corpus,
                content_hash=windows.protocol.corpus_sha256,
                role="data",
            )
            for place, windows in enumerate(self._windows)
        ]

    def collect(self, out: Path) -> None:
        """Run every model on its text, unless an interrupted merge into `out` has done so.

        Raises:
            UnsupportedModelError: A weight has no gradient, as nothing computes with it.
        """
        self._folder = out.absolute().with_name(f".{out.name}.statistics")
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._need == "merged_gram":
            self._collect_together()
        if self._need == "coefficients":
            self._learn()
        for place, model in enumerate(self._models if self._need not in TOGETHER else ()):
            file = self._file(place)
            if not file.is_file():
                self._collect(file, model, self._windows[place].tokens)
            self._infos.append({info.name: info for info in read_header(file)})
        for known in self._wanted if self._need == "importance" else ():
            if known.name not in self._infos[known.place]:
                raise UnsupportedModelError(
                    f"No gradient is known of tensor '{known.name}' of "
                    f"'{self._models[known.place].ref}', which its loss does not depend on; merge "
                    f"by a method without data, or take the tensor out of the models."
                )

    def _collect_together(self) -> None:
        """Run all models behind one merged prefix: a file for each layer of each model."""
        assert self._method is not None, "only a method merges what comes before a block"
        key = self._key(self._method)
        num_layers = self._models[0].num_layers
        files = [
            [self._folder / f"{key}-{place}-{layer}.safetensors" for layer in range(num_layers)]
            for place in range(len(self._models))
        ]
        if not all(file.is_file() for row in files for file in row):
            tokens = [windows.tokens for windows in self._windows]
            readers = [model.reader for model in self._models]
            known = [self.inputs_of(place) for place in range(len(readers))]
            for layer, found in merged_grams(readers, tokens, self._method, known):
                for row, grams in zip(files, found, strict=True):
                    _save(row[layer], grams)
        self._infos = [{info.name: info for f in row for info in read_header(f)} for row in files]

    def _learn(self) -> None:
        """Learn the coefficients of all models' task vectors: one file for all."""
        assert isinstance(self._method, AdaMerging), "nobody else asks for coefficients"
        assert self._base is not None, "a method with task vectors must say base = 'required'"
        file = self._folder / f"{self._key(self._method)}.safetensors"
        if not file.is_file():
            found = learned_coefficients(
                self._base.reader.folder,
                [model.reader.folder for model in self._models],
                [windows.tokens for windows in self._windows],
                self._base.num_layers,
                self._method,
            )
            _save(file, found)
        for info in read_header(file):
            values = np.empty(info.shape, np.float32)
            self.files.read(info.file, info.start_byte, values.reshape(-1).view(np.uint8))
            self.learned[info.name] = values

    def coefficient(self, place: int, name: str) -> float:
        """Return what was learned for a model's tensor, or the start where no text runs."""
        assert isinstance(self._method, AdaMerging), "nobody else asks for coefficients"
        if self._models[place].part_of(name) != TEXT:
            return self._method.first(len(self._models))
        rows = self.learned["coefficients"][place]
        return float(rows[layer_row(name, len(rows) - 1)])

    def _key(self, method: MergeMethod) -> str:
        """Return what a file of all models is found by."""
        models = [*self._models, *([] if self._base is None else [self._base])]
        hashes = [[m.content_hash for m in models], [w.protocol.hash for w in self._windows]]
        return digest([*hashes, self._seed, method.name, method.settings()])[:20]

    def require_one_vocabulary(self, is_changed: bool) -> None:
        """Check that all models' tokens are the merged model's, where it runs on them.

        Raises:
            SettingsError: The output has a vocabulary of its own.
        """
        if is_changed and self._need in TOGETHER:
            raise SettingsError(
                "The merged model runs on every model's tokens, so all models must number them "
                "alike; leave --tokenizer out, or merge by a method that runs each one alone."
            )

    def _file(self, place: int) -> Path:
        protocol = self._windows[place].protocol
        parts = [self._models[place].content_hash, protocol.hash, self._seed, self._need]
        return self._folder / f"{digest(parts)[:24]}.safetensors"

    def _collect(self, file: Path, model: Model, tokens: "torch.Tensor") -> None:
        from treadle.model.statistics import collect_grams, collect_importance

        collect = {"importance": collect_importance, "gram": collect_grams}[self._need]
        _save(file, collect(model.reader.folder, tokens))

    def known(self, place: int, name: str) -> _Known:
        """Return what will be known of tensor `name` of the model at `place`."""
        self._wanted.append(_Known(self, place, self._models[place].reader.tied.get(name, name)))
        return self._wanted[-1]

    def beyond_positions(self) -> Iterator[str]:
        """Yield a note on each model whose windows are longer than its positions."""
        from treadle.model import facts

        for model in self._models:
            config = facts.base_config(model.reader.config)
            for note in facts.position_notes(config, self._request.window_tokens):
                yield f"'{model.ref}': {note}"

    def averaged(self) -> Iterator[str]:
        """Yield a note on what the method takes no look at: it is merged in a plainer way."""
        if self._need == "coefficients":
            for part in self._models[0].parts:
                if part != TEXT:
                    yield f"No text runs through '{part}': it keeps the coefficients of the start."
        if self._need not in ("gram", "merged_gram"):
            return
        towers = {prefix for model in self._models for t in model.towers for prefix in t.prefixes}
        found = dict.fromkeys(
            known.name
            for known in self._wanted
            if parse_name(known.name).before in towers
            and known.name not in self.inputs_of(known.place)
            and len(self._models[known.place].reader.tensors[known.name].shape) > 1
        )
        if found:
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            yield (
                f"No inputs are known of '{next(iter(found))}'{more} in the blocks: they are "
                f"averaged plainly, not by what the method is about."
            )

    def infos(self, place: int) -> dict[str, TensorInfo]:
        """Return where a model's statistics lie."""
        return self._infos[place]

    @cache  # noqa: B019  # as long-lived as the merge
    def inputs_of(self, place: int) -> dict[str, tuple[str, bool]]:
        """Return, for each tensor that is a matrix, the key of its Gram matrix and how it lies.

        Experts that are stored as one tensor read many inputs, and are no matrix in this sense.
        """
        from treadle.model.statistics import model_matrices

        found: dict[str, set[tuple[str, bool]]] = {}
        for matrix in model_matrices(self._models[place].reader.folder):
            key = (f"{matrix.layer}/{matrix.input}", matrix.transposed)
            found.setdefault(matrix.tensor, set()).add(key)
        return {name: keys.pop() for name, keys in found.items() if len(keys) == 1}

    def close(self) -> None:
        """Close the files."""
        self.files.close()

    def remove(self) -> None:
        """Delete the files: the merge is done."""
        remove(self._folder)


def _save(file: Path, found: "dict[str, torch.Tensor]") -> None:
    """Write tensors beside and rename them into place."""
    from safetensors.torch import save_file

    beside = file.with_suffix(".partial")
    with system_errors():
        save_file(found, beside)
    os.replace(beside, file)
