"""Which models can be merged: those of one shape and vocabulary whose weights are alike."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.combine.merge.base import Floats
from treadle.combine.merge.inputs.agreement import require_agreement
from treadle.combine.merge.inputs.models import Model
from treadle.combine.merge.inputs.sources import Inputs
from treadle.combine.merge.inputs.wholeness import spelt
from treadle.combine.merge.maths.gram import cosines, gram
from treadle.combine.merge.recipe.grammar import ModelRef
from treadle.core.errors import CheckpointError, SettingsError
from treadle.core.progress import track
from treadle.core.result import digest
from treadle.model.facts import whole_config

if TYPE_CHECKING:
    from treadle.combine.merge.glue.opening import Zoo

__all__ = ["Cluster", "alikeness", "clustered", "form_of", "read_whole"]

Square = npt.NDArray[np.float64]


class Cluster(NamedTuple):
    """Models that can be merged."""

    models: list[Model]
    alike: Square
    """[models, models] cosines of all their weights."""
    base: Model | None = None
    """What they were tuned from, where it was named and is one of them."""

    @property
    def names(self) -> list[str]:
        """The models, as they were named."""
        return [str(model.ref) for model in self.models]


def read_whole(model: Model) -> None:
    """Read every weight once.

    Raises:
        CheckpointError: One is NaN or infinite, or the file is cut off.
    """
    for name in model.names:
        source = model.source(name)
        if source is not None:
            for _ in Inputs(name, (source,), None, ()).chunks("elements"):
                pass


def alikeness(models: Sequence[Model]) -> Square:
    """Return the exact cosines of whole models [models, models], in one pass over all weights."""

    def runs() -> Iterator[Floats]:
        for name in track(models[0].names, "compare", len(models[0].names)):
            sources = [source for one in models if (source := one.source(name)) is not None]
            if len(sources) == len(models):
                for chunk in Inputs(name, tuple(sources), None, ()).chunks("elements"):
                    yield chunk.models

    return cosines(gram(runs()), 0.0)


def clustered(zoo: "Zoo", same_ancestor: float, notes: list[str]) -> list[Cluster]:
    """Part models by architecture, shapes, vocabulary and settings, then by likeness.

    Clusters grow by average linkage: two become one while the mean cosine between their models is
    `same_ancestor` at least. The order of the models does not matter.

    Args:
        zoo: The models, and what they, or some of them, were tuned from.
        same_ancestor: Cosine of whole models from which on they count as tuned from one base.
        notes: Takes what is to be said.

    Returns:
        Clusters in the order of their first models.
    """
    found = []
    models, base = zoo.models, zoo.base
    everyone = [*models, *([base] if base is not None and base not in models else [])]
    for members in _of_one_form(everyone, zoo.forms):
        for other in members[1:]:
            other.call_as(members[0])
        alike = alikeness(members)
        for chosen in _linked(alike, same_ancestor):
            inside = [place for place in chosen if members[place] in models]
            own = base if any(members[place] is base for place in chosen) else None
            if inside:
                square = alike[np.ix_(inside, inside)]
                found.append(Cluster([members[place] for place in inside], square, own))
        notes += _said(members, alike, same_ancestor)
    place = {id(model): number for number, model in enumerate(models)}
    return sorted(found, key=lambda cluster: place[id(cluster.models[0])])


def _of_one_form(models: Sequence[Model], known: Mapping[ModelRef, str]) -> list[list[Model]]:
    forms: dict[str, list[list[Model]]] = {}
    for model in models:
        groups = forms.setdefault(known[model.ref], [])
        for group in groups:
            if _agree(group[0], model):
                group.append(model)
                break
        else:
            groups.append([model])
    return [group for groups in forms.values() for group in groups]


def form_of(model: Model) -> str:
    """Return the hash of what one dense merge must have in common: kind, shapes and vocabulary.

    Raises:
        DataError: The model has no tokenizer that can be read.
    """
    from treadle.model.load import load_tokenizer
    from treadle.model.text import tokenizer_hash

    config = whole_config(model.reader.config)
    sources = ((name, model.source(name)) for name in model.names)
    shapes = sorted((name, list(s.shape)) for name, s in sources if s is not None)
    words = tokenizer_hash(load_tokenizer(model.token_folder or model.reader.folder))
    return digest([config.get("model_type"), shapes, words])


def _agree(first: Model, other: Model) -> bool:
    """Say whether two configs compute the same with the same weights."""
    try:
        list(require_agreement(first, [first, other], [], spelt))
    except (CheckpointError, SettingsError):
        return False
    return True


def _linked(alike: Square, threshold: float) -> list[list[int]]:
    groups = [[place] for place in range(len(alike))]
    while len(groups) > 1:
        pairs = itertools.combinations(range(len(groups)), 2)
        means = {
            pair: float(alike[np.ix_(groups[pair[0]], groups[pair[1]])].mean()) for pair in pairs
        }
        (left, right), mean = max(means.items(), key=lambda entry: entry[1])
        if mean < threshold:
            break
        groups[left] = sorted(groups[left] + groups.pop(right))
    return groups


def _said(members: Sequence[Model], alike: Square, threshold: float) -> list[str]:
    pairs = alike[np.triu_indices(len(members), 1)]
    below = pairs[pairs < threshold]
    if not below.size or below.max() < threshold / 2:
        return []
    return [
        f"Weights of models of one form have cosines from {pairs.min():.3f} to {pairs.max():.3f}, "
        f"of which {below.max():.3f} is the largest below {threshold:g}: where those models were "
        f"tuned from one base, too, lower --same-ancestor."
    ]
