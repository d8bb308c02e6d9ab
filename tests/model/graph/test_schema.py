import json

import pytest

from treadle.core.errors import DataError
from treadle.model.graph.schema import Graph, GraphValue, Operator, load_graph, save_graph

GRAPH = Graph(
    "two",
    (
        Operator("a", "aten.mm", "forward", (0,), (1,), (), 0, 8, ()),
        Operator("b", "aten.add", "backward", (1,), (2,), (0,), 16, 4, ((1, 2),), ((1, 2),)),
        Operator("u", "update.sgd", "update", (2, 0), (), (0, 1), 0, 4, ()),
    ),
    (
        GraphValue(16, "float32", (2, 2), "parameter", "w", False),
        GraphValue(16, "float32", (2, 2), "temporary", "a", False),
        GraphValue(16, "float32", (2, 2), "temporary", "b", True),
    ),
)


def test_graph_survives_the_file(tmp_path):
    save_graph(GRAPH, tmp_path / "graph.json")
    assert load_graph(tmp_path / "graph.json") == GRAPH


def test_producers_and_predecessors():
    assert GRAPH.producers() == [None, 0, 1]
    assert GRAPH.predecessors() == [[], [0], [0, 1]]
    assert GRAPH.persistent_bytes == 16


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("format",), "other/1", "has the format 'other/1'"),
        (("operators", 0, "inputs"), [9], "operator 0 names 9, expected 0 to 2"),
        (("operators", 0, "after"), [0], "operator 0 names 0"),
        (("operators", 1, "outputs"), [1], "made by two operators"),
        (("operators", 1, "in_place"), [[1, 7]], "operator 1 names 7"),
        (("values",), [{"num_bytes": 1}], "is no graph of a step"),
    ],
)
def test_bad_file_is_refused(tmp_path, where, value, message):
    path = tmp_path / "graph.json"
    save_graph(GRAPH, path)
    read = json.loads(path.read_text())
    *outer, last = where
    inner = read
    for key in outer:
        inner = inner[key]
    inner[last] = value
    path.write_text(json.dumps(read))
    with pytest.raises(DataError, match=message):
        load_graph(path)
