"""The verb: its parameters, checked and handed to a run."""

from pathlib import Path
from typing import Any

from treadle.core.arguments import checked
from treadle.core.errors import CheckpointError
from treadle.core.result import Result
from treadle.shrink.sparsify.base import HeadTraining
from treadle.shrink.sparsify.request import SparsifyRequest, check
from treadle.shrink.sparsify.run import sparsify_model
from treadle.shrink.sparsify.tables import METHODS

__all__ = ["sparsify"]


@checked
def sparsify(
    model: str | Path,
    out: Path,
    method: HeadTraining | str,
    *,
    text: str | Path | None = None,
    pairs: Path | None = None,
    num_samples: int = 300,
    sample_tokens: int = 1024,
    heldout_fraction: float = 0.08,
    local_tokens: int = 64,
    seed: int = 0,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    **method_settings: Any,  # Any: validated by the table
) -> Result:
    """Train heads that say which entries of a model's cache stay.

    The model is frozen and runs on samples made of the text by rule: a context, a question about
    it, and the answer. Small heads learn to foretell, from a token's own numbers, how much later
    tokens will look at it. The output is the model's folder as it is, its weights byte for byte,
    with the heads as a side file that other loaders pass over; heads of other methods that it has
    stay. The model and what one sample shows of all layers are in memory. A killed run goes on
    where its state was saved, to the same bytes, when it is started again with the same settings.

    Args:
        model: Hugging Face folder, packaged:smollm2, or a hub id.
        out: Folder to write.
        method: What heads are, and how they learn.
        text: What samples are made of: a .txt or .jsonl file, or stdlib:calibration.
        pairs: Instead of a text: a JSONL file of prompts with their answers, {"prompt": "...",
            "answer": "..."}, texts or lists of token ids; those that have more than `sample_tokens`
            are left out.
        num_samples: Samples, those that are held out among them.
        sample_tokens: Tokens of a sample, prompt and answer.
        heldout_fraction: Share of the samples, made of the end of the text, that are not learned;
            the overlaps are measured on them.
        local_tokens: Newest tokens of a prompt that are not learned, because they always stay; at
            most a quarter of it.
        seed: Of the samples and of the heads' beginning.
        overwrite: Replace an existing output folder once the new one is complete.
        trust_remote_code: Run code that the checkpoint brings along.
        method_settings: Settings of the method as keywords, such as target="kvzip", where the
            method is given by its name.

    Returns:
        The account of the run, as in the folder's result.json.

    Raises:
        SettingsError: A setting is wrong or has no effect, or `out` exists.
        CheckpointError: The model cannot be read, or is a GGUF file.
        DataError: The text is too short.
        UnsupportedModelError: What happens inside of the model cannot be seen.
        CapacityError: Memory or disk is too small.
    """
    from treadle.model.load import resolve

    request = SparsifyRequest(
        METHODS.resolve(method),
        None if text is None else str(text),
        None if pairs is None else str(pairs),
        num_samples,
        sample_tokens,
        heldout_fraction,
        local_tokens,
        seed,
    )
    check(request)
    _require_folder(Path(model).expanduser())
    return sparsify_model(
        request, resolve(model), str(model), Path(out), overwrite, trust_remote_code
    )


def _require_folder(model: Path) -> None:
    """Refuse a file.

    Raises:
        CheckpointError: It is one: the output, a folder with a side file, could not hold it.
    """
    if model.is_file():
        raise CheckpointError(
            f"'{model}' is a file, and heads travel as a side file of a model folder; run treadle "
            f"export '{model}' FOLDER, and give the folder."
        )
