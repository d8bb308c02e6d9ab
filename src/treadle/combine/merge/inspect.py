"""`treadle merge inspect`: how alike models are, where they disagree, and what that advises."""

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.combine.merge.base import Floats
from treadle.combine.merge.inputs.models import Model, Models
from treadle.combine.merge.inputs.sources import Inputs
from treadle.combine.merge.inputs.towers import TEXT, Name, Tower, parse_name
from treadle.combine.merge.maths.order_statistics import Magnitudes
from treadle.combine.merge.recipe.grammar import of_models
from treadle.combine.merge.tokens.numbering import compared
from treadle.combine.merge.tokens.tokenizer import vocabulary_of
from treadle.core.arguments import checked
from treadle.core.codec import FLOATS
from treadle.core.errors import CheckpointError, SettingsError
from treadle.core.progress import steps
from treadle.core.result import Figure, Measurement, Result, Series
from treadle.core.run import Recording, recorded
from treadle.model.facts import EMBEDDINGS, HEADS

__all__ = ["merge_inspect"]

_LOUD_FRACTION = 0.2
"""Share of a task vector, by magnitude, whose signs are compared: flips of the rest are noise."""
_SAME_ANCESTOR = 0.95
"""Below this cosine of weights models hardly stem from one base (Model-GLUE's threshold)."""
_ALIKE = 0.5
"""Mean cosine of task vectors from which on they count as one direction."""
_AGREE, _OPPOSED = 0.4, 0.6
"""Sign conflicts of related and of opposed changes; independent ones have about a half."""
Square = npt.NDArray[np.float64]


@checked
def merge_inspect(
    models: list[str | Path], *, base: str | Path | None = None, out: Path | None = None
) -> Result:
    """Say how alike models are, layer by layer, and which way of merging that advises.

    Reads every weight twice, in runs, in little memory. With a base, a weight is contested if it is
    among the 20 % that two or more models change most, and a sign conflict if they do so in opposed
    directions (half of the contested weights, if the changes are independent). Cancelled is the
    share of the summed magnitudes of all changes that is lost when the changes are added up.

    Args:
        models: Hugging Face folders, hub ids or packaged:smollm2; FOLDER+ADAPTER adds a LoRA.
        base: The model that the others were tuned from; then their task vectors are compared too.
        out: Folder for result.json, from which `treadle report` draws heat maps.

    Returns:
        Cosines, conflicts, and notes with the differences found and the advice.

    Raises:
        SettingsError: Fewer than two models.
        CheckpointError: A model cannot be read or holds NaN, or none of their tensors agree.
    """
    recipe = of_models("linear", models)
    if len(models) < 2:
        raise SettingsError("1 model was given; name at least two to compare.")
    opened = Models()
    try:
        compared = [opened[source.model] for source in recipe.slices[0].sources]
        root = None
        if base is not None:
            root = opened[of_models("linear", [str(base)]).slices[0].sources[0].model]
        for other in {*compared[1:], *([] if root is None else [root])} - {compared[0]}:
            other.call_as(compared[0])
        settings = {"base": None if base is None else str(base)}
        with recorded("merge", settings=settings, action="inspect", out=out, overwrite=None) as run:
            for place, model in enumerate(compared, 1):
                run.read(f"model {place}", str(model.ref), model.content_hash, "model")
            if root is not None:
                run.read("base", str(root.ref), root.content_hash, "base")
            comparison = _Comparison(compared, root)
            comparison.read()
            comparison.account_for(run)
        return run.result
    finally:
        opened.close()


class _Sums:
    """What is added up over the tensors of one layer."""

    def __init__(self, num_models: int) -> None:
        self.weights = np.zeros((num_models, num_models))
        self.deltas = np.zeros((num_models, num_models))
        self.agreed = self.moved = 0.0
        self.num_contested = self.num_conflicts = 0

    def add(self, other: "_Sums") -> None:
        """Count another layer in."""
        self.weights += other.weights
        self.deltas += other.deltas
        self.agreed, self.moved = self.agreed + other.agreed, self.moved + other.moved
        self.num_contested += other.num_contested
        self.num_conflicts += other.num_conflicts

    @property
    def conflict(self) -> float:
        """Of the weights that two or more models change loudly, the share with opposed signs."""
        return self.num_conflicts / self.num_contested if self.num_contested else 0.0

    @property
    def cancelled(self) -> float:
        """Which share of all change cancels out in the sum of the task vectors."""
        return 1.0 - self.agreed / self.moved if self.moved else 0.0


def _cosines(products: Square) -> Square:
    norms = np.sqrt(np.diagonal(products))
    scale = np.outer(norms, norms)
    found: Square = np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)
    return found


class _Difference(NamedTuple):
    name: str
    what: str
    is_size: bool = False
    """Whether the shapes differ in more than the number of tokens."""


