"""The account of a run: what its result and its manifest say."""

from collections import Counter
from pathlib import Path

import numpy as np

from treadle.core.checkpoint import Manifest, Parent, side_file
from treadle.core.errors import DataError
from treadle.core.registry import near
from treadle.core.result import RESULT_FILE, Figure, Measurement, Series
from treadle.core.run import Recording
from treadle.core.table import JSON_MEND, Source, Unit, fields_of, is_json_array
from treadle.core.table.mends import EMPTY_ID, NO_ID
from treadle.core.table.unnamed import UNNAMED
from treadle.text.curate.base import CurateMethod, Verdicts
from treadle.text.curate.corpus import Corpus, Measured
from treadle.text.curate.survivors import fields_of_corpus
from treadle.text.curate.writing import DATA, DECISIONS, INDEX, MENDED, REJECTS, STATISTICS

__all__ = [
    "account_for",
    "account_for_share",
    "listed_in",
    "manifest_of",
    "reading_of",
    "require_documents",
]

_USUAL_ID = "id"
_UNNAMED_BYTES = len(UNNAMED) + 32
"""Of an id that was made of a text: what it begins with, and 128 bits in hexadecimal."""


def require_documents(corpus: Corpus) -> None:
    """Refuse a source without documents, or without any id in the field that was asked for.

    Raises:
        DataError: There is none; it says why the records are none.
    """
    if len(corpus):
        _require_ids(corpus)
        return
    source = corpus.source
    reasons = sorted({reason for _, _, reason in corpus.rejects()}) or ["nothing in it"]
    with source.units[0].files[0].open("rb") as stream:
        if source.units[0].kind == "lines" and is_json_array(stream.read(64)):
            raise DataError(f"'{source.path}' is one JSON array, not lines; {JSON_MEND}.")
    fields = fields_of(source)
    given = f" (texts are in: {', '.join(fields)})" if fields else ""
    raise DataError(
        f"'{source.path}' holds no document ({', '.join(reasons)}); give files whose records have "
        f"a text in '{source.text_column}', or name the field{given} with --text-column."
    )


def _require_ids(corpus: Corpus) -> list[str]:
    """Return a note on documents without the id that was asked for by its field.

    Raises:
        DataError: None has it.
    """
    column = corpus.source.id_column
    if column == _USUAL_ID:
        return []
    num_unnamed = sum(_unnamed(corpus, unit) for unit in corpus.source.units)
    if not num_unnamed:
        return []
    has_any = any(what in (EMPTY_ID, NO_ID) for _, _, what in corpus.mended())
    if num_unnamed == len(corpus) and not has_any:
        fields = [name for name in fields_of_corpus(corpus) if name not in ("id", "text", "meta")]
        mend = near(column, fields) if fields else "They have no other field: leave it out."
        raise DataError(
            f"No document has an id in '{column}'; name the field that holds it with --id-column. "
            f"{mend}"
        )
    return [
        f"{num_unnamed} of {len(corpus)} documents have no id in '{column}': a hash of the text "
        f"stands for it."
    ]


def _unnamed(corpus: Corpus, unit: Unit) -> int:
    """Return how many documents of a unit have an id that was made of their text."""
    ends = corpus.unit_column(unit, "id_ends").astype(np.int64)
    content = corpus.unit_column(unit, "id_bytes")
    starts = np.concatenate([[0], ends])[:-1]
    starts = starts[ends - starts == _UNNAMED_BYTES]
    head = np.frombuffer(UNNAMED.encode(), np.uint8)
    return int((content[starts[:, None] + np.arange(len(head))] == head).all(axis=1).sum())


def reading_of(corpus: Corpus) -> tuple[list[Measurement], list[str]]:
    """Return how many records were refused and mended, and notes on what was read and what not."""
    rejects = Counter(reason for _, _, reason in corpus.rejects())
    refused = [f"Not read: {count} records, {reason}." for reason, count in sorted(rejects.items())]
    mends = corpus.mended()
    mended = Counter(what for _, _, what in mends)
    replaced = [f"Mended: in {n} records {what}." for what, n in sorted(mended.items())]
    num_mended = len({(file, row) for file, row, _ in mends})
    counted = [
        Measurement(
            name="rejected", value=sum(rejects.values()), unit="records that are no documents"
        ),
        Measurement(
            name="mended", value=num_mended, unit="documents in which something was replaced"
        ),
    ]
    unnamed = _require_ids(corpus)
    return counted, [*corpus.source.notes, *refused, *replaced, *unnamed, *_twins(corpus)]


