"""What a tuned model is written as: the whole folder with new weights, or an adapter."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treadle.core.checkpoint import (
    CheckpointReader,
    CheckpointWriter,
    Manifest,
    PlannedTensor,
    SideFile,
    TensorInfo,
    model_card,
    read_manifest,
    side_file,
)
from treadle.core.checkpoint.copying import with_dtype
from treadle.core.checkpoint.manifest import MANIFEST_FILE
from treadle.core.checkpoint.publish import publish, remove, write_text
from treadle.core.codec import FLOATS, dtype_code
from treadle.core.disk import system_errors
from treadle.core.errors import UnsupportedModelError
from treadle.core.result import RESULT_FILE
from treadle.core.run import Recording

if TYPE_CHECKING:
    import torch

    from treadle.model.classes import CausalLM

__all__ = ["published", "require_plain", "stored_as", "write_adapter", "write_model"]


def require_plain(reader: CheckpointReader, names: list[str]) -> None:
    """Check that what learns lies in the folder as plain numbers, so that it can be written there.

    Args:
        reader: The folder as it is on disk.
        names: Of tensors that learn, by their names there.

    Raises:
        UnsupportedModelError: A tensor does not.
    """
    for name in names:
        stored = reader.tied.get(name, name)
        if stored not in reader.tensors or reader.tensors[stored].dtype not in FLOATS:
            raise UnsupportedModelError(
                f"'{name}' learns, and lies in '{reader.folder}' as codes of few bits, which "
                f"cannot follow a gradient; use --learn lora or --learn norms, or tune the model "
                f"before it is quantised."
            )


def stored_as(info: TensorInfo, dtype: str | None) -> str:
    """Return the code of the dtype in which a tensor is written."""
    return info.dtype if dtype is None or info.dtype not in FLOATS else dtype_code(dtype)


def write_model(
    run: Recording,
    reader: CheckpointReader,
    learned: "dict[str, torch.Tensor]",
    dtype: str | None,
    out: Path,
    overwrite: bool,
) -> None:
    """Publish the model of `reader` with new values for some of its tensors.

    Args:
        run: The account, which is finished here.
        reader: The model that was tuned.
        learned: By their names on disk.
        dtype: Of all floats; None: as each has it.
        out: The folder to make.
        overwrite: Replace an existing one.
    """
    infos = [info for name, info in reader.tensors.items() if name not in reader.tied]
    planned = [PlannedTensor(info.name, stored_as(info, dtype), info.shape) for info in infos]
    config = reader.config if dtype is None else with_dtype(reader.config, dtype_code(dtype))
    values = {reader.tied.get(name, name): tensor for name, tensor in learned.items()}
    with CheckpointWriter(
        out,
        planned,
        parent=reader,
        config=config,
        overwrite=overwrite,
        fingerprint=run.fingerprint,
    ) as writer:
        for info in infos:
            if info.name in values:
                writer.write(info.name, values[info.name])
            else:
                writer.write(info.name, reader.array(info.name))
                reader.release(info.name)
        run.bytes |= {"input": reader.num_bytes, "output": sum(one.num_bytes for one in planned)}
        carried = _required(reader.folder, writer.folder)
        run.finish(writer.folder)
        manifest = run.manifest([side_file("result", RESULT_FILE), *carried])
        writer.finish(manifest, model_card(out.name, manifest.provenance))


def _required(parent: Path, folder: Path) -> list[SideFile]:
    """Carry the side files without which the parent means something else."""
    import shutil

    found = read_manifest(parent)
    needed = [entry for entry in (found.side_files if found else ()) if entry.required]
    for entry in needed:
        target = folder / entry.path
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(parent / entry.path, target)
    return [side_file(entry.kind, entry.path) for entry in needed]


def write_adapter(
    run: Recording,
    model: "CausalLM",
    config: dict[str, Any],  # Any: JSON values
    out: Path,
) -> None:
    """Publish the factors of a model as a folder that peft and the runtime load."""
    from treadle.model.adapters.training import save_factors

    with published(out) as folder:
        with system_errors():
            run.bytes["output"] = save_factors(model, config, folder)
        run.finish(folder)
        manifest: Manifest = run.manifest([])
        write_text(folder / MANIFEST_FILE, manifest.model_dump_json(indent=2) + "\n")
        write_text(folder / "README.md", _adapter_card(out.name, config, run))


@contextmanager
def published(out: Path) -> Iterator[Path]:
    """Yield a folder beside `out`, which takes its place when the block ends; none is left else."""
    folder = out.absolute().with_name(f".{out.name}.partial")
    remove(folder)
    try:
        folder.mkdir(parents=True)
        yield folder
        publish(folder, out)
    except BaseException:
        remove(folder)
        raise


def _adapter_card(name: str, config: dict[str, Any], run: Recording) -> str:  # Any: JSON values
    base = config.get("base_model_name_or_path") or ""
    return (
        f"---\nlibrary_name: peft\nbase_model: {base}\n---\n# {name}\n\nA LoRA adapter of rank "
        f"{config['r']}, trained by treadle tune {run.method}; result.json says how. It loads with "
        f"peft (PeftModel.from_pretrained) and with treadle (LLM(..., adapters={{'{name}': "
        f"FOLDER}})).\n"
    )
