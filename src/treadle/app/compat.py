"""`treadle compat`: which loader takes a folder, and why not."""

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from treadle.app.gguf_compat import describe_gguf, judge_gguf
from treadle.app.loaders import FOREIGN, LOOKED_FOR, OWN_HEAD_WIDTH, Loader
from treadle.core.checkpoint import CheckpointReader, SideFile, read_manifest
from treadle.core.checkpoint.described import read_object
from treadle.core.checkpoint.sidefiles import check_side_file
from treadle.core.codec import DTYPES
from treadle.core.errors import CheckpointError, UnsupportedModelError
from treadle.core.mistaken import mistaken, pointed
from treadle.model import facts
from treadle.model.belonging import UnreadTensorsError, shapes_of
from treadle.model.facts import NONUNIFORM, base_config
from treadle.model.load import described, resolve, skeleton

__all__ = ["Verdict", "check", "compat"]

_ADAPTER_CONFIG = "adapter_config.json"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "*.tiktoken")
_SAYS = {True: "yes", False: "no", None: "?"}


class Verdict(NamedTuple):
    """What one loader does with a folder."""

    loader: str
    takes: bool | None
    """None: it was not checked here."""
    why: str


class _Findings(NamedTuple):
    """What a model folder says of itself."""

    reader: CheckpointReader
    config: dict[str, Any]  # Any: JSON values
    """The architecture's own, unwrapped."""
    fault: str
    """Why weights and config do not belong together; empty where they do, or nobody knows."""
    refusal: str
    """Why treadle does not take the model; empty where it does."""
    unbuildable: str
    """Why transformers cannot build the config's model; empty where it can, or was not asked."""
    required: tuple[SideFile, ...]
    num_unread: int = 0
    """Tensors that the config has no place for; `refusal` says which."""

    @property
    def is_nonuniform(self) -> bool:
        return self.reader.config.get("model_type") == NONUNIFORM

    @property
    def names_required(self) -> str:
        return ", ".join(side_file.path for side_file in self.required)

    @property
    def architecture(self) -> str:
        """The class that the config names."""
        named = facts.whole_config(self.reader.config).get("architectures")
        return str((named if isinstance(named, list) and named else [""])[0])

    @property
    def has_tokenizer(self) -> bool:
        return any(any(self.reader.folder.glob(pattern)) for pattern in _TOKENIZERS)

    @property
    def quantised(self) -> str:
        """How the weights are quantised; empty where they are plain floats."""
        said = self.config.get("quantization_config")
        if said:
            method = said.get("quant_method") if isinstance(said, dict) else None
            return f"quantised ({method or 'by an unnamed method'})"
        narrow = any(info.dtype.startswith("F8") for info in self.reader.tensors.values())
        return "8-bit floats without a quantization_config that says their scales" if narrow else ""


def compat(folder: Path) -> str:
    """Say which loader takes a folder, and why not.

    The folder is judged by its headers and configs; nothing is loaded, converted or run.

    Args:
        folder: A model folder (or hub id), a GGUF file, or a PEFT adapter's folder.

    Returns:
        One line of what the folder is, one for each loader, and one for each side file that is
        missing, damaged or unknown.
    """
    if (file := Path(folder).expanduser()).is_file():
        return "\n".join([describe_gguf(file), *_aligned([Verdict(*v) for v in judge_gguf(file)])])
    source = resolve(folder)
    return "\n".join([_describe(source), *_aligned(check(source)), *_side_file_faults(source)])


def _aligned(verdicts: Sequence["Verdict"]) -> list[str]:
    width = max(len(verdict.loader) for verdict in verdicts)
    return [f"{v.loader:<{width}}  {_SAYS[v.takes]:<3}  {v.why}" for v in verdicts]


def _side_file_faults(folder: Path) -> list[str]:
    """Return a line for each side file that is not what the manifest says."""
    manifest = read_manifest(folder)
    found = [] if manifest is None else manifest.side_files
    faults = ((entry, check_side_file(folder, entry)) for entry in found)
    return [f"side file {entry.path} ({entry.kind}) {fault}" for entry, fault in faults if fault]


