"""The text model inside a wrapper with vision or audio towers, as a folder of its own."""

from collections import Counter
from typing import Any, NamedTuple

from treadle.core.checkpoint import CheckpointReader
from treadle.core.codec import DTYPES
from treadle.core.errors import SettingsError
from treadle.model import facts
from treadle.model.belonging import disk_name, shapes_of
from treadle.model.facts import base_config
from treadle.model.load import skeleton

__all__ = ["TextModel", "text_model"]


class TextModel(NamedTuple):
    """What a wrapper's text model is without its wrapper."""

    config: dict[str, Any]  # Any: JSON values
    names: dict[str, str]
    """Name in the wrapper's files -> name in a folder of the text model alone."""


def text_model(reader: CheckpointReader) -> TextModel:
    """Return the config and the tensors of the text model inside a wrapper.

    Raises:
        SettingsError: The model is no wrapper.
        UnsupportedModelError: The architecture of its text model has no facts.
        CheckpointError: A tensor of it is missing.
    """
    if not facts.is_wrapper(reader.config):
        raise SettingsError(
            f"There is nothing around the text model in '{reader.folder}': its config.json says "
            f"model_type '{reader.config.get('model_type')}' and has no text_config; leave "
            f"--text-only away."
        )
    base, shapes = base_config(reader.config), shapes_of(reader)
    architecture, module = facts.facts_of(base), skeleton(reader)
    names: dict[str, str] = {}
    experts: set[str] = set()
    for layer in range(facts.num_layers(base)):
        own = architecture.blocks.format(layer=layer)
        stored = facts.block_prefix(base, layer, shapes)
        for matrix in facts.linears(base, layer, shapes):
            names[matrix.tensor] = own + matrix.tensor.removeprefix(stored)
            if matrix.expert is not None:
                experts.add(own + matrix.parameter)
    for name, _ in module.named_parameters(remove_duplicate=False):
        if name in experts:
            continue
        found = disk_name(name, architecture, reader)
        if found not in reader.tied:
            names.setdefault(found, name)
    ordered = {name: names[name] for name in reader.tensors if name in names}
    dtype = Counter(reader.tensors[name].dtype for name in ordered).most_common(1)[0][0]
    config = module.config.to_dict() | {
        "architectures": [type(module).__name__],
        "dtype": DTYPES[dtype].name,
        "tie_word_embeddings": bool(reader.tied),
    }
    config.pop("_name_or_path", None)
    return TextModel(config, ordered)
