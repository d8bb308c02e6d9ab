"""Best of n: the best of what is drawn, which is better than what chance gives."""

import numpy as np
import pytest

from runtime.decode.toy import PROMPT, answers, logprob_of, logs_after, searched
from treadle.core.errors import DataError
from treadle.runtime.decode.methods.best_of import BestOf


def length_of_low(candidates) -> list[float]:
    """How many tokens are below 30."""
    return [float(sum(token < 30 for token in one.tokens)) for one in candidates]


def test_the_best_by_the_scorer_beats_one_by_chance():
    better = []
    for seed in range(8):
        found = searched(BestOf(n=6), 8, seed=seed, worth=length_of_low)
        scores = [found.tree.node(n).score for n in found.ranked]
        assert scores == sorted(scores, reverse=True)
        own = [sum(token < 30 for token in tokens) for tokens in answers(found)]
        assert scores == own
        better.append(scores[0] - np.mean(scores))
    assert np.mean(better) > 1
    assert min(better) >= 0


def test_without_a_scorer_the_mean_log_probability_counts():
    found = searched(BestOf(n=4), 5, seed=3)
    for number, tokens in zip(found.ranked, answers(found), strict=True):
        assert found.tree.node(number).score == pytest.approx(logprob_of(tokens) / 5, rel=1e-5)


def test_no_two_answers_begin_alike_unless_asked():
    found = searched(BestOf(n=97), 1)
    assert sorted(tokens[0] for tokens in answers(found)) == list(range(97))
    found = searched(BestOf(n=12, is_distinct=False, temperature=0.3), 2)
    starts = [tokens[0] for tokens in answers(found)]
    assert len(starts) == 12
    assert len(set(starts)) < 12
    assert len({tuple(tokens) for tokens in answers(found)}) > 1


def test_draws_follow_the_branch_and_not_the_company():
    alone = answers(searched(BestOf(n=4, temperature=0.8), 7, seed=5))
    again = answers(searched(BestOf(n=4, temperature=0.8), 7, seed=5))
    other = answers(searched(BestOf(n=4, temperature=0.8), 7, seed=6))
    fewer = answers(searched(BestOf(n=2, temperature=0.8), 7, seed=5))
    assert alone == again != other
    assert all(tokens in alone for tokens in fewer)


def test_at_temperature_0_it_goes_on_with_the_most_probable():
    found = answers(searched(BestOf(n=3, temperature=0), 4))
    likely = np.argsort(-logs_after(PROMPT))[:3].tolist()
    assert sorted(tokens[0] for tokens in found) == sorted(likely)
    for tokens in found:
        for place in range(1, 4):
            assert tokens[place] == logs_after([*PROMPT, *tokens[:place]]).argmax()


def test_an_answer_ends_with_an_end_token_or_a_stop_string():
    ends = frozenset(range(40, 60))
    found = searched(BestOf(n=8), 30, ends=ends)
    assert all(tokens[-1] in ends for tokens in answers(found))
    assert {found.tree.node(n).reason for n in found.ranked} == {"stop"}
    found = searched(BestOf(n=8, stop=(".",)), 60)
    for tokens in answers(found):
        assert not any(token % 7 == 0 for token in tokens[:-1])
        assert tokens[-1] % 7 == 0 or len(tokens) == 60


@pytest.mark.parametrize("given", [[1.0], ["a", "b"], [1.0, float("nan")], None])
def test_a_scorer_that_gives_no_numbers_is_named(given):
    with pytest.raises(DataError, match=r"for 2 branches, expected a number for each; mend the"):
        searched(BestOf(n=2), 2, worth=lambda candidates: given)
