"""Perplexity and bits per byte."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from treadle.core.intervals import bootstrap_mean
from treadle.core.method import Standard
from treadle.core.result import Comparison, Measurement
from treadle.judge.evaluate.base import LossTask, Rows, Samples, Scores

if TYPE_CHECKING:
    import torch

    from treadle.model.classes import Tokenizer


class Perplexity(LossTask):
    """Measure how well a model predicts a text: among how many equally likely tokens it wavers.

    That is exp of the mean loss a token. The text is cut into windows that do not overlap; every
    token of a window but the first is predicted from those before it in the window. Bits per byte
    divide the same losses by the text's UTF-8 bytes, so that models with different tokenizers
    compare. Intervals resample windows; against a baseline, pairs of windows.
    """

    name: ClassVar[str] = "perplexity"
    paper = Standard(
        "Jelinek et al., Perplexity - a measure of the difficulty of speech recognition tasks, "
        "1977."
    )

    num_windows: Annotated[int, Field(ge=1)] = 64
    """Windows to evaluate, from the start of the text."""
    window_tokens: Annotated[int, Field(ge=2)] = 512
    """Tokens in each window."""
    bos: Literal["auto", "none", "each"] = "auto"
    """Start each window with the tokenizer's BOS token (Gemma needs it) or with text; auto is as
    the tokenizer itself starts a text."""

    def prepare(self, data: str, tokenizer: "Tokenizer") -> Rows:
        """Cut the first windows off the text `data`."""
        from treadle.model.text import windows

        cut = windows(data, tokenizer, self.num_windows, self.window_tokens, self.bos)
        protocol = {**cut.protocol.model_dump(), "hash": cut.protocol.hash}
        return Rows(cut.tokens.tolist(), protocol, cut.protocol.num_bytes)

    def score(self, prepared: Rows, losses: "list[torch.Tensor]") -> Scores:
        """Return perplexity, nats a token and bits per byte; sums accumulate in float64."""
        import torch

        every = torch.stack(losses).double()
        windows = every.mean(dim=1).tolist()
        nll = sum(windows) / len(windows)
        low, high = bootstrap_mean(windows, seed=0) if len(windows) > 1 else (None, None)
        num_bytes = prepared.state
        bits = float(every.sum()) / math.log(2) / num_bytes
        ends = {"low": low, "high": high}
        measurements = [
            Measurement(name="perplexity", value=_exp(nll), better="lower", **_map(_exp, ends)),
            Measurement(name="nll", value=nll, unit="nats/token", better="lower", **ends),
            Measurement(
                name="bits_per_byte",
                value=bits,
                unit="bits/byte",
                better="lower",
                **_map(lambda end: bits * end / nll, ends),
            ),
        ]
        return measurements, {"nll": windows}

    def compare(self, samples: Samples, baseline: Samples, seed: int) -> list[Measurement]:
        """Return the ratio of perplexities to the baseline's, by paired bootstrap of windows."""
        pairs = zip(samples["nll"], baseline["nll"], strict=True)
        differences = [mine - theirs for mine, theirs in pairs]
        low, high = bootstrap_mean(differences, seed)
        return [
            Measurement(
                name="perplexity_ratio",
                value=_exp(sum(differences) / len(differences)),
                low=_exp(low),
                high=_exp(high),
                unit="x baseline",
                better="lower",
                comparison=Comparison(score="perplexity", neutral=1.0),
            )
        ]


def _map(
    change: Callable[[float], float], ends: dict[str, float | None]
) -> dict[str, float | None]:
    """Return the ends of an interval, changed; one window has none."""
    return {key: None if end is None else change(end) for key, end in ends.items()}


def _exp(nll: float) -> float:
    """Return exp, capped where a broken model's perplexity would overflow."""
    return math.exp(min(nll, 700.0))
