"""Whether a merged model has what its config needs, and layers that stay what they were."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from treadle.combine.merge.inputs.by_layer import TAPS
from treadle.combine.merge.inputs.configs import Layering
from treadle.combine.merge.inputs.models import Model
from treadle.combine.merge.inputs.remembered import remembered
from treadle.combine.merge.inputs.towers import TEXT, parse_name
from treadle.core.errors import CheckpointError, SettingsError
from treadle.model.facts import own_name, text_config

if TYPE_CHECKING:
    from treadle.model.anatomy import Anatomy, Filling, Unbuilt

__all__ = ["require_complete", "require_same_layers", "require_whole", "spelt"]

Config = Mapping[str, Any]  # Any: JSON values of config.json
Shapes = Mapping[str, tuple[int, ...]]
_TAP = "vision_feature_layer"
_AROUND = ("module.", "_orig_mod.", "base_model.model.", "_fsdp_wrapped_module.")
"""What DDP, torch.compile, peft and FSDP put around a model's names."""
_DEPTHS = re.compile(r"(num_|n_)(\w+_)?layers?")
_KEPT = 8
"""Configs that are remembered: of a merge's models, mostly one."""


def spelt(config: Config) -> dict[str, Any] | None:  # Any: JSON values
    """Return a config with all that transformers derives, or None where it does not know it."""
    return _spelt(json.dumps(config, sort_keys=True))


def require_whole(
    config: Config, shapes: Shapes, models: Sequence[Model], is_uniform: bool
) -> Iterator[str]:
    """Check that tensors are all that the model of a config needs, and yield what else to know.

    Args:
        config: Of the output.
        shapes: Of its tensors, by their names.
        models: Whom a missing tensor is asked of.
        is_uniform: Whether all blocks have the widths that the config states.

    Raises:
        CheckpointError: A tensor is missing, or has a shape that the config does not make.
    """
    fit = _fit(json.dumps(config, sort_keys=True), tuple(shapes.items()))
    if isinstance(fit, str):
        yield (
            f"Whether the output is complete was not checked against its config, as {fit}; its "
            f"layers were compared with each other."
        )
        yield from _uneven(shapes)
        return
    if fit.missing:
        lacking = [model for model in models if _lacks(model, fit.missing[0])]
        owner = f"'{lacking[0].ref}' lacks it" if lacking else "no tensor of the recipe makes it"
        more = f", and {len(fit.missing) - 1} more" if len(fit.missing) > 1 else ""
        raise CheckpointError(
            f"The merged model would lack '{fit.missing[0]}'{more}, which its config.json needs: "
            f"{owner}; download that model again, or check that its config belongs to its weights."
        )
    for name, found, wanted in fit.misshapen if is_uniform else ():
        raise CheckpointError(
            f"Tensor '{name}' would have shape {list(found)}, but the merged model's config.json "
            f"makes it {list(wanted)}; check that the config of '{models[0].ref}' belongs to its "
            f"weights."
        )
    if fit.unread:
        more = f" and {len(fit.unread) - 1} more have" if len(fit.unread) > 1 else " has"
        yield (
            f"'{fit.unread[0]}'{more} no place in the model that config.json describes: merged as "
            f"the others, and read by no loader that follows it."
        )


def require_complete(models: Sequence[Model]) -> None:
    """Check that each input has all that its own config needs, and let it know what else it has.

    Raises:
        CheckpointError: A tensor is missing, or the config describes no model.
    """
    for model in models:
        shapes = tuple((name, info.shape) for name, info in model.reader.tensors.items())
        _require_so_few(model.config, len(shapes), str(model.ref))
        _require_experts(model.config, str(model.ref))
        fit = _fit(json.dumps(model.config, sort_keys=True), shapes)
        if isinstance(fit, str):
            continue
        unread = {*fit.unread, *map(own_name, fit.unread)}  # in the module's words
        model.unread = frozenset(
            name for name, _ in shapes if name in unread or own_name(name) in unread
        )
        if fit.missing:
            more = f", and {len(fit.missing) - 1} more" if len(fit.missing) > 1 else ""
            raise CheckpointError(
                f"'{model.ref}' lacks '{fit.missing[0]}'{more}, which its config.json needs; "
                f"{_mend_of(model)}."
            )
        _require_known_layers(model)


