"""The best of several libraries: what the choice costs, ties, None twins, and how often nothing is called a gain."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.scores import ends, flips

from trgrpo_dspy.evaluation.statistics.best import _largest_statistics, select_best

stats = pytest.importorskip("scipy.stats")

QUARTERS = st.integers(0, 4).map(lambda quarters: quarters / 4)
ROWS = st.lists(st.tuples(QUARTERS, QUARTERS, QUARTERS), min_size=2, max_size=30)


def test_a_clear_gain_is_an_improvement():
    baseline, better = flips(20, 2, 38)
    result = select_best(baseline, [baseline, better])
    assert (result.best, result.gain, result.n, result.tried) == (1, 0.3, 60, 2)
    low, high = ends(result.interval)
    assert result.improved and 0 < low < 0.3 < high and result.p_value < 0.01


def test_the_input_is_kept_on_a_tie_or_without_candidates():
    scores, worse = [0.0, 1.0, None, 1.0], [0.0, 0.0, 1.0, 1.0]
    for candidates in ([], [scores], [worse, scores], [[1.0, 0.0, 1.0, 1.0]], [[None, None, 1.0, None]]):
        result = select_best(scores, candidates)
        assert (result.best, result.gain, result.interval, result.improved) == (None, None, None, False)
        assert (result.p_value, result.n, result.tried) == (None, 3, len(candidates))


def test_first_of_equal_candidates_wins():
    baseline, better = flips(5, 1, 20)
    assert select_best(baseline, [baseline, better, better[:]]).best == 1
    tenths = [[0.1, 0.2, 0.3], [0.3, 0.1, 0.2]]  # equal sums in exact arithmetic
    assert select_best([0.0] * 3, tenths).best == 0


@pytest.mark.parametrize(("wins", "p_value"), [(4, 2 / 16), (5, 2 / 32), (8, 2 / 256)])
def test_sparse_wins_meet_the_exact_sign_test(wins, p_value):
    baseline, better = flips(wins, 0, 60)
    result = select_best(baseline, [better], resamples=4000)
    assert result.p_value >= p_value * 0.7 and result.improved is (p_value < 0.05)


def test_more_candidates_widen_the_interval_and_copies_of_one_do_not():
    rng = np.random.default_rng(5)
    baseline, better = flips(14, 3, 43)
    others = [other for other in rng.integers(0, 2, size=(30, 60)).astype(float).tolist() if sum(other) < sum(better)]
    alone, among = select_best(baseline, [better]), select_best(baseline, [better, *others])
    assert alone.best == among.best == 0 and alone.improved
    assert ends(among.interval)[0] < ends(alone.interval)[0] and among.p_value > alone.p_value
    assert ends(select_best(baseline, [better] * 20).interval) == pytest.approx(ends(alone.interval), abs=1e-5)


def test_the_critical_value_is_that_of_the_largest_of_all_candidates():
    gains = np.random.default_rng(0).normal(size=(20, 400))
    gains[0] += 0.5
    for tried in (1, 20):
        result = select_best([0.0] * 400, gains[:tried].tolist(), resamples=4000)
        low, high = ends(result.interval)
        each = 0.95 ** (1 / tried)  # independent candidates
        reach = stats.norm.ppf((1 + each) / 2) * gains[0].std() / 20
        assert (result.best, result.improved) == (0, True)
        assert (high - low) / 2 == pytest.approx(reach, rel=0.06)


def test_both_resampling_maxima_run_over_all_candidates():
    table = np.random.default_rng(1).choice([-1.0, 0.0, 1.0], size=(40, 3))
    mask, centre, roots = np.ones(table.shape, dtype=bool), table.sum(axis=0) / 41, np.sqrt((table != 0).sum(axis=0))
    together = _largest_statistics(table, mask, centre, roots, seed=0, resamples=200)
    alone = [
        _largest_statistics(table[:, [j]], mask[:, [j]], centre[[j]], roots[[j]], seed=0, resamples=200)
        for j in range(3)
    ]
    for i in (0, 1):
        assert together[i] == pytest.approx(np.max([single[i] for single in alone], axis=0), rel=1e-4)


@settings(max_examples=20, deadline=None)
@given(ROWS, st.integers(0, 4), st.randoms(use_true_random=False))
def test_none_twin_order_and_agreement(rows, missing, random):
    columns = [list(column) for column in zip(*rows, strict=True)]
    plain = select_best(columns[0], columns[1:], resamples=200)
    mixed = [*rows, *[(None, 1.0, 0.0), (None, None, None)] * missing]
    random.shuffle(mixed)
    columns = [list(column) for column in zip(*mixed, strict=True)]
    assert select_best(columns[0], columns[1:], resamples=200) == plain
    if plain.best is not None:
        low, high = ends(plain.interval)
        assert low <= plain.gain <= high and plain.improved == (low > 0) == (plain.p_value <= 0.05)


def test_each_candidate_meets_the_baseline_on_its_own_pairs():
    baseline, better = flips(20, 2, 38)
    partial = [score if i % 2 else None for i, score in enumerate(better)]
    result = select_best(baseline, [partial, baseline])
    alone = select_best([baseline[i] for i in range(1, 60, 2)], [better[1::2]])
    assert (result.best, result.n, result.gain) == (0, 30, alone.gain)
    assert ends(result.interval) == pytest.approx(ends(alone.interval), abs=0.03)


def test_same_seed_same_answer():
    baseline, *candidates = np.random.default_rng(0).random((6, 40)).tolist()
    assert select_best(baseline, candidates, seed=4) == select_best(baseline, candidates, seed=4)
    assert select_best(baseline, candidates, seed=4) != select_best(baseline, candidates, seed=5)


@pytest.mark.parametrize(("rate", "libraries", "n"), [(0.1, 15, 20), (0.5, 1, 60), (0.5, 15, 60), (0.9, 15, 20)])
def test_small_null_calibration(rate, libraries, n):
    rng, said = np.random.default_rng(7), 0
    for run in range(300):
        baseline, *candidates = (rng.random((libraries + 1, n)) < rate).astype(float).tolist()
        said += select_best(baseline, candidates, seed=run, resamples=300).improved
    assert said <= 20  # at most 7.5 expected; about 60 without the adjustment for 15 candidates
