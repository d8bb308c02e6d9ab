"""Recorded trees: their steps counted by loops, and through the verb on a real model."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.cli import main
from treadle.core.errors import DataError, SettingsError
from treadle.core.result import read_result
from treadle.judge.bench.methods.trees import Trees
from treadle.judge.bench.recorded import (
    counted,
    read_trees,
    stretches_of,
    stretches_of_drafts,
    whole_trees,
)
from treadle.native.loader import library
from treadle.runtime.decode.recorded import RecordedNode
from treadle.runtime.sharing.account import AttentionShape

SHAPE = AttentionShape((1,), (1,), 1, 1)
"""One byte a slot."""
needs_kernel = pytest.mark.skipif(library("step") is None, reason="needs a C compiler")
TREE = {
    "prompt": list(range(3, 43)),
    "nodes": [
        {"parent": None, "tokens": 9},
        {"parent": None, "tokens": 14},
        {"parent": 0, "tokens": 20},
        {"parent": 0, "tokens": 11},
        {"parent": 0, "tokens": 3},
    ],
}


@st.composite
def recordings(draw) -> list[RecordedNode]:
    count = draw(st.integers(1, 10))
    parents = [None, *(draw(st.none() | st.integers(0, n - 1)) for n in range(1, count))]
    return [RecordedNode(parent=p, num_tokens=draw(st.integers(1, 9))) for p in parents]


@given(recordings(), st.integers(1, 30))
def test_steps_read_what_a_simulation_reads(nodes, prompt):
    by_path = by_tree = 0
    growing = {n: 1 for n, node in enumerate(nodes) if node.parent is None}
    while growing:
        met = {}
        for leaf, size in growing.items():
            at, length = leaf, size
            while at is not None:
                by_path += length
                met[at] = length
                at = nodes[at].parent
                length = nodes[at].num_tokens if at is not None else 0
            by_path += prompt
        by_tree += sum(met.values()) + prompt
        done = [n for n, size in growing.items() if size == nodes[n].num_tokens]
        growing = {n: size + 1 for n, size in growing.items() if n not in done}
        growing |= {n: 1 for n, node in enumerate(nodes) if node.parent in done}
    found = stretches_of(nodes, prompt)
    assert counted(found, "path", SHAPE).keys_values == by_path
    assert counted(found, "dense", SHAPE, is_paper=True).keys_values == 4 * by_tree


def test_trees_of_drafts_read_the_text_once():
    stretches = stretches_of_drafts([[0], [1], [0, 0]], [2, 3], 10)
    # The root token, two behind it, one behind the first of these.
    assert counted(stretches, "path", SHAPE).keys_values == (4 * 10 + 8) + (4 * 12 + 8)
    assert counted(stretches, "flatten", SHAPE).keys_values == (10 + 4) + (12 + 4)


@needs_kernel
def test_the_verb_replays_a_tree_by_every_mode(llama, tmp_path, capsys):
    file, out = tmp_path / "tree.json", tmp_path / "out"
    file.write_text(json.dumps([{"data": {}, "prompt": ""}, TREE]))
    words = ["bench", "trees", str(llama), str(out), "--tree", str(file), "--most-steps", "40"]
    assert main([*words, "--kv-dtype", "fp32"]) == 0
    result = read_result(out)
    assert hashlib.sha256(file.read_bytes()).hexdigest() in {i.content_hash for i in result.inputs}
    values = {one.name: one.value for one in result.measurements}
    by_path = counted(stretches_of(whole_trees([TREE])[0].nodes, 40), "path", SHAPE)
    by_tree = counted(stretches_of(whole_trees([TREE])[0].nodes, 40), "flatten", SHAPE)
    assert values["kv_flatten_exact"] == pytest.approx(by_path.keys_values / by_tree.keys_values)
    assert values["kv_flatten_exact"] > 1.5
    for mode in ("flatten", "cascade", "node", "node_chunk", "dense"):
        assert values[f"attention_{mode}"] > 0
    said = [note for note in result.notes if "to the last bit" in note]
    assert len(said) == 5
    assert all("0 other best tokens" in note for note in said)
    for mode in ("flatten", "cascade"):
        (note,) = [one for one in said if one.startswith(f"{mode}:")]
        total, equal = [int(word) for word in note.split() if word.isdigit()][:2]
        assert total == equal > 30
    assert {table.basis for table in result.tables} == {"measured", "simulated"}
    assert [figure.kind for figure in result.figures] == ["timeline", "line"]
    assert "1 empty records are left out" in capsys.readouterr().out


@needs_kernel
def test_counting_alone_decodes_nothing(llama, tmp_path):
    file, out = tmp_path / "tree.json", tmp_path / "out"
    record = {"Tree_Structure": [[0], [0, 0]], "Records": [{"prompt": "a b", "Accept_length": [1]}]}
    for content in (TREE, record):
        file.write_text(json.dumps(content))
        words = ["bench", "trees", str(llama), str(out), "--tree", str(file), "--overwrite"]
        assert main([*words, "--most-steps", "0"]) == 0
        assert len(read_result(out).tables) == 2


def test_what_is_no_file_of_trees_is_refused(tmp_path, llama, capsys):
    file = tmp_path / "tree.json"
    with pytest.raises(DataError, match="give a JSON file of trees"):
        read_trees(file)
    file.write_text("[1]")
    with pytest.raises(DataError, match="holds no trees"):
        read_trees(file)
    with pytest.raises(SettingsError, match="give a model that it loads"):
        Trees(tree=file).measure(object(), 0)
    file.write_text(json.dumps(TREE))
    out = tmp_path / "out"
    assert main(["bench", "trees", str(llama), str(out), "--tree", str(file), "--number", "1"]) != 0
    assert not out.exists()
    words = ["bench", "trees", str(llama), str(out), "--tree", str(file)]
    assert main([*words, "--modes", "path", "path"]) != 0
    assert "'path' is given twice" in capsys.readouterr().err
    assert main([*words, "--pad-tokens", "500"]) != 0
    assert "--pad-tokens" in capsys.readouterr().err
