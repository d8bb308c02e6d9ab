"""Our own out forms against the operators that they stand for."""

import pytest
import torch

from treadle.model.graph.out_forms import _OWN, out_form

aten = torch.ops.aten
INDICES = torch.tensor([[0, 3, 3], [1, 0, 5]])
ROWS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
LIKE = {"dtype": torch.float32}
CASES = [
    (aten.clone.default, (ROWS,), {}),
    (aten._to_copy.default, (ROWS,), {"dtype": torch.bfloat16}),
    (aten.lift_fresh_copy.default, (ROWS,), {}),
    (aten.mul.Scalar, (ROWS, 3), {}),
    (aten.add.Scalar, (ROWS, 3, 2), {}),
    (aten.sub.Scalar, (ROWS, 3), {}),
    (aten.div.Scalar, (ROWS, 3), {}),
    (aten.embedding.default, (ROWS, INDICES), {}),
    (aten.embedding_dense_backward.default, (torch.randn(2, 3, 4), INDICES, 6, -1, False), {}),
    (aten.embedding_dense_backward.default, (torch.randn(2, 3, 4), INDICES, 6, 3, False), {}),
    (aten.slice_backward.default, (ROWS[1:5:2], [6, 4], 0, 1, 5, 2), {}),
    (aten.slice_backward.default, (ROWS[:-1], [6, 4], 0, 0, -1, 1), {}),
    (aten.select_backward.default, (ROWS[2], [6, 4], 0, 2), {}),
    (aten.constant_pad_nd.default, (ROWS, [1, 2, 0, 3], 7.0), {}),
    (aten.constant_pad_nd.default, (ROWS, [0, 1]), {}),
    (aten.repeat.default, (ROWS, [2, 1, 3]), {}),
    (aten.masked_fill.Scalar, (ROWS, ROWS > 0, 2.0), {}),
    (aten.masked_fill.Tensor, (ROWS, ROWS > 0, torch.tensor(2.0)), {}),
    (aten.index_put.default, (ROWS, [torch.tensor([1, 1])], torch.ones(2, 4), True), {}),
    (aten.zeros.default, ([2, 3],), LIKE),
    (aten.ones.default, ([2, 3],), LIKE),
    (aten.zeros_like.default, (ROWS,), {}),
    (aten.ones_like.default, (ROWS,), {}),
    (aten.new_zeros.default, (ROWS, [2, 3]), {}),
    (aten.new_ones.default, (ROWS, [2, 3]), {}),
    (aten.full.default, ([2, 3], 5), LIKE),
    (aten.full_like.default, (ROWS, 5), {}),
    (aten.new_full.default, (ROWS, [2], 5), {}),
    (aten.scalar_tensor.default, (5,), LIKE),
]
EMPTY = {"empty_like", "new_empty_strided", "empty_strided"}


def node_of(target, args, kwargs):
    graph = torch.fx.Graph()
    return graph.call_function(target, args, kwargs)


@pytest.mark.parametrize(
    ("target", "args", "kwargs"),
    CASES,
    ids=[f"{target}-{number}" for number, (target, *_) in enumerate(CASES)],
)
def test_own_form_writes_what_the_operator_returns(target, args, kwargs):
    expected = target(*args, **kwargs)
    form = out_form(node_of(target, args, kwargs))
    given = torch.full_like(expected, 77)
    known = {key: value for key, value in kwargs.items() if key in form.takes}
    form.target(*args, **known, **{form.out_names[0]: given})
    assert torch.equal(given, expected)


def test_every_own_form_is_tried():
    tried = {str(target).removeprefix("aten.").removesuffix(".default") for target, _, _ in CASES}
    assert tried | EMPTY == set(_OWN)


def test_kernels_that_make_their_own_tensors_have_none():
    rows = (ROWS, [4], None, None, 1e-5)
    assert out_form(node_of(aten.native_layer_norm.default, rows, {})) is None
    scaled = (torch.randn(2, 3, 4), INDICES, 6, -1, True)
    assert out_form(node_of(aten.embedding_dense_backward.default, scaled, {})) is None
    assert out_form(node_of(aten.constant_pad_nd.default, (ROWS, [-1, 0]), {})) is None
    assert out_form(node_of(torch.sin, (ROWS,), {})) is None


def test_declared_forms_are_found():
    form = out_form(node_of(aten.mm.default, (ROWS, ROWS.t()), {}))
    assert form.target is aten.mm.out
    form = out_form(node_of(aten.max_pool2d_with_indices.default, (ROWS[None], [2, 2]), {}))
    assert form.out_names == ("out", "indices")
