"""The action blocks: drop whole decoder blocks, those that change their input least."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np

from treadle.core.arguments import checked
from treadle.core.checkpoint import (
    CheckpointReader,
    CheckpointWriter,
    PlannedTensor,
    content_hash,
    model_card,
    prepare_target,
    require_elsewhere,
)
from treadle.core.errors import SettingsError
from treadle.core.keep import keep_rows, num_pruned
from treadle.core.registry import Choice
from treadle.core.result import Figure, Measurement, Result, Series, digest
from treadle.core.run import Recording, is_control, recorded
from treadle.model.text import Bos
from treadle.shrink.prune.account import side_files
from treadle.shrink.prune.base import BlockScore
from treadle.shrink.prune.tables import BLOCK_SCORES

if TYPE_CHECKING:
    from treadle.model.text import Windows

__all__ = ["prune_blocks"]


@checked
def prune_blocks(
    model: str | Path,
    out: Path,
    *,
    by: Annotated[BlockScore | str | Choice, BLOCK_SCORES] = "influence",
    sparsity: float | None = None,
    num_blocks: int | None = None,
    text: str | None = None,
    num_windows: int = 16,
    window_tokens: int = 512,
    bos: Bos = "auto",
    seed: int = 0,
    overwrite: bool = False,
    trust_remote_code: bool = False,
) -> Result:
    """Drop whole decoder blocks and write a shorter model, which any loader takes.

    The blocks that change their input least go, all judged by one pass over the whole model; the
    first and the last one always stay. What is left has to be taught again to be of use: by
    treadle tune distill, with the whole model as its teacher. One block is in memory at a time.

    Args:
        model: Hugging Face folder, packaged:smollm2, or a hub id.
        out: Folder to write.
        by: What a block is worth: influence, what it changes; shallow_first, its place; or
            any_block, a control.
        sparsity: Fraction of the blocks to drop, rounded down (default 0.25).
        num_blocks: Blocks to drop, in place of a fraction.
        text: Calibration text, which influence needs: a .txt or .jsonl file, or stdlib:calibration.
        num_windows: Calibration windows, drawn at random from the text by the seed.
        window_tokens: Tokens in each window.
        bos: Start each window with the tokenizer's BOS token: each, none, or auto.
        seed: Seed of the windows and of random scores.
        overwrite: Replace an existing output folder once the new one is complete.
        trust_remote_code: Run code that the checkpoint brings along.

    Returns:
        The account of the run, as in the folder's result.json.

    Raises:
        SettingsError: A setting is wrong or has no effect, or `out` exists.
        UnsupportedModelError: The architecture has no facts, or its config cannot say what is left.
        DataError: The text is too short.
    """
    from treadle.model.load import resolve

    score, out, folder = BLOCK_SCORES.resolve(by, "influence"), Path(out), resolve(model)
    _require_text(score, text)
    prepare_target(out, overwrite)
    require_elsewhere(out, folder, "the model's")
    settings = {
        "by": score.settings(),
        "sparsity": sparsity,
        "num_blocks": num_blocks,
        **({"num_windows": num_windows, "window_tokens": window_tokens} if text else {}),
    }
    with recorded(
        "prune", settings=settings, action="blocks", seed=seed, out=out, overwrite=None
    ) as run:
        run.is_control = is_control(score)
        with CheckpointReader(folder) as reader:
            run.read("model", str(model), content_hash(reader), "model")
            run.read("config", "config.json", digest(reader.config), "config")
            windows = _windows(run, reader, text, num_windows, window_tokens, bos)
            scores = _scores(reader, score, windows, seed, trust_remote_code)
        kept = _kept(scores, sparsity, num_blocks)
        _account_for(run, scores, kept)
        _write(run, folder, kept, out, overwrite)
    return run.result


def _require_text(score: BlockScore, text: str | None) -> None:
    if score.needs_states and text is None:
        raise SettingsError(
            f"'{score.name}' looks at what blocks do to a text; add --text FILE, or --text "
            f"stdlib:calibration."
        )
    if text is not None and not score.needs_states:
        raise SettingsError(f"'{score.name}' looks at no text; leave --text out.")


def _windows(
    run: Recording,
    reader: CheckpointReader,
    text: str | None,
    num_windows: int,
    window_tokens: int,
    bos: Bos,
) -> "Windows | None":
    from treadle.model.load import load_tokenizer
    from treadle.model.text import sampled_windows

    if text is None:
        return None
    tokenizer = load_tokenizer(reader.folder)
    found = sampled_windows(text, tokenizer, num_windows, window_tokens, run.seed, bos)
    run.protocol = found.protocol.model_dump()
    run.read("text", found.protocol.corpus, found.protocol.corpus_sha256, "data")
    return found


def _scores(
    reader: CheckpointReader,
    score: BlockScore,
    windows: "Windows | None",
    seed: int,
    trust_remote_code: bool,
) -> list[float]:
    """Return what each block is worth."""
    from treadle.core.seed import torch_stream
    from treadle.model import facts
    from treadle.model.layers import LayeredModel

    generator = torch_stream(seed, "blocks")
    if windows is None:
        num_layers = facts.num_layers(facts.base_config(reader.config))
        return [score.score(None, layer / num_layers, generator) for layer in range(num_layers)]
    model = LayeredModel(reader, trust_remote_code)
    hidden = model.embed(windows.tokens)
    found = []
    for layer, block in model.visit("score blocks"):
        before = hidden.clone()
        model.run(block, layer, hidden)
        found.append(score.score((before, hidden), layer / model.num_layers, generator))
    return found


def _kept(scores: list[float], sparsity: float | None, num_blocks: int | None) -> list[int]:
    """Return the numbers of the blocks that stay; the first and the last one do.

    Raises:
        SettingsError: Too many would go, or none.
    """
    if sparsity is not None and num_blocks is not None:
        raise SettingsError("Both sparsity and num_blocks are given; leave one of them out.")
    inner = len(scores) - 2
    number = num_blocks
    if number is None:
        number = num_pruned(len(scores), 0.25 if sparsity is None else sparsity)
    if inner < 1:
        raise SettingsError(
            f"The model has {len(scores)} blocks, of which the first and the last one stay, so "
            f"that none can go; give a deeper model."
        )
    if not 1 <= number <= inner:
        raise SettingsError(
            f"{number} of {len(scores)} blocks would go, and 1 to {inner} can, as the "
            f"first and the last one stay; change --sparsity or --num-blocks."
        )
    stays = keep_rows(np.array([scores[1:-1]], np.float32), number)[0]
    return [0, *(np.flatnonzero(stays) + 1).tolist(), len(scores) - 1]


def _account_for(run: Recording, scores: list[float], kept: list[int]) -> None:
    gone = [layer for layer in range(len(scores)) if layer not in kept]
    named = ", ".join(map(str, gone))
    run.deed = f"{len(gone)} of {len(scores)} blocks removed"
    run.notes.append(f"Dropped blocks {named} of 0 to {len(scores) - 1}.")
    run.measurements += [
        Measurement(name="blocks", value=len(kept), note=f"of {len(scores)}"),
        Measurement(name="sparsity", value=len(gone) / len(scores), unit="fraction of the blocks"),
    ]
    run.figures.append(
        Figure(
            kind="line",
            title="What each block is worth",
            x_label="block",
            y_label="score",
            series=[Series(name="score", x=list(range(len(scores))), y=scores)],
        )
    )


def _write(run: Recording, folder: Path, kept: list[int], out: Path, overwrite: bool) -> None:
    """Write the blocks that stay, numbered anew, once they are known to compute the same."""
    from treadle.model.resize.depth import open_shallower, require_same_blocks

    with open_shallower(folder, kept) as reader:
        require_same_blocks(folder, reader, kept)
        infos = [info for name, info in reader.tensors.items() if name not in reader.tied]
        planned = [PlannedTensor(info.name, info.dtype, info.shape) for info in infos]
        with CheckpointWriter(
            out,
            planned,
            parent=reader,
            config=reader.config,
            overwrite=overwrite,
            fingerprint=run.fingerprint,
        ) as writer:
            for info in infos:
                writer.write(info.name, reader.array(info.name))
                reader.release(info.name)
            run.bytes["output"] = sum(one.num_bytes for one in planned)
            run.finish(writer.folder)
            manifest = run.manifest(side_files("treadle_base" in reader.config))
            writer.finish(manifest, model_card(out.name, manifest.provenance))
