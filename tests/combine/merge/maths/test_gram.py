import numpy as np
from hypothesis import given

from combine.merge.sites import COUNTS, RUNS, SEEDS, SHAPES, MemorySite, normal
from treadle.combine.merge.maths.gram import cosines, gram, gram_of_columns, gram_of_rows


@given(SHAPES, COUNTS, SEEDS, RUNS)
def test_products_of_tensors_rows_and_columns(shape, count, seed, run) -> None:
    models = [normal(*shape, seed=seed + place) for place in range(count)]
    site = MemorySite(models, run=run)
    wide = np.array(models, np.float64).reshape(count, -1)
    found = gram(chunk.models for chunk in site.chunks("elements"))
    assert np.allclose(found, wide @ wide.T, rtol=1e-12)
    width = shape[-1] if shape else 1
    rows = wide.reshape(count, -1, width)
    expected = np.einsum("irn,jrn->ijr", rows, rows)
    assert np.allclose(gram_of_rows(wide.astype(np.float32), width), expected, rtol=1e-12)
    columns = wide.reshape(count, shape[0] if shape else 1, -1)
    runs = ((chunk.first, chunk.models) for chunk in site.chunks("elements"))
    totals = gram_of_columns(runs, columns.shape[2])
    assert np.allclose(totals, np.einsum("inc,jnc->ijc", columns, columns), rtol=1e-12)


def test_cosines_of_a_vector_without_direction_are_zero() -> None:
    products = np.array([[4.0, 2.0, 0.0], [2.0, 4.0, 0.0], [0.0, 0.0, 0.0]])
    found = cosines(products, 1e-8)
    assert found.tolist() == [[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 0.0]]
