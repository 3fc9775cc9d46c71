"""How close a step comes to the wall time that latency and concurrency dictate.

    python -m benchmarks.flow
    python -m benchmarks.flow --quick

One step of `compile` (rollouts to consolidation) against the offline model's server, a process of its own on loopback,
whose replies take a fixed 0.2 s or a lognormal time (median 0.2 s, sigma 1, at most 5 s); 32 tasks at a time. Wall time
is given over

- (a) the larger of total latency / concurrency and the longest chain: no client can be faster;
- (b) the same online rule (groups flow on; longest remaining chain first) replayed on the recorded latencies by a
  client that costs nothing;
- (c) the same work with a barrier after each stage, replayed in the same way: what a client that waits for all rollouts
  before the first summary needs at least.

Goals: at most 1.10 x (b); (c) at least 1.4 x our wall time at lognormal latency, 20 examples, all informative (median
of 20 seeds); with 5% rate limits and 5% server errors at most 1.5 x the wall time without. Latencies are those the
server kept. A metric that needs no model makes a third of the groups informative, or all. (b) needs no machine: what
our wall time has beyond it is the client's CPU time, the network stack, and noise where both sides share few cores.
"""

from __future__ import annotations

import heapq
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import dspy

from benchmarks.shared import command_line
from programs import tickets
from trgrpo_dspy import Reflector, TrainingFreeGRPO
from trgrpo_dspy.engine.calls.state import RunState
from trgrpo_dspy.engine.calls.units import Unit
from trgrpo_dspy.engine.flows import single
from trgrpo_dspy.engine.session import Session
from trgrpo_dspy.learning.loop import Run
from trgrpo_dspy.learning.schedule import Step
from trgrpo_dspy.learning.setup import Setup

FIXED, LOGNORMAL = "fixed:0.2", "lognormal:0.2,1,5"
GROUP_SIZE = 5
WIDTH = 32
CELLS = list(itertools.product((FIXED, LOGNORMAL), (20, 100), (False, True)))
"""Latency, examples, whether all groups are informative."""
STAGES = ("rollout", "summary", "comparison", "proposals", "consolidation")


# -- the server ------------------------------------------------------------------------------------------------------


@contextmanager
def server(latency: str, *, seed: int, errors: bool, retry_after: float) -> Iterator[tuple[str, Path]]:
    """Serve the offline model from a process of its own; yields its address and its log."""
    log = Path(tempfile.mkdtemp(prefix="flow-")) / "requests.jsonl"
    command = [sys.executable, "-m", "trgrpo_dspy.offline", "serve", "--port", "0", "--latency", latency]
    command += ["--seed", str(seed), "--log", str(log), "--retry-after", str(retry_after)]
    if errors:
        command += ["--error-rate", "0.1", "--errors", "429,500"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if "http" in line)
        yield next(word for word in line.split() if word.startswith("http")).rstrip("/.,"), log
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close() if process.stdout else None


# -- one step --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """One group's latencies, in seconds."""

    rollout: tuple[float, ...]
    summary: tuple[float, ...] = ()
    comparison: tuple[float, ...] = ()
    proposals: tuple[float, ...] = ()

    @property
    def stages(self) -> list[tuple[float, ...]]:
        """The stages that took place, in order."""
        return [stage for stage in (self.rollout, self.summary, self.comparison, self.proposals) if stage]


@dataclass(frozen=True)
class Measured:
    """One step, as it went."""

    wall: float
    """Seconds from its first rollout to its plan."""
    groups: tuple[Group, ...]
    consolidation: float
    cpu: float
    """CPU seconds of the client."""
    retries: int

    @property
    def latency(self) -> float:
        """All replies' latencies together."""
        return sum(sum(stage) for group in self.groups for stage in group.stages) + self.consolidation

    @property
    def calls(self) -> int:
        """LM calls of the step."""
        return sum(len(stage) for group in self.groups for stage in group.stages) + bool(self.consolidation)


class Scores:
    """Makes groups informative at will: the first attempt at a marked example is right, all others are wrong."""

    def __init__(self) -> None:
        self._lock, self._seen = threading.Lock(), set()

    def __call__(self, example: dspy.Example, prediction: Any, trace: Any = None) -> float:
        """Score an attempt."""
        with self._lock:
            first = example.number not in self._seen
            self._seen.add(example.number)
        return float(first and example.informative)