def _mend_of(model: Model) -> str:
    """Return what to do where a folder lacks what its config needs."""
    names = list(model.reader.tensors)
    around = next((one for one in _AROUND if all(name.startswith(one) for name in names)), None)
    if around is not None:
        return (
            f"all its tensors are called '{around}...', as a module is inside of another one: save "
            f"the model itself (model.module, model._orig_mod or model.get_base_model())"
        )
    return "download it again, or check that its config belongs to its weights"


def _require_known_layers(model: Model) -> None:
    """Check that no layers are stored behind the last one that the config speaks of."""
    last: dict[str, int] = {}
    for found in map(parse_name, model.reader.tensors.keys() - model.unread):
        if found.layer is not None:
            last[found.before] = max(last.get(found.before, 0), found.layer)
    extra = int(text_config(model.config).get("num_nextn_predict_layers") or 0)
    for name in sorted(model.unread):
        found = parse_name(name)
        if found.layer is not None and found.layer > last.get(found.before, found.layer) + extra:
            most = last[found.before] + 1 + extra
            raise CheckpointError(
                f"config.json of '{model.ref}' makes {last[found.before] + 1} layers, but "
                f"{found.layer + 1} are stored ('{found.before}{most}.' is the first beyond them); "
                f"download both again from one place, or correct the number of layers there."
            )