class _Comparison:
    def __init__(self, models: list[Model], base: Model | None) -> None:
        self.models, self.base = models, base
        self.towers: list[Tower] = models[0].towers
        self.layers: dict[str, _Sums] = {}
        self.differences: list[_Difference] = []

    def read(self) -> None:
        """Compare every tensor that all models have in one shape."""
        sites = list(self._sites())
        if not sites:
            raise CheckpointError(
                "The models have no tensor of one name and shape in common, so nothing can be "
                "compared or merged; give models of one architecture and size."
            )
        found: dict[str, _Sums] = {}
        places: dict[str, tuple[int, int, int]] = {}
        with steps("inspect", len(sites)) as bar:
            for site in sites:
                key, place = self._placed(site.name)
                found.setdefault(key, _Sums(len(self.models))).add(self._compared(site))
                places[key] = place
                bar.advance()
        self.layers = {key: found[key] for key in sorted(found, key=places.__getitem__)}

    def _placed(self, name: str) -> tuple[str, tuple[int, int, int]]:
        """Return what a tensor is counted under, and where that stands in the model."""
        found = parse_name(name)
        for place, tower in enumerate(self.towers):
            if found.layer is not None and found.before in tower.prefixes:
                is_main = tower.part in (TEXT, "decoder")
                label = "layer" if is_main else f"{tower.part} layer"
                return f"{label} {found.layer}", (2 if is_main else 1, place, found.layer)
        is_input = Name(name, None, "").is_before_layers
        return name.removesuffix(".weight"), (0 if is_input else 3, 0, 0)

    def _sites(self) -> Iterator[Inputs]:
        everyone = [*self.models, *([self.base] if self.base else [])]
        for name in dict.fromkeys(n for model in everyone for n in model.names):
            infos = filter(None, (model.info(name) for model in everyone))
            if others := sorted({info.dtype for info in infos} - FLOATS):
                self.differences.append(_Difference(name, f"no floats ({', '.join(others)})"))
                continue
            found = [model.source(name) for model in everyone]
            sources = [source for source in found if source is not None]
            shapes = {source.shape for source in sources}
            if len(sources) < len(everyone):
                owners = [m.ref.path for m, s in zip(everyone, found, strict=True) if s is not None]
                self.differences.append(_Difference(name, f"only in {', '.join(owners)}"))
            elif len(shapes) > 1:
                sizes = " and ".join(str(list(shape)) for shape in sorted(shapes))
                is_size = not _are_rows_of_tokens(name, shapes)
                self.differences.append(_Difference(name, f"of shapes {sizes}", is_size))
            else:
                split = len(self.models)
                base = sources[split] if self.base else None
                yield Inputs(name, tuple(sources[:split]), base, ())

    def _compared(self, site: Inputs) -> _Sums:
        found = _Sums(len(self.models))
        counted = [Magnitudes() for _ in self.models]
        for chunk in site.chunks("elements"):
            found.weights += _products(chunk.models)
            if self.base is not None:
                deltas = chunk.deltas()
                found.deltas += _products(deltas)
                found.moved += float(np.abs(deltas).sum(dtype=np.float64))
                found.agreed += float(np.abs(deltas.sum(axis=0)).sum(dtype=np.float64))
                for count, row in zip(counted, deltas, strict=True):
                    count.count(row)
        if self.base is not None:
            rank = max(1, int(_LOUD_FRACTION * site.num_elements))
            loud = np.array([[max(count.about(rank), 1e-38)] for count in counted], np.float32)
            for chunk in site.chunks("elements"):
                self._count_conflicts(chunk.deltas(), loud, found)
        return found

    @staticmethod
    def _count_conflicts(deltas: Floats, loud: Floats, found: _Sums) -> None:
        num_up = (deltas >= loud).sum(axis=0)
        num_down = (deltas <= -loud).sum(axis=0)
        found.num_contested += int((num_up + num_down >= 2).sum())
        found.num_conflicts += int(((num_up > 0) & (num_down > 0)).sum())

    def account_for(self, run: Recording) -> None:
        """Note the measurements, figures and advice."""
        total = _Sums(len(self.models))
        for sums in self.layers.values():
            total.add(sums)
        names = _short([str(model.ref) for model in self.models])
        weights, deltas = _cosines(total.weights), _cosines(total.deltas)
        measured = _pairs("weight cosine", weights, names)
        figures = [_square("Cosine of weights", weights, names)]
        if self.base is not None:
            measured += _pairs("task vector cosine", deltas, names)
            measured.append(
                Measurement(
                    name="sign conflict",
                    value=total.conflict,
                    unit="of contested weights",
                    note="(contested: among the 20 % that two or more models change most; "
                    "conflict: in opposed directions; by chance 0.5)",
                )
            )
            measured.append(
                Measurement(
                    name="cancelled",
                    value=total.cancelled,
                    unit="of all change",
                    note="(lost when the changes of all models are added up)",
                )
            )
            figures += [_square("Cosine of task vectors", deltas, names), self._by_layer()]
        run.measurements += measured
        run.figures += figures
        run.notes += [
            *self._identical(),
            *self._differing(),
            *self._advice(weights, deltas, total),
        ]

    def _by_layer(self) -> Figure:
        columns = ["sign conflict", "cancelled", "(1 - cosine) / 2"]
        series = []
        for name, sums in self.layers.items():
            apart = (1.0 - _mean_of_pairs(_cosines(sums.deltas))) / 2
            values = [sums.conflict, sums.cancelled, apart]
            series.append(Series(name=name, x=list(columns), y=values))
        return Figure(
            kind="heatmap",
            title="Disagreement of the task vectors by layer",
            x_label="measure (0: the models agree, 1: they are opposed)",
            y_label="layer",
            series=series,
        )

    def _differing(self) -> list[str]:
        shown = [f"'{d.name}' is {d.what}" for d in self.differences[:3]]
        more = len(self.differences) - len(shown)
        text = "; ".join(shown) + (f"; and {more} more" if more else "")
        notes = [f"Left out of the comparison: {text}."] if shown else []
        if any(_is_vocabulary(difference) for difference in self.differences):
            notes.append(
                "The vocabularies differ in size, so the rows of tokens were not compared: merge "
                "with --tokenizer union."
            )
        return notes + self._tokenizers()

    def _tokenizers(self) -> list[str]:
        """Say how the vocabularies differ from the first model's."""
        first, *others = [vocabulary_of(model.reader.folder) for model in self.models]
        notes = []
        for model, other in zip(self.models[1:], others, strict=True):
            if first is None or other is None:
                lacking = model if other is None else self.models[0]
                notes.append(f"'{lacking.ref}' has no tokenizer.json to compare.")
                continue
            found = compared(first, other, self._num_rows(model))
            if any(found):
                notes.append(
                    f"The tokenizer of '{model.ref}' has {_tokens(found.num_extra)} that the first "
                    f"model's lacks, lacks {found.num_missing}, and numbers {found.num_moved} "
                    f"differently: merge with --tokenizer union."
                )
        return notes

    def _num_rows(self, other: Model) -> int:
        """Return how many rows the embeddings of the first and of another model have, at most."""
        pair = (self.models[0], other)
        sources = [m.source(name) for m in pair for name in m.names if name.endswith(EMBEDDINGS)]
        return max((s.shape[0] for s in sources if s is not None), default=sys.maxsize)

    def _identical(self) -> Iterator[str]:
        """Yield a note for each model that holds the numbers of an earlier one."""
        owners = {self.base.content_hash: f"the base '{self.base.ref}'"} if self.base else {}
        for model in self.models:
            if owner := owners.get(model.content_hash):
                yield f"'{model.ref}' and {owner} are identical: every weight is equal."
            owners.setdefault(model.content_hash, f"'{model.ref}'")

    def _advice(self, weights: Square, deltas: Square, total: _Sums) -> list[str]:
        if len({m.content_hash for m in self.models}) == 1:
            return ["Advice: the models are identical, so there is nothing to merge."]
        if any(difference.is_size for difference in self.differences):
            return ["Advice: the sizes differ, so these cannot be merged; route between them."]
        lowest = float(weights.min())
        if lowest < _SAME_ANCESTOR:
            return [
                f"Advice: a cosine of {lowest:.3f} between weights says that the models hardly "
                f"stem from one base; expect any merge to lose; route between them."
            ]
        if self.base is None:
            return ["Advice: the models may stem from one base; name it with --base to see more."]
        if _mean_of_pairs(deltas) > _ALIKE:
            return ["Advice: the task vectors point the same way; their mean (linear) should do."]
        if total.conflict > _OPPOSED:
            return ["Advice: the models unlearn each other; prefer ties, or route between them."]
        if total.conflict > _AGREE:
            return [
                "Advice: the changes are as good as independent; compare task_arithmetic with ties "
                "or dare_ties at a density of 0.2 to 0.5 on held-out data."
            ]
        return ["Advice: the changes mostly agree; linear or task_arithmetic should do."]


