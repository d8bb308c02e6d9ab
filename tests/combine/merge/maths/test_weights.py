import numpy as np
import pytest

from treadle.combine.merge.maths.weights import each, spread
from treadle.core.errors import SettingsError


def test_one_value_is_for_all() -> None:
    assert spread((0.7,), 3) == (0.7, 0.7, 0.7)
    assert spread((0.1, 0.2), 2) == (0.1, 0.2)
    assert each((0.5,), 2).tolist() == [0.5, 0.5]
    assert each((1.0, 3.0), 2, normalize=True).tolist() == [0.25, 0.75]
    assert each((1.0,), 2).dtype == np.float32


def test_another_number_of_values_is_refused() -> None:
    with pytest.raises(SettingsError, match="2 values were given for 3 models; give one for all"):
        spread((1.0, 2.0), 3)


def test_a_sum_of_zero_cannot_be_normalised() -> None:
    with pytest.raises(SettingsError, match=r"\[1.0, -1.0\] sum to zero"):
        each((1.0, -1.0), 2, normalize=True)
