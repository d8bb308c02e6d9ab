"""Find a model's folder and build its module without weights, or with them."""

import copy
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treadle.core.checkpoint import CheckpointReader, require_finite, require_understood
from treadle.core.checkpoint.described import read_config, refuse_bundle
from treadle.core.errors import CheckpointError, DataError, UnsupportedModelError
from treadle.core.mistaken import mistaken
from treadle.model import facts
from treadle.model.belonging import (
    disk_name,
    require_all_read,
    require_shapes,
    require_so_many,
    require_sound_numbers,
    shapes_of,
)
from treadle.model.coded import DecodedReader
from treadle.model.facts import base_config, whole_config
from treadle.model.gguf.file import SUFFIX
from treadle.model.hub import downloaded
from treadle.model.source import open_model

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "auto_class",
    "described",
    "full",
    "load_tokenizer",
    "materialise",
    "on_disk",
    "parameter_view",
    "resolve",
    "skeleton",
]

_PACKAGED = "packaged:"
logger = logging.getLogger(__name__)


def resolve(model: str | Path, takes_files: bool = False) -> Path:
    """Return the folder of `model`.

    `model` is a folder, ``packaged:smollm2``, a GGUF file, or a hub id where the network allows.
    A GGUF file is unpacked into the cache once, except where the caller `takes_files` as they are;
    that one takes bundles of several models, too.

    Raises:
        CheckpointError: It is none of these; the message says what was tried.
    """
    name = str(model)
    if name.startswith(_PACKAGED):
        from treadle.model.pretrained import packaged

        return packaged(name.removeprefix(_PACKAGED))
    folder = Path(model).expanduser()
    if folder.is_dir() and not (folder / "config.json").exists():
        _refuse_gguf_folder(folder)
    if not takes_files:
        refuse_bundle(folder)
    if folder.is_dir() or (takes_files and folder.is_file()):
        return folder
    if folder.is_file() and folder.suffix == SUFFIX:
        from treadle.model.gguf.unpacked import unpacked

        return unpacked(folder)
    if folder.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1:
        base, plus, adapter = name.partition("+")
        if plus and Path(adapter, "adapter_config.json").is_file():
            raise CheckpointError(
                f"'{name}' is a model with an adapter, which only treadle merge takes like this: "
                f"run treadle merge passthrough {name} OUT and give OUT, or give '{base}' with "
                f"the adapter beside it (LLM(..., adapters={{NAME: FOLDER}}), --adapter)."
            )
        raise CheckpointError(
            f"No model folder at '{name}'; give a Hugging Face folder (config.json beside "
            f"safetensors), 'packaged:smollm2', or a hub id such as 'org/name'."
        )
    return downloaded(name)


def _refuse_gguf_folder(folder: Path) -> None:
    if files := sorted(folder.glob(f"*{SUFFIX}")):
        raise CheckpointError(
            f"'{folder}' has no config.json, but GGUF files; give the file itself, such as "
            f"'{files[0]}'."
        )


def skeleton(reader: CheckpointReader, trust_remote_code: bool = False) -> "PreTrainedModel":
    """Build the module tree with parameters on the meta device: no weight takes memory.

    Raises:
        UnsupportedModelError: The architecture has no facts, or the checkpoint's own code would
            have to run; or a required side file is of a kind that is not known here.
    """
    base = base_config(reader.config)
    require_understood(reader.folder)
    _require_plain(reader)
    built = described(reader, trust_remote_code)
    require_sound_numbers(built, reader)
    require_shapes(built, reader)
    require_all_read(built, reader, base)
    return built


def described(reader: CheckpointReader, trust_remote_code: bool = False) -> "PreTrainedModel":
    """Build the module tree that a config describes, whatever weights lie beside it.

    Raises:
        UnsupportedModelError: The architecture has no facts, or the checkpoint's own code would
            have to run.
        CheckpointError: transformers builds no model of this config.
    """
    import torch
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    base = base_config(reader.config)
    require_so_many(base, reader)
    has_experts = bool(facts.facts_of(base).num_experts)
    # Grouped matrix products refuse experts whose width is no multiple of 16 bytes.
    options: dict[str, Any] = {"experts_implementation": "eager"} if has_experts else {}
    if base.get("auto_map"):
        _require_trust(reader.folder, trust_remote_code)
        options["trust_remote_code"] = True
    try:
        if "trust_remote_code" in options:
            config = AutoConfig.from_pretrained(reader.folder, trust_remote_code=True)
        else:
            fields = {key: value for key, value in base.items() if key != "model_type"}
            config = AutoConfig.for_model(base["model_type"], **fields)
        with init_empty_weights(include_buffers=False):
            # In the checkpoint's own dtype, buffers such as Gemma's embedding scale would be
            # rounded.
            module = AutoModelForCausalLM.from_config(config, dtype=torch.float32, **options)
    except Exception as error:  # configs and modules raise many unrelated types
        raise CheckpointError(
            f"transformers cannot build the model that config.json of '{reader.folder}' describes "
            f"({type(error).__name__}: {' '.join(str(error).split())}); correct it, or download "
            f"it again."
        ) from error
    built: PreTrainedModel = module.eval()
    return built


