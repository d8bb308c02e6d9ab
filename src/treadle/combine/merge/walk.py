"""The way through a merge: each tensor of the output in its order, and where it comes from."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from treadle.combine.merge.inputs.compatibility import form_mend
from treadle.combine.merge.inputs.models import Model, Models
from treadle.combine.merge.inputs.towers import Name, Tower, part_named
from treadle.combine.merge.recipe.grammar import MergeRecipe, ModelRef, OutputModule, OutputSlice
from treadle.core.errors import CheckpointError, SettingsError

__all__ = ["Place", "Stack", "Walk"]


class Place(NamedTuple):
    """One tensor of the output."""

    slice: OutputSlice
    name: Name
    """As the slice's first source has it."""
    layers: tuple[int, ...]
    """Its layer in each source of the slice; nothing for a tensor outside the layers."""
    out: str
    """Its name in the output."""
    t: float
    """Where gradients are read, 0..1 from the first layer of its tower, or of its slice, to the
    last."""
    scale: float = 1.0


class Stack(NamedTuple):
    """A tower of the output."""

    tower: Tower
    """As the first source has it."""
    layers: list[tuple[tuple[ModelRef, int], ...]]
    """For each layer what is merged into it: models, and the layers there. The first one leads."""
    is_sliced: bool = False
    """Whether layer ranges chose the layers."""


