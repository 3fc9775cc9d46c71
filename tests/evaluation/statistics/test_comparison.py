"""Paired comparison: published values, None twins, invariances, coverage, and what can be detected."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.scores import ends, flips

from trgrpo_dspy.evaluation.statistics.best import select_best
from trgrpo_dspy.evaluation.statistics.comparison import Flip, paired_comparison
from trgrpo_dspy.evaluation.statistics.intervals import mean_with_interval

stats, optimize = pytest.importorskip("scipy.stats"), pytest.importorskip("scipy.optimize")

QUARTERS = st.integers(0, 4).map(lambda quarters: quarters / 4)
PAIRS = st.lists(st.tuples(QUARTERS, QUARTERS), min_size=2, max_size=40)
OPTIONAL_PAIRS = st.lists(st.tuples(QUARTERS | st.none(), QUARTERS | st.none()), min_size=1, max_size=30)
NUMBERS = st.floats(-5, 5, allow_subnormal=False)
CONTINUOUS_PAIRS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=12, max_size=30)


def test_counts_and_flips_largest_first_with_both_scores():
    result = paired_comparison([0.5, 0.25, None, 1.0, 0.0, 1.0], [0.75, 1.0, 1.0, 0.25, None, 1.0])
    assert (result.wins, result.ties, result.losses, result.n, result.unscored) == (2, 1, 1, 4, 2)
    assert result.flips == (Flip(1, 0.25, 1.0), Flip(3, 1.0, 0.25), Flip(0, 0.5, 0.75))
    assert (str(result.flips[0]), result.flipped) == ("example 1: 0.25 -> 1", (0, 1, 3))
    assert result.difference == pytest.approx(1 / 16) and not result.reliable
    noise = paired_comparison([0.1 + 0.2, 1.0], [0.3, 1.0])
    assert (noise.ties, noise.flipped) == (2, ()), "rounding is a tie"


def test_differences_of_one_size_get_the_published_score_interval():
    """Bentur et al. (2009) as worked out in Fagerland, Lydersen and Laake (2014): 1 won, 7 lost, 13 tied."""
    for size in (1.0, 0.25):
        a, b = ([size * x for x in scores] for scores in flips(1, 7, 13))
        result = paired_comparison(a, b)
        assert ends(result.interval) == pytest.approx((-0.517 * size, -0.026 * size), abs=5e-4)
        assert result.method == "Tango's score interval"


@pytest.mark.parametrize(("wins", "losses", "ties"), [(9, 3, 28), (4, 0, 26), (2, 11, 80), (12, 12, 6), (1, 0, 1)])
def test_the_score_interval_is_where_the_score_test_turns(wins, losses, ties):
    """At its ends the likeliest shares with that difference, found by scipy, put the difference at the quantile."""
    n = wins + losses + ties
    for end in ends(paired_comparison(*flips(wins, losses, ties)).interval):

        def unlikely(lost, end=end):
            shares = (lost + end, lost, 1 - 2 * lost - end)
            return -sum(x * math.log(max(p, 1e-300)) for x, p in zip((wins, losses, ties), shares, strict=True) if x)

        bounds = max(0.0, -end), (1 - end) / 2
        lost = optimize.minimize_scalar(unlikely, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
        z = ((wins - losses) / n - end) / math.sqrt((2 * lost + end - end**2) / n)
        assert abs(z) == pytest.approx(stats.norm.ppf(0.975), rel=1e-3)


@pytest.mark.parametrize(("wins", "losses"), [(6, 0), (5, 1), (9, 2), (10, 2), (15, 6), (16, 6), (4, 0), (3, 0)])
def test_zero_is_left_out_where_mcnemars_test_rejects(wins, losses):
    p = stats.chi2.sf((wins - losses) ** 2 / (wins + losses), 1)
    assert (ends(paired_comparison(*flips(wins, losses, 40)).interval)[0] > 0) is bool(p < 0.05)


@pytest.mark.parametrize("gains", [[0.1, 0.05, 0.05], [0.002 * i for i in range(1, 13)]])  # few sizes, and many
@pytest.mark.parametrize(("offset", "span"), [(0.0, 1.0), (3.0, None)])
def test_the_far_end_takes_in_a_larger_difference_that_was_not_seen(gains, offset, span):
    """Student's t of the differences and part of one as large as scores allow; the end towards zero is unchanged."""
    d, a = np.array([*gains, *[0.0] * (30 - len(gains))]), np.full(30, offset)
    low, high = ends(paired_comparison(a.tolist(), (a + d).tolist()).interval)
    weights = np.array([1.0] * 30 + [(2 / (len(gains) + 1)) ** 2])
    values = np.array([*d, span or d.max()])  # inside [0, 1] the whole of it, elsewhere what the scores span
    mean = weights @ values / weights.sum()
    spread = weights @ (values - mean) ** 2 / (weights.sum() - 1)
    far = mean + stats.t.ppf(0.975, 29) * math.sqrt(spread / weights.sum())
    assert high >= far - 1e-9
    if span:
        assert high == pytest.approx(far) and d.mean() - low < 0.6 * (high - d.mean())
    assert ends(paired_comparison((a + d).tolist(), a.tolist()).interval) == pytest.approx((-high, -low))


