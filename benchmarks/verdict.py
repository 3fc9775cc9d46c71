"""How often the statistics behind the verdict are wrong, and what they can find.

``python -m benchmarks.verdict`` prints three tables from simulated scores:

* false alarms: how often ``select_best`` says *improved* when no library has any effect;
* power: how often it finds a true gain of 15 points (0.50 to 0.65);
* coverage: how often the 95% interval of ``paired_comparison`` holds the true difference.

Scores come from a Gaussian latent per example and program; programs share the difficulty of the example.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from benchmarks.shared import command_line, in_processes
from trgrpo_dspy.evaluation.statistics.best import select_best
from trgrpo_dspy.evaluation.statistics.comparison import paired_comparison

Array = NDArray[np.float64]

LIBRARIES = (1, 3, 15, 30)
RATES = (0.1, 0.3, 0.5, 0.7, 0.9)
DIFFICULTY = 0.6  # share of the latent variance that programs have in common
QUICK_RUNS = 10
KINDS = {
    "independent": "baseline and libraries drawn independently",
    "same tasks": "independent given the difficulty of each example",
    "near copies": "libraries are near copies of each other, not of the baseline",
    "evolving": "each library redraws 10% of the examples of the one before, from the baseline on",
    "half points": "as 'same tasks', scores 0, 0.5 and 1",
    "copies": "as 'same tasks', n/5 inputs, each five times",
    "uneven copies": "as 'same tasks', n/5 inputs, 1, 2, 4, 8 or 10 times",
}
TIMES = {"copies": (5,), "uneven copies": (1, 2, 4, 8, 10)}
"""How often each input stands in the set, in turn."""
COPIED = ("0/1 0.5, independent", "0/1 0.9 -> 0.95, correlated", "half points, correlated", "k=4 means, uniform")
"""Scenarios of the coverage table that are repeated with five copies of each input."""
NULLS = [kind for kind in KINDS if kind != "same tasks"]  # that one serves the power table


def _cut(rate: float) -> float:
    """Latent threshold below which a score is 1, for a success rate."""
    return NormalDist().inv_cdf(rate)


def _programs(rng: np.random.Generator, kind: str, n: int, libraries: int) -> Array:
    """Latents of the baseline (column 0) and the libraries, each standard normal."""
    own = rng.normal(size=(n, libraries + 1))
    if kind == "independent":
        return own
    shared = math.sqrt(DIFFICULTY) * rng.normal(size=(n, 1))
    if kind == "near copies":
        common = rng.normal(size=(n, 1))
        own[:, 1:] = math.sqrt(0.9) * common + math.sqrt(0.1) * own[:, 1:]
    if kind == "evolving":
        keep = rng.random(size=own.shape) >= 0.1
        for j in range(1, libraries + 1):
            own[keep[:, j], j] = own[keep[:, j], j - 1]
    return np.asarray(shared + math.sqrt(1 - DIFFICULTY) * own)


@dataclass(frozen=True)
class Gate:
    """One cell of the gate tables."""

    kind: str
    n: int
    libraries: int
    runs: int
    resamples: int
    effect: str = "none"
    """Libraries with the true gain: none, one or all."""


def run_gate(cell: Gate) -> tuple[Gate, list[int], list[int]]:
    """Times *improved* was said, and runs, by success rate of the baseline (0.5 only under an effect)."""
    rng = np.random.default_rng([cell.n, cell.libraries, list(KINDS).index(cell.kind), len(cell.effect)])
    rates = RATES if cell.effect == "none" else (0.5,)
    said, runs = [0] * len(rates), [0] * len(rates)
    for run in range(cell.runs):
        i = run % len(rates)
        cuts = np.full(cell.libraries + 1, _cut(rates[i]))
        if cell.effect == "one":
            cuts[1 + rng.integers(cell.libraries)] = _cut(0.65)
        elif cell.effect == "all":
            cuts[1:] = _cut(0.65)
        times = np.resize(TIMES.get(cell.kind, (1,)), cell.n // 5 if cell.kind in TIMES else cell.n)
        latent = _programs(rng, cell.kind, len(times), cell.libraries)
        scores = (latent < cuts).astype(float)
        if cell.kind == "half points":
            scores = (scores + (latent < cuts - 0.7)) / 2
        columns = np.repeat(scores, times, axis=0).T.tolist()
        units = np.repeat(np.arange(len(times)), times).tolist()
        said[i] += select_best(columns[0], columns[1:], seed=run, resamples=cell.resamples, units=units).improved
        runs[i] += 1
    return cell, said, runs


Cover = tuple[str, int, int]  # scenario, examples, runs
Draw = Callable[[np.random.Generator, int], tuple[Array, Array]]


def _binary(before: float, after: float, correlation: float, half: bool = False) -> Draw:
    """0/1 scores at two success rates with a latent correlation; or their mean with a stricter cut."""

    def draw(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
        shared = math.sqrt(correlation) * rng.normal(size=n)
        a, b = (shared + math.sqrt(1 - correlation) * rng.normal(size=n) for _ in range(2))
        if half:
            return ((a < _cut(before)) + 1.0 * (a < -1)) / 2, ((b < _cut(after)) + 1.0 * (b < -1)) / 2
        return (a < _cut(before)).astype(float), (b < _cut(after)).astype(float)

    return draw


def _flips(wins: float, losses: float) -> Draw:
    """0/1 scores of which a share is won and a share is lost."""

    def draw(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
        u, a = rng.random(n), rng.integers(0, 2, size=n).astype(float)
        flipped = (u < wins) | (u > 1 - losses)
        a[flipped] = u[flipped] >= wins
        return a, np.where(flipped, 1 - a, a)

    return draw


def _attempts(k: int, alpha: float, beta: float, lift: float) -> Draw:
    """Means over k attempts; the chance of an example is Beta and rises by a share of what is missing."""

    def draw(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
        p = rng.beta(alpha, beta, size=n)
        return rng.binomial(k, p) / k, rng.binomial(k, p + lift * (1 - p)) / k

    return draw


def _skewed(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
    """Continuous skewed scores in [0, 1] with a skewed effect."""
    a = rng.beta(0.5, 3, size=n)
    return a, a + (1 - a) * rng.beta(0.4, 4, size=n)


def _exponential(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
    """Continuous scores with an exponential effect."""
    a = rng.normal(size=n)
    return a, a + rng.exponential(size=n)


def _lognormal(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
    """Heavy-tailed scores, such as costs, that differ by a factor."""
    shared = rng.normal(0, 0.9, size=n)
    a, b = (np.exp(shared + rng.normal(0, 0.45, size=n)) for _ in range(2))
    return a, 1.2 * b


SCENARIOS: dict[str, tuple[Draw, float]] = {
    **{f"0/1 {p}, independent": (_binary(p, p, 0.0), 0.0) for p in RATES},
    "0/1 0.1 -> 0.25, independent": (_binary(0.1, 0.25, 0.0), 0.15),
    "0/1 0.5 -> 0.65, correlated": (_binary(0.5, 0.65, 0.6), 0.15),
    "0/1 0.3 -> 0.6, strongly correlated": (_binary(0.3, 0.6, 0.9), 0.3),
    "0/1 0.9 -> 0.95, correlated": (_binary(0.9, 0.95, 0.6), 0.05),
    "0/1 0.1 -> 0.9, independent": (_binary(0.1, 0.9, 0.0), 0.8),
    "flips 5%: all won": (_flips(0.05, 0.0), 0.05),
    "flips 5%: half won": (_flips(0.025, 0.025), 0.0),
    "flips 10%: 3 in 4 won": (_flips(0.075, 0.025), 0.05),
    "flips 20%: 3 in 4 won": (_flips(0.15, 0.05), 0.1),
    "half points, correlated": (_binary(0.5, 0.65, 0.6, half=True), 0.075),
    "half points, nearly equal": (_binary(0.5, 0.5, 0.97, half=True), 0.0),
    "k=4 means, uniform": (_attempts(4, 1, 1, 0.2), 0.1),
    "k=32 means, uniform": (_attempts(32, 1, 1, 0.2), 0.1),
    "k=32 means, near the ceiling": (_attempts(32, 5, 0.5, 0.2), 0.2 * 0.5 / 5.5),
    "k=32 means, mostly all or nothing": (_attempts(32, 0.2, 0.2, 0.1), 0.05),
    "continuous, skewed": (_skewed, (1 - 0.5 / 3.5) * 0.4 / 4.4),
    "continuous, exponential effect": (_exponential, 1.0),
    "continuous, lognormal": (_lognormal, 0.2 * math.exp((0.9**2 + 0.45**2) / 2)),
}
SCENARIOS |= {f"{name} x5": SCENARIOS[name] for name in COPIED}


def run_coverage(cell: Cover) -> tuple[str, int, float]:
    """Share of runs in which the interval of a scenario holds the truth, at n examples."""
    name, n, runs = cell
    draw, truth = SCENARIOS[name]
    times = 5 if name.endswith("x5") else 1
    rng, units = np.random.default_rng([n, list(SCENARIOS).index(name)]), np.repeat(np.arange(n), times).tolist()
    held = 0
    for run in range(runs):
        a, b = (np.repeat(scores, times).tolist() for scores in draw(rng, n))
        interval = paired_comparison(a, b, seed=run, units=units).interval
        held += interval is not None and interval.low - 1e-9 <= truth <= interval.high + 1e-9
    return name, n, held / runs


def _rate(said: int, runs: int) -> str:
    """A rate in percent with its Monte-Carlo standard error."""
    rate = said / runs
    return f"{100 * rate:5.1f} +-{100 * math.sqrt(max(rate * (1 - rate), 1 / runs) / runs):3.1f}"


def _print_gate(results: Sequence[tuple[Gate, list[int], list[int]]], worst: bool) -> None:
    """One line per kind, effect and n; one column per number of libraries."""
    rows: dict[str, list[str]] = {}
    for cell, said, runs in results:
        name = cell.kind if worst else f"{cell.effect} of the libraries"
        text = _rate(sum(said), sum(runs))
        if worst:
            text += f" ({100 * max(s / max(r, 1) for s, r in zip(said, runs, strict=True)):4.1f})"
        rows.setdefault(f"{name:22s} n={cell.n:<4d}", []).append(text)
    print(f"{'':29s}" + "".join(f"{f'{m} tried':>20s}" for m in LIBRARIES))
    for label, texts in rows.items():
        print(f"{label:29s}" + "".join(f"{text:>20s}" for text in texts))


def _cells(runs: int, resamples: int, quick: bool) -> tuple[list[Gate], list[Gate], list[Cover]]:
    """Cells of the three tables."""
    null_sizes, sizes = ((60,), (60,)) if quick else ((20, 60, 150), (60, 150))
    nulls = [Gate(kind, n, m, runs, resamples) for kind in NULLS for n in null_sizes for m in LIBRARIES]
    effects = [
        Gate("same tasks", n, m, runs, resamples, effect) for effect in ("one", "all") for n in sizes for m in LIBRARIES
    ]
    coverage_sizes = (30,) if quick else (30, 60, 150)
    return nulls, effects, [(name, n, runs) for name in SCENARIOS for n in coverage_sizes]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; returns 0."""
    parser = command_line(
        __doc__, f"only {QUICK_RUNS} runs, in one process", runs=(2000, "simulated runs per cell"),
        processes=(min(2, os.cpu_count() or 1), "processes"),
    )  # fmt: skip
    args = parser.parse_args(argv)
    if args.runs < 1 or args.processes < 1:
        parser.error("--runs and --processes must be at least 1")
    runs, resamples = (QUICK_RUNS, 200) if args.quick else (args.runs, 2000)
    nulls, effects, coverage = _cells(runs, resamples, args.quick)
    start = time.perf_counter()
    processes = 1 if args.quick else args.processes
    gate, covered = in_processes(run_gate, nulls + effects, processes), in_processes(run_coverage, coverage, processes)
    print(f"{runs} runs per cell; +- is the Monte-Carlo standard error\n")
    print(f"False 'improved' without any effect, % (in brackets the worst of the success rates {RATES})")
    _print_gate(gate[: len(nulls)], worst=True)
    print("".join(f"  {kind}: {text}\n" for kind, text in KINDS.items()))
    print("'improved' at a true gain of 15 points, 0.50 to 0.65, same tasks, %")
    _print_gate(gate[len(nulls) :], worst=False)
    print("\nCoverage of the 95% interval of paired_comparison, %")
    for name in SCENARIOS:
        cells = [f"n={n}: {_rate(round(share * runs), runs)}" for key, n, share in covered if key == name]
        print(f"{name:38s}" + "   ".join(cells))
    print(f"\n{time.perf_counter() - start:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