def _require_plain(reader: CheckpointReader) -> None:
    """Refuse weights whose numbers mean something only together with others."""
    if base_config(reader.config).get("quantization_config"):
        raise UnsupportedModelError(
            f"config.json of '{reader.folder}' has a quantization_config, which LLM, treadle "
            f"bench and treadle evaluate --through runtime read; give the unquantised model, or "
            f"remove the key if the weights are plain floats."
        )
    for name, info in reader.tensors.items():
        if info.dtype.startswith("F8"):
            raise UnsupportedModelError(
                f"Tensor '{name}' in '{info.file}' is {info.dtype}, whose scales are not read; "
                f"give a checkpoint in bf16, fp16 or fp32."
            )


def _require_trust(folder: Path, trust_remote_code: bool) -> None:
    if not trust_remote_code:
        raise UnsupportedModelError(
            f"config.json of '{folder}' has an auto_map: it wants to run code from the checkpoint; "
            f"read that code, then pass --trust-remote-code."
        )


def parameter_view(parameter: "torch.Tensor", matrix: facts.Linear) -> "torch.Tensor":
    """Return the matrix [out, in] inside a module's parameter, as a view that writes through."""
    if matrix.expert is not None:
        parameter = parameter[matrix.expert]
    if matrix.transposed:
        parameter = parameter.T
    return parameter[matrix.parameter_rows]


def materialise(
    module: "torch.nn.Module",
    reader: CheckpointReader,
    prefix: str,
    matrices: list[facts.Linear],
    dtype: "torch.dtype",
) -> None:
    """Give the parameters of `module` their values from disk, cast to `dtype`.

    `prefix` precedes the names on disk. Shapes on disk win over the skeleton's, so that blocks of
    differing widths load.

    Raises:
        CheckpointError: A parameter has no tensor on disk.
    """
    import torch

    experts: dict[str, list[facts.Linear]] = {}
    for matrix in matrices:
        if matrix.expert is not None:
            experts.setdefault(matrix.parameter, []).append(matrix)
    architecture = facts.facts_of(base_config(reader.config))
    for name, parameter in list(module.named_parameters()):
        if not parameter.is_meta:
            continue
        if name in experts:
            value = _stack(reader, experts[name], dtype)
        else:
            value = _read(reader, disk_name(prefix + name, architecture, reader), dtype)
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, torch.nn.Parameter(value, requires_grad=False))


def _read(reader: CheckpointReader, name: str, dtype: "torch.dtype") -> "torch.Tensor":
    """Return a tensor in `dtype` that nobody else holds, checked to be finite."""
    stored = reader.tensors[reader.tied.get(name, name)]
    require_finite(name, reader.array(name), stored.file)
    tensor = reader.tensor(name)
    if isinstance(reader, DecodedReader) and tensor.dtype == dtype:
        reader.release(name)  # decoded for us alone
        return tensor
    return tensor.to(dtype, copy=True)


def _stack(
    reader: CheckpointReader, matrices: list[facts.Linear], dtype: "torch.dtype"
) -> "torch.Tensor":
    import torch

    if matrices[0].place is not None:  # stacked on disk as well
        return _read(reader, matrices[0].tensor, dtype)
    by_expert: dict[int, list[torch.Tensor]] = {}
    for matrix in matrices:
        by_expert.setdefault(int(matrix.expert or 0), []).append(
            _read(reader, matrix.tensor, dtype)
        )
    return torch.stack([torch.cat(by_expert[expert]) for expert in sorted(by_expert)])


def set_widths(block: "torch.nn.Module", config: dict[str, Any]) -> None:  # Any: JSON values
    """Tell modules the widths that they keep beside their matrices, read off the matrices."""
    architecture = facts.facts_of(config)
    for fact in architecture.linears:
        if fact.transposed:  # a Conv1D reshapes to the width that it was built with
            convolution = block.get_submodule(fact.tensor.rpartition(".")[0])
            setattr(convolution, "nf", convolution.get_parameter("weight").shape[1])  # noqa: B010
    output = next(fact for fact in architecture.linears if fact.role == "o")
    width = block.get_parameter(output.tensor).shape[0 if output.transposed else 1]
    num_heads = width // facts.head_dim(config)
    num_kv_heads = num_heads * facts.num_kv_heads(config) // facts.num_heads(config)
    values = {"width": width, "heads": num_heads, "kv_heads": num_kv_heads}
    for path, says in architecture.head_attributes:
        owner, _, attribute = path.rpartition(".")
        module = block.get_submodule(owner.removesuffix(".config"))
        target: Any = module  # Any: a module or a config
        if owner.endswith(".config"):  # blocks share one: each gets its own
            target = copy.copy(module.config)
            setattr(module, "config", target)  # noqa: B010
        setattr(target, attribute, values[says])


