"""How often the 95% intervals of `compare` hold the true difference, over a grid of situations.

    python -m benchmarks.coverage
    python -m benchmarks.coverage --runs 4000
    python -m benchmarks.coverage --quick

An attempt succeeds where a Gaussian falls below a cut: part of it is the example's own (`steady`: the rest varies from
attempt to attempt), and that part is shared between the two programs to a degree (`alike`). Partial credit is the mean
of four such attempts with cuts of their own. Crossed with base rates, effects and numbers of examples and attempts.

For 0/1 scores of one attempt coverage is computed exactly, by summing over all numbers of wins and losses. The others
are simulated; the band of 93 to 97% is widened by two Monte-Carlo standard errors. Where fewer than 4 examples are
expected to differ the cell is counted as *rare*: to be missed in 3 to 7% of runs an interval would have to call 2 or 3
wins against no loss a difference, so it is missed less often. Few examples that differ in sizes of their own count for
fewer: at 30 examples and k=32, both programs near 0.1 or 0.9 and 5 to 7 differing, it holds zero in 98 to 99%. The
least are 93%: a gain near the ceiling at 30 examples and k=32, 24 of them tied, which was 90 to 92% before differences
larger than those seen were allowed for. Outside this grid, at 60 examples and k from 32 on, a gain from 0.95 to 0.98
or from 0.02 to 0.05 is held in as few as 91%; what is missed there is a gain larger than the interval says.
"""

from __future__ import annotations

import functools
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from benchmarks.shared import command_line, in_processes
from trgrpo_dspy.evaluation.statistics.comparison import paired_comparison

Array = NDArray[np.float64]
BAND = (0.93, 0.97)
EFFECTS = ((0.1, 0.1), (0.1, 0.25), (0.5, 0.5), (0.5, 0.55), (0.5, 0.65), (0.5, 0.9), (0.9, 0.9), (0.9, 0.95))
NOISE = ((0.5, 0.0), (0.5, 0.9), (0.95, 0.6), (0.95, 0.9), (0.95, 0.99))
"""Pairs of `steady` and `alike`."""
PARTS = (-0.6, -0.2, 0.2, 0.6)
SIZES = (30, 60, 150)
ATTEMPTS = (1, 3, 32)
RARE = 4
"""Differing examples expected below which coverage can't be held near 95% from above."""
_cdf = np.vectorize(NormalDist().cdf)


@dataclass(frozen=True)
class Cell:
    """One situation."""

    n: int
    k: int
    partial: bool
    before: float
    after: float
    steady: float
    alike: float

    @property
    def family(self) -> tuple[str, int, int]:
        """The row of the table it belongs to."""
        return ("partial credit" if self.partial else "0/1"), self.k, self.n

    @property
    def truth(self) -> float:
        """The true difference."""
        cdf, cut = NormalDist().cdf, NormalDist().inv_cdf
        parts = PARTS if self.partial else (0.0,)
        return sum(cdf(cut(self.after) + part) - cdf(cut(self.before) + part) for part in parts) / len(parts)


@functools.lru_cache(maxsize=1)
def _normal_grid() -> tuple[Array, Array]:
    """Points and the normal distribution at them: interpolated, it is 50 times as fast."""
    points = np.linspace(-9, 9, 20_001)
    return points, _cdf(points)


def _chance(cut: float, steady: float, own: Array) -> Array:
    """Chance that an attempt falls below a cut, given the example's own part."""
    z = (NormalDist().inv_cdf(cut) if 0 < cut < 1 else cut) - math.sqrt(steady) * own
    return np.interp(z / math.sqrt(1 - steady), *_normal_grid())


def draw(rng: np.random.Generator, cell: Cell) -> tuple[Array, Array]:
    """Scores of both programs: means over the attempts at each example."""
    shared = rng.normal(size=cell.n)
    found = []
    for rate in (cell.before, cell.after):
        own = math.sqrt(cell.alike) * shared + math.sqrt(1 - cell.alike) * rng.normal(size=cell.n)
        cut = NormalDist().inv_cdf(rate)
        rates = [NormalDist().cdf(cut + part) for part in PARTS] if cell.partial else [rate]
        found.append(sum(rng.binomial(cell.k, _chance(p, cell.steady, own)) / cell.k for p in rates) / len(rates))
    return found[0], found[1]


def simulated(cell: Cell, runs: int) -> tuple[float, float]:
    """Share of runs in which the interval holds the truth, and how many examples differ on average."""
    rng = np.random.default_rng([cell.n, cell.k, cell.partial, *(round(1000 * x) for x in vars(cell).values())])
    held = differing = 0
    for run in range(runs):
        a, b = draw(rng, cell)
        found = paired_comparison(a.tolist(), b.tolist(), seed=run)
        interval, differing = found.interval, differing + found.wins + found.losses
        held += interval is not None and interval.low - 1e-9 <= cell.truth <= interval.high + 1e-9
    return held / runs, differing / runs


