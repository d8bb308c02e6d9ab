"""The ledger as tables that any program reads: which row in which slot, which pieces in a row."""

from typing import TYPE_CHECKING, Any

import numpy as np

from treadle.core.ledger import Ledger
from treadle.core.table import PartWriter

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["seen_table", "write_ledger"]

_STEPS = 256
"""Steps in a row group."""


def write_ledger(ledger: Ledger) -> None:
    """Write ledger.parquet and spans.parquet of the first epoch into the ledger's folder.

    The last step may go on in the second epoch; its slots there are left out.
    """
    import pyarrow as pa

    writers: dict[str, PartWriter] = {}
    num_steps = -(-ledger.num_rows // ledger.order.rows)
    for first in range(0, num_steps, _STEPS):
        some = range(first, min(first + _STEPS, num_steps))
        found = [_tables(ledger, step) for step in some]
        for name in found[0]:
            table = pa.concat_tables([tables[name] for tables in found])
            if name not in writers:
                writers[name] = PartWriter(ledger.folder / f"{name}.parquet", table.schema)
            writers[name].write(table)
    for writer in writers.values():
        writer.close()


def _tables(ledger: Ledger, step: int) -> "dict[str, pa.Table]":
    import pyarrow as pa

    rows = ledger.rows_of(step)
    rows = rows[: ledger.num_rows - step * ledger.order.rows]
    seen = ledger.what_was_seen(step)
    is_first = seen.slot < len(rows)
    num_spans = np.bincount(seen.slot[is_first], minlength=len(rows))
    columns: dict[str, Any] = {  # Any: arrays
        "step": pa.array(np.full(len(rows), step)),
        "slot": pa.array(np.arange(len(rows))),
        "row": pa.array(rows),
        "num_spans": pa.array(num_spans),
    }
    names = ("row", "document", "document_start", "num_tokens", "row_start")
    spans = {name: pa.array(getattr(seen, name)[is_first]) for name in names}
    return {"ledger": pa.table(columns), "spans": pa.table(spans)}


def seen_table(ledger: Ledger, step: int) -> "pa.Table":
    """Return what a step saw, piece by piece, with the documents' ids."""
    import pyarrow as pa

    seen = ledger.what_was_seen(step)
    ids = [ledger.ids[document] for document in seen.document.tolist()]
    columns = {name: pa.array(values) for name, values in seen._asdict().items()}
    columns["document"] = pa.array(ids, pa.large_string())
    return pa.table({"step": pa.array(np.full(len(ids), step)), **columns})
