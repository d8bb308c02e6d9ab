"""From dense models to a mixture: each tensor of the output, and where it comes from."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

from treadle.combine.merge.base import Chunk, Floats, MergeMethod, Site
from treadle.combine.merge.inputs.models import Models
from treadle.combine.merge.inputs.sources import Inputs
from treadle.combine.merge.inputs.wholeness import require_whole, spelt
from treadle.combine.merge.jobs import TensorJob
from treadle.combine.merge.methods.linear import Linear
from treadle.combine.merge.mixture.base import Router
from treadle.combine.merge.mixture.checkpoints import MixtureLayout, layout_of, mixture_config
from treadle.combine.merge.plan import MergePlan, make_plan
from treadle.combine.merge.recipe.extras import ALLOW_DIFFERENT
from treadle.combine.merge.recipe.grammar import of_models
from treadle.combine.merge.recipe.remarks import repeated_models
from treadle.core.checkpoint import PlannedTensor
from treadle.core.codec import dtype_code
from treadle.core.errors import SettingsError, UnsupportedModelError
from treadle.core.method import Control
from treadle.core.seed import numpy_stream, stream_seed
from treadle.model import facts
from treadle.model.belonging import shapes_of
from treadle.model.facts import ARCHITECTURES
from treadle.native import elements

__all__ = [
    "DenseExpert",
    "DenseMlp",
    "MixturePlan",
    "MixtureRequest",
    "TextRequest",
    "added_values",
    "plan_mixture",
]

_ROLES = ("gate", "up", "down")


class DenseExpert(NamedTuple):
    """A model whose MLPs become experts, and what it is for."""

    model: str
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    noise_scale: float = 0.0
    """Deviation of the noise that is added to its matrices."""
    residual_scale: float = 1.0
    """Factor of what it adds to the residual stream."""


class TextRequest(NamedTuple):
    """Texts of all the experts' kinds, and how much of each is read."""

    text: tuple[str, ...]
    num_windows: int
    window_tokens: int

    def settings(self) -> dict[str, Any]:  # Any: JSON values
        """Return what determines the gates beside the texts' content."""
        return self._asdict() | {"text": list(self.text)}


class MixtureRequest(NamedTuple):
    """What a mixture is to be made of, and how."""

    experts: tuple[DenseExpert, ...]
    base: str | None
    router: Router
    experts_per_token: int
    dtype: str | None = None
    allow_different: tuple[str, ...] = ()
    wants_bos: bool = False
    """Whether prompts start with the BOS token if there is one; if not, as the tokenizer has it."""
    text: TextRequest | None = None
    """For routers that look at the models' losses."""
    layouts: tuple[str, ...] = ()
    """Which layouts are allowed, by model_type; nothing for all."""
    notes: tuple[str, ...] = ()
    """On what has no effect."""

    @property
    def num_experts(self) -> int:
        """How many experts each MLP has."""
        return len(self.experts)


class DenseMlp(NamedTuple):
    """One MLP of the dense models."""

    layer: int
    matrices: dict[str, TensorJob]
    """Role -> the matrix in all models, the base's first where there is one."""


class MixturePlan(NamedTuple):
    """A mixture, checked: nothing but numbers can still go wrong."""

    merge: MergePlan
    """What is read and written tensor by tensor: all but the gates and what adds nothing."""
    mlps: list[DenseMlp]
    gates: list[PlannedTensor]
    """Of each layer in its order."""
    added: list[PlannedTensor]
    """What a layout wants and no dense model has: a shared expert that adds nothing."""
    width: int
    """Neurons of each MLP."""

    @property
    def planned(self) -> list[PlannedTensor]:
        """All tensors of the output."""
        return [*self.merge.planned, *self.gates, *self.added]


class _Noised(MergeMethod):
    """One model's matrix with noise N(0, scale²), the same whatever the runs are."""

    name: ClassVar[str] = "noised"
    paper = Control("mergekit-moe's noise_scale")

    scale: float
    """Deviation of the noise."""

    def merge(self, chunk: Chunk, site: Site, known: Any) -> Floats:
        """Return the run with its noise, by Box and Muller's way."""
        values = chunk.models[0]
        first, second = (np.empty_like(values) for _ in range(2))
        key = site.keys[0]
        elements.uniform(key, chunk.first, first)
        elements.uniform(stream_seed(key, "second"), chunk.first, second)
        lengths = np.sqrt(-2.0 * np.log1p(-first.astype(np.float64)))
        noise = lengths * np.cos(2.0 * np.pi * second.astype(np.float64))
        found: Floats = (values + self.scale * noise).astype(np.float32)
        return found


def plan_mixture(request: MixtureRequest, models: Models, seed: int) -> MixturePlan:
    """Plan a mixture, opening the models that it is made of.

    Raises:
        SettingsError: A reference or dtype is not written as it should be.
        CheckpointError: The models do not fit together.
        UnsupportedModelError: transformers has no mixture of such models.
    """
    listed = [one.model for one in request.experts]
    if request.base is not None:
        listed.insert(0, request.base)
    recipe = of_models("linear", listed, request.base, request.dtype)
    if request.allow_different:
        recipe.extras[ALLOW_DIFFERENT] = list(request.allow_different)
    for source in recipe.sources:
        layout_of(models[source.model].config, str(source.model))
    plan = make_plan(recipe, models, seed, Linear())
    if plan.parent.is_nonuniform:
        raise UnsupportedModelError(
            f"The blocks of '{plan.parent.ref}' differ in width, which no mixture of transformers "
            f"can say; pad it first (treadle export {plan.parent.ref.path} OUT --pad)."
        )
    layout = layout_of(plan.config, str(plan.parent.ref))
    if request.layouts and layout.model_type not in request.layouts:
        raise SettingsError(
            f"'{plan.parent.ref}' and the others become a {layout.architecture}, but the file's "
            f"architecture is {' or '.join(request.layouts)}; remove the key 'architecture'."
        )
    if request.base is not None:  # then a model that is listed twice does not count twice
        repeated = list(repeated_models(recipe))
        plan = plan._replace(notes=[note for note in plan.notes if note not in repeated])
    return _Mixing(request, plan, layout).plan(models)


