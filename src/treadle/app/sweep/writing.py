"""The tables as CSV, Markdown and JSON, and the account of the whole sweep."""

import csv
import io
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from treadle.app.sweep.document import Document
from treadle.app.sweep.rows import MeasuredCell
from treadle.app.sweep.table import Summary
from treadle.core.errors import CapacityError
from treadle.core.result import RESULT_FILE, Entry, Measurement, Table
from treadle.core.run import Recording

__all__ = ["forget_tables", "replace", "tables_in", "tell", "write_tables"]

_DIGITS = 6
"""Digits of numbers in tables: what other orders of sums round otherwise does not show."""
_STEM = "table"
_PAGE = "report.html"


def tables_in(out: Path) -> list[Path]:
    """Return the files in a folder that a sweep would write at its end."""
    named = (out / name for name in ("costs.csv", RESULT_FILE, _PAGE))
    return [*sorted(out.glob(f"{_STEM}*.*")), *(file for file in named if file.exists())]


def forget_tables(out: Path) -> None:
    """Remove the tables of an earlier run: what they tell of is about to change."""
    for file in tables_in(out):
        file.unlink()


def write_tables(summary: Summary, out: Path) -> list[Path]:
    """Write table.csv, table.md and table.json, one set for each basis, and costs.csv."""
    written = []
    for number, table in enumerate(summary.scores):
        stem = _STEM if not number else f"{_STEM}_{table.basis}"
        for suffix, text in (
            ("csv", _csv(table)),
            ("md", _markdown(table)),
            ("json", _json(table)),
        ):
            written.append(out / f"{stem}.{suffix}")
            replace(written[-1], text)
    replace(out / "costs.csv", _csv(summary.costs))
    return written


def replace(file: Path, text: str) -> None:
    """Write a file beside and rename it into place.

    Raises:
        CapacityError: It could not be written; what was there stays.
    """
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, file)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise CapacityError(
            f"'{file}' cannot be written ({error.strerror}); free some space, and run the same "
            f"command again."
        ) from error


def tell(
    run: Recording, document: Document, cells: Sequence[MeasuredCell], summary: Summary
) -> None:
    """Put what a sweep found into its account."""
    failed = [cell for cell in cells if cell.error]
    results = [result for cell in cells for result in cell.chain.values()]
    seconds = sum(result.seconds for result in results)
    cpu_seconds = sum(result.cpu_seconds for result in results)
    run.measurements = [
        Measurement(name="cells", value=len(cells)),
        Measurement(name="failed_cells", value=len(failed), better="lower"),
        Measurement(
            name="cells_wall_seconds", value=seconds, unit="s", note="of all steps of all cells"
        ),
        Measurement(name="cells_cpu_seconds", value=cpu_seconds, unit="s", note="likewise"),
    ]
    run.tables = _with_costs(summary)
    run.figures = summary.figures
    run.notes += [f"{cell.point.label} failed: {cell.error}" for cell in failed]


def _with_costs(summary: Summary) -> list[Table]:
    """Return the tables for the page: scores and costs side by side where both were measured."""
    costs, tables = summary.costs, list(summary.scores)
    first = next((n for n, table in enumerate(tables) if table.basis == costs.basis), None)
    if first is None:
        return [*tables, costs]
    own = [n for n, column in enumerate(costs.columns) if column.unit]  # the others name the row
    table = tables[first]
    rows = [
        [*row, *(cost[n] for n in own)] for row, cost in zip(table.rows, costs.rows, strict=True)
    ]
    columns = [*table.columns, *(costs.columns[n] for n in own)]
    notes = [*table.notes, *costs.notes]
    tables[first] = table.model_copy(update={"columns": columns, "rows": rows, "notes": notes})
    return tables


def _csv(table: Table) -> str:
    ranged = [any(row[n].low is not None for row in table.rows) for n in range(len(table.columns))]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head: list[str] = []
    for column, has_ends in zip(table.columns, ranged, strict=True):
        head += [column.name, *([f"{column.name} low", f"{column.name} high"] if has_ends else [])]
    writer.writerow(head)
    for row in table.rows:
        line: list[str] = []
        for entry, has_ends in zip(row, ranged, strict=True):
            line += [_text(entry.value), *([_text(entry.low), _text(entry.high)] * has_ends)]
        writer.writerow(line)
    return text.getvalue()


def _markdown(table: Table) -> str:
    lines = [f"# {_plain(table.title)} ({table.basis})", ""]
    lines.append("| " + " | ".join(_head(table, n) for n in range(len(table.columns))) + " |")
    lines.append("|" + "---|" * len(table.columns))
    lines += ["| " + " | ".join(map(_spoken, row)) + " |" for row in table.rows]
    lines += ["", *(f"- {_plain(note)}" for note in table.notes)]
    if table.losses:
        lines += ["", "Where it loses:", "", *(f"- {_plain(loss)}" for loss in table.losses)]
    return "\n".join(lines) + "\n"


def _head(table: Table, number: int) -> str:
    column = table.columns[number]
    good = f"{column.better} is better" if column.better != "neither" else ""
    inside = ", ".join(filter(None, [column.unit, good]))
    return _plain(f"{column.name} ({inside})" if inside else column.name)


def _plain(text: str) -> str:
    """Return a text as one line that Markdown shows as it is."""
    return re.sub(r"([|<`*\\])", r"\\\1", " ".join(text.split()))


def _spoken(entry: Entry) -> str:
    text = _text(entry.value) or "–"
    if entry.low is not None and entry.high is not None:
        text += f" [{_text(entry.low)}, {_text(entry.high)}]"
    return _plain(f"{text} ({entry.note})" if entry.note else text)


def _json(table: Table) -> str:
    rows: list[dict[str, Any]] = []  # Any: JSON values
    for row in table.rows:
        line: dict[str, Any] = {}
        for column, entry in zip(table.columns, row, strict=True):
            line[column.name] = _number(entry.value)
            if entry.low is not None:
                line[f"{column.name} interval"] = [_number(entry.low), _number(entry.high)]
            if entry.note:
                line[f"{column.name} note"] = entry.note
        rows.append(line)
    content = {
        "title": table.title,
        "basis": table.basis,
        "rows": rows,
        "notes": table.notes,
        "losses": table.losses,
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _number(value: float | str | None) -> float | str | None:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def _text(value: float | str | None) -> str:
    if value is None:
        return ""
    return f"{value:.{_DIGITS}g}" if isinstance(value, int | float) else value