@functools.lru_cache(maxsize=8)
def _intervals(n: int) -> tuple[Array, Array, Array, Array]:
    """All numbers of wins and losses of n examples, and the intervals they get."""
    rows = []
    for wins in range(n + 1):
        for losses in range(min(wins, n - wins) + 1):  # the others by symmetry
            a = [0.0] * wins + [1.0] * losses + [1.0] * (n - wins - losses)
            b = [1.0] * wins + [0.0] * losses + [1.0] * (n - wins - losses)
            interval = paired_comparison(a, b).interval
            assert interval is not None
            rows.append((wins, losses, interval.low, interval.high))
            if wins != losses:
                rows.append((losses, wins, -interval.high, -interval.low))
    table = np.array(rows)
    return table[:, 0], table[:, 1], table[:, 2], table[:, 3]


def exact(n: int, won: float, lost: float) -> float:
    """Coverage for 0/1 scores of which these shares are won and lost."""
    wins, losses, low, high = _intervals(n)
    logs = np.array([math.lgamma(i + 1) for i in range(n + 1)])
    ties = n - wins - losses
    coefficient = logs[n] - logs[wins.astype(int)] - logs[losses.astype(int)] - logs[ties.astype(int)]
    tied = 1 - won - lost
    power = sum(x * math.log(max(p, 1e-300)) for x, p in ((wins, won), (losses, lost), (ties, tied)))
    chance = np.exp(coefficient + power)
    truth = won - lost
    held = (low - 1e-9 <= truth) & (truth <= high + 1e-9)
    return float(chance[held].sum())


def flip_rates(cell: Cell) -> tuple[float, float]:
    """Shares of examples won and lost, for 0/1 scores of one attempt."""
    points, weights = np.polynomial.hermite_e.hermegauss(80)
    alike = cell.steady * cell.alike
    a, b = (_chance(rate, alike, points) for rate in (cell.before, cell.after))
    weights = weights / weights.sum()
    return float(weights @ ((1 - a) * b)), float(weights @ (a * (1 - b)))


def cover(task: tuple[Cell, int]) -> tuple[Cell, float, bool]:
    """Coverage of a cell, and whether differing examples are rare in it."""
    cell, runs = task
    if cell.k == 1 and not cell.partial:
        won, lost = flip_rates(cell)
        return cell, exact(cell.n, won, lost), cell.n * (won + lost) < RARE
    share, differing = simulated(cell, runs)
    return cell, share, differing < RARE


def grid(sizes: Sequence[int], keep: Callable[[Cell], bool] = lambda cell: True) -> list[Cell]:
    """All situations."""
    cells = [
        Cell(n, k, partial, *effect, *noise)
        for partial in (False, True)
        for k in ATTEMPTS
        for n in sizes
        for effect in EFFECTS
        for noise in NOISE
    ]
    return [cell for cell in cells if keep(cell)]


def report(found: Sequence[tuple[Cell, float, bool]], runs: int) -> None:
    """Print a line for each kind of score, k and n, and the cells that cover least."""
    rows: dict[tuple[str, int, int], list[tuple[Cell, float, bool]]] = defaultdict(list)
    for entry in found:
        rows[entry[0].family].append(entry)
    head = f"{'scores':<15}{'k':>3}{'n':>5}{'cells':>7}{'least':>8}{'mean':>7}{'most':>7}"
    print(f"{head}   in band   below  above  rare")
    for (kind, k, n), entries in rows.items():
        slack = 0.0 if k == 1 and kind == "0/1" else 2 * math.sqrt(0.95 * 0.05 / runs)
        share = [x for _, x, rare in entries if not rare]
        below, above = sum(x < BAND[0] - slack for x in share), sum(x > BAND[1] + slack for x in share)
        every = [100 * x for _, x, _ in entries]
        mean = sum(every) / len(every)
        print(
            f"{kind:<15}{k:>3}{n:>5}{len(entries):>7}{min(every):>8.1f}{mean:>7.1f}{max(every):>7.1f}"
            f"{len(share) - below - above:>10}{below:>8}{above:>7}{len(entries) - len(share):>6}"
        )
    print("\nleast coverage:")
    for cell, share, _ in sorted(found, key=lambda entry: entry[1])[:5]:
        print(f"{100 * share:5.1f}%  {cell}")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; returns 0."""
    parser = command_line(
        __doc__, "30 examples and a few cells only, in one process", runs=(2000, "simulated runs per cell"),
        processes=(min(2, os.cpu_count() or 1), "processes"),
    )  # fmt: skip
    args = parser.parse_args(argv)
    if args.runs < 1 or args.processes < 1:
        parser.error("--runs and --processes must be at least 1")
    runs, start = (100, time.perf_counter()) if args.quick else (args.runs, time.perf_counter())
    cells = grid((30,), lambda cell: cell.before == 0.5 and cell.alike == 0.9) if args.quick else grid(SIZES)
    tasks = [(cell, runs) for cell in cells]
    found = in_processes(cover, tasks, 1 if args.quick else args.processes)
    print(f"Coverage of the 95% interval, %; simulated with {runs} runs per cell, 0/1 scores at k=1 exact\n")
    report(found, runs)
    print(f"\n{time.perf_counter() - start:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
