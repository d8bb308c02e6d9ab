"""Tables of documents: any text source in as (id, text, ...) batches, Parquet parts out.

pyarrow and the readers' packages are imported where they are used: the base install has none.
"""

from treadle.core.table.files import files_below
from treadle.core.table.line_parts import LineWriter, PartFormat
from treadle.core.table.parts import PartWriter, cut, refuse_full_disk, write_parquet
from treadle.core.table.recognise import JSON_MEND, is_json_array, json_form
from treadle.core.table.records import NotJson, fields_in, read_object, strings_in
from treadle.core.table.source import batches_of, fields_of, open_source
from treadle.core.table.units import LineParser, ParsedLines, Source, Unit

__all__ = [
    "JSON_MEND",
    "LineParser",
    "LineWriter",
    "NotJson",
    "ParsedLines",
    "PartFormat",
    "PartWriter",
    "Source",
    "Unit",
    "batches_of",
    "cut",
    "fields_in",
    "fields_of",
    "files_below",
    "is_json_array",
    "json_form",
    "open_source",
    "read_object",
    "refuse_full_disk",
    "strings_in",
    "write_parquet",
]