class Walk:
    """All tensors of a merge, module by module.

    Args:
        recipe: What to merge.
        models: Opened.
        base_of: Return the base of a slice that the method sees.
        repeat_scale: Factor of what a repeated layer adds to the residual stream.
    """

    def __init__(
        self,
        recipe: MergeRecipe,
        models: Models,
        base_of: Callable[[OutputSlice], ModelRef | None],
        repeat_scale: float,
    ) -> None:
        self._models, self._base_of, self._repeat_scale = models, base_of, repeat_scale
        self.stacks: list[Stack] = []
        self.notes: list[str] = []
        self._seen: Counter[tuple[ModelRef, int]] = Counter()
        self._modules = recipe.modules
        self._parts = [self._parts_of(module) for module in recipe.modules]
        self._require_all_parts(recipe)

    def places(self) -> Iterator[Place]:
        """Yield what stands before the layers, the layers, what stands after them."""
        for module, parts in zip(self._modules, self._parts, strict=True):
            first, last = module.slices[0], module.slices[-1]
            yield from self._outside(first, parts, True)
            main = self._main(module, parts)
            for tower in self._towers(first, parts):
                if main is None or tower.prefixes[0] != main.prefixes[0]:
                    yield from self._whole(first, tower)
            if main is not None:
                yield from self._sliced(module, main)
            yield from self._outside(last, parts, False)
            yield from self._untied(first, last, parts)

    def _parts_of(self, module: OutputModule) -> frozenset[str]:
        """Return the parts of the models that a module of the recipe is about."""
        refs = dict.fromkeys(s.model for one in module.slices for s in one.sources)
        known = dict.fromkeys(part for ref in refs for part in self._models[ref].parts)
        if module.name is None:
            return frozenset(known)
        return frozenset({part_named(module.name, known)})

    def _require_all_parts(self, recipe: MergeRecipe) -> None:
        """Check that the modules name every part of the models, and none twice."""
        named = Counter(part for parts in self._parts for part in parts)
        twice = [part for part, count in named.items() if count > 1]
        if twice:
            raise SettingsError(
                f"Two modules of the recipe mean the part '{twice[0]}' of the models; keep one."
            )
        known = dict.fromkeys(part for s in recipe.sources for part in self._models[s.model].parts)
        if left := [part for part in known if part not in named]:
            raise SettingsError(
                f"The recipe's 'modules' say nothing about the parts {', '.join(left)} of the "
                f"models, which the output needs; add a module for each with the models as a "
                f"whole ({left[0]}: {{models: [...]}}) or with slices."
            )

    def _main(self, module: OutputModule, parts: frozenset[str]) -> Tower | None:
        """Return the tower that the layer ranges of a module speak of; None without ranges."""
        if all(source.layers is None for one in module.slices for source in one.sources):
            return None
        part = None if module.name is None else next(iter(parts))
        return self._models[module.slices[0].sources[0].model].require_tower(part)

    def _towers(self, output_slice: OutputSlice, parts: frozenset[str]) -> list[Tower]:
        found: dict[str, Tower] = {}
        for ref in self._members(output_slice):
            for tower in self._models[ref].towers:
                if tower.part in parts:
                    found.setdefault(tower.prefixes[0], tower)
        return list(found.values())

    def _members(self, output_slice: OutputSlice) -> list[ModelRef]:
        """Return the models of a slice, with its base."""
        listed = [source.model for source in output_slice.sources]
        base = self._base_of(output_slice)
        return listed if base is None or base in listed else [*listed, base]

    def _outside(
        self, output_slice: OutputSlice, parts: frozenset[str], before: bool
    ) -> Iterator[Place]:
        names = dict.fromkeys(
            name
            for ref in self._members(output_slice)
            for name in self._models[ref].names_outside
            if self._models[ref].part_of(name.before) in parts
        )
        for name in names:
            if name.is_before_layers == before:
                yield Place(output_slice, name, (), name.before, 0.0)

    def _untied(
        self, first: OutputSlice, last: OutputSlice, parts: frozenset[str]
    ) -> Iterator[Place]:
        """Yield the head where the last slice's models share it with an embedding of their own.

        The output's embedding is the first slice's: it is no head for what other models computed.
        """
        if self._members(first) == self._members(last):
            return
        models = [self._models[ref] for ref in self._members(last)]
        heads = [head for model in models for head in model.tied if model.part_of(head) in parts]
        if len(heads) < len(models):
            return  # one of them has a head of its own, or none has any
        refs = ", ".join(f"'{source.model}'" for source in last.sources)
        self.notes.append(
            f"The output's head is the embedding of the last slice ({refs}) and its embedding that "
            f"of the first one, so both are stored (tie_word_embeddings: false)."
        )
        yield Place(last, Name(heads[0], None, ""), (), heads[0], 0.0)

    def _whole(self, output_slice: OutputSlice, tower: Tower) -> Iterator[Place]:
        """Yield all layers of a tower that no layer range speaks of."""
        leader, *others = self._members(output_slice)
        num_sources = len(output_slice.sources)
        depth, num_stored = tower.num_layers, tower.num_stored
        for ref in others:
            own = _same(self._models[ref], tower)
            if own is not None and own.num_layers != depth:
                raise CheckpointError(
                    f"'{leader}' has {depth} layers ({tower.label}) and '{ref}' has "
                    f"{own.num_layers}; merge models of one depth, or choose layers with slices."
                )
            num_stored = max(num_stored, own.num_stored if own else 0)
        self._require_known(self._models[leader], tower)
        for layer in range(num_stored):
            yield from self._layer(
                output_slice, tower, (layer,) * num_sources, layer, _t(layer, depth)
            )
        members = [leader, *others]
        own_layers = range(min(depth, num_stored))
        self.stacks.append(
            Stack(tower, [tuple((ref, layer) for ref in members) for layer in own_layers])
        )

    def _sliced(self, module: OutputModule, main: Tower) -> Iterator[Place]:
        number = 0
        stack = Stack(main, [], is_sliced=True)
        for output_slice in module.slices:
            ranges = [self._range(s.model, s.layers, main) for s in output_slice.sources]
            for place, layers in enumerate(zip(*ranges, strict=True)):
                t = _t(place, len(ranges[0]))
                yield from self._layer(output_slice, main, layers, number, t, is_repeatable=True)
                stack.layers.append(self._merged(output_slice, layers))
                number += 1
        self.stacks.append(stack)
        yield from self._behind(module.slices[-1], main, number)

    def _behind(self, output_slice: OutputSlice, main: Tower, number: int) -> Iterator[Place]:
        """Yield the layers behind the last one, which predict further tokens, where they go."""
        own = [_same(self._models[s.model], main) or main for s in output_slice.sources]
        num_extra = max(tower.num_stored - tower.num_layers for tower in own)
        if num_extra > 0:
            self.notes.append(
                f"The {num_extra} layers behind the last one ({main.label}), which predict further "
                f"tokens, are those of the last slice's models."
            )
        for extra in range(num_extra):
            layers = tuple(tower.num_layers + extra for tower in own)
            yield from self._layer(output_slice, main, layers, number + extra, 1.0)

    def _range(self, ref: ModelRef, asked: tuple[int, int] | None, main: Tower) -> range:
        model = self._models[ref]
        tower = _same(model, main)
        if tower is None:
            mend = form_mend(model, main.prefixes[0]) or "merge models of one architecture."
            raise CheckpointError(
                f"'{ref}' has no layers '{main.label}', which the recipe slices; {mend}"
            )
        self._require_known(model, tower)
        first, stop = asked or (0, tower.num_layers)
        if stop > tower.num_layers:
            raise SettingsError(
                f"layer_range [{first}, {stop}] of '{ref}' ends after its {tower.num_layers} "
                f"layers; shorten it."
            )
        return range(first, stop)

    @staticmethod
    def _require_known(model: Model, tower: Tower) -> None:
        """Check that what is stored behind the last layer is something that a config speaks of."""
        config = model.config
        for key in tower.place:
            config = config[key]
        most = tower.num_layers + int(config.get("num_nextn_predict_layers") or 0)
        if tower.num_stored > most:
            raise CheckpointError(
                f"config.json of '{model.ref}' makes {tower.num_layers} layers, but "
                f"{tower.num_stored} are stored ('{tower.prefixes[0]}{most}.' is the first beyond "
                f"them); download both again from one place, or correct the number of layers there."
            )

    def _layer(
        self,
        output_slice: OutputSlice,
        tower: Tower,
        layers: tuple[int, ...],
        number: int,
        t: float,
        is_repeatable: bool = False,
    ) -> Iterator[Place]:
        members = self._merged(output_slice, layers)
        scaled = self._scaled(*members[0]) if is_repeatable else {}
        for name in self._union(members, tower):
            scale = scaled.get(name.in_layer(layers[0]), 1.0)
            yield Place(output_slice, name, layers, name.in_layer(number), t, scale)

    def _merged(
        self, output_slice: OutputSlice, layers: tuple[int, ...]
    ) -> tuple[tuple[ModelRef, int], ...]:
        """Return what becomes one layer; a base beside the models has the first model's layers."""
        refs = self._members(output_slice)
        num_extra = len(refs) - len(layers)
        return tuple(zip(refs, (*layers, *layers[:1] * num_extra), strict=True))

    def _union(self, members: Sequence[tuple[ModelRef, int]], tower: Tower) -> list[Name]:
        """Return what any of the models has in its layer: what another one lacks is refused later.

        A head that one model ties to its embedding and another one does not is merged as a head.
        """
        found = (
            name._replace(layer=members[0][1])
            for ref, layer in members
            for name in self._models[ref].names_in(tower, layer)
        )
        return list(dict.fromkeys(found))

    def _scaled(self, ref: ModelRef, layer: int) -> dict[str, float]:
        """Return, if the model gave this layer before, what ends its branches, with its factor."""
        is_repeated = self._seen[ref, layer] > 0
        self._seen[ref, layer] += 1
        if not is_repeated or self._repeat_scale == 1.0:
            return {}
        return dict.fromkeys(self._models[ref].branch_ends(layer), self._repeat_scale)


def _same(model: Model, tower: Tower) -> Tower | None:
    return next((own for own in model.towers if own.prefixes[0] == tower.prefixes[0]), None)


def _t(place: int, count: int) -> float:
    return min(1.0, place / (count - 1)) if count > 1 else 1.0
