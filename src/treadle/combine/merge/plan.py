"""From a recipe to jobs: each tensor of the output, where it comes from and how it is merged."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from treadle.combine.merge.base import MergeMethod
from treadle.combine.merge.carried import Carried, carried, is_left_out
from treadle.combine.merge.inputs.agreement import require_agreement, require_one_kind
from treadle.combine.merge.inputs.compatibility import namesakes, require_one_architecture
from treadle.combine.merge.inputs.configs import Layering, merged_config, section
from treadle.combine.merge.inputs.data import Data, DataRequest
from treadle.combine.merge.inputs.models import Model, Models
from treadle.combine.merge.inputs.sources import Inputs, TensorSource, widest
from treadle.combine.merge.inputs.sparsity import SPARSE
from treadle.combine.merge.inputs.towers import Name, depth_keys, parse_name
from treadle.combine.merge.inputs.wholeness import (
    require_complete,
    require_same_layers,
    require_whole,
    spelt,
)
from treadle.combine.merge.jobs import TensorJob, counted, stream_keys
from treadle.combine.merge.recipe.extras import (
    ALLOW_ARCHITECTURES,
    ALLOW_DIFFERENT,
    KEEP_ZEROS,
    REPEAT_SCALE,
    check_extras,
)
from treadle.combine.merge.recipe.grammar import MergeRecipe, ModelRef, OutputSlice, SourceSlice
from treadle.combine.merge.recipe.remarks import (
    idle_filters,
    missing_weights,
    repeated_models,
    zeros,
)
from treadle.combine.merge.recipe.settings import base_of, made, models_of, require_known, resolve
from treadle.combine.merge.site import Knowledge
from treadle.combine.merge.tables import METHODS
from treadle.combine.merge.tokens.lenders import BY_TOKEN, Lender
from treadle.combine.merge.tokens.vocabulary import Vocabulary
from treadle.combine.merge.tokens.vocabulary import plan as plan_vocabulary
from treadle.combine.merge.walk import Place, Stack, Walk
from treadle.core.checkpoint import PlannedTensor
from treadle.core.codec import FLOATS, dtype_code
from treadle.core.errors import SettingsError
from treadle.model.facts import HEADS

__all__ = ["MergePlan", "make_plan"]

Config = dict[str, Any]  # Any: JSON values of config.json


Member = tuple[ModelRef, str]
"""A model, and its name of a tensor."""


class MergePlan(NamedTuple):
    """A whole merge, checked: nothing but numbers can still go wrong."""

    jobs: list[TensorJob]
    carried: list[Carried]
    config: dict[str, Any]  # Any: JSON values
    parent: Model
    """Whose config, tokenizer and other small files the output takes."""
    vocabulary: Vocabulary | None
    notes: list[str]
    data: Data | None

    @property
    def planned(self) -> list[PlannedTensor]:
        """All tensors of the output, as the writer knows them."""
        return [job.planned for job in self.jobs] + [one.planned for one in self.carried]


class _Planner:
    def __init__(
        self,
        recipe: MergeRecipe,
        models: Models,
        seed: int,
        fixed: MergeMethod | None,
        request: DataRequest | None,
    ) -> None:
        self.recipe, self.models, self.seed, self.fixed = recipe, models, seed, fixed
        self.method = METHODS[recipe.method]
        self.notes = [*recipe.notes, *require_known(self.method, recipe)]
        self.notes += repeated_models(recipe)
        if fixed is None:
            self.notes += missing_weights(self.method, recipe)
        check_extras(recipe.extras)
        for output_slice in recipe.slices:
            for source in output_slice.sources:
                models[source.model]
        self.parent = models[recipe.base] if recipe.base else models.all()[0]
        for model in models.all():
            if model is not self.parent:
                model.call_as(self.parent)
        for output_slice in recipe.slices:
            self._require_inputs(output_slice)
        if not recipe.extras.get(ALLOW_ARCHITECTURES, False):
            require_one_architecture(models.all())
        require_complete(models.all())
        self.notes += require_agreement(self.parent, models.all(), self._may_differ, spelt)
        self.data = self._data(request)
        self.vocabulary = self._vocabulary()
        self._read: set[tuple[ModelRef, str]] = set()

    def plan(self) -> MergePlan:
        walk = Walk(
            self.recipe,
            self.models,
            self._base_of,
            self.recipe.extras.get(REPEAT_SCALE, 1.0),
        )
        keeps_zeros = self.recipe.extras.get(KEEP_ZEROS, False)
        jobs, taken = self._jobs(walk, keeps_zeros)
        if keeps_zeros and not any(job.zero_shares for job in jobs):
            raise SettingsError(
                f"keep_zeros has nothing to keep: in no matrix of any model {SPARSE:.0%} of the "
                f"weights are zero; leave it out."
            )
        config = self._config(walk.stacks, jobs, taken)
        names = {name for model in self.models.all() for name in model.names}
        self.notes += [*walk.notes, *self._unread(walk.stacks)]
        self.notes += idle_filters(self.recipe, names | {job.inputs.name for job in jobs})
        self.notes += zeros(job.method for job in jobs)
        if self.method.reads_matrices and self.parent.transposed is None:
            self.notes.append(
                f"How matrices lie is not known of '{self.parent.ref}': all count as [out, in]."
            )
        if self.data is not None:
            self.data.require_one_vocabulary(self.vocabulary is not None)
            self.notes += [*self.data.averaged(), *self.data.beyond_positions()]
        return MergePlan(jobs, taken, config, self.parent, self.vocabulary, self.notes, self.data)

    def _jobs(self, walk: Walk, keeps_zeros: bool) -> tuple[list[TensorJob], list[Carried]]:
        """Return what is merged, and what is taken over as it is."""
        jobs: list[TensorJob] = []
        taken: list[Carried] = []
        for place in walk.places():
            pairs, base = self._members(place)
            members = [(self.models[ref], name) for ref, name in (*pairs, *base)]
            self._read.update([*pairs, *base])
            if note := is_left_out(members):
                self.notes.append(note)
            elif (found := carried(members, place.out)) is not None:
                self.notes.append(found.note)
                taken.append(found)
            else:
                jobs.append(counted(self._job(place, pairs, base), keeps_zeros))
        return jobs, taken

    def _config(self, stacks: list[Stack], jobs: list[TensorJob], taken: list[Carried]) -> Config:
        """Return the output's config, checked against its tensors and its layers."""
        layerings = [self._layering(stack, 0) for stack in stacks]
        config, unsaid = merged_config(
            self.parent.config, layerings, self._dtype_name(jobs), self._is_tied(jobs), spelt
        )
        if self.vocabulary is not None:
            config |= self.vocabulary.config_changes(config)
        for stack in stacks:
            self._require_one_kind(stack, config)
        shapes = {job.inputs.name: job.inputs.shape for job in jobs}
        shapes |= {one.name: one.info.shape for one in taken}
        moved = [(found, _first_of(found, shapes)) for found in layerings if not found.is_as_before]
        require_same_layers(config, moved, unsaid)
        is_uniform = not self.parent.is_nonuniform
        self.notes += require_whole(config, shapes, self.models.all(), is_uniform)
        if is_uniform:
            return config
        return {**self.parent.reader.config, "treadle_base": config}

    def _unread(self, stacks: list[Stack]) -> Iterator[str]:
        """Yield a note on each model with tensors that nothing reads, but layers left out."""
        sliced = {prefix for stack in stacks if stack.is_sliced for prefix in stack.tower.prefixes}
        for ref in dict.fromkeys(source.model for source in self.recipe.sources):
            names = [parse_name(n) for n in self.models[ref].names if (ref, n) not in self._read]
            if left := [name.full for name in names if name.before not in sliced]:
                more = f" and {len(left) - 1} more" if len(left) > 1 else ""
                yield f"Of '{ref}' no slice reads '{left[0]}'{more}: the output has other models'."

    def _layering(self, stack: Stack, column: int) -> Layering:
        """Return where the layers of a tower come from: of their models the one at `column`."""
        chosen = [members[column if column < len(members) else 0] for members in stack.layers]
        return Layering(stack.tower, [(self.models[ref].config, layer) for ref, layer in chosen])

    def _require_one_kind(self, stack: Stack, config: Config) -> None:
        own = section(config, stack.tower.place)
        depths = depth_keys(own, stack.tower.part)
        columns = []
        for column in range(max(map(len, stack.layers), default=0)):
            refs = [members[column][0] for members in stack.layers if column < len(members)]
            origins = self._layering(stack, column).origins(spelt, depths)
            columns.append((self.models[refs[0]], origins))
        if columns:
            require_one_kind(own, columns, self._may_differ)

    def _is_tied(self, jobs: list[TensorJob]) -> bool | None:
        """Return whether the output's head is its embedding, where the parent may say else."""
        if any(job.inputs.name.endswith(HEADS) for job in jobs):
            return False
        has_tied = any(model.tied for model in self.models.all())
        return True if has_tied and not self.parent.tied else None

    def _require_inputs(self, output_slice: OutputSlice) -> None:
        """Check that the method can merge as many models as the slice has, with its base."""
        base, sources = self._base_of(output_slice), self._models_of(output_slice)
        if self.method.base == "required" and base is None:
            key = (
                "as base_model (--base on the command line)"
                if self.fixed is None
                else ("with --base (base_model in YAML)")
            )
            raise SettingsError(
                f"'{self.recipe.method}' needs the base that the models were tuned from; name it "
                f"{key}."
            )
        if self.method.base == "unused" and self.recipe.base and self._is_idle_base(output_slice):
            raise SettingsError(
                f"'{self.recipe.method}' has no use for the base '{self.recipe.base}', which is "
                f"not among the models; leave it out, or list it as a model."
            )
        fewest, most = self.method.num_models
        if len(sources) < fewest or (most is not None and len(sources) > most):
            wanted = f"{fewest} or more models"
            if fewest == most:
                wanted = f"{fewest} model{'s' * (fewest != 1)}"
            were = "was" if len(sources) == 1 else "were"
            beside = " beside the base" if base is not None else ""
            raise SettingsError(
                f"'{self.recipe.method}' merges {wanted}{beside}, but {len(sources)} {were} "
                f"given; change the list, or choose another method."
            )
        if self.fixed is not None:
            _require_values(self.fixed, len(sources))

    @property
    def _may_differ(self) -> list[str]:
        """The keys of config.json that the user lets differ."""
        found: list[str] = self.recipe.extras.get(ALLOW_DIFFERENT, [])
        return found

    def _is_idle_base(self, output_slice: OutputSlice) -> bool:
        is_needed = self.recipe.tokenizer is not None or len(self.recipe.slices) > 1
        listed = {source.model for source in output_slice.sources}
        return not is_needed and self.recipe.base not in listed

    def _base_of(self, output_slice: OutputSlice) -> ModelRef | None:
        if self.method.base == "unused":
            return None
        return base_of(self.method, self.recipe, output_slice)

    def _models_of(self, output_slice: OutputSlice) -> tuple[SourceSlice, ...]:
        return models_of(self.method, self.recipe, output_slice)

    def _data(self, request: DataRequest | None) -> Data | None:
        need, name = self.method.needs, self.recipe.method
        if not need:
            if request is not None:
                raise SettingsError(f"'{name}' has no use for a text; leave it out.")
            return None
        if request is None:
            raise SettingsError(
                f"'{name}' looks at what the models compute on their own data; give a text for "
                f"each with --text."
            )
        if len(self.recipe.slices) > 1 or self.recipe.slices[0].sources[0].layers:
            raise SettingsError(f"'{name}' merges whole models, not slices; list them as models.")
        chosen = [self.models[s.model] for s in self._models_of(self.recipe.slices[0])]
        base = self._base_of(self.recipe.slices[0])
        known_base = None if base is None else self.models[base]
        return Data(request, chosen, need, self.seed, self.fixed, known_base)

    def _vocabulary(self) -> Vocabulary | None:
        opened = self.models.all()
        opened.sort(key=lambda model: model is not self.parent)  # the first lends its tokenizer
        self.notes += [note for model in opened for note in model.notes]
        base = 0 if self.recipe.base else None
        lenders = [Lender(m.ref, m.reader, m.num_rows, m.token_folder) for m in opened]
        option = "tokenizer_source: " if self.fixed is None else "--tokenizer "
        found, note = plan_vocabulary(
            self.recipe.tokenizer, lenders, base, self.recipe.chat_template, option
        )
        if note:
            self.notes.append(note)
        return found

    def _members(self, place: Place) -> tuple[list[Member], list[Member]]:
        """Return the models that the method sees at a place, and its base, if it has one."""
        listed, name, layers = place.slice.sources, place.name, place.layers
        names = [name.in_layer(layer) for layer in layers] or [name.before] * len(listed)
        chosen = self._models_of(place.slice)
        pairs = [(s.model, own) for s, own in zip(listed, names, strict=True) if s in chosen]
        base = self._base_of(place.slice)
        if base is None:
            return pairs, []
        return pairs, [(base, self._base_name(base, place.slice, names, name, layers))]

    def _job(self, place: Place, pairs: list[Member], base: list[Member]) -> TensorJob:
        output_slice = place.slice
        refs, own_names = [ref for ref, _ in pairs], [own for _, own in pairs]
        sources = self._sources([*pairs, *base])
        known = () if self.data is None else self._known(refs, own_names)
        contents = [self.models[ref].content_hash for ref in refs]
        inputs = Inputs(
            place.out,
            tuple(sources[: len(pairs)]),
            sources[-1] if base else None,
            stream_keys(contents, self.seed, place.out),
            known,
            self.method.reads_matrices and self.models[refs[0]].lies_transposed(own_names[0]),
        )
        method = self.fixed
        if method is None:
            found = resolve(self.method, self.recipe, output_slice, place.out, own_names, place.t)
            method = made(self.method, found, refs, place.out)
        other = stream_keys(contents, self.seed + 1, place.out) if method.draws else ()
        return TensorJob(inputs, self._dtype(sources), method, place.scale, other_keys=other)

    @staticmethod
    def _base_name(
        base: ModelRef,
        output_slice: OutputSlice,
        names: list[str],
        name: Name,
        layers: tuple[int, ...],
    ) -> str:
        listed = [source.model for source in output_slice.sources]
        if base in listed:
            return names[listed.index(base)]
        # A base beside the models has the layers that the first model has.
        return name.in_layer(layers[0]) if layers else name.before

    def _sources(self, members: list[tuple[ModelRef, str]]) -> list[TensorSource]:
        if self.vocabulary is None or not members[0][1].endswith(BY_TOKEN):
            return namesakes([(self.models[ref], name) for ref, name in members])
        everyone = self.models.all()
        return [
            self.vocabulary.permuted(ref, name, {m.ref: m.source(name) for m in everyone})
            for ref, name in members
        ]

    def _known(self, refs: list[ModelRef], names: list[str]) -> tuple[Knowledge, ...]:
        assert self.data is not None
        stored = [self.models[ref].own_name(name) for ref, name in zip(refs, names, strict=True)]
        return tuple(self.data.known(place, name) for place, name in enumerate(stored))

    def _dtype(self, sources: list[TensorSource]) -> str:
        named = self.recipe.out_dtype or self.recipe.dtype
        if named is not None:
            code = dtype_code(named)
            if code not in FLOATS:
                raise SettingsError(f"dtype '{named}' is no float; choose float32 or bfloat16.")
            return code
        return widest(sources)

    def _dtype_name(self, jobs: list[TensorJob]) -> str:
        return Counter(job.dtype for job in jobs).most_common(1)[0][0]


def _first_of(layering: Layering, names: Iterable[str]) -> str:
    """Return a tensor of a tower's first layer."""
    starts = tuple(f"{prefix}0." for prefix in layering.tower.prefixes)
    return next(name for name in names if name.startswith(starts))


def _require_values(method: MergeMethod, num_models: int) -> None:
    """Check that a setting with values for single models has one for each."""
    for name, value in method:
        if isinstance(value, tuple) and len(value) not in (1, num_models):
            raise SettingsError(
                f"{name} has {len(value)} values for {num_models} models; give one for all, or one "
                f"for each, in their order and without the base."
            )


def make_plan(
    recipe: MergeRecipe,
    models: Models,
    seed: int,
    fixed: MergeMethod | None = None,
    request: DataRequest | None = None,
) -> MergePlan:
    """Plan a merge, opening the models that it names.

    With `fixed`, every tensor is merged by that method; otherwise the recipe gives the settings.
    What `request` wants to know of the models' data is not collected yet.

    Raises:
        SettingsError: The recipe asks for what the method cannot do.
        CheckpointError: The models do not fit together.
    """
    return _Planner(recipe, models, seed, fixed, request).plan()
