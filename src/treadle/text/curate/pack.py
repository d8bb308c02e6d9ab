"""The action pack: tokenise a corpus, order it, and say exactly what that order is."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from treadle.core.arguments import checked
from treadle.core.checkpoint import Manifest, Parent, side_file
from treadle.core.checkpoint.manifest import MANIFEST_FILE
from treadle.core.checkpoint.publish import write_text
from treadle.core.errors import DataError
from treadle.core.ledger import DOCUMENTS, ORDER, TOKENS, Ledger, RowOrder, open_ledger
from treadle.core.pack import token_dtype, write_tokens
from treadle.core.permutation import Permutation
from treadle.core.result import RESULT_FILE, Figure, Measurement, Result, Series
from treadle.core.run import Recording, recorded
from treadle.core.table import open_source, refuse_full_disk, write_parquet
from treadle.native.text import parse_lines
from treadle.text.curate.account import (
    account_for_share,
    listed_in,
    reading_of,
    require_documents,
)
from treadle.text.curate.corpus import Corpus, measure
from treadle.text.curate.engines import EngineName, choose_engine
from treadle.text.curate.folders import (
    WORK,
    Growing,
    finish,
    prepare,
    require_elsewhere,
)
from treadle.text.curate.intact import PIECES, write_pieces
from treadle.text.curate.ledger_tables import write_ledger
from treadle.text.curate.shards import read_shard
from treadle.text.curate.tokenise import SpecialTokens, Tokenise, tokenise
from treadle.text.curate.writing import write_rejects

__all__ = ["pack"]

Integers = npt.NDArray[np.int64]


@checked
def pack(
    data: str | Path,
    out: Path,
    *,
    tokenizer: str,
    seq_len: int = 2048,
    rows: int = 8,
    seed: int = 0,
    order: Literal["shuffled", "given"] = "shuffled",
    end_token: str | None = None,
    special_tokens: SpecialTokens = "text",
    text_column: str = "text",
    id_column: str = "id",
    workers: int | None = None,
    engine: EngineName = "threads",
    shard: str | None = None,
    overwrite: bool = False,
) -> Result:
    """Tokenise and pack a corpus, with a ledger of what every training step will see.

    The output has all documents' tokens one after the other, each with an end token behind it, in
    Megatron's format (tokens.bin, tokens.idx); their ids and places (documents.parquet); how rows
    and steps are made of them (order.json); and of the first epoch the row in every slot of every
    step (ledger.parquet) and the pieces of documents in every row (spans.parquet); records that
    are no documents are in rejects.parquet, with the reason of each, and digests of the tokens in
    pieces.json, which a replay checks. Rows have
    seq_len + 1 tokens, inputs and targets shifted by one, and may begin inside a document. The
    order is computed and not stored: treadle.core.ledger.open_ledger(OUT) says at once what any
    step of any epoch saw, and gives its tokens again. The bytes do not depend on the number of
    workers, nor on shards; a killed run goes on where it stopped.

    Args:
        data: As for the methods of treadle curate: a corpus in shards, a tree, or an output.
        out: Folder to write.
        tokenizer: Folder with tokenizer.json, that file, packaged:smollm2, or "bytes" for the bytes
            of UTF-8.
        seq_len: Tokens that a row predicts.
        rows: Rows of a step, over all devices.
        seed: Of the shuffles of documents and rows.
        order: Whether documents and rows are shuffled, or come as given (for a curriculum).
        end_token: What stands after each document (default: the tokenizer's eos token).
        special_tokens: What a special token such as </s> is where a document writes it: text like
            all else, or a control token (for texts that a chat template made).
        text_column: Field or column that holds the text.
        id_column: Field or column that holds the id.
        workers: Threads, or tasks at a time, that share the tokenising (default: the cores).
        engine: What runs the tokenising: threads, or ray.
        shard: Tokenise only a share, as in 3/16; the same command without it ends the work.
        overwrite: Replace an existing output folder once the new one is complete.

    Returns:
        The account of the run, as in the folder's result.json.

    Raises:
        SettingsError: A setting is wrong, or `out` exists.
        DataError: There is nothing to read, too little for a row, or no tokenizer.
        CapacityError: The disk is full.
    """
    out = Path(out)
    chosen_engine, share = choose_engine(engine, workers), read_shard(shard)
    prepare(out, ORDER, overwrite)
    encoder = tokenise(tokenizer, end_token, special_tokens)
    made = RowOrder(
        seq_len=seq_len,
        rows=rows,
        seed=seed,
        is_shuffled=order == "shuffled",
        vocab_size=encoder.vocab_size,
        end_token=encoder.end_token,
        tokenizer_hash=encoder.content_hash,
    )
    columns = {"text_column": text_column, "id_column": id_column}
    settings = {**made.model_dump(), **columns, "special_tokens": special_tokens}
    with (
        recorded(
            *("curate", "", settings),
            action="pack",
            seed=seed,
            out=out,
            overwrite=None,
            is_shared=share is not None,
        ) as run,
        Growing(out) as growing,
    ):
        prepare(out, ORDER, overwrite)  # another run may have ended here meanwhile
        source = open_source(data, text_column, id_column, parse_lines)
        require_elsewhere(source, out)
        run.read("data", data, source.content_hash, "data")
        run.read("tokenizer", tokenizer, encoder.content_hash, "tokenizer")
        folder = growing.begin(run.fingerprint, share is not None)
        kept = folder / WORK
        measured = measure(
            "tokenise", (encoder.measure,), source, kept, chosen_engine, {}, shard=share
        )
        if share is not None:
            account_for_share(run, measured)
            return run.finish(None)
        corpus, num_resumed, _ = measured
        require_documents(corpus)
        _require_row(corpus, seq_len)
        _write(corpus, encoder, made, folder)
        write_rejects(corpus, folder)
        ledger = open_ledger(folder)
        write_ledger(ledger)
        write_pieces(ledger)
        _account_for(run, corpus, ledger)
        run.notes += _on_special(corpus, special_tokens)
        if num_resumed:
            run.resumed(f"had left {num_resumed} of its parts")
        run.finish(folder)
        manifest = _manifest(run, source.path.name, folder)
        write_text(folder / MANIFEST_FILE, manifest.model_dump(mode="json"))
        finish(folder, out)
    return run.result


def _require_row(corpus: Corpus, seq_len: int) -> None:
    num_tokens = int(corpus.column("num_tokens").sum())
    if num_tokens <= seq_len:
        raise DataError(
            f"'{corpus.source.path}' has {num_tokens} tokens, too few for a row of {seq_len + 1}; "
            f"shorten --seq-len, or give more text."
        )


def _write(corpus: Corpus, encoder: Tokenise, order: RowOrder, folder: Path) -> None:
    """Write the tokens and the ids of all documents in their final order."""
    import pyarrow as pa

    sizes = corpus.column("num_tokens").astype(np.int64, copy=False)
    documents = np.arange(len(corpus))
    if order.is_shuffled:
        documents = Permutation(len(corpus), order.seed, "documents").at(documents)
    with refuse_full_disk(folder / TOKENS):
        dtype = token_dtype(encoder.vocab_size)
        write_tokens(folder / TOKENS, _tokens(corpus, documents, sizes), dtype)
    ids = pa.array(corpus.ids(np.arange(len(corpus))), pa.large_string())
    ends = np.cumsum(sizes[documents])
    columns = {
        "id": ids.take(pa.array(documents)),
        "first_token": pa.array(ends - sizes[documents]),
        "num_tokens": pa.array(sizes[documents]),
    }
    write_parquet(pa.Table.from_pydict(columns), folder / DOCUMENTS)
    write_text(folder / ORDER, order.model_dump(mode="json"))


def _tokens(
    corpus: Corpus, documents: Integers, sizes: Integers
) -> Iterator[npt.NDArray[np.generic]]:
    """Yield the tokens of documents in any order; they are mapped, so that memory stays small."""
    units = [corpus.unit_column(unit, "tokens") for unit in corpus.source.units]
    number = np.searchsorted(corpus.firsts, documents, side="right") - 1
    before = np.concatenate([[0], np.cumsum(sizes)])
    start = before[documents] - before[corpus.firsts[number]]
    for unit, first, size in zip(number, start, sizes[documents], strict=True):
        yield units[unit][first : first + size]


def _account_for(run: Recording, corpus: Corpus, ledger: Ledger) -> None:
    num_tokens = len(ledger.tokens.tokens)
    sizes = np.diff(ledger.tokens.starts)
    num_bytes = int(corpus.num_bytes.sum())
    unused = num_tokens - 1 - ledger.num_rows * ledger.order.seq_len
    counted = (
        ("documents", len(corpus), ""),
        ("tokens", num_tokens, "with one behind each document"),
        ("rows", ledger.num_rows, f"of {ledger.order.seq_len + 1} tokens"),
        ("steps_per_epoch", ledger.steps_per_epoch, f"of {ledger.order.rows} rows"),
        ("bytes_per_token", num_bytes / num_tokens, "of text"),
        ("unused_tokens", unused, "at the end, too few for a row"),
    )
    reading, notes = reading_of(corpus)
    files = (ledger.folder / f"{TOKENS}.{kind}" for kind in ("bin", "idx"))
    run.measurements += [Measurement(name=name, value=n, unit=unit) for name, n, unit in counted]
    run.measurements += reading
    run.bytes |= {"text": num_bytes, "output": sum(file.stat().st_size for file in files)}
    run.figures.append(_lengths(sizes))
    run.notes += notes


def _on_special(corpus: Corpus, special_tokens: SpecialTokens) -> list[str]:
    """Return notes on the special tokens that documents write."""
    written, control = (
        corpus.column(name).astype(np.int64, copy=False) for name in ("num_special", "num_control")
    )
    says = f"{written.sum()} special tokens stand in the texts of {(written > 0).sum()} documents"
    if not written.any() and not control.any():
        return []
    if special_tokens == "control":
        return [f"{says}; {control.sum()} control tokens were made of them."]
    notes = [f"{says}, and are packed as text (--special-tokens control: as control tokens)."]
    if control.any():
        notes.append(
            f"This tokenizer has special tokens in its plain vocabulary, too: it made "
            f"{control.sum()} of them from the texts of {(control > 0).sum()} documents, which "
            f"nothing tells from a real one; clean those texts, or take another tokenizer."
        )
    return notes


def _lengths(sizes: Integers) -> Figure:
    shares = np.linspace(0, 1, 41)
    lengths = np.quantile(sizes, shares)
    series = Series(name="documents", x=shares.tolist(), y=lengths.tolist())
    return Figure(
        kind="line",
        title="How long documents are",
        x_label="fraction of the documents",
        y_label="tokens",
        series=[series],
    )


def _manifest(run: Recording, source: str, folder: Path) -> Manifest:
    kinds = {
        RESULT_FILE: "result",
        ORDER: "order",
        DOCUMENTS: "documents",
        PIECES: "digests",
        "ledger.parquet": "ledger",
        "spans.parquet": "spans",
    }
    kinds |= listed_in(folder)
    base = run.inputs[0].content_hash
    files = [side_file(kind, path, base) for path, kind in kinds.items()]
    return run.manifest(files, [Parent(name=source, content_hash=base)])