def account_for(run: Recording, corpus: Corpus, verdicts: Verdicts, folder: Path) -> None:
    """Note what became of the documents."""
    is_kept = verdicts.reason < 0
    reading, notes = reading_of(corpus)
    counted = (
        ("documents", len(corpus), "read"),
        ("kept", int(is_kept.sum()), "documents"),
        ("dropped", int((~is_kept).sum()), "documents"),
    )
    kept_bytes = int(corpus.num_bytes[is_kept].sum())
    share = kept_bytes / max(1, int(corpus.num_bytes.sum()))
    state = corpus.state_bytes() / len(corpus)
    run.measurements += [
        *(Measurement(name=name, value=value, unit=unit) for name, value, unit in counted),
        *reading,
        Measurement(name="kept_text_fraction", value=share, unit="of the bytes of text"),
        Measurement(name="state_bytes_per_document", value=state, unit="kept on disk meanwhile"),
        *verdicts.measurements,
    ]
    run.bytes |= {
        "input": corpus.source.num_bytes,
        "text": int(corpus.num_bytes.sum()),
        "kept_text": kept_bytes,
        "output": _size(folder / DATA),
        "decisions": _size(folder / DECISIONS),
    }
    run.figures += [*_reasons(verdicts), *verdicts.figures]
    run.notes += [*notes, *verdicts.notes]


def account_for_share(run: Recording, measured: Measured) -> None:
    """Note what a share of the measuring did."""
    num_units = len(measured.corpus.source.units)
    done = num_units - measured.num_resumed - measured.num_missing
    counted = (("units_measured", done), ("units_missing", measured.num_missing))
    left = measured.num_missing
    end = f"{left} units are left for other shares" if left else "Nothing is left to measure"
    run.measurements += [
        Measurement(name=name, value=value, unit=f"of {num_units}") for name, value in counted
    ]
    run.notes.append(f"{end}; when all are there, the same command without --shard ends the work.")


def _reasons(verdicts: Verdicts) -> list[Figure]:
    counts = np.bincount(verdicts.reason[verdicts.reason >= 0], minlength=len(verdicts.reasons))
    found = [(name, float(n)) for name, n in zip(verdicts.reasons, counts, strict=True) if n]
    if not found:
        return []
    names, values = zip(*found, strict=True)
    bars = Series(name="documents", x=list(names), y=list(values))
    return [
        Figure(
            kind="bar",
            title="Why documents were dropped (the first reason of each)",
            x_label="reason",
            y_label="documents",
            series=[bars],
        )
    ]


def _twins(corpus: Corpus) -> list[str]:
    """Return notes on ids that stand more than once."""
    unnamed, _, num_named = corpus.repeats
    found = []
    if num_named:
        found.append(
            f"{num_named} documents have the id of an earlier one; a decision on such an id may be "
            f"about any of them."
        )
    if len(unnamed):
        found.append(
            f"{len(unnamed)} documents without an id have an earlier one's text; their ids, made "
            f"of it, end in a number."
        )
    return found


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("part-*"))


def listed_in(folder: Path) -> dict[str, str]:
    """Return which lists of records an output has, each with its kind of side file."""
    lists = {REJECTS: "rejects", MENDED: "mended"}
    return {path: kind for path, kind in lists.items() if (folder / path).exists()}


def manifest_of(run: Recording, method: CurateMethod, source: Source, folder: Path) -> Manifest:
    """Return the output's manifest; it is published, so folders go by their names."""
    kinds = {RESULT_FILE: "result", DECISIONS: "decisions"}
    if method.sidecar:
        kinds[STATISTICS] = "statistics"
    if (folder / INDEX).exists():
        kinds[INDEX] = "index"
    kinds |= listed_in(folder)
    files = [side_file(kind, path, source.content_hash) for path, kind in kinds.items()]
    parents = [Parent(name=source.path.name, content_hash=source.content_hash)]
    return run.manifest(files, parents)
