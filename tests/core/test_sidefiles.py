"""Kinds of side files: a table, and what is done with those that it does not know."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from treadle.app.compat import compat
from treadle.core.checkpoint import CheckpointReader, read_manifest, require_understood, side_file
from treadle.core.checkpoint.sidefiles import KINDS, check_side_file
from treadle.core.errors import CheckpointError, UnsupportedModelError
from treadle.core.run import recorded
from treadle.model import tiny
from treadle.model.load import skeleton
from treadle.model.source import open_model
from treadle.shrink.prune import METRICS, prune


@pytest.fixture
def pruned(tmp_path: Path) -> Path:
    model = tiny.build("llama", tmp_path / "model")
    prune(model, tmp_path / "pruned", METRICS.resolve("magnitude"), sparsity=0.5)
    return tmp_path / "pruned"


def add(folder: Path, **entry: object) -> None:
    """Let the folder's manifest name one more side file."""
    written = json.loads((folder / "treadle.json").read_text())
    line = {"path": "x.bin", "kind": "x", "version": 1, "base_hash": "abc", "required": True}
    written["side_files"].append({**line, **entry})
    (folder / "treadle.json").write_text(json.dumps(written))


def test_side_files_belong_to_the_weights_that_they_lie_beside(pruned: Path) -> None:
    manifest = read_manifest(pruned)
    assert [entry.kind for entry in manifest.side_files] == ["result"]
    assert all(entry.base_hash == manifest.content_hash for entry in manifest.side_files)
    assert require_understood(pruned) == manifest
    assert check_side_file(pruned, manifest.side_files[0]) == ""


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"kind": "tangle"}, "kind 'tangle', version 1"),
        ({"kind": "order", "version": 9}, "version 9.*it reads version 1"),
    ],
)
def test_what_is_required_and_unknown_is_refused_by_every_reader(entry, says, pruned: Path) -> None:
    (pruned / "x.bin").touch()
    add(pruned, **entry)
    with pytest.raises(UnsupportedModelError, match=says):
        require_understood(pruned)
    with pytest.raises(UnsupportedModelError, match="use the version that made it"):
        open_model(pruned)
    with CheckpointReader(pruned) as reader, pytest.raises(UnsupportedModelError):
        skeleton(reader)
    assert "side file x.bin" in compat(pruned)


def test_what_is_required_and_missing_is_refused(pruned: Path) -> None:
    add(pruned, kind="order", path="order.json")
    with pytest.raises(CheckpointError, match="lacks its required side file order"):
        require_understood(pruned)


def test_what_is_optional_and_unknown_is_left_alone(pruned: Path) -> None:
    add(pruned, kind="tangle", required=False)
    assert require_understood(pruned) is not None
    assert "side file x.bin (tangle) is missing" in compat(pruned)


def test_contents_are_checked_by_the_schema_of_their_kind(pruned: Path) -> None:
    (pruned / "result.json").write_text('{"format": 2}')
    assert "is damaged" in check_side_file(pruned, side_file("result", "result.json"))
    pq.write_table(pa.table({"id": ["a"]}), pruned / "documents.parquet")
    fault = check_side_file(pruned, side_file("documents", "documents.parquet"))
    assert fault == "lacks the columns first_token, num_tokens (documents.parquet)"
    (pruned / "decisions").mkdir()
    (pruned / "decisions" / "part-0.parquet").write_text("no")
    assert "is damaged" in check_side_file(pruned, side_file("decisions", "decisions"))


def test_every_kind_says_what_it_is_and_has_one_form() -> None:
    for name, kind in KINDS.items():
        assert kind.says
        assert kind.version >= 1
        assert not (kind.model and kind.columns), name
    with recorded("look") as run:
        pass
    made = run.manifest([side_file(name, name) for name in KINDS])
    required = {entry.kind for entry in made.side_files if entry.required}
    routed = {"expert", "layer-routing", "query-router", "router", "routing"}
    assert required == {"nonuniform-shapes", "order"} | routed