class _Mixing:
    """The way from the plan of a mean to that of a mixture."""

    def __init__(self, request: MixtureRequest, plan: MergePlan, layout: MixtureLayout) -> None:
        self.request, self.dense, self.layout = request, plan, layout
        reader = plan.parent.reader
        self.config, shapes = facts.base_config(reader.config), shapes_of(reader)
        self.num_layers = facts.num_layers(self.config)
        self.prefixes = [
            facts.block_prefix(self.config, layer, shapes) for layer in range(self.num_layers)
        ]
        self.matrices = {
            matrix.tensor: matrix
            for layer in range(self.num_layers)
            for matrix in facts.linears(self.config, layer, shapes)
            if matrix.role in _ROLES
        }

    def plan(self, models: Models) -> MixturePlan:
        jobs: list[TensorJob] = []
        found: list[dict[str, TensorJob]] = [{} for _ in range(self.num_layers)]
        for job in self.dense.jobs:
            matrix = self.matrices.get(job.inputs.name)
            if matrix is None:
                jobs.append(self._trunk(job))
            else:
                found[matrix.layer][matrix.role] = job
                jobs += self._experts(job, matrix)
        config = self._config()
        hidden = facts.hidden_size(self.config)
        gates = self._gates(config, hidden)
        added = list(self._added(config, hidden))
        planned = [*(job.planned for job in jobs), *gates, *added]
        shapes = {one.name: one.shape for one in planned}
        shapes |= {one.name: one.info.shape for one in self.dense.carried}
        notes = [*self.dense.notes, *require_whole(config, shapes, models.all(), True)]
        merge = self.dense._replace(jobs=jobs, config=config, notes=notes)
        mlps = [DenseMlp(layer, matrices) for layer, matrices in enumerate(found)]
        return MixturePlan(merge, mlps, gates, added, int(config[self.layout.width]))

    def _trunk(self, job: TensorJob) -> TensorJob:
        """Return how a tensor that all experts share is made: the base's, or the mean."""
        if self.request.base is None:
            return job
        inputs = job.inputs
        return job._replace(inputs=inputs._replace(models=inputs.models[:1], keys=inputs.keys[:1]))

    def _experts(self, job: TensorJob, matrix: facts.Linear) -> Iterator[TensorJob]:
        """Yield a matrix of each expert, which is one model's."""
        tensors = {f.role: f.tensor for f in ARCHITECTURES[self.layout.model_type].expert_linears}
        skipped = self.request.base is not None
        for number, expert in enumerate(self.request.experts):
            name = self.prefixes[matrix.layer] + tensors[matrix.role].format(expert=number)
            place = number + skipped
            inputs = Inputs(name, (job.inputs.models[place],), None, (job.inputs.keys[place],))
            method = _Noised(scale=expert.noise_scale) if expert.noise_scale else job.method
            scale = expert.residual_scale if matrix.role == "down" else 1.0
            yield TensorJob(inputs, job.dtype, method, scale)

    def _config(self) -> dict[str, Any]:  # Any: JSON values
        dense = self.dense.config
        words = [spelt(dense), spelt({"model_type": self.layout.model_type})]
        assert words[0] is not None
        assert words[1] is not None
        return mixture_config(
            dense,
            *(words[0], words[1], self.layout),
            self.request.num_experts,
            self.request.experts_per_token,
        )

    def _gates(self, config: Mapping[str, Any], hidden: int) -> list[PlannedTensor]:
        gate = ARCHITECTURES[self.layout.model_type].routers[0]
        dtype = dtype_code(config["dtype"])
        shape = (self.request.num_experts, hidden)
        return [PlannedTensor(prefix + gate, dtype, shape) for prefix in self.prefixes]

    def _added(self, config: Mapping[str, Any], hidden: int) -> Iterator[PlannedTensor]:
        """Yield the tensors of a shared expert, where the layout wants one."""
        if not self.layout.has_shared:
            return
        architecture = ARCHITECTURES[self.layout.model_type]
        width, dtype = config["shared_expert_intermediate_size"], dtype_code(config["dtype"])
        shared = [fact for fact in architecture.linears if fact.input.startswith("shared_")]
        for prefix in self.prefixes:
            for fact in shared:
                shape = (hidden, width) if fact.role == "down" else (width, hidden)
                yield PlannedTensor(prefix + fact.tensor, dtype, shape)
            for gate in architecture.routers[1:]:
                yield PlannedTensor(prefix + gate, dtype, (1, hidden))


def added_values(planned: PlannedTensor, seed: int, deviation: float) -> Floats:
    """Return a tensor of a shared expert that adds exactly nothing, and can still learn.

    What leaves it is zero, and so is its gate; what enters it is drawn as in a fresh model.
    """
    if planned.shape[0] == 1 or "down" in planned.name:
        return np.zeros(planned.shape, np.float32)
    drawn = numpy_stream(seed, planned.name).standard_normal(planned.shape, dtype=np.float32)
    found: Floats = np.float32(deviation) * drawn
    return found
