"""The action trial: what is a corpus worth? Small models are trained on it, and read other text."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.arguments import checked
from treadle.core.errors import SettingsError
from treadle.core.intervals import bootstrap_seeds_and_rows
from treadle.core.ledger import Ledger, open_ledger
from treadle.core.result import Comparison, Figure, Measurement, Result, Series, digest
from treadle.core.run import Recording, recorded

if TYPE_CHECKING:
    from treadle.model.classes import CausalLM

__all__ = ["trial"]

Losses = npt.NDArray[np.float64]
_ROWS_AT_ONCE = 16


class _Small(NamedTuple):
    """The shape of the models."""

    hidden: int
    layers: int


@checked
def trial(
    corpora: list[Path],
    out: Path,
    *,
    heldout: list[Path],
    steps: int = 200,
    num_seeds: int = 3,
    hidden: int = 128,
    layers: int = 2,
    learning_rate: float = 2e-3,
    heldout_rows: int = 256,
    seed: int = 0,
    overwrite: bool = False,
) -> Result:
    """Train small models on packed corpora for equally many tokens and compare them.

    Every corpus gets the same models (Llama-shaped, float32, on this machine's processor), the same
    number of steps and rows, and several seeds; a seed fixes the weights that all corpora begin
    with. The loss on held-out rows has an interval over rows and seeds together (both are drawn
    again), and so has the difference to the first corpus, row by row and seed by seed. What a small
    model prefers, a large one need not.

    Args:
        corpora: Outputs of treadle curate pack, of equal rows, seq_len and tokenizer; the first one
            is what the others are compared with.
        out: Folder for result.json.
        heldout: Packed texts to be measured on, which none of the corpora should hold.
        steps: Steps of training.
        num_seeds: Models for each corpus.
        hidden: Width of the models.
        layers: Decoder blocks of the models.
        learning_rate: Highest learning rate.
        heldout_rows: Rows of each held-out text that are measured.
        seed: Of the weights and the intervals.
        overwrite: Replace the result in `out`.

    Returns:
        The account of the run, as in the folder's result.json.

    Raises:
        SettingsError: The folders do not fit together, or `out` holds a result.
        DataError: A folder is no packed corpus.
    """
    out = Path(out)
    trained = {Path(one).name: open_ledger(one) for one in corpora}
    measured = {Path(one).name: open_ledger(one) for one in heldout}
    _require_fit(len(corpora) + len(heldout), trained, measured)
    small = _Small(hidden, layers)
    settings = {
        "steps": steps,
        "num_seeds": num_seeds,
        **small._asdict(),
        "learning_rate": learning_rate,
        "heldout_rows": heldout_rows,
    }
    with recorded(
        "curate", settings=settings, action="trial", seed=seed, out=out, overwrite=overwrite
    ) as run:
        for name, ledger in {**trained, **measured}.items():
            run.read(name, ledger.folder, _hash_of(ledger), "data")
        curves: dict[str, list[float]] = {}
        found: dict[tuple[str, str], list[Losses]] = {}
        for number in range(num_seeds):
            for name, ledger in trained.items():
                model, losses = _trained(ledger, small, steps, learning_rate, seed + number)
                curves.setdefault(name, losses)
                for text, other in measured.items():
                    rows = min(heldout_rows, other.num_rows)
                    found.setdefault((name, text), []).append(_losses(model, other, rows))
        tables = {key: np.stack(rows) for key, rows in found.items()}
        _account_for(run, tables, curves, trained, steps, seed)
    return run.result


def _require_fit(count: int, trained: dict[str, Ledger], measured: dict[str, Ledger]) -> None:
    ledgers = [*trained.values(), *measured.values()]
    if len({*trained, *measured}) < count:
        raise SettingsError("Two of the packed folders have one name; rename one of them.")
    forms = {
        str(ledger.folder): (ledger.order.seq_len, ledger.order.tokenizer_hash)
        for ledger in ledgers
    }
    sizes = {ledger.order.rows for ledger in trained.values()}
    if len(set(forms.values())) > 1 or len(sizes) > 1:
        raise SettingsError(
            f"The packed folders {', '.join(forms)} differ in seq_len, tokenizer or rows, so that "
            f"tokens would not be equal; pack all of them alike."
        )


def _hash_of(ledger: Ledger) -> str:
    return digest([ledger.order.model_dump(), len(ledger.tokens.tokens), ledger.digest(0)])


def _trained(
    ledger: Ledger, small: _Small, steps: int, learning_rate: float, seed: int
) -> "tuple[CausalLM, list[float]]":
    """Return a model trained on the first steps of a corpus, and its losses."""
    import torch

    from treadle.model.fit import FitSettings, fit

    def batch(step: int, _losses: Sequence[float]) -> "torch.Tensor":
        return torch.from_numpy(ledger.batch(step).astype(np.int64))

    model = _fresh(ledger, small, seed)
    done = fit(model, batch, FitSettings(steps=steps, learning_rate=learning_rate))
    return model, done.losses


def _fresh(ledger: Ledger, small: _Small, seed: int) -> "CausalLM":
    """Return a small Llama-shaped model with tied embeddings, untrained."""
    from treadle.model.fresh import fresh_model

    heads = max(1, small.hidden // 32)
    config = {
        "model_type": "llama",
        "tie_word_embeddings": True,
        "vocab_size": ledger.order.vocab_size,
        "hidden_size": small.hidden,
        "intermediate_size": small.hidden * 8 // 3,
        "num_hidden_layers": small.layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": ledger.order.seq_len + 1,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    return fresh_model(config, seed)


def _losses(model: "CausalLM", ledger: Ledger, num_rows: int) -> Losses:
    """Return the mean loss of each of the first rows, in nats a token."""
    import torch

    from treadle.model.loss import losses_of_rows

    rows = ledger.tokens.tokens
    starts = np.arange(num_rows) * ledger.order.seq_len
    found = []
    for first in range(0, num_rows, _ROWS_AT_ONCE):
        some = starts[first : first + _ROWS_AT_ONCE]
        batch = np.stack([rows[start : start + ledger.order.seq_len + 1] for start in some])
        losses = losses_of_rows(model, torch.from_numpy(batch.astype(np.int64)))
        found.append(losses.double().mean(dim=1).numpy())
    return np.concatenate(found)


def _account_for(
    run: Recording,
    tables: dict[tuple[str, str], Losses],
    curves: dict[str, list[float]],
    trained: dict[str, Ledger],
    steps: int,
    seed: int,
) -> None:
    from treadle.model.fit import loss_figure

    first = next(iter(trained))
    measurements, bars, against = [], dict[str, list[Measurement]](), dict[str, list[Measurement]]()
    for (name, text), table in tables.items():
        measurements.append(_measured(f"loss of {name} on {text}", table, seed))
        bars.setdefault(text, []).append(measurements[-1])
        if name != first:
            apart = table - tables[first, text]
            of = Comparison(score=f"loss of {name} on {text}", baseline=first, neutral=0.0)
            measurements.append(_measured(f"{name} minus {first} on {text}", apart, seed, of))
            against.setdefault(text, []).append(measurements[-1])
    tokens = steps * trained[first].order.rows * trained[first].order.seq_len
    epochs = {name: steps / ledger.steps_per_epoch for name, ledger in trained.items()}
    notes = [f"{tokens} tokens a model: {turns:.2g} epochs of {n}." for n, turns in epochs.items()]
    notes += [_verdict(entry) for entries in against.values() for entry in entries]
    figures = [loss_figure(curves), _figure("Held-out loss", bars)]
    if against:
        figures.append(_figure(f"Held-out loss beside {first}: below 0 is better", against))
    run.measurements += measurements
    run.figures += figures
    run.notes += notes


def _measured(
    name: str, table: Losses, seed: int, comparison: Comparison | None = None
) -> Measurement:
    low, high = bootstrap_seeds_and_rows(table, seed)
    ratio = math.exp(abs(float(table.mean())))
    note = "" if comparison is None else f"{ratio:.3f} times in perplexity"
    return Measurement(
        name=name,
        value=float(table.mean()),
        unit="nats per token",
        low=low,
        high=high,
        better="lower",
        comparison=comparison,
        note=note,
    )


def _verdict(entry: Measurement) -> str:
    assert entry.low is not None
    assert entry.high is not None
    word = "better" if entry.high < 0 else "worse" if entry.low > 0 else "no different"
    return f"{entry.name}: {word} ({entry.value:+.4f}, {entry.low:+.4f} to {entry.high:+.4f})."


def _figure(title: str, groups: dict[str, list[Measurement]]) -> Figure:
    series = [
        Series(
            name=text,
            x=[entry.name.removesuffix(f" on {text}") for entry in entries],
            y=[entry.value for entry in entries],
            low=[entry.low or 0.0 for entry in entries],
            high=[entry.high or 0.0 for entry in entries],
        )
        for text, entries in groups.items()
    ]
    return Figure(
        kind="interval", title=title, x_label="nats per token", y_label="corpus", series=series
    )