def check(folder: Path) -> tuple[Verdict, ...]:
    """Return a verdict for each loader.

    Raises:
        CheckpointError: The folder is neither a model's nor an adapter's.
    """
    if _is_adapter(folder):
        return _check_adapter(folder)
    try:
        reader = CheckpointReader(folder)
    except CheckpointError as error:
        if not (folder / "config.json").is_file():
            raise
        return tuple(Verdict(name, *_unreadable(folder, name, str(error))) for name in _names())
    with reader:
        found = _inspect(reader)
        foreign = [Verdict(loader.name, *_judge(found, loader)) for loader in FOREIGN]
        return (
            Verdict("transformers", *_judge_transformers(found)),
            Verdict("treadle", *_judge_own(found)),
            *foreign,
        )


def _names() -> list[str]:
    return ["transformers", "treadle", *(loader.name for loader in FOREIGN)]


def _is_adapter(folder: Path) -> bool:
    return (folder / _ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()


def _describe(folder: Path) -> str:
    """Return one line of what the folder is."""
    if _is_adapter(folder):
        return f"{folder}: a PEFT adapter, no model"
    try:
        reader = CheckpointReader(folder)
    except CheckpointError:
        return f"{folder}: a model whose weights cannot be read"
    with reader:
        dtypes = sorted({DTYPES[info.dtype].name for info in reader.tensors.values()})
        files = len({info.file for info in reader.tensors.values()})
        said = [
            f"{_type_of(reader.config) or 'no model_type'}",
            f"{len(reader.tensors)} tensors in {files} file{'s' * (files != 1)}",
            " and ".join(dtypes),
            "tied head" if reader.tied else "",
            "blocks of differing width" if reader.config.get("model_type") == NONUNIFORM else "",
        ]
    return f"{folder}: {', '.join(filter(None, said))}"


def _type_of(config: dict[str, Any]) -> str:  # Any: JSON values
    """Return the model type, of a wrapper with that of its text model."""
    whole = config["treadle_base"] if config.get("model_type") == NONUNIFORM else config
    outer, inner = str(whole.get("model_type", "")), base_config(config).get("model_type")
    return outer if outer == inner else f"{outer} around {inner}"


def _unreadable(folder: Path, loader: str, fault: str) -> tuple[bool | None, str]:
    if loader != "treadle" and any(folder.glob("*.bin")) and not any(folder.glob("*.safetensors*")):
        return None, "the weights are PyTorch pickles, not safetensors: not checked here"
    return False, fault


def _check_adapter(folder: Path) -> tuple[Verdict, ...]:
    config = read_object(folder / _ADAPTER_CONFIG)
    kind, base = config.get("peft_type"), config.get("base_model_name_or_path")
    what = f"{kind or 'PEFT'} adapter of '{base or 'an unnamed base'}'"
    merges = kind == "LORA"
    mend = "merge it into its base: treadle merge METHOD BASE+FOLDER OUT" if merges else ""
    own = mend or "only LoRA adapters are read; merge it into its base with peft"
    ways = {"transformers": "load the base, then this with peft", "treadle": own}
    ways |= {loader.name: loader.adapters for loader in FOREIGN}
    return tuple(
        Verdict(name, False if name == "treadle" else None, f"{what}, no model: {way}{note}")
        for name, way in ways.items()
        for note in ["" if name == "treadle" else " (not checked here)"]
    )


def _inspect(reader: CheckpointReader) -> _Findings:
    fault = refusal = unbuildable = ""
    num_unread = 0
    try:
        described(reader)
    except UnsupportedModelError:
        pass  # as below
    except CheckpointError as error:
        unbuildable = str(error)
    try:
        if not unbuildable:
            skeleton(reader)
            _require_tensors(reader)
    except UnsupportedModelError as error:
        refusal = str(error)
    except UnreadTensorsError as error:
        refusal, num_unread = str(error), error.num_tensors
    except CheckpointError as error:
        fault = str(error)
    fault = fault or _pointer_in(reader.folder)
    manifest = read_manifest(reader.folder)
    side_files = manifest.side_files if manifest else ()
    required = tuple(f for f in side_files if f.required and f.path != "config.json")
    config = base_config(reader.config)
    return _Findings(reader, config, fault, refusal, unbuildable, required, num_unread)


def _pointer_in(folder: Path) -> str:
    """Return what is said of a small file that is another one's pointer, or a page of the web."""
    files = (file for pattern in ("*.json", *_TOKENIZERS) for file in sorted(folder.glob(pattern)))
    said = ((file, mistaken(file) if file.suffix == ".json" else pointed(file)) for file in files)
    return next((f"{file} is {what}" for file, what in said if what), "")


def _require_tensors(reader: CheckpointReader) -> None:
    """Check that every block has its matrices; experts and uneven blocks have no other check."""
    config, shapes = base_config(reader.config), shapes_of(reader)
    for layer in range(facts.num_layers(config)):
        facts.linears(config, layer, shapes)


def _judge_own(found: _Findings) -> tuple[bool | None, str]:
    if reason := found.fault or found.refusal or found.unbuildable:
        return False, reason
    if found.required:
        return None, f"computes with {found.names_required}: only the verbs that read it take it"
    note = "" if found.has_tokenizer else "; without a tokenizer it reads no text"
    if found.is_nonuniform:
        return True, f"reads each block's width off its tensors{note}"
    model_type = found.config["model_type"]
    runs = "" if found.reader.config.get("model_type") == model_type else "runs its text model: "
    return True, f"{runs}has facts of model_type '{model_type}', and the shapes fit{note}"


def _refuse(found: _Findings) -> tuple[bool | None, str] | None:
    """Return what every foreign loader does with the folder, where they all do the same."""
    if found.fault:
        return False, found.fault
    if found.is_nonuniform:
        return False, (
            f"config.json says {NONUNIFORM}, which it does not know: the blocks differ in width; "
            f"make a portable folder: treadle export FOLDER OUT --pad"
        )
    if found.required:
        return False, (
            f"it would compute something else without {found.names_required}, which only treadle "
            f"reads"
        )
    if found.quantised:
        return None, f"{found.quantised}: not checked here"
    if found.config.get("auto_map"):
        return None, "its code comes with the checkpoint (auto_map): read it first; not checked"
    return None


def _judge_transformers(found: _Findings) -> tuple[bool | None, str]:
    if (refused := _refuse(found)) is not None:
        return refused
    if found.unbuildable:
        return False, found.unbuildable
    from treadle.model.load import auto_class

    version = importlib.metadata.version("transformers")
    model_type = str(found.reader.config.get("model_type", ""))
    if (loads := auto_class(model_type, any_model=True)) is None:
        return False, f"transformers {version} does not know model_type '{model_type}'"
    if (found.reader.folder / _ADAPTER_CONFIG).is_file():
        return None, f"with peft installed it loads the base that {_ADAPTER_CONFIG} names instead"
    shapes = "whether the shapes fit was not checked" if found.refusal else "the shapes fit"
    if found.num_unread:
        shapes = f"it leaves out {found.num_unread} tensors that config.json has no place for"
    return True, f"{loads} of {version} knows model_type '{model_type}'; {shapes}"


def _judge(found: _Findings, loader: Loader) -> tuple[bool | None, str]:
    if (refused := _refuse(found)) is not None:
        return refused
    if found.unbuildable:
        return None, "transformers refuses its config.json: not checked here"
    if found.num_unread:
        return None, (
            f"{found.num_unread} tensors have no place in what config.json describes: whether it "
            f"leaves them out was not checked here"
        )
    name = found.architecture
    if name not in loader.listed:
        if name not in LOOKED_FOR:
            return None, f"'{name}' was not looked for in {loader.source}; {loader.others}"
        takes = False if loader.refuses_others else None
        return takes, f"{name} is not in {loader.source}; {loader.others}"
    has_buffers = any(tensor.endswith(".masked_bias") for tensor in found.reader.tensors)
    if (reason := loader.fails.get(name)) and not has_buffers:
        return False, f"it lists {name}, but {reason}"
    if loader.needs_tokenizer and not found.has_tokenizer:
        return False, "the folder has no tokenizer; copy the original model's files into it"
    if _has_untied_head(found):
        return None, "config.json ties the head, but the folder holds another one: not checked here"
    if loader.builds_modules and _has_unusual_heads(found):
        return None, (
            f"heads are not as wide as hidden size / heads, and whether it reads head_dim for "
            f"{name} was not checked here"
        )
    return True, f"lists {name} as of {loader.source}; not run here"


def _has_unusual_heads(found: _Findings) -> bool:
    if found.architecture in OWN_HEAD_WIDTH:
        return False
    width = facts.num_heads(found.config) * facts.head_dim(found.config)
    return width != int(found.config.get("hidden_size") or width)


def _has_untied_head(found: _Findings) -> bool:
    """Whether a head is stored that is not the embedding, though the config says that it is."""
    stored = any(name.endswith(facts.HEADS) for name in found.reader.tensors)
    return bool(found.config.get("tie_word_embeddings")) and stored and not found.reader.tied
