"""What transformers makes of a config: which tensors the model needs, and what its layers are.

transformers itself is asked, with tensors that have shapes and no numbers: it knows under which
names checkpoints store a parameter, what is fused, what is tied and what is computed.
"""

import copy
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["PLACES", "Anatomy", "Filling", "LayerDifference", "Unbuilt", "spelt_out"]

Config = Mapping[str, Any]  # Any: JSON values of config.json
_NUMBERED = re.compile(r"(.*?\.)(\d+)(\..*)")
PLACES = frozenset(
    {"layer_idx", "layer_id", "layer_number", "layer_index", "layer_num", "block_idx", "training"}
)
"""Attributes of modules that say where a layer stands, and not what it computes."""
_PLAIN = (bool, int, float, str, type(None))


class Unbuilt(Exception):  # no error: a model that transformers does not know
    """transformers makes no model of a config; the text says why."""

    def __init__(self, reason: str, is_refusal: bool = False) -> None:
        super().__init__(reason)
        self.is_refusal = is_refusal
        """Whether it knows the architecture, and refuses what the config says."""


class Filling(NamedTuple):
    """How tensors fill the model of a config, in the names of transformers' modules."""

    missing: list[str]
    """Parameters without a tensor: transformers would draw them at random."""
    unread: list[str]
    """Tensors that no parameter takes, without those that transformers leaves out on purpose."""
    misshapen: list[tuple[str, tuple[int, ...], tuple[int, ...]]]
    """Parameters whose tensor has another shape: the name, the shape found, the shape wanted."""


class LayerDifference(NamedTuple):
    """A layer that would compute something else than the one that its weights come from."""

    layer: int
    attribute: str
    here: Any  # Any: what a module holds
    there: Any  # Any: what a module holds


class Anatomy:
    """The model of a config, without numbers.

    Raises:
        Unbuilt: transformers does not know the architecture, or refuses the config.
    """

    def __init__(self, config: Config) -> None:
        with _quiet():
            self._made = _made(config)
            self._class = _class(config, self._made)
            self._module = _built(self._class, self._made)

    @cached_property
    def parameters(self) -> frozenset[str]:
        """The names of everything that a checkpoint may hold, in transformers' words."""
        return frozenset(self._module.state_dict())

    def class_of(self, parameter: str) -> str:
        """Return the class of the module that holds a parameter: Embedding for any table."""
        import torch

        module = self._module.get_submodule(parameter.rpartition(".")[0])
        # Gemma scales the rows of a table that it derives from torch's.
        is_table = isinstance(module, torch.nn.Embedding)
        return "Embedding" if is_table else type(module).__name__

    @cached_property
    def transposed(self) -> frozenset[str]:
        """The names of the weights that are stored as [in, out]."""
        from transformers.pytorch_utils import Conv1D

        modules = self._module.named_modules()
        return frozenset(f"{name}.weight" for name, part in modules if isinstance(part, Conv1D))

    def fit(self, shapes: Mapping[str, Sequence[int]]) -> Filling:
        """Say how tensors of the given names and shapes fill the model.

        Raises:
            Unbuilt: transformers refuses the config when it loads.
        """
        import torch

        tensors = {name: torch.empty(tuple(shape), device="meta") for name, shape in shapes.items()}
        with _quiet():
            try:
                _, report = self._class.from_pretrained(
                    None,
                    config=copy.deepcopy(self._made),
                    state_dict=tensors,
                    device_map="meta",
                    ignore_mismatched_sizes=True,
                    output_loading_info=True,
                )
            except RuntimeError as error:  # parts that do not make a whole, such as 3 of 4 experts
                return Filling(self._unjoined(tensors) or [_said(error)], [], [])
            except Exception as error:  # such as a dtype that is none
                raise Unbuilt(f"transformers cannot load it: {_said(error)}", True) from error
        return Filling(
            sorted(report["missing_keys"], key=_natural),
            sorted(report["unexpected_keys"], key=_natural),
            [(name, tuple(a), tuple(b)) for name, a, b in sorted(report["mismatched_keys"])],
        )

    def _unjoined(self, tensors: "dict[str, torch.Tensor]") -> list[str]:
        """Return the parameters that cannot be put together from the tensors meant for them."""
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import convert_and_load_state_dict_in_model
        from transformers.modeling_utils import LoadStateDictConfig

        module = _built(self._class, self._made)
        options = LoadStateDictConfig(
            ignore_mismatched_sizes=True,
            device_map={"": "meta"},
            weight_mapping=get_model_conversion_mapping(module),
        )
        report, _ = convert_and_load_state_dict_in_model(module, tensors, options)
        return sorted(report.conversion_errors, key=_natural)

    def layer_differences(
        self, tensor: str, layers: Mapping[int, int], source: "Anatomy"
    ) -> Iterator[LayerDifference]:
        """Yield where a layer is not what the one is that its weights come from.

        Args:
            tensor: A tensor of a checkpoint that belongs to one of the layers.
            layers: The number of a layer here -> its number in `source`.
            source: The model that the layers come from.
        """
        here, there = self._layers_with(tensor), source._layers_with(tensor)
        known: dict[int, dict[str, Any]] = {}  # Any: what a module holds
        for place, number in layers.items():
            if place >= len(here) or number >= len(there):
                continue  # `fit` finds what is missing
            if number not in known:
                known[number] = _attributes(there[number], len(there))
            found = _attributes(here[place], len(here))
            keys = found.keys() | known[number].keys()
            for key in sorted(keys, key=lambda key: (key.count("."), key)):
                if found.get(key) != known[number].get(key):
                    yield LayerDifference(place, key, found.get(key), known[number].get(key))

    def _layers_with(self, tensor: str) -> "Sequence[torch.nn.Module]":
        """Return the layers of the stack that a tensor of a checkpoint belongs to."""
        import torch

        found = _NUMBERED.fullmatch(self._in_module(tensor))
        try:
            stack = self._module.get_submodule(found[1][:-1]) if found else None
        except AttributeError:
            stack = None
        return list(stack) if isinstance(stack, torch.nn.ModuleList) else []

    def _in_module(self, tensor: str) -> str:
        """Return what a tensor of a checkpoint is called in the module."""
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import (
            WeightConverter,
            WeightRenaming,
            rename_source_key,
        )

        rules = get_model_conversion_mapping(self._module) or []
        renamed, _ = rename_source_key(
            tensor,
            [rule for rule in rules if isinstance(rule, WeightRenaming)],
            [rule for rule in rules if isinstance(rule, WeightConverter)],
            self._module.base_model_prefix,
            self._module.state_dict(),
        )
        return str(renamed)