@pytest.mark.parametrize("sizes", ["few", "many"])
def test_several_sizes_take_in_the_t_interval(sizes):
    rng = np.random.default_rng(3)
    few = np.array([1.0] * 3 + [0.5] * 4 + [-0.5] * 2 + [0.0] * 31)
    gains = few if sizes == "few" else rng.normal(size=50) + rng.exponential(size=50)
    result = paired_comparison([0.0] * len(gains), gains.tolist())
    (low, high), expected = ends(result.interval), stats.ttest_1samp(gains, 0).confidence_interval(0.95)
    assert low <= expected.low + 1e-6 and high >= expected.high - 1e-6
    assert high - low < 1.3 * (expected.high - expected.low)
    assert result.method.startswith("wider of t, a larger difference unseen, and ")


def test_all_ties_and_all_wins_claim_no_certainty():
    tied, percent = paired_comparison([1.0] * 30, [1.0] * 30), paired_comparison([80.0] * 30, [80.0] * 30)
    assert ends(tied.interval) == pytest.approx((-0.1157, 0.1157), abs=1e-4)
    assert "tied" in tied.method and tied.detectable > 0.1
    assert ends(percent.interval)[1] == pytest.approx(80 * 0.1157, abs=1e-2)
    low, high = ends(paired_comparison([0.0] * 30, [1.0] * 30).interval)
    assert 0.75 < low < 0.95 and high >= 1


@pytest.mark.parametrize(("n", "reliable"), [(29, False), (30, True)])
def test_reliable_from_thirty_distinct_inputs(n, reliable):
    assert paired_comparison([0.0, *[1.0] * n], [None, *[1.0] * n]).reliable is reliable
    rows = [1.0] * (2 * n)
    assert paired_comparison(rows, rows, units=[*range(n)] * 2).reliable is reliable


def test_fewer_than_two_pairs():
    one, none = paired_comparison([0, None], [1, 1]), paired_comparison([0, None], [None, 1])
    assert (one.difference, one.interval, one.detectable, one.n) == (1.0, None, None, 1)
    assert (none.difference, none.interval, none.n, none.unscored) == (None, None, 0, 2)
    assert str(none) == "not measured: no example was scored for both programs"


@pytest.mark.parametrize(("wins", "words"), [(3, "; with only 3 that differ the interval is rough"), (4, "")])
def test_the_text_says_so_where_few_differ(wins, words):
    text = str(paired_comparison(*flips(wins, 0, 36)))
    assert ("rough" in text) is bool(words) and words in text
    assert "rough" not in str(paired_comparison([0.0, 1.0], [1.0, 1.0]))


@settings(max_examples=25)
@given(OPTIONAL_PAIRS)
def test_none_twin(pairs):
    a, b = ([pair[i] for pair in pairs] for i in (0, 1))
    full = paired_comparison(a, b)
    scored = [i for i, pair in enumerate(pairs) if None not in pair]
    assert (full.n, full.unscored) == (len(scored), len(pairs) - len(scored))
    if scored:
        twin = paired_comparison([a[i] for i in scored], [b[i] for i in scored])
        assert tuple(scored[i] for i in twin.flipped) == full.flipped
        assert replace(twin, flips=(), unscored=0) == replace(full, flips=(), unscored=0)


