"""What the journal costs: wall time and CPU of a run of 5,000 calls at 50 ms each, with and without it.

    python -m benchmarks.journal_cost
    python -m benchmarks.journal_cost --calls 5000 --latency 0.05 --repeats 5
    python -m benchmarks.journal_cost --quick

An engine in this process sleeps for the latency and gives a fixed reply. Runs with and without a journal take turns,
and the medians of the differences within each pair are shown, so that a machine that is busy with other things does not
decide. Below that, what the journal's parts take by themselves.

A one-call attempt costs DSPy, the adapter and the transcript near 2 ms of CPU: at 50 ms a call some 25 threads keep
Python busy all the time. From there on every millisecond of CPU is a millisecond of wall time, the journal's too; the
goal for the wall time is meant for fewer threads than that (`--threads 16`).

Goals: less than 3% of the wall time, less than 0.5 ms of CPU a call.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy
from dspy.lm15 import Message, Request, Response, Usage

from benchmarks.shared import command_line, judge, quiet
from programs import tickets
from trgrpo_dspy import TrainingFreeGRPO
from trgrpo_dspy.engine.journal.journal import Journal
from trgrpo_dspy.engine.journal.requests import request_hash
from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.meter import LMCall
from trgrpo_dspy.program.rollout import Rollout

MOST_WALL, MOST_CPU = 0.03, 0.5
"""Goals: share of the wall time, milliseconds of CPU a call."""
REPLY = "[[ ## queue ## ]]\nharbor\n\n[[ ## urgency ## ]]\ntoday\n\n[[ ## completed ## ]]"
EXAMPLES = 50


class SleepingEngine:
    """Answers after a while, and counts."""

    def __init__(self, latency: float) -> None:
        """Take this many seconds for each reply."""
        self.latency, self.calls = latency, 0

    def complete(self, request: Request) -> Response:
        """A fixed reply."""
        time.sleep(self.latency)
        self.calls += 1
        return Response(
            id=None, model=request.model, message=Message.assistant(REPLY), finish_reason="stop",
            usage=Usage(input_tokens=900, output_tokens=30),
        )  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """What one run took."""

    wall: float
    """Seconds."""
    cpu: float
    """Seconds of CPU, all threads."""


def run(calls: int, latency: float, threads: int, log_dir: Path | None) -> Cost:
    """A run of so many calls: attempts that score alike, so that nothing else is asked."""
    engine = SleepingEngine(latency)
    lm = dspy.LM("sleeping/model", engine=engine, cache=False, num_retries=0, seed=0)
    trainset = tickets.trainset()[:EXAMPLES]
    optimizer = TrainingFreeGRPO(
        metric=lambda example, prediction, trace=None: 1.0, group_size=calls // EXAMPLES, num_epochs=1,
        num_threads=threads, log_dir=log_dir,
    )  # fmt: skip
    wall, cpu = time.perf_counter(), time.process_time()
    with dspy.context(lm=lm):
        optimizer.compile(tickets.program(), trainset=trainset)
    cost = Cost(time.perf_counter() - wall, time.process_time() - cpu)
    if engine.calls != calls:
        raise SystemExit(f"{engine.calls} calls were made, {calls} were meant")
    return cost


def pairs(calls: int, latency: float, threads: int, repeats: int) -> list[tuple[Cost, Cost]]:
    """Runs without and with a journal, in turns, each first as often as the other."""
    found = []
    run(EXAMPLES * 2, 0.0, threads, None)  # what is imported and compiled at first use
    for repeat in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            places: list[Path | None] = [None, Path(folder) / "run"]
            order = places if repeat % 2 == 0 else places[::-1]
            costs = {place: run(calls, latency, threads, place) for place in order}
        found.append((costs[places[0]], costs[places[1]]))
        print(_line(f"pair {repeat + 1}", *found[-1], calls), flush=True)
    return found


def _line(name: str, plain: Cost, kept: Cost, calls: int) -> str:
    wall, cpu = kept.wall / plain.wall - 1, (kept.cpu - plain.cpu) / calls
    return (
        f"{name:<8} without {plain.wall:6.2f} s wall {plain.cpu:6.2f} s CPU   "
        f"with {kept.wall:6.2f} s {kept.cpu:6.2f} s   wall {100 * wall:+5.1f}%   CPU {1000 * cpu:+.3f} ms a call"
    )


def parts(count: int) -> list[tuple[str, float]]:
    """Milliseconds of CPU that each part takes for one call, alone on one thread."""
    lm = dspy.LM("sleeping/model", engine=SleepingEngine(0.0), cache=False, seed=0)
    signature = tickets.TriageTicket.with_instructions("Decide well. " * 300)  # with a library of 30 entries or so
    messages = dspy.ChatAdapter().format(signature, [], dict(tickets.trainset()[0].inputs().items()))
    call, reply = LMCall("sleeping/model", 900, 30, cost=0.001), {"outputs": [REPLY]}
    rollout = Rollout(0, 0, Outcome.COMPLETED, 1.0, "told " * 20, "answer " * 10, "", "transcript " * 100)
    with tempfile.TemporaryDirectory() as folder, Journal(folder) as journal:
        steps: list[tuple[str, Callable[[int], Any]]] = [
            (
                "request_hash",
                lambda i: request_hash(lm, None, messages, {"rollout_id": i, "temperature": 0.7, "seed": i}),
            ),
            ("attempt: look it up", lambda i: journal.attempt(f"rollout/1/rollout/1/{i}/0")),
            ("reply: look it up", lambda i: journal.reply(f"rollout/1/rollout/1/{i}/0", f"{i:032x}", 0)),
            ("reply: commit", lambda i: journal.record(f"rollout/1/rollout/1/{i}/0", f"{i:032x}", 0, reply, call)),
            ("attempt: commit", lambda i: journal.finish(f"rollout/1/rollout/1/{i}/0", rollout)),
        ]
        return [(name, _milliseconds(step, count)) for name, step in steps]


def _milliseconds(step: Callable[[int], Any], count: int) -> float:
    start = time.process_time()
    for i in range(count):
        step(i)
    return 1000 * (time.process_time() - start) / count


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; the exit status is 0 if the goals are met."""
    options = command_line(
        __doc__, "1,000 calls, 2 pairs", calls=(5000, f"LM calls, a multiple of {EXAMPLES}"),
        latency=(0.05, "seconds a call"), threads=(16, "calls in flight"), repeats=(5, "pairs of runs"),
    ).parse_args(arguments)  # fmt: skip
    calls, repeats = (1000, 2) if options.quick else (options.calls // EXAMPLES * EXAMPLES, options.repeats)
    quiet()
    print(f"{calls} calls at {1000 * options.latency:g} ms, {options.threads} threads, {os.cpu_count()} CPUs")
    measured = pairs(calls, options.latency, options.threads, repeats)
    for name, milliseconds in parts(2000):
        print(f"         {name:<20} {milliseconds:.3f} ms")
    wall = statistics.median(kept.wall / plain.wall - 1 for plain, kept in measured)
    cpu = statistics.median(1000 * (kept.cpu - plain.cpu) / calls for plain, kept in measured)
    goals = [
        (wall < MOST_WALL, f"wall time {100 * wall:+.1f}% (median of pairs), goal below {100 * MOST_WALL:g}%"),
        (cpu < MOST_CPU, f"CPU {cpu:+.3f} ms a call (median of pairs), goal below {MOST_CPU:g} ms"),
    ]
    return judge(goals)


if __name__ == "__main__":
    sys.exit(main())