def spelt_out(config: Config) -> dict[str, Any]:  # Any: JSON values
    """Return a config with everything that it leaves to transformers' defaults.

    Raises:
        Unbuilt: transformers does not know the architecture, or refuses the config.
    """
    with _quiet():
        found: dict[str, Any] = _made(config).to_dict()
    return found


def _made(config: Config) -> "PretrainedConfig":
    from transformers import CONFIG_MAPPING, __version__

    kind = config.get("model_type")
    if kind not in CONFIG_MAPPING:
        raise Unbuilt(f"transformers {__version__} does not know the model_type '{kind}'")
    try:
        made: PretrainedConfig = CONFIG_MAPPING[kind].from_dict(_with_floats(dict(config)))
    except Exception as error:  # checks of many classes raise many types
        reason = f"transformers {__version__} refuses the config: {_said(error)}"
        raise Unbuilt(reason, is_refusal=True) from error
    return made


def _with_floats(value: Any) -> Any:  # Any: JSON values
    """Return a copy in which infinities are numbers: transformers writes them as a mapping."""
    if isinstance(value, dict):
        if list(value) == ["__float__"]:
            return float(value["__float__"])
        return {key: _with_floats(entry) for key, entry in value.items()}
    return [_with_floats(entry) for entry in value] if isinstance(value, list) else value


def _class(config: Config, made: "PretrainedConfig") -> "type[PreTrainedModel]":
    """Return the class that the config names, or else the language model of its type."""
    import transformers
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    )

    classes = config.get("architectures")
    named = classes[0] if isinstance(classes, list) and classes else ""
    found = getattr(transformers, str(named), None) if named else None
    if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
        wanted = getattr(found, "config_class", None)
        if isinstance(wanted, type) and not isinstance(made, wanted):
            raise Unbuilt(
                f"its class '{named}' is none of model_type '{config.get('model_type')}'",
                is_refusal=True,
            )
        return found
    for table in (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    ):
        if type(made) in table:
            chosen: type[PreTrainedModel] = table[type(made)]
            return chosen
    raise Unbuilt(f"transformers {transformers.__version__} has no class '{named}'")


def _built(kind: "type[PreTrainedModel]", made: "PretrainedConfig") -> "PreTrainedModel":
    import torch
    from accelerate import init_empty_weights

    try:
        with init_empty_weights(include_buffers=False):
            built: PreTrainedModel = kind(copy.deepcopy(made))
    except Exception:  # such as a single parameter that is larger than the memory
        try:
            with torch.device("meta"):  # constants such as slopes are not known then
                built = kind(copy.deepcopy(made))
        except Exception as error:  # a package is not installed, a check of the model fails
            reason = f"transformers cannot build a {kind.__name__}: {_said(error)}"
            raise Unbuilt(reason, not isinstance(error, ImportError)) from error
    return built


def _said(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:300]}"


def _attributes(
    layer: "torch.nn.Module", num_layers: int
) -> dict[str, Any]:  # Any: what a module holds
    """Return everything plain that the modules of a layer hold, and their classes.

    A list of as many values as there are layers is about all of them, and not about this one.
    """
    found: dict[str, Any] = {}  # Any: as returned
    for name, module in layer.named_modules():
        prefix = f"{name}." if name else ""
        found[f"{prefix}class"] = type(module).__name__
        for key, value in vars(module).items():
            is_own = not isinstance(value, list) or len(value) != num_layers
            if is_own and not key.startswith("_") and key not in PLACES and _is_plain(value):
                found[prefix + key] = value
    stored = layer.state_dict().keys()
    for name, buffer in layer.named_buffers():
        if name not in stored and not buffer.is_meta:  # constants that are computed, such as slopes
            found[name] = hashlib.sha256(buffer.float().numpy().tobytes()).hexdigest()[:16]
    return found


def _is_plain(value: Any) -> bool:  # Any: what a module holds
    if isinstance(value, list | tuple):
        return all(isinstance(entry, _PLAIN) for entry in value)
    return isinstance(value, _PLAIN)


def _natural(name: str) -> list[Any]:  # Any: texts and numbers in turn
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from reporting on a load that is only a question."""
    import warnings

    from transformers.utils import logging

    level, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    logger = logging.get_logger("transformers")
    is_disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = is_disabled
        logging.set_verbosity(level)
        if has_bars:
            logging.enable_progress_bar()
