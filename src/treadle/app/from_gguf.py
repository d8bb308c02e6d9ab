"""`treadle export FILE.gguf OUT`: the Hugging Face folder of a GGUF file."""

from pathlib import Path

from treadle.core.checkpoint import Parent, Provenance
from treadle.core.checkpoint.publish import prepare_target
from treadle.core.errors import SettingsError
from treadle.model.gguf.folder import Unpacked, write_folder
from treadle.model.source import source_hash

__all__ = ["export_gguf", "require_no_other_setting"]


def export_gguf(file: Path, out: Path, code: str | None, codes: bool, overwrite: bool) -> str:
    """Write the folder, and say what was done.

    Args:
        file: The file; any part of a split one.
        out: The folder to make.
        code: The dtype of floats; None: floats keep theirs, and decoded codes take float16.
        codes: Keep codes where pack-quantized holds them.
        overwrite: Replace an existing model folder.
    """
    prepare_target(out, overwrite)
    content_hash = source_hash(file)
    provenance = Provenance(
        verb="export",
        settings={"dtype": code, "codes": codes},
        parents=(Parent(name=file.name, content_hash=content_hash),),
    )
    found = write_folder(
        file,
        out,
        provenance,
        code=code,
        keeps_codes=codes,
        overwrite=overwrite,
        card_summary=f"Made of {file.name}.",
    )
    return _summary(found, out)


def require_no_other_setting(pad: bool, text_only: bool) -> None:
    """Refuse what has no meaning for a GGUF file."""
    for name, given in (("--pad", pad), ("--text-only", text_only)):
        if given:
            raise SettingsError(
                f"{name} has no effect on a GGUF file, whose blocks have one width and which holds "
                f"a text model; leave it away."
            )


def _summary(found: Unpacked, out: Path) -> str:
    lines = [
        f"codes kept: {found.num_coded} matrices" if found.num_coded else "",
        f"rounded: {found.num_rounded} tensors, to floats narrower than their numbers; --dtype "
        f"float32 keeps them exact"
        if found.num_rounded
        else "",
        f"no tokenizer: {found.no_tokenizer}" if found.no_tokenizer else "",
        f"written: {out}",
    ]
    return "\n".join(filter(None, lines))