@contextmanager
def seeds_of_units() -> Iterator[dict[int, Unit]]:
    """The unit each request seed belongs to: how the server's records are told apart."""
    found: dict[int, Unit] = {}
    plain = RunState.sampled

    def sampled(run: RunState, lm: Any, unit: Unit, kwargs: dict[str, Any]) -> dict[str, Any]:
        changed = plain(run, lm, unit, kwargs)
        found[changed["seed"]] = unit
        return changed

    RunState.sampled = sampled
    try:
        yield found
    finally:
        RunState.sampled = plain


def measure(
    latency: str, examples: int, *, all_informative: bool, seed: int = 0, errors: bool = False, retry_after: float = 1.0
) -> Measured:
    """Make one step and read from the server's log what it took."""
    tasks = list(itertools.islice(itertools.cycle(tickets.trainset()), examples))
    trainset = [
        dspy.Example(ticket=e.ticket, queue=e.queue, number=i, informative=all_informative or i % 3 == 0)
        for i, e in enumerate(tasks)
    ]
    trainset = [e.with_inputs("ticket") for e in trainset]
    optimizer = TrainingFreeGRPO(
        metric=Scores(), group_size=GROUP_SIZE, num_epochs=1, num_threads=WIDTH, seed=seed, learn_from="contrast",
        reflector=Reflector(form="paper", summarize="always"),
    )  # fmt: skip
    with server(latency, seed=seed, errors=errors, retry_after=retry_after) as (url, log), seeds_of_units() as units:
        lm = dspy.LM("openai/gpt-4o-mini", api_base=url, api_key="offline", cache=False, seed=seed, num_retries=8)
        with dspy.context(lm=lm), Session(optimizer, metric=optimizer.metric, kind="compile") as session:
            setup = Setup.of(optimizer, tickets.program(), trainset, ())
            run, start = Run(setup, session), setup.start
            program = run.attempts.program_with(start)
            warm = [run.attempts.task(Step(0, 0, ()), 0, i, program, start) for i in (0, 1)]
            session.run([single(task) for task in warm])  # the backend is known to answer, threads are up
            optimizer.metric._seen.clear()  # type: ignore[union-attr]
            (step,) = setup.schedule
            began, cpu = time.perf_counter(), time.process_time()
            run.consolidate(step, run.learn(step, start), start)
            wall, cpu = time.perf_counter() - began, time.process_time() - cpu
            retries = sum(row.retries for row in session.meter.spend(1))
        lm.close()
        records = [json.loads(line) for line in log.read_text().splitlines()]
    return _measured(wall, cpu, retries, records, units, step)


def _measured(
    wall: float, cpu: float, retries: int, records: Sequence[dict[str, Any]], units: dict[int, Unit], step: Step
) -> Measured:
    """Sort the server's records by group and stage; of a call with retries the reply that came counts."""
    took: dict[tuple[str, int], list[float]] = defaultdict(list)
    for record in records:
        unit = units[record["seed"]]
        if unit.step == 1 and record["status"] == 200:
            took[unit.stage.value, int(unit.key[2])].append(record["latency"])
    groups = [Group(*(tuple(took[stage, index]) for stage in STAGES[:4])) for index in step.examples]
    return Measured(wall, tuple(groups), sum(took["consolidation", 0]), cpu, retries)


# -- bounds ----------------------------------------------------------------------------------------------------------


def least(step: Measured, width: int = WIDTH) -> float:
    """(a): the larger of total latency / concurrency and the longest chain."""
    chain = max(sum(max(stage) for stage in group.stages) for group in step.groups)
    return max(step.latency / width, chain + step.consolidation)


def replayed(step: Measured, width: int = WIDTH) -> float:
    """(b): the online rule on the recorded latencies, by a client that costs nothing."""
    order = itertools.count()
    ready: list[tuple[int, int, int, float]] = []
    places: list[tuple[float, int, int]] = []
    missing, at = [0] * len(step.groups), [-1] * len(step.groups)

    def advance(group: int) -> None:
        at[group] += 1
        stages = step.groups[group].stages
        if at[group] < len(stages):
            missing[group] = len(stages[at[group]])
            for latency in stages[at[group]]:
                heapq.heappush(ready, (at[group], next(order), group, latency))

    for group in range(len(step.groups)):
        advance(group)
    now = 0.0
    while ready or places:
        while ready and len(places) < width:
            _, _, group, latency = heapq.heappop(ready)
            heapq.heappush(places, (now + latency, next(order), group))
        now, _, group = heapq.heappop(places)
        missing[group] -= 1
        if not missing[group]:
            advance(group)
    return now + step.consolidation


