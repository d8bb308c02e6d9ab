"""Replay: a recorded tree grows as it was recorded, from either form of file."""

import json

import numpy as np
import pytest

from runtime.decode.toy import PROMPT, answers, logs_after, searched
from treadle.core.errors import DataError, SettingsError
from treadle.runtime.decode.methods.replay import Replay
from treadle.runtime.decode.recorded import read_recording, recording_of
from treadle.runtime.decode.tree import NodeState

DEFT = {
    "incompleted": False,
    "prompt": "Sort this.",
    "data": {
        "0": {"id": 0, "value": 9, "start": -8, "end": 0, "children": [1, 2, 3]},
        "1": {"id": 1, "value": 4, "start": 1, "end": 4, "children": []},
        "2": {"id": 2, "value": 2, "start": 1, "end": 2, "children": [4, 5]},
        "3": {"id": 3, "value": 1, "start": 1, "end": 1, "children": []},
        "4": {"id": 4, "value": 3, "start": 3, "end": 5, "children": []},
        "5": {"id": 5, "value": 1, "start": 3, "end": 3, "children": []},
    },
}
OURS = {
    "prompt": [1, 2, 3],
    "nodes": [
        {"parent": None, "tokens": [7, 8]},
        {"parent": 0, "tokens": 3},
        {"parent": 0, "tokens": [9]},
    ],
}


def test_the_tree_has_the_recorded_shape():
    recorded = recording_of(DEFT)
    assert (recorded.prompt, recorded.num_prompt) == ("Sort this.", 9)
    assert recorded.controller.num_tokens == 5 + 1
    found = searched(recorded.controller, recorded.controller.num_tokens)
    assert sorted(map(len, answers(found))) == [1, 3, 4, 5]
    assert found.num_rows == len(PROMPT) + 4 + 2 + 1 + 3 + 1
    # A node lives as long as it was recorded to.
    lives = {
        (n.end - n.first, n.ended - n.began) for n in found.tree.nodes.values() if n.parent == 0
    }
    assert lives == {(4, 4), (2, 2), (1, 1)}
    inner = [n for n in found.tree.nodes.values() if n.state is NodeState.SHARED]
    assert sorted(n.num_shared for n in inner) == [2, 5]


def test_tokens_are_the_most_probable_ones_and_siblings_differ():
    found = searched(recording_of(DEFT).controller, 6)
    likely = np.argsort(-logs_after(PROMPT))[:3].tolist()
    starts = [found.tree.new_tokens(n)[0] for n in found.ranked]
    assert set(starts) == set(likely)
    for number in found.ranked:
        path = found.tree.path(number)[1:]
        for node in path:
            for place in range(1, len(node.tokens)):
                before = found.tree.text(node.id)[: node.first + place]
                assert node.tokens[place] == logs_after(before).argmax()


def test_recorded_tokens_are_taken():
    found = searched(recording_of(OURS).controller, 9, prompt=OURS["prompt"])
    texts = sorted(answers(found), key=len)
    assert texts[0] == [7, 8, 9]
    assert texts[1][:2] == [7, 8]
    assert len(texts[1]) == 5


def test_end_tokens_are_like_others():
    plain = answers(searched(recording_of(DEFT).controller, 6))
    assert answers(searched(recording_of(DEFT).controller, 6, ends=frozenset(range(97)))) == plain


def test_a_chain_of_any_length():
    nodes = [{"parent": n - 1 if n else None, "tokens": 1} for n in range(1200)]
    found = searched(recording_of({"prompt": [1], "nodes": nodes}).controller, 300)
    assert [len(tokens) for tokens in answers(found)] == [300]
    assert found.tree.node(found.ranked[0]).reason == "length"


def test_files(tmp_path):
    file = tmp_path / "trees.json"
    file.write_text(json.dumps([DEFT, {**DEFT, "data": {}}, OURS]))
    assert read_recording(file).controller == recording_of(DEFT).controller
    assert read_recording(file, 2).prompt == [1, 2, 3]
    with pytest.raises(DataError, match=r"trees.json, tree 1: The tree is empty; take another"):
        read_recording(file, 1)
    with pytest.raises(SettingsError, match=r"has 3 trees and none of number 3; give 0 to 2"):
        read_recording(file, 3)
    with pytest.raises(DataError, match=r"Cannot read .*none.json"):
        read_recording(tmp_path / "none.json")
    with pytest.raises(DataError, match=r"Found nothing, expected the keys prompt and data"):
        recording_of({"nothing": 1})
    with pytest.raises(DataError, match=r"A node is not as expected"):
        recording_of({"prompt": "x", "nodes": [{"parent": None}]})


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([], "at least 1"),
        ([{"parent": 0, "num_tokens": 1}], r"node 0 has the parent 0; give one before it"),
        ([{"parent": None, "num_tokens": 0}], "greater than or equal to 1"),
        ([{"parent": None, "num_tokens": 2, "tokens": [1]}], r"node 0 has 1 tokens, and says"),
    ],
)
def test_recordings_that_make_no_sense(nodes, message):
    with pytest.raises(ValueError, match=message):
        Replay(nodes=nodes)


def test_empty_thoughts_are_left_out_and_what_follows_them_is_kept():
    data = {
        "0": {"id": 0, "value": 3, "children": [1, 2]},
        "1": {"id": 1, "value": 0, "children": [3]},
        "2": {"id": 2, "value": 2, "children": [4]},
        "3": {"id": 3, "value": 5, "children": []},
        "4": {"id": 4, "value": 0, "children": []},
    }
    nodes = recording_of({"prompt": "a", "data": data}).nodes
    assert [(node.parent, node.num_tokens) for node in nodes] == [(None, 2), (None, 5)]
    data["0"]["children"] = [4]
    with pytest.raises(DataError, match="no tokens behind its prompt"):
        recording_of({"prompt": "a", "data": data})