def _require_so_few(config: Config, num_tensors: int, name: str) -> None:
    """Refuse more layers than there are tensors, before anything is built of them."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            _require_so_few(value, num_tensors, name)
        elif _DEPTHS.fullmatch(key) and isinstance(value, int) and not 0 <= value <= num_tensors:
            raise CheckpointError(
                f"config.json of '{name}' says {key}: {value}, but {num_tensors} tensors are "
                f"stored; download both again from one place."
            )


def _require_experts(config: Config, name: str) -> None:
    """Refuse tokens that go to more experts than there are: no shape shows it."""
    counts = [config.get(key) for key in ("num_local_experts", "num_experts", "n_routed_experts")]
    count = next((found for found in counts if isinstance(found, int)), None)
    chosen = config.get("num_experts_per_tok")
    if isinstance(chosen, int) and count is not None and not 0 <= chosen <= count:
        raise CheckpointError(
            f"config.json of '{name}' sends each token to {chosen} of {count} experts "
            f"(num_experts_per_tok); correct it."
        )


def require_same_layers(
    config: Config, layerings: Sequence[tuple[Layering, str]], unsaid: Sequence[str]
) -> None:
    """Check that the output's config makes of each layer what it was where its weights come from.

    Args:
        config: Of the output.
        layerings: Towers whose layers moved, each with the name of a tensor in it.
        unsaid: Keys that cannot say it, which matter where transformers cannot be asked.

    Raises:
        SettingsError: A layer would compute something else.
    """
    _refuse_unsaid([key for key in unsaid if key.rpartition(".")[2] in TAPS])
    for layering, tensor in layerings:
        _require_tapped(config, layering)
        ours = _anatomy(json.dumps(config, sort_keys=True))
        for source, places in _by_source(layering):
            theirs = _anatomy(json.dumps(source, sort_keys=True))
            if isinstance(ours, str) and not isinstance(theirs, str):
                raise SettingsError(
                    f"The layers of the output ({layering.tower.label}) make a config.json that no "
                    f"model follows, as {ours}; choose slices that keep each layer's kind in its "
                    f"place."
                )
            if isinstance(ours, str) or isinstance(theirs, str):
                _refuse_unsaid(unsaid)
                continue
            for found in ours.layer_differences(tensor, places, theirs):
                number = places[found.layer]
                raise SettingsError(
                    f"Layer {found.layer} of the output ({layering.tower.label}) would have "
                    f"{found.attribute} = {found.here!r}, but layer {number}, which its weights "
                    f"come from, has {found.there!r}, and config.json cannot say so; choose slices "
                    f"that keep each layer's kind in its place."
                )


def _require_tapped(config: Config, layering: Layering) -> None:
    """Check that the layer of the eyes that the language model looks at is the one that it was."""
    value = config.get(_TAP)
    if value is None or layering.tower.part == TEXT:
        return
    layers = [layer for _, layer in layering.layers]
    depth = layering.tower.num_layers
    for number in value if isinstance(value, list) else [value]:
        # Hidden states count from the embedding on: the first layer's output is number 1.
        before = depth + number if number < 0 else number - 1
        now = len(layers) + number if number < 0 else number - 1
        if before >= 0 and (not 0 <= now < len(layers) or layers[now] != before):
            raise SettingsError(
                f"The language model looks at what layer {before} of {layering.tower.label} makes "
                f"({_TAP} = {number}), which another layer would make in the output; choose slices "
                f"that keep that layer where it is, counted from the same end."
            )


def _refuse_unsaid(unsaid: Sequence[str]) -> None:
    if unsaid:
        raise SettingsError(
            f"The output's layers stand in an order that '{unsaid[0]}' of config.json cannot say; "
            f"choose slices that keep each layer's kind in its place."
        )


def _by_source(layering: Layering) -> Iterator[tuple[Config, dict[int, int]]]:
    """Yield each config that layers come from: place in the output -> number there."""
    found: dict[int, tuple[Config, dict[int, int]]] = {}
    for place, (config, layer) in enumerate(layering.layers):
        found.setdefault(id(config), (config, {}))[1][place] = layer
    yield from found.values()


def _lacks(model: Model, parameter: str) -> bool:
    """Say whether a model itself lacks a parameter that its own config needs."""
    shapes = {name: info.shape for name, info in model.reader.tensors.items()}
    fit = _fit(json.dumps(model.config, sort_keys=True), tuple(shapes.items()))
    return not isinstance(fit, str) and parameter in fit.missing


def _uneven(shapes: Shapes) -> Iterator[str]:
    """Yield a note on layers that have a part of what another layer of their stack has."""
    stacks: dict[str, dict[int, set[str]]] = {}
    for found in map(parse_name, shapes):
        if found.layer is not None:
            layers = stacks.setdefault(found.before, {})
            layers.setdefault(found.layer, set()).add(found.after)
    for prefix, layers in stacks.items():
        for layer, names in sorted(layers.items()):
            fuller = [other for other, own in layers.items() if names < own]
            if fuller:
                lost = sorted(layers[fuller[0]] - names)[0]
                yield (
                    f"Layer {layer} has no '{prefix}{layer}{lost}', though layer {fuller[0]} has "
                    f"one: check that the inputs are complete."
                )
                break


@lru_cache(_KEPT)
def _spelt(config: str) -> dict[str, Any] | None:  # Any: JSON values
    def make() -> dict[str, Any]:  # Any: JSON values
        from treadle.model.anatomy import spelt_out

        return spelt_out(json.loads(config))

    found: dict[str, Any] | None = _asked(f"spelt {config}", make)[0]
    return found


def _asked(
    question: str, make: Callable[[], Any]
) -> "tuple[Any, Unbuilt | None]":  # Any: JSON values
    """Return transformers' answer, or None and why there is none."""
    from treadle.model.anatomy import Unbuilt

    try:
        return remembered(question, make), None
    except Unbuilt as reason:
        return None, reason


@lru_cache(_KEPT)
def _anatomy(config: str) -> "Anatomy | str":
    """Return the model of a config, or why there is none."""
    from treadle.model.anatomy import Anatomy, Unbuilt

    try:
        return Anatomy(json.loads(config))
    except Unbuilt as reason:
        return str(reason)


@lru_cache(_KEPT)
def _fit(config: str, shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> "Filling | str":
    from treadle.model.anatomy import Anatomy, Filling

    def make() -> list[Any]:  # Any: JSON values
        return list(Anatomy(json.loads(config)).fit(dict(shapes)))

    found, reason = _asked(f"fit {config} {json.dumps(shapes)}", make)
    if reason is not None and reason.is_refusal:
        raise CheckpointError(
            f"A config.json describes no model, as {reason}; correct it, or download it again."
        ) from reason
    return str(reason) if reason is not None else Filling(*found)