def with_barriers(step: Measured, width: int = WIDTH) -> float:
    """(c): every stage waits for the one before it, of all groups."""
    total = step.consolidation
    for number in range(4):
        places = [0.0] * width
        for latency in (x for g in step.groups if len(g.stages) > number for x in g.stages[number]):
            heapq.heapreplace(places, places[0] + latency)
        total += max(places)
    return total


# -- the report ------------------------------------------------------------------------------------------------------

HEAD = "latency     examples  informative  calls  wall s   /(a)   /(b)  (c)/wall  places busy  CPU ms/call"


def row(latency: str, examples: int, share: str, step: Measured) -> str:
    """One line of the table."""
    return (
        f"{latency.partition(':')[0]:<12}{examples:>8}  {share:>11}  {step.calls:>5}  {step.wall:6.2f}  "
        f"{step.wall / least(step):5.2f}  {step.wall / replayed(step):5.2f}  {with_barriers(step) / step.wall:8.2f}  "
        f"{step.latency / step.wall:8.1f}/{WIDTH}  {1000 * step.cpu / step.calls:11.1f}"
    )


def show_cells(rounds: int) -> list[Measured]:
    """Measure every cell and print the round in the middle by /(b)."""
    print(HEAD)
    found = []
    for latency, examples, everything in CELLS:
        steps = [measure(latency, examples, all_informative=everything, seed=seed) for seed in range(rounds)]
        steps.sort(key=lambda step: step.wall / replayed(step))
        found.append(steps[rounds // 2])
        print(row(latency, examples, "all" if everything else "a third", found[-1]), flush=True)
    return found


def show_barriers(seeds: int) -> list[float]:
    """Print what barriers would cost, over many seeds."""
    steps = [measure(LOGNORMAL, 20, all_informative=True, seed=1000 + seed) for seed in range(seeds)]
    ratios = [with_barriers(step) / step.wall for step in steps]
    print(
        f"\nlognormal, 20 examples, all informative, {seeds} seeds: (c) over our wall: median {median(ratios):.2f}, "
        f"{min(ratios):.2f} to {max(ratios):.2f}; our wall time /(b): median "
        f"{median(step.wall / replayed(step) for step in steps):.2f}",
        flush=True,
    )
    return ratios


def show_errors(rounds: int) -> None:
    """Print what failures cost, for rate limits that ask for a short and a long wait."""
    print("\n5% rate limits and 5% server errors: wall time over that without (mean of the rounds), and retries")
    for latency, examples, everything in CELLS:
        good = [measure(latency, examples, all_informative=everything, seed=seed).wall for seed in range(rounds)]
        told = []
        for wait in (0.2, 1.0):
            bad = [
                measure(latency, examples, all_informative=everything, seed=seed, errors=True, retry_after=wait)
                for seed in range(rounds)
            ]
            ratio = mean(step.wall for step in bad) / mean(good)
            told.append(f"retry_after {wait} s: {ratio:.2f} ({mean(step.retries for step in bad):.0f})")
        share = "all" if everything else "a third"
        print(f"{latency.partition(':')[0]:<12}{examples:>8}  {share:>11}  {'   '.join(told)}", flush=True)


def main(argv: Sequence[str] | None = None) -> list[Measured]:
    """Measure and print; returns the steps of the first table."""
    numbers = {"seeds": (20, "seeds of the comparison with barriers"), "rounds": (2, "rounds of each cell")}
    options = command_line(__doc__, "two small steps", **numbers).parse_args(argv)
    load = os.getloadavg()[0]
    print(f"The offline model answers (no LLM). Load average at the start: {load:.1f} on {os.cpu_count()} cores.")
    if options.quick:
        steps = [
            measure("fixed:0.05", 4, all_informative=True, errors=errors, retry_after=0.05) for errors in (False, True)
        ]
        print("4 examples, replies after 0.05 s: it runs; the goals are for the whole benchmark.\n" + HEAD)
        for step, what in zip(steps, ("", "  (with rate limits and server errors)"), strict=True):
            print(row("fixed:0.05", 4, "all", step) + what)
        return steps
    steps = show_cells(options.rounds)
    show_barriers(options.seeds)
    show_errors(options.rounds)
    print(f"\nLoad average at the end: {os.getloadavg()[0]:.1f}")
    return steps


if __name__ == "__main__":
    main()
