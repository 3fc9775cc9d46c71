"""How far a run goes beyond its budget: the four caps, random values, 16 threads, counted at the server.

    python -m benchmarks.budgets
    python -m benchmarks.budgets --quick

Promised: `max_lm_calls` is never overshot; tokens and cost by at most the calls in flight when the cap is reached;
after `max_seconds` nothing is sent, and calls in flight may finish. Each run compiles the ticket program against the
offline model's server, whose replies take 40 ms in the middle; a fifth of the programs ask twice at once, and their
metric asks a judge. A run that ends before its cap is not counted, and another value drawn.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dspy

from benchmarks.shared import command_line, quiet
from programs import tickets
from trgrpo_dspy import TrainingFreeGRPO
from trgrpo_dspy.meter import Budget, Meter
from trgrpo_dspy.offline.server import OfflineServer, ServedRequest

THREADS = 16
PRICE = (1.0, 4.0)
"""US dollars per million prompt and completion tokens."""
ARRIVAL = 0.25
"""Seconds a request may take to arrive: the clients' threads and the server share one process and its lock."""
RANGES = {"max_lm_calls": (1, 300), "max_tokens": (500, 150_000), "max_cost": (0.0005, 0.2), "max_seconds": (0.2, 1.5)}


class Twice(dspy.Module):
    """Asks two times at once."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = tickets.program()

    def forward(self, ticket: str) -> Any:
        """Answer a ticket, and one like it."""
        asked = [(self.answer, {"ticket": ticket}), (self.answer, {"ticket": f"{ticket} Please help."})]
        return dspy.Parallel(num_threads=2, disable_progress_bar=True)(asked)[0]


def judged(example: dspy.Example, prediction: Any, trace: Any = None) -> float:
    """A metric that asks an LM, and does not listen."""
    dspy.Predict("ticket, queue -> verdict")(ticket=example.ticket, queue=str(prediction.get("queue")))
    return float(tickets.metric(example, prediction).score)


@dataclass(frozen=True)
class Overshoot:
    """What one run went beyond its cap."""

    cap: str
    value: float
    spent: float
    """In the cap's unit, counted at the server."""
    late: int
    """Calls that ended after the one that reached the cap; for time, calls sent after it."""
    in_flight: int
    """Calls that were under way when it was reached."""
    seconds_late: float
    """Wall time beyond `max_seconds`."""
    longest: float
    """Longest reply, in seconds."""
    at_once: int
    """Calls the program can have in flight."""
    consistent: bool
    """Whether the run gives the cap as its reason, and its own count is the server's."""

    @property
    def kept(self) -> bool:
        """Whether the promise was kept."""
        if self.cap == "max_lm_calls":
            return self.consistent and self.spent == self.value
        if self.cap == "max_seconds":
            return self.consistent and self.late == 0 and self.seconds_late <= self.longest + 0.5
        return self.consistent and self.spent >= self.value and self.late < self.at_once


def spent_on(cap: str, request: ServedRequest) -> float:
    """What a request took of a cap."""
    if cap == "max_lm_calls":
        return 1
    if cap == "max_tokens":
        return request.prompt_tokens + request.completion_tokens
    return (request.prompt_tokens * PRICE[0] + request.completion_tokens * PRICE[1]) / 1e6


@contextmanager
def starting_time() -> Iterator[list[float]]:
    """When the run's own clock starts, in seconds since the epoch."""
    plain, started = Meter.__init__, []

    def watched(self: Meter, *args: Any) -> None:
        plain(self, *args)
        started.append(time.time())

    Meter.__init__ = watched  # type: ignore[method-assign]
    try:
        yield started
    finally:
        Meter.__init__ = plain  # type: ignore[method-assign]


def run(cap: str, value: float, *, twice: bool, seed: int) -> Overshoot | None:
    """One run; None if it ended before its cap."""
    budget = Budget(**{cap: value}, prices={"openai/offline": PRICE})  # type: ignore[arg-type]
    optimizer = TrainingFreeGRPO(
        metric=judged if twice else tickets.metric, num_epochs=3, num_threads=THREADS, budget=budget, seed=seed
    )
    program = Twice() if twice else tickets.program()
    with OfflineServer(latency="lognormal:0.04,0.6,0.5", seed=seed) as server:
        lm = server.lm()
        with dspy.context(lm=lm):
            with starting_time() as started:
                compiled = optimizer.compile(program, trainset=tickets.trainset()[:12], valset=tickets.valset()[:12])
            seconds = time.time() - started[0]
        lm.close()
    results = compiled.detailed_results
    if results.stop_reason == "completed":
        return None
    return measure(cap, value, server.requests, results, started[0], seconds, THREADS * (2 if twice else 1))


def measure(
    cap: str,
    value: float,
    requests: Sequence[ServedRequest],
    results: Any,
    began: float,
    seconds: float,
    at_once: int,
) -> Overshoot:
    """Compare a run with its cap."""
    ended = sorted(requests, key=lambda r: r.time + r.latency)
    consistent = results.stop_reason == cap and results.total.calls == len(requests)
    longest = max((r.latency for r in requests), default=0.0)
    if cap == "max_seconds":
        end = began + value + ARRIVAL
        late = sum(r.time > end for r in requests)
        in_flight = sum(r.time <= end < r.time + r.latency for r in requests)
        return Overshoot(cap, value, seconds, late, in_flight, seconds - value, longest, at_once, consistent)
    spent, late, in_flight = 0.0, 0, 0
    for request in ended:
        if spent >= value:
            late += 1
        spent += spent_on(cap, request)
        if not in_flight and spent >= value:
            moment = request.time + request.latency
            in_flight = sum(r.time <= moment < r.time + r.latency for r in requests)
    return Overshoot(cap, value, spent, late, in_flight, 0.0, longest, at_once, consistent)


def draw(cap: str, chance: random.Random) -> float:
    """A random value: as often small as large."""
    low, high = RANGES[cap]
    value = low * (high / low) ** chance.random()
    return round(value) if cap in ("max_lm_calls", "max_tokens") else value


def table(cap: str, found: Sequence[Overshoot]) -> str:
    """One line of the table."""
    low, high = min(o.value for o in found), max(o.value for o in found)
    if cap == "max_seconds":
        over = f"{max(o.seconds_late for o in found):.2f} s"
    elif cap == "max_cost":
        over = f"${max(o.spent - o.value for o in found):.5f}"
    else:
        over = f"{max(o.spent - o.value for o in found):,.0f}"
    kept = sum(o.kept for o in found)
    return (
        f"{cap:<14}{low:>11,.4g} to {high:<11,.4g}{len(found):>5}{over:>16}{max(o.late for o in found):>12}"
        f"{max(o.in_flight for o in found):>11}{kept:>7}/{len(found)}"
    )


def main() -> None:
    """Measure and print."""
    numbers = {"values": (20, "random values of each cap"), "seed": (0, "which values are drawn")}
    options = command_line(__doc__, "three values", **numbers).parse_args()
    quiet()
    print(f"{'cap':<14}{'values':^26}{'runs':>5}{'most beyond':>16}{'calls late':>12}{'in flight':>11}{'kept':>9}")
    bad = 0
    for cap in RANGES:
        chance, found = random.Random(f"{options.seed} {cap}"), []
        while len(found) < (3 if options.quick else options.values):
            one = run(cap, draw(cap, chance), twice=len(found) % 5 == 4, seed=chance.randrange(10**6))
            if one is not None:
                found.append(one)
        print(table(cap, found), flush=True)
        for o in found:
            if not o.kept:
                bad += 1
                print(f"  NOT kept: {o}")
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
