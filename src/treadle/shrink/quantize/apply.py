"""The verb: its parameters, checked and handed to a run."""

from pathlib import Path
from typing import Any, Literal

from treadle.core.arguments import checked
from treadle.core.checkpoint import CheckpointReader
from treadle.core.errors import SettingsError
from treadle.core.result import Result
from treadle.model.text import Bos
from treadle.shrink.quantize.base import Quantizer
from treadle.shrink.quantize.run import QuantizeRequest, quantize_model
from treadle.shrink.quantize.tables import QUANTIZERS

__all__ = ["quantize"]


@checked
def quantize(
    model: str | Path,
    out: Path,
    method: Quantizer | str,
    *,
    bits: Literal[4, 8] = 4,
    group: int | Literal["row"] = 64,
    symmetric: bool = True,
    text: str | None = None,
    num_windows: int | None = None,
    window_tokens: int | None = None,
    bos: Bos | None = None,
    seed: int = 0,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    **method_settings: Any,  # Any: validated by the table
) -> Result:
    """Round the matrices of a model's blocks to codes of few bits and write the smaller model.

    The output is compressed-tensors' pack-quantized format, which transformers and vLLM load, and
    which `LLM` holds by its codes. Embeddings, norms and the head stay as they are. One decoder
    block is in memory at a time; a killed run goes on at the block where it stopped when it is
    started again with the same settings.

    Args:
        model: Hugging Face folder, packaged:smollm2, or a hub id.
        out: Folder to write.
        method: How codes are chosen.
        bits: Of a code: 4 or 8.
        group: Neighbouring columns that share a scale, or row for all columns of a row.
        symmetric: Whether the middle code stands for 0. Otherwise each group has a zero point of
            its own, which is closer to the weights, but which transformers 5.23 with
            compressed-tensors 0.20.1 fails to load.
        text: Text to measure on how far hidden states drift from those of the unquantised model: a
            .txt or .jsonl file, or stdlib:calibration (default: not measured).
        num_windows: Windows drawn at random from the text by the seed (default 8).
        window_tokens: Tokens in each window (default 256).
        bos: Start each window with the tokenizer's BOS token, which Gemma needs: each, none, or
            auto, as the tokenizer itself starts a text (the default).
        seed: Seed of the windows and of methods that round by chance.
        overwrite: Replace an existing output folder once the new one is complete.
        trust_remote_code: Run code that the checkpoint brings along.
        method_settings: Settings of the method as keywords, such as threshold=0.8, where the method
            is given by its name.

    Returns:
        The account of the run, as in the folder's result.json.

    Raises:
        SettingsError: A setting is wrong or has no effect, or `out` exists.
        CheckpointError: The model cannot be read, or holds NaN.
        UnsupportedModelError: The architecture has no facts, or matrices that the format cannot
            hold.
        DataError: The text is too short.
        CapacityError: Memory or disk is too small.
    """
    from treadle.model.load import resolve

    columns = 0 if group == "row" else int(group)
    if columns < 0 or (columns == 0 and group != "row"):
        raise SettingsError(f"group = {group}; give a number of columns such as 64, or row.")
    windows = {"num_windows": num_windows, "window_tokens": window_tokens, "bos": bos}
    for name, value in windows.items():
        if text is None and value is not None:
            raise SettingsError(
                f"{name} = {value} has no effect without a text; add --text FILE, or leave it out."
            )
    num_windows, window_tokens = (
        8 if num_windows is None else num_windows,
        256 if window_tokens is None else window_tokens,
    )
    if num_windows < 1 or window_tokens < 2:
        raise SettingsError(
            f"num_windows = {num_windows} and window_tokens = {window_tokens} give no tokens to "
            f"measure on; use at least 1 window of 2 tokens."
        )
    request = QuantizeRequest(
        QUANTIZERS.resolve(method),
        bits,
        columns,
        symmetric,
        text,
        num_windows,
        window_tokens,
        bos or "auto",
        seed,
    )
    with CheckpointReader(resolve(model)) as reader:
        return quantize_model(request, reader, str(model), Path(out), overwrite, trust_remote_code)
