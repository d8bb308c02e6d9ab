"""`treadle merge inspect`: how alike models are, where they disagree, and what that advises."""

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.combine.merge.base import Floats
from treadle.combine.merge.inputs.data import Data, requested
from treadle.combine.merge.inputs.models import Model, Models
from treadle.combine.merge.inputs.sources import Inputs
from treadle.combine.merge.inputs.towers import Tower, placed
from treadle.combine.merge.maths.curvature import (
    averaging_gain,
    gain_advice,
    gain_figure,
    gain_measurement,
)
from treadle.combine.merge.maths.gram import cosines
from treadle.combine.merge.maths.order_statistics import Magnitudes
from treadle.combine.merge.recipe.grammar import of_models
from treadle.combine.merge.site import Knowledge
from treadle.combine.merge.tokens.numbering import numbering_notes
from treadle.core.arguments import checked
from treadle.core.codec import FLOATS
from treadle.core.errors import CheckpointError, SettingsError
from treadle.core.progress import steps
from treadle.core.result import Figure, Measurement, Result, Series
from treadle.core.run import Recording, recorded
from treadle.model.facts import EMBEDDINGS, HEADS
from treadle.model.text import Bos

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
    models: list[str | Path],
    *,
    base: str | Path | None = None,
    text: list[str] | None = None,
    num_windows: int = 32,
    window_tokens: int = 512,
    bos: Bos = "auto",
    seed: int = 0,
    out: Path | None = None,
) -> Result:
    """Say how alike models are, layer by layer, and which way of merging that advises.

    Reads every weight twice, in runs, in little memory. With a base, a weight is contested if it is
    among the 20 % that two or more models change most, and a sign conflict if they do so in opposed
    directions (half of the contested weights, if the changes are independent). Cancelled is the
    share of the summed magnitudes of all changes that is lost when the changes are added up. With a
    text, the models also run on it, one after the other in float32: the curvature-weighted variance
    of their weights, half of Σ F Var, is what the loss of their mean gains over the mean of their
    losses, to second order (F: the empirical Fisher information, as in the method fisher). What is
    known of each lies in a file of its size in float32 meanwhile, beside OUT or in the temporary
    folder.

    Args:
        models: Hugging Face folders, hub ids or packaged:smollm2; FOLDER+ADAPTER adds a LoRA.
        base: The model that the others were tuned from; then their task vectors are compared too.
        text: What the models are for: a .txt or .jsonl file or stdlib:calibration for all models,
            or one for each in their order.
        num_windows: Windows drawn from each text by the seed.
        window_tokens: Tokens in each window.
        bos: Start each window with the tokenizer's BOS token: each, none, or auto, as the tokenizer
            itself starts a text.
        seed: Seed of the windows.
        out: Folder for result.json, from which `treadle report` draws heat maps.

    Returns:
        Cosines, conflicts, the gain of averaging, and notes with the differences found and the
        advice.

    Raises:
        SettingsError: Fewer than two models, or not as many texts as models.
        CheckpointError: A model cannot be read or holds NaN, or none of their tensors agree.
    """
    recipe = of_models("linear", models)
    if len(models) < 2:
        raise SettingsError("1 model was given; name at least two to compare.")
    request = requested(text, num_windows, window_tokens, bos)
    opened = Models()
    try:
        compared = [opened[source.model] for source in recipe.slices[0].sources]
        root = None
        if base is not None:
            root = opened[of_models("linear", [str(base)]).slices[0].sources[0].model]
        for other in {*compared[1:], *([] if root is None else [root])} - {compared[0]}:
            other.call_as(compared[0])
        settings = {"base": None if base is None else str(base)}
        settings |= {} if request is None else request.settings()
        with (
            tempfile.TemporaryDirectory() as scratch,
            recorded(
                "merge", settings=settings, action="inspect", seed=seed, out=out, overwrite=None
            ) as run,
        ):
            for place, model in enumerate(compared, 1):
                run.read(f"model {place}", str(model.ref), model.content_hash, "model")
            if root is not None:
                run.read("base", str(root.ref), root.content_hash, "base")
            comparison = _Comparison(compared, root)
            if request is not None:
                comparison.data = Data(request, compared, "importance", seed)
                run.inputs += comparison.data.inputs()
            comparison.read(out or Path(scratch, "inspect"))
            comparison.account_for(run)
        return run.result
    finally:
        opened.close()


class _Sums:
    """What is added up over the tensors of one layer."""

    def __init__(self, num_models: int) -> None:
        self.weights = np.zeros((num_models, num_models))
        self.deltas = np.zeros((num_models, num_models))
        self.agreed = self.moved = self.gain = 0.0
        self.num_contested = self.num_conflicts = 0

    def add(self, other: "_Sums") -> None:
        """Count another layer in."""
        self.weights += other.weights
        self.deltas += other.deltas
        self.agreed, self.moved = self.agreed + other.agreed, self.moved + other.moved
        self.gain += other.gain
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
        self.data: Data | None = None
        """What the models' own texts say of their weights, where there are any."""

    def read(self, beside: Path) -> None:
        """Compare every tensor that all models have in one shape.

        Args:
            beside: Where files lie beside that hold what is known of the models' data.
        """
        sites = list(self._sites())
        if not sites:
            raise CheckpointError(
                "The models have no tensor of one name and shape in common, so nothing can be "
                "compared or merged; give models of one architecture and size."
            )
        if self.data is not None:
            self.data.collect(beside)
        found: dict[str, _Sums] = {}
        places: dict[str, tuple[int, int, int]] = {}
        with steps("inspect", len(sites)) as bar:
            for site in sites:
                key, place = placed(site.name, self.towers)
                found.setdefault(key, _Sums(len(self.models))).add(self._compared(site))
                places[key] = place
                bar.advance()
        self.layers = {key: found[key] for key in sorted(found, key=places.__getitem__)}
        if self.data is not None:
            self.data.close()
            self.data.remove()

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
                yield Inputs(name, tuple(sources[:split]), base, (), self._known(name))

    def _known(self, name: str) -> tuple[Knowledge, ...]:
        if self.data is None:
            return ()
        return tuple(
            self.data.known(place, model.own_name(name)) for place, model in enumerate(self.models)
        )

    def _compared(self, site: Inputs) -> _Sums:
        found = _Sums(len(self.models))
        counted = [Magnitudes() for _ in self.models]
        for chunk in site.chunks("elements"):
            found.weights += _products(chunk.models)
            if self.data is not None:
                found.gain += averaging_gain(chunk, site.knowledge, self.data.num_predicted)
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
        weights, deltas = cosines(total.weights, 0.0), cosines(total.deltas, 0.0)
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
        if self.data is not None:
            measured.append(gain_measurement(total.gain))
            figures.append(gain_figure({name: one.gain for name, one in self.layers.items()}))
        run.measurements += measured
        run.figures += figures
        run.notes += [
            *self._identical(),
            *self._differing(),
            *(gain_advice(total.gain) if self.data is not None else ()),
            *self._advice(weights, deltas, total),
        ]

    def _by_layer(self) -> Figure:
        columns = ["sign conflict", "cancelled", "(1 - cosine) / 2"]
        series = []
        for name, sums in self.layers.items():
            apart = (1.0 - _mean_of_pairs(cosines(sums.deltas, 0.0))) / 2
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
        return [*notes, *numbering_notes(self.models)]

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