def _is_vocabulary(difference: _Difference) -> bool:
    return "shapes" in difference.what and not difference.is_size


def _tokens(count: int) -> str:
    return f"{count} token{'s' * (count != 1)}"


def _are_rows_of_tokens(name: str, shapes: set[tuple[int, ...]]) -> bool:
    """Whether shapes differ only in how many tokens have a row."""
    return name.endswith((*EMBEDDINGS, *HEADS)) and len({shape[1:] for shape in shapes}) == 1


def _products(rows: Floats) -> Square:
    return np.array([[float(np.dot(a, b)) for b in rows] for a in rows])


def _mean_of_pairs(square: Square) -> float:
    return float(square[np.triu_indices(len(square), 1)].mean())


def _short(paths: list[str]) -> list[str]:
    """Return the last part of each path, or the whole where those are equal."""
    short = [Path(path).name for path in paths]
    return short if len(set(short)) == len(short) else paths


def _pairs(what: str, square: Square, names: list[str]) -> list[Measurement]:
    return [
        Measurement(name=f"{what} {names[a]} : {names[b]}", value=float(square[a, b]))
        for a, b in itertools.combinations(range(len(names)), 2)
    ]


def _square(title: str, square: Square, names: list[str]) -> Figure:
    rows = [
        Series(name=name, x=list(names), y=[float(value) for value in row])
        for name, row in zip(names, square, strict=True)
    ]
    return Figure(kind="heatmap", title=title, x_label="model", y_label="model", series=rows)
