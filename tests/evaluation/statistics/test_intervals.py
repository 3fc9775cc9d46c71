"""Means, Mean@k and Pass@k: known values, None twins, and that no certainty is claimed."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.scores import ends

from trgrpo_dspy.evaluation.statistics.intervals import mean_at_k, mean_with_interval, pass_at_k

stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize("n", [2, 3, 7, 61, 1000])
def test_scores_of_any_range_get_the_t_interval(n):
    scores = np.random.default_rng(n).normal(50, 20, size=n)
    mean = mean_with_interval(scores.tolist())
    expected = stats.ttest_1samp(scores, 0).confidence_interval(0.95)
    assert ends(mean.interval) == pytest.approx((expected.low, expected.high), rel=1e-5, abs=1e-5)
    assert mean.interval.level == 0.95


@pytest.mark.parametrize(("correct", "n"), [(0, 5), (1, 2), (3, 10), (57, 60), (60, 60)])
def test_zeros_and_ones_get_the_wilson_interval(correct, n):
    mean = mean_with_interval([1] * correct + [0] * (n - correct))
    expected = stats.binomtest(correct, n).proportion_ci(method="wilson")
    assert mean.value == pytest.approx(correct / n)
    assert ends(mean.interval) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_scores_inside_the_unit_range_stay_there_and_are_tighter_than_zeros_and_ones():
    low, high = ends(mean_with_interval([1.0] * 28 + [0.9, 0.8]).interval)
    wide_low, wide_high = ends(mean_with_interval([1.0] * 28 + [0.0, 0.0]).interval)
    assert 0.9 < low < 0.99 < high <= 1.0 and high - low < wide_high - wide_low


def test_pass_at_k_near_the_ceiling_is_covered():
    """Nearly all examples are solved for sure; without an unseen one that fails it covers in 39% of runs."""
    rng, runs, held = np.random.default_rng(3), 400, 0
    rates = np.clip(rng.normal(1.35, 0.45, size=100_000), 0, 1)
    truth = np.mean(1 - (1 - rates) ** 16)
    for _ in range(runs):
        solved = rng.binomial(32, rng.choice(rates, size=30))
        low, high = ends(mean_with_interval([pass_at_k(32, int(c), 16) for c in solved]).interval)
        held += low <= truth <= high
    assert held / runs >= 0.91


@pytest.mark.parametrize("near", [0.0, 1.0])
def test_the_far_end_of_a_mean_takes_in_a_score_at_the_other_bound(near):
    away = np.array([0.02, 0.05, *[0.0] * 28])
    interval = ends(mean_with_interval(np.abs(near - away).tolist()).interval)
    weights, values = np.array([1.0] * 30 + [4 / 9]), np.array([*away, 1.0])
    mean = weights @ values / weights.sum()
    reach = stats.t.ppf(0.975, 29) * math.sqrt(weights @ (values - mean) ** 2 / (weights.sum() - 1) / weights.sum())
    assert interval[0 if near else 1] == pytest.approx(abs(near - mean - reach))
    assert abs(near - interval[1 if near else 0]) < away.mean()


def test_identical_scores_one_score_and_none_claim_no_certainty():
    assert ends(mean_with_interval([1.0] * 20).interval)[0] == pytest.approx(0.8389, abs=1e-3)
    missed = 1 - 0.025 ** (1 / 20)
    assert ends(mean_with_interval([0.5] * 20).interval) == pytest.approx((0.5 - missed / 2, 0.5 + missed / 2))
    assert mean_with_interval([7.0] * 20).interval is None
    one, nothing = mean_with_interval([0.25]), mean_with_interval([None, None])
    assert (one.value, one.interval) == (0.25, None)
    assert (nothing.value, nothing.interval, nothing.n, nothing.unscored) == (None, None, 0, 2)


def test_booleans_and_numpy_numbers_are_scores():
    assert mean_with_interval([True, False, None]).value == 0.5
    assert mean_with_interval([np.bool_(True), np.float32(0.5), None]).value == 0.75


@given(
    st.lists(st.integers(0, 4).map(lambda x: x / 4), min_size=2, max_size=40),
    st.integers(0, 5),
    st.randoms(use_true_random=False),
)
def test_mean_none_twin_and_order(scores, missing, random):
    plain, mixed = mean_with_interval(scores), [*scores, *[None] * missing]
    random.shuffle(mixed)
    twin = mean_with_interval(mixed)
    assert (twin.value, twin.interval, twin.n, twin.unscored) == (plain.value, plain.interval, plain.n, missing)
    low, high = ends(twin.interval)
    assert 0 <= low <= twin.value <= high <= 1 and low < high


@pytest.mark.parametrize(
    ("scores", "units", "brief"),
    [
        ([1.0, 0.0], None, "0.500"),
        ([1.0, 0.0], [0, 1], "0.500"),
        ([1.0, None, 0.5], [0, 1, 2], "0.750 over 2 of 3 examples"),
        ([1.0, 1.0, 0.5], [0, 0, 1], "0.833 over 3 examples (2 distinct)"),
        ([None, None], [0, 1], "unscored (0 of 2 examples)"),
    ],
)
def test_a_printed_mean_says_over_how_many_where_it_is_not_over_all(scores, units, brief):
    assert mean_with_interval(scores, units=units).brief == brief


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_pass_at_k_equals_the_share_of_draws_with_a_correct_one(n):
    """At k=1 it is Mean@k."""
    for correct, k in itertools.product(range(n + 1), range(1, n + 1)):
        draws = list(itertools.combinations([1] * correct + [0] * (n - correct), k))
        assert pass_at_k(n, correct, k) == pytest.approx(sum(map(max, draws)) / len(draws), abs=1e-15)


def test_pass_at_k_is_stable_for_many_attempts():
    assert (pass_at_k(5000, 1, 1), pass_at_k(5000, 1, 2500)) == (1 / 5000, 0.5)
    assert 0 < 1 - pass_at_k(2000, 20, 1000) < 2e-6


@pytest.mark.parametrize(
    ("n", "correct", "k", "message"),
    [
        (0, 0, 1, "n is 0; it must be at least 1"),
        (4, 5, 1, "correct is 5; it must be from 0 to n = 4"),
        (4, -1, 1, "correct is -1"),
        (4, 2, 0, "k is 0; it must be from 1 to n = 4"),
        (4, 2, 5, "k is 5"),
    ],
)
def test_pass_at_k_names_the_value_and_the_range(n, correct, k, message):
    with pytest.raises(ValueError, match=message):
        pass_at_k(n, correct, k)


def test_mean_at_k_leaves_unscored_attempts_out():
    assert mean_at_k([[1, 0, None], [None, None], [], [0.5]]) == [0.5, None, None, 0.5]
    assert mean_at_k([]) == []
    with pytest.raises(ValueError, match=r"scores_per_example\[1\]\[2\] is nan"):
        mean_at_k([[1], [0, None, math.nan]])
