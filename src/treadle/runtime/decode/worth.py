"""What a branch is worth: by a rule on its text, or by how likely a model finds it."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from treadle.core.errors import DataError, SettingsError
from treadle.core.ports import Scorer
from treadle.runtime.decode.base import Candidate, Worth

__all__ = ["LogProbs", "Reader", "checked", "choose_worth"]

LogProbs = Callable[[Sequence[Sequence[int]], Sequence[int]], list[npt.NDArray[np.float32]]]
"""Returns the log-probabilities of each row's tokens from one on."""


class Reader(Protocol):
    """A model with a tokenizer of its own, such as another `LLM`."""

    prompts: Any  # Any: `treadle.runtime.prompts.Prompts`, which lies above

    def log_probs(
        self, rows: Sequence[Sequence[int]], firsts: Sequence[int] | None = None
    ) -> list[npt.NDArray[np.float32]]:
        """Return the log-probabilities of each row's tokens from one on."""


def choose_worth(
    scorer: object, own: LogProbs, text_of: Callable[[Sequence[int]], str]
) -> Worth | None:
    """Return what a scorer finds branches worth, or None without one.

    Args:
        scorer: A callable on the text behind the prompt; "likelihood", the mean log-probability of
            a branch's tokens under the model itself; another `LLM`, the same under that one, which
            reads the text; or a `core.ports.Scorer` of the same tokens.
        own: Of the model itself.
        text_of: Of the model itself.

    Raises:
        SettingsError: It is none of these.
    """
    if scorer is None:
        return None
    if scorer == "likelihood":
        return _by_tokens(own)
    if hasattr(scorer, "token_losses"):
        return _by_tokens(_log_probs_of(scorer))  # type: ignore[arg-type]  # it is a Scorer
    if hasattr(scorer, "log_probs") and hasattr(scorer, "prompts"):
        return _by_reading(scorer, text_of)
    if callable(scorer):
        return lambda candidates: [scorer(one.text()) for one in candidates]
    raise SettingsError(
        f"Found scorer={str(scorer)[:80]!r}, expected a callable on text, 'likelihood', an LLM or "
        f"a Scorer; change scorer."
    )


def _by_tokens(log_probs: LogProbs) -> Worth:
    def worth(candidates: Sequence[Candidate]) -> list[float]:
        rows = [[*c.prompt_tokens, *c.tokens] for c in candidates]
        found = log_probs(rows, [len(c.prompt_tokens) for c in candidates])
        return [float(own.mean(dtype=np.float64)) for own in found]

    return worth


def _log_probs_of(scorer: Scorer) -> LogProbs:
    def log_probs(
        rows: Sequence[Sequence[int]], firsts: Sequence[int]
    ) -> list[npt.NDArray[np.float32]]:
        return [-losses.numpy() for losses in scorer.token_losses(rows, firsts)]

    return log_probs


def _by_reading(model: Reader, text_of: Callable[[Sequence[int]], str]) -> Worth:
    def worth(candidates: Sequence[Candidate]) -> list[float]:
        rows, firsts = [], []
        for one in candidates:
            before = text_of(one.prompt_tokens)
            begin = model.prompts.tokens(before, is_continued=False)
            row = model.prompts.tokens(before + one.text(), is_continued=False)
            pairs = zip(begin, row, strict=False)
            same = next((at for at, (a, b) in enumerate(pairs) if a != b), len(begin))
            rows.append(row)
            firsts.append(max(1, min(same, len(row) - 1)))
        found = model.log_probs(rows, firsts)
        return [float(own.mean(dtype=np.float64)) for own in found]

    return worth


def checked(worth: Worth, candidates: Sequence[Candidate]) -> list[float]:
    """Return what each branch is worth; one without a token, nothing at all.

    Raises:
        DataError: A scorer gave something else than one number for each.
    """
    some = [one for one in candidates if one.tokens]  # others ended before they began
    given = worth(some) if some else []
    try:
        found = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        found = np.full(1, np.nan)
    if found.shape != (len(some),) or np.isnan(found).any():
        raise DataError(
            f"The scorer gave {str(given)[:80]} for {len(some)} branches, expected a number "
            f"for each; mend the scorer."
        )
    values = iter(found.tolist())
    return [float(next(values)) if one.tokens else -math.inf for one in candidates]
