"""What a run keeps in memory: peak RSS beside the same calls through bare DSPy, by number and size of attempts.

    python -m benchmarks.memory
    python -m benchmarks.memory --attempts 1000 10000 --kilobytes 1 100
    python -m benchmarks.memory --quick

Each measurement is a process of its own: one that calls the program in a plain thread pool and drops the predictions,
and one that runs `TrainingFreeGRPO.compile` with a journal on disk. Every reply is a text of its own of the given size,
so inputs, transcripts and journal rows grow with it. All attempts score alike: no reflection is asked for. DSPy's own
memory is off on both sides: its cache, and its history, which holds the last 10,000 calls whoever makes them.

Goal: beside bare DSPy nothing grows with attempts that are finished and journaled. What stays of each is its name in
the index of the journal, a few hundred bytes whatever the attempt's size.
"""

from __future__ import annotations

import argparse
import contextvars
import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import dspy
from dspy.lm15 import Message, Request, Response

from benchmarks.idle import IdleEngine
from benchmarks.shared import command_line, judge, quiet
from trgrpo_dspy import TrainingFreeGRPO

GROUP, EXAMPLES = 5, 100
"""Attempts at an example, examples of a step: of that many a run holds the results at a time."""
THREADS = 8
MOST = 1.0
"""Goal: kilobytes that stay of a finished attempt."""


class LongEngine(IdleEngine):
    """Answers at once with a text of its own of a given size."""

    def __init__(self, kilobytes: int) -> None:
        """Answer with so many kilobytes."""
        super().__init__()
        self._words = 1024 * kilobytes // 8

    def complete(self, request: Request) -> Response:
        """A reply that no other equals."""
        reply = super().complete(request)
        text = f"{self.calls:07d} " * self._words
        answer = Message.assistant(f"[[ ## answer ## ]]\n{text}\n\n[[ ## completed ## ]]")
        return Response(id=None, model=request.model, message=answer, finish_reason="stop", usage=reply.usage)


@dataclass(frozen=True)
class Peak:
    """What one process came to."""

    megabytes: float
    """Peak RSS above what the process had after a first run of few attempts."""
    calls: int
    """LM calls, counted by the engine."""
    rows: int
    """Attempts in the journal."""


def bare(lm: dspy.LM, program: dspy.Module, examples: Sequence[dspy.Example], attempts: int) -> None:
    """The attempts through DSPy alone."""

    def attempt(number: int) -> None:
        program(**examples[number % len(examples)].inputs())

    with dspy.context(lm=lm, trace=None), ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, attempts, EXAMPLES * GROUP):
            numbers = range(start, min(attempts, start + EXAMPLES * GROUP))
            futures = [pool.submit(contextvars.copy_context().run, attempt, number) for number in numbers]
            for future in futures:
                future.result()


def ours(lm: dspy.LM, program: dspy.Module, examples: Sequence[dspy.Example], attempts: int) -> int:
    """The same attempts as the optimizer makes them; how many are in the journal."""
    with tempfile.TemporaryDirectory() as folder:
        optimizer = TrainingFreeGRPO(
            metric=lambda example, prediction, trace=None: 1.0, group_size=GROUP, batch_size=len(examples),
            num_epochs=attempts // (len(examples) * GROUP), num_threads=THREADS, log_dir=folder,
        )  # fmt: skip
        with dspy.context(lm=lm):
            optimizer.compile(program, trainset=list(examples))
        journal = sqlite3.connect(Path(folder) / "journal.sqlite")
        (rows,) = journal.execute("SELECT count(*) FROM attempts").fetchone()
        journal.close()
        return int(rows)


def measure(side: str, attempts: int, kilobytes: int) -> Peak:
    """One measurement, in this process."""
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    quiet()
    program = dspy.Predict("question -> answer")
    examples = [dspy.Example(question=f"Question {i}?", answer="").with_inputs("question") for i in range(EXAMPLES)]
    examples = examples[: max(1, min(EXAMPLES, attempts // GROUP))]
    run = bare if side == "bare" else ours
    with dspy.context(disable_history=True):
        first = dspy.LM("idle/model", engine=LongEngine(1), cache=False, num_retries=0, seed=0)
        run(first, program, examples[:2], 2 * GROUP)  # what is imported and compiled at first use
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        lm = dspy.LM("idle/model", engine=LongEngine(kilobytes), cache=False, num_retries=0, seed=0)
        rows = run(lm, program, examples, attempts) or 0
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Peak((after - before) / 1024, lm.engine.calls, rows)


def in_process(side: str, attempts: int, kilobytes: int) -> Peak:
    """One measurement, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", "--measure", side, str(attempts), str(kilobytes)],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    return Peak(**json.loads(done.stdout))


def table(attempts: Sequence[int], kilobytes: Sequence[int]) -> list[str]:
    """A line for each size and number; the goals that were missed."""
    missed = []
    for size in kilobytes:
        above = []
        for number in attempts:
            sides = {side: in_process(side, number, size) for side in ("bare", "ours")}
            if {peak.calls for peak in sides.values()} != {number} or sides["ours"].rows != number:
                raise SystemExit(f"{number} calls and journal rows were meant: {sides}")
            above.append(sides["ours"].megabytes - sides["bare"].megabytes)
            print(
                f"{number:>8} x {size:>4} KB {sides['bare'].megabytes:>10.1f} {sides['ours'].megabytes:>10.1f} "
                f"{above[-1]:>+10.1f} {sides['ours'].rows:>10}",
                flush=True,
            )
        if len(attempts) > 1:
            each = 1024 * (above[-1] - above[0]) / (attempts[-1] - attempts[0])
            print(f"{'':>10} {size:>4} KB: {each:+.2f} KB an attempt from {attempts[0]} to {attempts[-1]}")
            missed += [f"{size} KB"] if each > MOST else []
    return missed


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; the exit status is 0 if the goal is met."""
    parser = command_line(__doc__, "20 attempts of 1 KB, no goal")
    parser.add_argument("--attempts", type=int, nargs="+", default=[1000, 10000], help="multiples of 500")
    parser.add_argument("--kilobytes", type=int, nargs="+", default=[1, 100], help="size of a reply")
    parser.add_argument("--measure", nargs=3, metavar=("SIDE", "ATTEMPTS", "KILOBYTES"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        side, number, size = options.measure
        print(json.dumps(vars(measure(side, int(number), int(size)))))
        return 0
    print(f"{THREADS} threads, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; peak RSS in MB above the start")
    print(f"{'attempts':>8}   {'size':>7} {'bare':>10} {'ours':>10} {'more':>10} {'journaled':>10}")
    if options.quick:
        table([20], [1])
        return 0
    missed = table(sorted(options.attempts), options.kilobytes)
    return judge([(not missed, f"at most {MOST} KB stays of a finished attempt")])


if __name__ == "__main__":
    sys.exit(main())
