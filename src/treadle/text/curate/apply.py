"""The verb: read, measure, decide, write."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from treadle.core.arguments import checked
from treadle.core.checkpoint.manifest import MANIFEST_FILE
from treadle.core.checkpoint.publish import write_text
from treadle.core.errors import DataError, SettingsError
from treadle.core.result import Result
from treadle.core.run import recorded
from treadle.core.table import PartFormat, Source, open_source
from treadle.native.text import parse_lines
from treadle.text.curate.account import (
    account_for,
    account_for_share,
    manifest_of,
    require_documents,
)
from treadle.text.curate.base import Columns, CurateMethod
from treadle.text.curate.corpus import measure
from treadle.text.curate.engines import EngineName, choose_engine
from treadle.text.curate.folders import (
    WORK,
    Growing,
    finish,
    prepare,
    require_elsewhere,
)
from treadle.text.curate.known import Joined, known_inputs, open_known, sliced
from treadle.text.curate.reference import read_reference
from treadle.text.curate.shards import Shard, read_shard
from treadle.text.curate.tables import METHODS
from treadle.text.curate.writing import (
    DATA,
    STATISTICS,
    Written,
    write_parts,
    write_rejects,
)

__all__ = ["curate"]


@checked
def curate(
    data: str | Path,
    out: Path,
    method: CurateMethod | str | Mapping[str, Any],  # Any: settings, validated by the table
    *,
    text_column: str = "text",
    id_column: str = "id",
    statistics: Path | None = None,
    against: list[str] | None = None,
    known: list[Path] | None = None,
    index: bool = False,
    output_format: PartFormat = "parquet",
    workers: int | None = None,
    engine: EngineName = "threads",
    shard: str | None = None,
    overwrite: bool = False,
    **method_settings: Any,  # Any: validated by the table
) -> Result:
    """Clean a corpus or remove its copies, and say of every document why.

    The output is a folder: data/ holds the documents that stay, with their ids, texts and whatever
    else the source says of them; decisions/ has a row for every document, with the reason it went
    for, and for a copy its cluster, the id that was kept, and their Jaccard similarity. Records
    that are no documents are counted and listed (rejects.parquet), and so is what was replaced in
    those that are (mended.parquet). The bytes do not depend on the number of workers,
    nor on how the documents are cut into shards; a killed run goes on where it stopped when it is
    started again.

    Args:
        data: JSONL (also .gz, .zst, and .json that holds lines), Parquet or WARC, a folder of such
            shards, a tree of text files, a pattern such as "data/**/*.jsonl", an output of this
            verb, stdlib:sources, or several as "A + B". Folders such as lang=en are columns of
            what lies in them.
        out: Folder to write.
        method: How documents are judged: a name, a mapping of it and its settings such as
            {"method": "minhash", "preset": "fineweb"}, or METHODS.resolve of one.
        text_column: Field or column that holds the text; "meta.text" is a field in another.
        id_column: Field or column that holds the id; where it is missing, empty or no text or
            number, a hash of the text stands for it, and a number behind it from the second
            document of that text on. Another one than "id" must be in some record. A file of a tree
            goes by its path.
        statistics: Output of an earlier run of rules on the same documents: its statistics are
            taken instead of measuring them again.
        against: For decontaminate: the evaluation sets, each a text file, JSONL or Parquet, or a
            folder of them; all strings of their records count.
        known: For exact and minhash: outputs of earlier runs with an index, whose documents stay;
            copies of them go, too.
        index: Keep in the output what later runs need to know its documents (8 bytes a band).
        output_format: Files of data/: parquet, jsonl or jsonl.zst. As JSON lines a document has its
            id, its text and its other fields in one object (one called as a column is "meta.NAME";
            dates are text, a number that JSON does not have is null).
        workers: Threads, or tasks at a time, that share the work (default: the cores).
        engine: What runs the work: threads, or ray (a cluster whose nodes see the same paths, at
            $RAY_ADDRESS, or this machine); what comes out is the same.
        shard: Do only a share of the measuring, as in 3/16, into the unfinished output; jobs with
            all the shares may run anywhere, and the same command without it ends the work.
        overwrite: Replace an existing output folder once the new one is complete.
        method_settings: Settings of the method as keywords, such as threshold=0.8, where the method
            is given by its name.

    Returns:
        The account of the run, as in the folder's result.json; of a share only what it measured.

    Raises:
        SettingsError: A setting is wrong or contradicts another, or `out` exists.
        DataError: There is nothing to read, or a file of the source is damaged.
        CapacityError: The disk is full.
    """
    out = Path(out)
    chosen = METHODS.resolve(method)
    chosen_engine, share = choose_engine(engine, workers), read_shard(shard)
    _require_measuring(share, statistics)
    prepare(out, DATA, overwrite)
    settings = {**chosen.settings(), "text_column": text_column, "id_column": id_column}
    settings |= {"index": True} if index else {}
    settings |= {"output_format": output_format} if output_format != "parquet" else {}
    _require_index(chosen, index, output_format)
    with (
        recorded(
            "curate", chosen, settings, out=out, overwrite=None, is_shared=share is not None
        ) as run,
        Growing(out) as growing,
    ):
        prepare(out, DATA, overwrite)  # another run may have ended here meanwhile
        source = open_source(data, text_column, id_column, parse_lines)
        require_elsewhere(source, out)
        run.read("data", data, source.content_hash, "data")
        reference, earlier = read_reference(chosen, against), open_known(known, chosen)
        run.inputs += [*reference.inputs, *known_inputs(earlier, known)]
        folder = growing.begin(run.fingerprint, share is not None)
        loaded = {} if statistics is None else _load(chosen, source, Path(statistics))
        measured = measure(
            f"measure ({chosen.name})",
            (chosen.label,) if loaded else (chosen.label, chosen.measure),
            source,
            folder / WORK,
            chosen_engine,
            loaded,
            reference.keys,
            share,
        )
        if share is not None:
            account_for_share(run, measured)
            return run.finish(None)
        corpus, num_resumed, _ = measured
        require_documents(corpus)
        everything = Joined(earlier, corpus) if earlier else corpus
        verdicts = sliced(chosen.decide(everything), everything.num_known)
        num_resumed += write_parts(
            Written(
                *(chosen, corpus, verdicts, folder, source.content_hash, everything, index),
                output_format,
            )
        )
        write_rejects(corpus, folder)
        account_for(run, corpus, verdicts, folder)
        if num_resumed:
            run.resumed(f"had left {num_resumed} of its parts")
        run.finish(folder)
        manifest = manifest_of(run, chosen, source, folder)
        write_text(folder / MANIFEST_FILE, manifest.model_dump(mode="json"))
        finish(folder, out)
    return run.result


def _require_index(method: CurateMethod, index: bool, output_format: PartFormat) -> None:
    if index and output_format != "parquet":
        raise SettingsError(
            f"An index finds texts by their place in Parquet; leave --index or --output-format "
            f"{output_format} out."
        )
    if index and not method.index:
        raise SettingsError(f"'{method.name}' compares no documents; leave --index out.")


def _require_measuring(share: Shard | None, statistics: Path | None) -> None:
    if share is not None and statistics is not None:
        raise SettingsError(
            "With --statistics nothing is measured that could be shared; leave --shard out."
        )


def _load(method: CurateMethod, source: Source, out: Path) -> Columns:
    """Return the statistics that an earlier run measured of the same documents."""
    import pyarrow as pa

    from treadle.core.table.parquet import open_parquet

    if not method.sidecar:
        raise SettingsError(
            f"'{method.name}' uses no statistics; leave --statistics out, or take the method rules."
        )
    files = sorted((out / STATISTICS).glob("part-*.parquet"))
    if not files:
        raise DataError(f"No statistics in '{out}'; give the output of treadle curate rules.")
    read = []
    for file in files:
        with open_parquet(file) as opened:
            read.append(opened.read())
    about = read[0].schema.metadata or {}
    if about.get(b"treadle.source", b"").decode() != source.content_hash:
        raise DataError(
            f"The statistics in '{out}' are of other documents than '{source.path}'; measure them "
            f"again by leaving --statistics out."
        )
    missing = [name for name in method.sidecar if name not in read[0].schema.names]
    if missing or about.get(b"treadle.of", b"").decode() != method.measured_of:
        raise DataError(
            f"The statistics in '{out}' were measured otherwise than these rules need "
            f"({', '.join(missing) or 'of other text'}); measure them again by leaving "
            f"--statistics out."
        )
    whole = pa.concat_tables([table.select(list(method.sidecar)) for table in read])
    return {"statistics": np.stack([whole[name].to_numpy() for name in method.sidecar], axis=1)}
