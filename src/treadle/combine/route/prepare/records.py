"""The records that routers are trained on, and what stands in them beside scores."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

from treadle.combine.route.prepare.base import PoolQuestion, Side
from treadle.combine.route.prepare.scores import PoolScore
from treadle.core.checkpoint.publish import remove
from treadle.core.errors import SettingsError

__all__ = ["STAGED", "Records", "TokenPrice", "TokenPrices", "gathered", "read_prices", "written"]


STAGED = ".records"
"""Where records are written before they are put in place; it stays until the account is there."""


class TokenPrice(NamedTuple):
    """What a model costs, for a million tokens."""

    input: float
    output: float


class TokenPrices(NamedTuple):
    """What tokens cost, and in what."""

    of: dict[str, TokenPrice]
    unit: str

    def cost(self, name: str, scored: PoolScore) -> float | None:
        """Return what an answer cost; None where that is not known."""
        price = self.of.get(name)
        if price is None or scored.prompt_tokens is None or scored.new_tokens is None:
            return None
        return (price.input * scored.prompt_tokens + price.output * scored.new_tokens) / 1e6


class Records(NamedTuple):
    """Questions that every model answered."""

    posed: list[PoolQuestion]
    scored: list[dict[str, PoolScore]]
    """Of each question, by model."""
    num_dropped: int
    """Questions that some model has no score of."""


def read_prices(file: Path | None, weights: Mapping[str, float | None]) -> TokenPrices:
    """Return what models cost: by a file, else by the weights that each token meets.

    Raises:
        SettingsError: The file is none of prices.
    """
    if file is None:
        known = {name: TokenPrice(1e6 * b, 1e6 * b) for name, b in weights.items() if b is not None}
        return TokenPrices(known, "billions of weights, each for every token that meets it")
    try:
        rows = json.loads(file.read_text(encoding="utf-8-sig"))
        found = {str(n): TokenPrice(float(r["input"]), float(r["output"])) for n, r in rows.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(
            f"'{file}' is no file of prices ({type(error).__name__}: {error}); write "
            f'{{"MODEL": {{"input": 0.1, "output": 0.4}}}}, for a million tokens.'
        ) from error
    if any(not 0 <= value < float("inf") for price in found.values() for value in price):
        raise SettingsError(f"'{file}' has a price below 0 or beyond all bounds; correct it.")
    return TokenPrices(found, f"as '{file}' says")


def gathered(
    posed: Mapping[str, PoolQuestion], by_model: Mapping[str, Mapping[str, PoolScore]]
) -> Records:
    """Return the questions that every model has a score of, in their order."""
    kept = [one for name, one in posed.items() if all(name in own for own in by_model.values())]
    scored = [{model: own[one.id] for model, own in by_model.items()} for one in kept]
    return Records(kept, scored, len(posed) - len(kept))


def written(records: Records, prices: TokenPrices, out: Path) -> dict[Side, int]:
    """Write train.jsonl, dev.jsonl and test.jsonl, and return how many records each has.

    All are whole before the first of those that were there is replaced.
    """
    counts: dict[Side, int] = {}
    staged = out / STAGED
    remove(staged)  # of a run that was killed
    staged.mkdir(parents=True)
    for side in get_args(Side):
        pairs = zip(records.posed, records.scored, strict=True)
        rows = [_record(posed, scored, prices) for posed, scored in pairs if posed.side == side]
        counts[side] = len(rows)
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
        (staged / f"{side}.jsonl").write_text(text, encoding="utf-8")
    for side, count in counts.items():
        file = out / f"{side}.jsonl"
        if count:
            (staged / file.name).replace(file)
        else:
            file.unlink(missing_ok=True)
    return counts


def _record(
    posed: PoolQuestion, scored: Mapping[str, PoolScore], prices: TokenPrices
) -> dict[str, Any]:  # Any: JSON values
    found: dict[str, Any] = {  # Any: JSON values
        "id": posed.id,
        "task": posed.task,
        "question": posed.question,
        "scores": {name: one.score for name, one in scored.items()},
    }
    more = {
        "cost": {name: prices.cost(name, one) for name, one in scored.items()},
        "latency": {name: one.seconds for name, one in scored.items()},
        "confidence": {name: one.confidence for name, one in scored.items()},
    }
    for key, values in more.items():
        known = {name: value for name, value in values.items() if value is not None}
        if known:
            found[key] = known
    return found
