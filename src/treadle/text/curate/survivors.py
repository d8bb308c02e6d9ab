"""Which of several copies stays: an order of all documents that no sharding changes."""

import math
import re
from decimal import Decimal
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from treadle.core.errors import DataError
from treadle.core.registry import near
from treadle.core.table import batches_of, fields_in
from treadle.native.text import unite
from treadle.text.curate.corpus import Corpus
from treadle.text.curate.documents import Columns, Documents
from treadle.text.curate.keys import pairs_of_equal_keys

__all__ = [
    "Keep",
    "Ranking",
    "best_of",
    "clusters",
    "fields_of_corpus",
    "join",
    "preference",
    "unranked",
    "values_of",
]

Keep = Annotated[str, Field(pattern=r"^(longest|first|best:.+|earliest:.+)$")]
"""A policy: longest, first (by id), best:COLUMN or earliest:COLUMN."""
Integers = npt.NDArray[np.int64]
_LOOKED_AT = 100
"""Documents whose fields are named where none has the one that was asked for."""


def preference(keep: str, documents: Documents) -> Columns:
    """Return a number for each document; among copies the highest stays."""
    policy, _, column = keep.partition(":")
    if policy == "longest":
        found = np.diff(documents.texts.offsets).astype(np.float64)
    elif policy == "first":
        found = np.zeros(len(documents.texts))
    else:
        values = [
            _number(value) for value in values_of(documents, column, "to keep copies by", "--keep")
        ]
        found = np.array(values, np.float64) * (-1 if policy == "earliest" else 1)
    return {"preference": np.where(np.isnan(found), -np.inf, found)}


def unranked(keep: str, corpus: Corpus) -> tuple[str, ...]:
    """Return a note on the documents that a policy by a column cannot rank.

    Raises:
        DataError: It can rank none of them: no record has the field, or none a number in it.
    """
    policy, _, column = keep.partition(":")
    if policy not in ("best", "earliest"):
        return ()
    wanted = corpus.column("preference").astype(np.float64, copy=False)[corpus.num_known :]
    num_unranked = int(np.isneginf(wanted).sum())
    if num_unranked == len(wanted) > 0:
        fields = [name for name in _ranking_fields(corpus) if name != column]
        mend = near(column, fields) if fields else "None does: take longest or first."
        raise DataError(
            f"No document has a number or a date in '{column}' to keep copies by; name a field "
            f"that holds one in --keep. {mend}"
        )
    if not num_unranked:
        return ()
    return (
        f"{num_unranked} of {len(wanted)} documents have no number or date in '{column}': any copy "
        f"that has one is kept before them.",
    )


def fields_of_corpus(corpus: Corpus) -> dict[str, list[object]]:
    """Return the columns and fields of the first documents, each with the values it has there."""
    found: dict[str, list[object]] = {}
    for unit in corpus.source.units:
        for table, _, _ in batches_of(corpus.source, unit):
            for row in table.slice(0, _LOOKED_AT).to_pylist():
                fields = _said(row.get("meta"))
                for name, value in {**row, **fields}.items():
                    found.setdefault(name, []).append(value)
            if len(table):
                return found
    return found


def _ranking_fields(corpus: Corpus) -> list[str]:
    fields = fields_of_corpus(corpus)
    return [
        name
        for name, values in fields.items()
        if name not in ("text", "meta") and not all(np.isnan(_number(value)) for value in values)
    ]


def values_of(documents: Documents, column: str, purpose: str, setting: str) -> list[object]:
    """Return a column of the table, or a field of what else JSON lines say.

    Raises:
        DataError: The table has neither.
    """
    table = documents.table
    if column in table.schema.names:
        return list(table[column].to_pylist())
    if "meta" not in table.schema.names:
        raise DataError(
            f"The documents have no column '{column}' {purpose} (they have: "
            f"{', '.join(table.schema.names)}); name one of them in {setting}."
        )
    return [_said(value).get(column) for value in table["meta"].to_pylist()]


def _said(meta: object) -> dict[str, Any]:  # Any: JSON values
    """Return the fields of what else JSON lines say; a column of that name may hold another."""
    try:
        found = fields_in(meta) if isinstance(meta, str) else {}
    except ValueError:
        found = {}
    return found if isinstance(found, dict) else {}


def _number(value: object) -> float:
    """Return a number, or a date as one; NaN where there is none."""
    if isinstance(value, bool | int | float | Decimal):
        try:
            return float(value)
        except OverflowError:  # Python's integers go further
            return math.inf if value > 0 else -math.inf
    text = str(value or "").strip()
    if re.match(r"\d{4}-\d\d", text):
        moment = text.removesuffix("Z").replace(" ", "T", 1)
        try:
            return float(np.datetime64(moment, "us").astype(np.int64))
        except ValueError:
            return float("nan")
    return float(text) if re.fullmatch(r"-?\d+(\.\d+)?", text) else float("nan")


def clusters(parent: Integers) -> Integers:
    """Return the root of each document's tree: the smallest document that it is joined with."""
    while True:
        above = parent[parent]
        if np.array_equal(above, parent):
            return above
        parent = above


class Ranking(NamedTuple):
    """The members of clusters of several, cluster by cluster, the preferred one first."""

    order: Integers
    is_best: npt.NDArray[np.bool_]
    best: Integers
    """Of each member's cluster."""


def best_of(corpus: Corpus, cluster: Integers) -> Ranking:
    """Rank the members of each cluster by preference, then id, then place."""
    sizes = np.bincount(cluster, minlength=len(cluster))
    members = np.flatnonzero(sizes[cluster] > 1)
    names = corpus.ids(members)
    by_name = np.empty(len(members), np.int64)
    by_name[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
    # Equal ids are no order: the sort is stable, so that their places decide.
    wanted = corpus.column("preference").astype(np.float64, copy=False)[members]
    order = members[np.lexsort((by_name, -wanted, cluster[members]))]
    groups = cluster[order]
    is_best = np.concatenate([[True], groups[1:] != groups[:-1]])[: len(order)]
    return Ranking(order, is_best, order[is_best][np.cumsum(is_best) - 1])


def join(parent: Integers, keys: npt.NDArray[np.uint64]) -> None:
    """Join the documents that share a key."""
    left, right = pairs_of_equal_keys(keys)
    unite(parent, np.ascontiguousarray(left), np.ascontiguousarray(right))