@settings(max_examples=25, deadline=None)
@given(PAIRS | CONTINUOUS_PAIRS, st.randoms(use_true_random=False))
def test_swap_and_order(pairs, random):
    a, b = ([pair[i] for pair in pairs] for i in (0, 1))
    plain, swapped = paired_comparison(a, b), paired_comparison(b, a)
    low, high = ends(plain.interval)
    assert low <= plain.difference <= high and low < high
    assert ends(swapped.interval) == pytest.approx((-high, -low), rel=1e-9, abs=1e-12)
    assert swapped.difference == -plain.difference
    assert (swapped.wins, swapped.losses, swapped.flipped) == (plain.losses, plain.wins, plain.flipped)
    random.shuffle(pairs)
    shuffled = paired_comparison([p[0] for p in pairs], [p[1] for p in pairs])
    assert (shuffled.interval, shuffled.detectable) == (plain.interval, plain.detectable)


@settings(max_examples=25)
@given(PAIRS.filter(lambda pairs: any(x != y for x, y in pairs)), st.sampled_from([*range(-8, 0), *range(2, 9)]))
def test_shift(pairs, shift):
    """Outside [0, 1], which is a span of its own."""
    a, b = ([pair[i] for pair in pairs] for i in (0, 1))
    moved, plain = (paired_comparison([x + by for x in a], [x + by for x in b]) for by in (shift, 1))
    assert moved.flipped == plain.flipped
    assert replace(moved, flips=()) == replace(plain, flips=())


def test_detectable_difference_is_found_in_about_four_of_five_runs():
    rng, found, promised = np.random.default_rng(0), 0, []
    for run in range(200):
        a = rng.normal(size=80)
        b = a + 0.317 + rng.normal(size=80)  # 0.317 standard deviations: 80% power at n = 80
        result = paired_comparison(a.tolist(), b.tolist(), seed=run)
        found += ends(result.interval)[0] > 0
        promised.append(result.detectable)
    assert 0.7 < found / 200 < 0.88 and np.mean(promised) == pytest.approx(0.317, rel=0.05)


# --- coverage ---------------------------------------------------------------------------------------------------------


def test_small_coverage_of_skewed_continuous_differences():
    rng, held = np.random.default_rng(2), 0
    for run in range(300):
        low, high = ends(paired_comparison([0.0] * 30, rng.exponential(size=30).tolist(), seed=run).interval)
        held += low <= 1 <= high
    assert 0.93 <= held / 300 <= 0.98


def test_skewed_means_over_many_attempts_are_covered():
    """30 examples near the ceiling, 24 of them tied: without unseen differences it covers in 90 to 92%."""
    coverage = importlib.import_module("benchmarks.coverage")
    share, differing = coverage.simulated(coverage.Cell(30, 32, False, 0.9, 0.95, 0.95, 0.99), 1000)
    assert share >= 0.94 and 5 < differing < 7


@pytest.mark.parametrize("n", [30, 60])
def test_exact_coverage_of_zeros_and_ones_is_93_to_97(n):
    """But where fewer than 4 examples are expected to differ: there it is never less, and more for want of cases."""
    coverage = importlib.import_module("benchmarks.coverage")
    found = [coverage.cover((cell, 0)) for cell in coverage.grid((n,), lambda cell: cell.k == 1 and not cell.partial)]
    assert len(found) == 40 and all(share >= 0.93 for _, share, _ in found)
    assert all(share <= 0.97 for _, share, rare in found if not rare)
    assert sum(rare for _, _, rare in found) <= 12


def test_the_benchmark_of_verdicts_runs(capsys):
    assert importlib.import_module("benchmarks.verdict").main(["--quick"]) == 0
    printed = capsys.readouterr().out
    assert "False 'improved'" in printed and "Coverage of the 95% interval" in printed


# --- errors of all three ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, "1", 1j])
def test_scores_that_are_no_finite_number_are_named(bad):
    scores = [0.0, None, bad]
    with pytest.raises(ValueError, match=r"scores\[2\] is .*; it must be a finite number, or None"):
        mean_with_interval(scores)
    with pytest.raises(ValueError, match=r"b\[2\] is"):
        paired_comparison([0, 1, 1], scores)
    with pytest.raises(ValueError, match=r"candidates\[1\]\[2\] is"):
        select_best([0, 1, 1], [[1, 1, 1], scores])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_with_interval([]), "scores has shape"),
        (lambda: paired_comparison([], []), "a has shape"),
        (lambda: select_best([], []), "baseline has shape"),
        (lambda: paired_comparison([0, 1], [0, 1, 1]), "b has 3 scores and a has 2"),
        (lambda: select_best([0, 1], [[0, 1], [0]]), r"candidates\[1\] has 1 scores and baseline has 2"),
        (lambda: select_best([0, 1], [[1, 1]], resamples=10), "resamples is 10"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
