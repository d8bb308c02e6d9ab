"""The verb: its parameters, checked and handed to a run."""

from pathlib import Path
from typing import Annotated, Any

from treadle.core.arguments import checked
from treadle.core.registry import Choice
from treadle.core.result import Result
from treadle.learn.tune.base import Learner, Tuning
from treadle.learn.tune.request import Dtype, TuneRequest, check
from treadle.learn.tune.run import tune_model
from treadle.learn.tune.settings import TuneSettings
from treadle.learn.tune.tables import LEARNERS, METHODS
from treadle.model.optimizers import OPTIMIZERS, Optimizer

__all__ = ["tune"]

_ADAMW = {"method": "adamw", "weight_decay": 0.0, "betas": (0.9, 0.999)}
"""As fine-tuning is done: nothing pulls weights to zero that were learned before."""


@checked
def tune(
    model: str | Path,
    out: Path,
    method: Tuning | str,
    *,
    data: str | Path | None = None,
    text: str | Path | None = None,
    teacher: str | Path | None = None,
    learn: Annotated[Learner | str | Choice, LEARNERS] = "all",
    optimizer: Annotated[Optimizer | str | Choice, OPTIMIZERS] = "adamw",
    training: TuneSettings | None = None,
    heldout: str | Path | None = None,
    heldout_fraction: float | None = None,
    dtype: Dtype | None = None,
    chat: bool = False,
    shuffle_answers: bool = False,
    keep_zeros: bool | None = None,
    seed: int = 0,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    **method_settings: Any,  # Any: validated by the table
) -> Result:
    """Teach a model: by answers, by preferences, or by another model's distributions.

    Rows are messages, prompts with answers, texts, or pairs of answers; only answers have a loss,
    and logits are made only where there is one. Documents are packed into parts in which no token
    sees another document, and a step's loss is that of a token, however its rows are split. A
    killed run goes on where its state was saved, to the same bytes, when it is started again with
    the same settings. The whole model, its gradients and the optimizer's averages of what learns
    are in memory, in float32; what is written has the dtypes of the model.

    Args:
        model: Hugging Face folder, packaged:smollm2, or a hub id.
        out: Folder to write: a model, or with --learn lora an adapter in peft's format.
        method: What is lowered.
        data: Rows to learn: JSONL or Parquet, plain or as treadle curate writes it, or a skill made
            by rule, such as skills:arithmetic.
        text: Text to learn, in windows, in place of rows: a .txt or .jsonl file, or
            stdlib:calibration.
        teacher: Model whose distributions are learned, with the same tokenizer.
        learn: What learns: all, lora, norms, or a regular expression that is found in the names of
            parameters.
        optimizer: How weights follow their gradients; its learning rate is the schedule's. AdamW
            is here, where nothing else is said, without decay and with betas 0.9 and 0.999.
        training: How long, how fast and in what pieces.
        heldout: Rows (or text) that are not learned, on which the model is measured before and
            after.
        heldout_fraction: Fraction of the rows of --data to hold out for that, at most 64 rows
            (default: 0.1 for pairs, 0 otherwise).
        dtype: Numbers of the weights that are written (default: those of the model).
        chat: Prompts are what a user says: put the model's chat template around them and their
            answers.
        shuffle_answers: A control: every prompt gets the answer of another row.
        keep_zeros: Weights that are zero stay zero (default: where the folder says that the model
            was pruned).
        seed: Of the order of rows, of what is held out, and of an adapter's beginning.
        overwrite: Replace an existing output folder once the new one is complete, and an
            interrupted run of other settings.
        trust_remote_code: Run code that the checkpoint brings along.
        method_settings: Settings of the method as keywords, such as threshold=0.8, where the method
            is given by its name.

    Returns:
        The account of the run, as in the folder's result.json.

    Raises:
        SettingsError: A setting is wrong or has no effect, `out` exists, or an interrupted run of
            other settings has left its state beside it.
        CheckpointError: The model cannot be read.
        DataError: A row cannot be learned, the teacher has another vocabulary, or the loss is not
            finite; the message names the rows, and the state that was saved last stays.
        UnsupportedModelError: The architecture has no facts, or what learns is quantised.
        CapacityError: The disk is full.
    """
    from treadle.model.load import resolve

    request = TuneRequest(
        METHODS.resolve(method),
        LEARNERS.resolve(learn, "all"),
        OPTIMIZERS.resolve(optimizer, _ADAMW),
        training or TuneSettings(),
        _said(data),
        _said(text),
        _said(teacher),
        _said(heldout),
        heldout_fraction,
        dtype,
        chat,
        shuffle_answers,
        keep_zeros,
        seed,
    )
    check(request)
    return tune_model(request, resolve(model), str(model), Path(out), overwrite, trust_remote_code)


def _said(place: str | Path | None) -> str | None:
    """Return what was named as a text."""
    return None if place is None else str(place)
