"""Tables of documents: any text source in as (id, text, ...) batches, Parquet parts out.

pyarrow and the readers' packages are imported where they are used: the base install has none.
"""

from treadle.core.table.parts import PartWriter, cut, refuse_full_disk, write_parquet
from treadle.core.table.source import batches_of, open_source
from treadle.core.table.units import LineParser, ParsedLines, Source, Unit

__all__ = [
    "LineParser",
    "ParsedLines",
    "PartWriter",
    "Source",
    "Unit",
    "batches_of",
    "cut",
    "open_source",
    "refuse_full_disk",
    "write_parquet",
]