def full(
    folder: Path, dtype: str = "float32", trust_remote_code: bool = False
) -> "PreTrainedModel":
    """Return the whole model in memory; only what needs a full backward should ask for it.

    What is quantised is decoded; a GGUF file may stand in for the folder.
    """
    import torch

    with open_model(folder) as reader:
        module = skeleton(reader, trust_remote_code)
        config, shapes = base_config(reader.config), shapes_of(reader)
        kind = getattr(torch, dtype)
        for layer in range(facts.num_layers(config)):
            inside = facts.facts_of(config).blocks.format(layer=layer)
            block = module.get_submodule(inside[:-1])
            matrices = facts.linears(config, layer, shapes)
            materialise(block, reader, facts.block_prefix(config, layer, shapes), matrices, kind)
            set_widths(block, config)
        materialise_rest(module, reader, kind)
    return module


def on_disk(
    folder: Path, parameters: "dict[str, torch.Tensor]", matrices: list[facts.Linear]
) -> "Iterator[tuple[str, torch.Tensor]]":
    """Yield what belongs to a module's parameters by the names and shapes of the checkpoint.

    Args:
        folder: The checkpoint.
        parameters: Tensors in the shapes of the module's parameters, by their names.
        matrices: The matrices of all blocks: experts are one parameter, but many tensors on disk.
    """
    with open_model(folder) as reader:
        architecture = facts.facts_of(base_config(reader.config))
        experts: dict[str, list[facts.Linear]] = {}
        for matrix in matrices:
            if matrix.expert is not None:
                stem = architecture.blocks.format(layer=matrix.layer)
                experts.setdefault(stem + matrix.parameter, []).append(matrix)
        for name, values in parameters.items():
            if name in experts and experts[name][0].place is not None:
                yield experts[name][0].tensor, values
            elif name in experts:
                for matrix in experts[name]:
                    yield matrix.tensor, parameter_view(values, matrix)
            else:
                yield disk_name(name, architecture, reader), values


def materialise_rest(
    module: "PreTrainedModel", reader: CheckpointReader, dtype: "torch.dtype"
) -> None:
    """Give everything outside the decoder blocks its values; tied weights share one tensor."""
    import torch

    architecture = facts.facts_of(base_config(reader.config))
    stem = architecture.blocks.split("{layer}")[0]
    done: dict[str, torch.nn.Parameter] = {}
    for name, parameter in list(module.named_parameters(remove_duplicate=False)):
        if not parameter.is_meta or name.startswith(stem):
            continue
        on_disk = disk_name(name, architecture, reader)
        source = reader.tied.get(on_disk, on_disk)
        if source not in done:
            value = _read(reader, source, dtype)
            done[source] = torch.nn.Parameter(value, requires_grad=False)
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, done[source])


def auto_class(model_type: str, any_model: bool = False) -> str | None:
    """Return which auto class of the installed transformers makes a language model of that type.

    With `any_model` also AutoModel, of what is no language model.
    """
    from transformers.models.auto import modeling_auto

    if model_type in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "AutoModelForCausalLM"
    if model_type in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return "AutoModelForImageTextToText"
    if model_type in modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        return "AutoModelForSeq2SeqLM"
    known = model_type in modeling_auto.MODEL_MAPPING_NAMES
    return "AutoModel" if known and any_model else None


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """Return the tokenizer of a model folder.

    Raises:
        DataError: The folder has none that transformers can read.
        CheckpointError: Its config is damaged.
    """
    from transformers import AutoTokenizer

    refuse_bundle(folder)
    try:
        loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True
        )
        loaded("a")  # a wrong model_max_length, say, is seen when a text is read
    except Exception as error:  # damaged files raise many unrelated types
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        _require_config(folder)  # a tokenizer's class is looked up in it
        for file in sorted(folder.glob("*token*")):
            if what := mistaken(file):
                raise DataError(f"The tokenizer file '{file}' is {what}.") from error
        raise DataError(
            f"'{folder}' has no tokenizer that can be read ({reason}); copy the tokenizer files of "
            f"the original model into it."
        ) from error
    return loaded


def _require_config(folder: Path) -> None:
    """Check that a folder's config, if it has one, can be read as one."""
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        return
    fields = whole_config(read_config(folder / "config.json"))
    try:
        AutoConfig.for_model(**fields)
    except Exception as error:  # configs raise many unrelated types
        if "auto_map" in fields or "nrecognized" in str(error):
            return
        raise CheckpointError(
            f"transformers cannot read config.json of '{folder}' ({type(error).__name__}: "
            f"{' '.join(str(error).split())}); correct it, or download it again."
        ) from error
