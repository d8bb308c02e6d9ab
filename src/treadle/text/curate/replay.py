"""The action replay: what steps of a packed corpus see, again, and whether it is what they saw."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from treadle.core.arguments import checked
from treadle.core.errors import DataError, SettingsError
from treadle.core.ledger import Ledger, open_ledger
from treadle.core.result import Measurement, Result, digest
from treadle.core.run import recorded
from treadle.core.table import NotJson, read_object, write_parquet
from treadle.core.table.parquet import open_parquet
from treadle.text.curate.folders import Growing, finish, prepare
from treadle.text.curate.intact import require_intact
from treadle.text.curate.ledger_tables import seen_table

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["replay"]

_SEEN, _DIGESTS = "seen.parquet", "digests.parquet"


@checked
def replay(
    data: Path,
    out: Path,
    *,
    first_step: int = 0,
    num_steps: int = 1,
    against: Path | None = None,
    overwrite: bool = False,
) -> Result:
    """Say which pieces of which documents training steps see, and digest their tokens.

    The output has a row for every piece (seen.parquet: step, slot, row, id of the document, first
    token in it, tokens, first token in the row) and the xxh3_128 of every step's tokens
    (digests.parquet), which a training run can log and this command compares.

    Args:
        data: Output of treadle curate pack.
        out: Folder to write.
        first_step: First step, counted from 0; steps go on through all epochs.
        num_steps: How many steps.
        against: Output of an earlier replay, or JSON lines with "step" and "digest" as a training
            run may log them: every step that both have must be equal.
        overwrite: Replace an existing output folder.

    Returns:
        The account of the run, as in the folder's result.json.

    Raises:
        SettingsError: The steps do not exist, or `out` exists.
        DataError: The folder is no packed corpus, its tokens were changed, or a step differs.
    """
    import pyarrow as pa

    if first_step < 0 or num_steps < 1:
        raise SettingsError(
            f"{num_steps} steps from {first_step} on do not exist; give at least 1, from 0 on."
        )
    out = Path(out)
    prepare(out, _DIGESTS, overwrite)
    ledger = open_ledger(data)
    content_hash = digest([ledger.order.model_dump(), ledger.digest(0), len(ledger.tokens.tokens)])
    settings = {"first_step": first_step, "num_steps": num_steps}
    seed = ledger.order.seed
    with (
        recorded(
            "curate", settings=settings, action="replay", seed=seed, out=out, overwrite=None
        ) as run,
        Growing(out, is_resumable=False) as growing,
    ):
        prepare(out, _DIGESTS, overwrite)  # another run may have ended here meanwhile
        run.read("data", data, content_hash, "data")
        steps = range(first_step, first_step + num_steps)
        run.notes += require_intact(ledger, steps)
        digests = {step: ledger.digest(step) for step in steps}
        num_equal = _compare(digests, Path(against)) if against is not None else 0
        folder = growing.begin(run.fingerprint)
        seen = pa.concat_tables([seen_table(ledger, step) for step in steps])
        write_parquet(seen, folder / _SEEN)
        columns = {"step": list(digests), "digest": list(digests.values())}
        write_parquet(pa.Table.from_pydict(columns), folder / _DIGESTS)
        run.measurements += _measured(seen, ledger, num_steps, num_equal)
        run.finish(folder)
        finish(folder, out)
    return run.result


def _measured(seen: "pa.Table", ledger: Ledger, num_steps: int, equal: int) -> list[Measurement]:
    counted = (
        ("steps", num_steps, f"of {ledger.order.rows} rows"),
        ("pieces", len(seen), "of documents"),
        ("documents", len(seen["document"].unique()), "different ones"),
        *((("steps_compared", equal, "all equal"),) if equal else ()),
    )
    return [Measurement(name=name, value=value, unit=unit) for name, value, unit in counted]


def _compare(digests: dict[int, str], against: Path) -> int:
    """Return how many steps both have.

    Raises:
        DataError: One of them differs, or there is none.
    """
    logged = _logged(against)
    both = sorted(set(digests) & set(logged))
    for step in both:
        if digests[step] != logged[step]:
            raise DataError(
                f"Step {step} of '{against}' has the digest {logged[step]}, here it is "
                f"{digests[step]}: the run saw other tokens; replay the folder that it was given."
            )
    if not both:
        raise DataError(f"'{against}' holds none of the steps; choose others with --first-step.")
    return len(both)


def _logged(path: Path) -> dict[int, str]:
    file = path / _DIGESTS if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"No digests at '{file}'; give the output of treadle curate replay.")
    try:
        return dict(_pairs_of_parquet(file) if file.suffix == ".parquet" else _pairs_of_lines(file))
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DataError(
            f"'{file}' holds no steps and digests ({error}); give JSON lines with both, or Parquet."
        ) from error


def _pairs_of_parquet(file: Path) -> Iterator[tuple[int, str]]:
    with open_parquet(file) as opened:
        for row in opened.read(columns=["step", "digest"]).to_pylist():
            yield int(row["step"]), str(row["digest"])


def _pairs_of_lines(file: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            record = read_object(line)  # the loss beside them may be NaN
        except NotJson as refusal:
            raise ValueError(f"line {number} is {refusal}") from refusal
        if (digest := record.name("digest")) is not None:
            yield int(record.take("step")), str(digest)
