"""WARC archives of the web: pages as their main text, and texts that were extracted before."""

import json
from collections.abc import Iterator
from typing import Any

from treadle.core.errors import DataError
from treadle.core.table import batches
from treadle.core.table.batches import Record, Reject
from treadle.core.table.packed import opened
from treadle.core.table.records import rest_of
from treadle.core.table.units import Unit

__all__ = ["warc_records"]

_PAGES = ("text/html", "application/xhtml+xml")
_OKAY = 200
_CONTROLS = dict.fromkeys(range(32)) | {9: "\t", 10: "\n", 13: None}


def warc_records(unit: Unit) -> Iterator[Record | Reject]:
    """Yield the pages of an archive; the row of a refused one counts responses and texts.

    Raises:
        DataError: The archive is damaged, or ends inside a record.
    """
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    file = unit.files[0]
    kinds = WarcRecordType.response | WarcRecordType.conversion | WarcRecordType.unknown
    try:
        with opened(file) as stream:
            records = ArchiveIterator(stream, record_types=kinds, parse_http=True)
            for row, record in enumerate(records):
                if record.record_type == WarcRecordType.unknown:
                    yield Reject(unit.name, row, "a record of no known kind")
                else:
                    yield _record(record, unit, row)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(
            f"'{file}' is damaged: {error}. Fetch the file again, or move it out of the source."
        ) from error


def _record(record: Any, unit: Unit, row: int) -> Record | Reject:  # Any: fastwarc's record
    length = record.content_length
    if length > batches.MAX_DOCUMENT_BYTES:
        return Reject(unit.name, row, "longer than a document may be")
    content = record.reader.read()
    # The library takes an archive that ends inside a record for a whole one.
    if len(content) != length:
        raise EOFError(f"record {row} has {len(content)} bytes of {length}")
    if record.is_http and record.http_headers is not None:
        if record.http_headers.status_code != _OKAY:
            return Reject(unit.name, row, "no page: its status is not 200")
        if record.http_content_type not in _PAGES:
            return Reject(unit.name, row, "no page: it is not HTML")
        text = _main_text(content, record.http_charset)
    else:
        text = content.decode(errors="replace")
    text = text.translate(_CONTROLS).strip()
    if not text:
        return Reject(unit.name, row, "empty")
    said = {"url": record.headers.get("WARC-Target-URI"), "date": record.headers.get("WARC-Date")}
    fields = {key: value for key, value in said.items() if value} | dict(unit.partition)
    meta = rest_of(json.dumps(fields).encode(), {})[0]
    name = (record.record_id or "").strip("<>")
    return name or None, text, meta


def _main_text(content: bytes, charset: str | None) -> str:
    """Return what a page says without its menus, notices and scripts."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    try:
        html = bytes_to_str(content, charset or "")
    except LookupError:  # none, or a name that nobody knows
        html = bytes_to_str(content, detect_encoding(content) or "utf-8")
    found: str = extract_plain_text(html, main_content=True, alt_texts=False)
    return found
