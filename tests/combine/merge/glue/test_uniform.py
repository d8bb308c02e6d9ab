"""The control: the mean of all."""

import numpy as np

from combine.merge.glue.pools import Bowl
from treadle.combine.merge.glue.methods.uniform import Uniform
from treadle.core.run import is_control


def test_all_count_alike_and_none_is_asked():
    pool = Bowl([[1.0, 0.0, 0.0, 0.0]])
    assert np.allclose(Uniform().search(pool), 0.25)
    assert pool.asked == []
    assert is_control(Uniform())
