from treadle.shrink.prune.methods.uniform import Uniform


def test_every_block_gets_the_same() -> None:
    assert Uniform().allocate(([] for _ in range(4)), 0.37) == [0.37] * 4


def test_limits_no_block() -> None:
    assert Uniform().allocate([], 0.5) == []
