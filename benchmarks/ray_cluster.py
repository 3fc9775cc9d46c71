"""Attempts on a Ray cluster of two nodes (processes on this machine) against threads on the same cores.

    python -m benchmarks.ray_cluster
    python -m benchmarks.ray_cluster --attempts 200 --milliseconds 50 --repeats 5
    python -m benchmarks.ray_cluster --quick

Each attempt burns CPU in Python, as a program does that parses, searches or simulates; the built-in offline model (no
large language model) answers without latency. Each node has one CPU, so two attempts run at a time, on two cores.
Threads share one interpreter lock, so they have one core.

Shown: wall time of the same attempts in threads and on the cluster, and their ratio, beside that of processes which do
nothing but burn as much (so that other work on the machine shows in both); what a task costs beyond its work
(round trip, and CPU of the driver); and whole runs with a worker killed half way, and with a node killed half way.
Asserted: those runs come to the same library, scores and spend as threads.

What limits the ratio: two cores bound it by 2; the driver and Ray's own processes share those cores with the attempts.
After a node is killed, Ray takes ten seconds or so to notice, and half of the cluster is left.
"""

from __future__ import annotations

import os
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Before Ray is imported: no report over the network, and a cluster that only this process can talk to.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

import dspy

from benchmarks.shared import command_line, quiet
from programs import tickets
from trgrpo_dspy import RayExecutor, TrainingFreeGRPO
from trgrpo_dspy.engine.attempts import attempt_task
from trgrpo_dspy.engine.calls.units import Unit
from trgrpo_dspy.engine.flows import single
from trgrpo_dspy.engine.options import RunOptions
from trgrpo_dspy.engine.session import Session
from trgrpo_dspy.meter import Stage
from trgrpo_dspy.offline import offline_lm

NODES = 2
"""Nodes, each with one CPU."""


class Burns(dspy.Module):
    """A program whose attempts are heavy; its process can be made to die once."""

    def __init__(self, seconds: float, deadly: Path | None = None) -> None:
        """Burn so many seconds of CPU an attempt; die at one ticket unless the file `deadly` is there by then."""
        super().__init__()
        self.answer = tickets.program()
        self.seconds, self.deadly = seconds, deadly

    def forward(self, **inputs: Any) -> Any:
        """Answer, and burn."""
        end = time.thread_time() + self.seconds
        while time.thread_time() < end:
            sum(range(1000))
        if self.deadly is not None and inputs == DEADLY and not self.deadly.exists():
            self.deadly.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.answer(**inputs)


BURN = "import sys, time\nwhile time.thread_time() < float(sys.argv[1]): sum(range(1000))"
TRAINSET = tickets.trainset()
DEADLY = dict(TRAINSET[4].inputs().items())


class Then:
    """An executor that has something done when half of the attempts are sent."""

    def __init__(self, executor: RayExecutor, half: int, action: Callable[[], object]) -> None:
        """Do `action` beside the submission with this number."""
        self.executor, self.left, self.action = executor, half, action
        self.done = False

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Pass it on."""
        self.left -= 1
        if self.left == 0:
            self.done = True
            threading.Thread(target=self.action).start()
        return self.executor.submit(fn, *args)


@contextmanager
def two_nodes() -> Iterator[Any]:
    """A cluster of processes on this machine: a head and a second node, whose workers find this repository."""
    from ray.cluster_utils import Cluster

    root = str(Path(__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 10**8}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(NODES - 1):
            cluster.add_node(num_cpus=1, object_store_memory=10**8)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()


def warm(executor: RayExecutor) -> None:
    """Have the workers start and import what an attempt needs, on all nodes."""
    for future in [executor.submit(time.sleep, 0.5) for _ in range(2 * NODES)]:
        future.result()
    attempts(executor, 4 * NODES, 0.1)


def attempts(executor: Any, count: int, seconds: float, at_a_time: int = 2 * NODES) -> tuple[float, float]:
    """Wall time and the driver's CPU time of so many attempts, in seconds."""
    session = Session(RunOptions(num_threads=at_a_time, executor=executor), metric=tickets.metric, kind="evaluate")
    wall, cpu = time.perf_counter(), time.process_time()
    with dspy.context(lm=offline_lm()), session:
        program = session.copy(Burns(seconds))
        flows = [
            single(
                attempt_task(
                    session.runner, program, TRAINSET[i % 40], Unit(Stage.ROLLOUT, 1, ("attempt", i), resample=True),
                    index=i % 40, attempt=i // 40,
                )
            )
            for i in range(count)
        ]  # fmt: skip
        rollouts = session.run(flows)
    if any(rollout.score is None for rollout in rollouts):
        raise SystemExit(f"unscored attempts: {[rollout.error for rollout in rollouts if rollout.error][:1]}")
    return time.perf_counter() - wall, time.process_time() - cpu


def learned(executor: Any, program: dspy.Module, examples: int) -> tuple[float, Any]:
    """Seconds of a run, and all it came to."""
    optimizer = TrainingFreeGRPO(
        metric=tickets.metric, num_epochs=1, group_size=4, num_threads=2 * NODES, executor=executor, batch_size=examples
    )
    began = time.perf_counter()
    with dspy.context(lm=offline_lm()):
        compiled = optimizer.compile(program, trainset=TRAINSET[:examples], valset=tickets.valset()[:examples])
    results = compiled.detailed_results
    outcomes = [step.outcomes for step in results.steps]
    scores = [step.validation and step.validation.scores for step in results.steps]
    return time.perf_counter() - began, (str(compiled.experiences), outcomes, scores, results.spend)


def load() -> str:
    """How busy the machine is with other things."""
    return f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} CPUs"


def bare(seconds: float) -> float:
    """Wall time of so many seconds of CPU in processes that do nothing else: what the machine has to give."""
    began = time.perf_counter()
    burning = [subprocess.Popen([sys.executable, "-c", BURN, str(seconds / NODES)]) for _ in range(NODES)]
    for process in burning:
        process.wait()
    return time.perf_counter() - began


def speed(executor: RayExecutor, count: int, seconds: float, repeats: int) -> tuple[float, float]:
    """Print and return the median ratios of wall times: threads over cluster, threads over bare processes."""
    ratios, limits = [], []
    for repeat in range(repeats):
        places = [None, executor][:: 1 if repeat % 2 else -1]
        wall = {place: attempts(place, count, seconds)[0] for place in places}
        limit = bare(count * seconds)
        ratios.append(wall[None] / wall[executor])
        limits.append(wall[None] / limit)
        print(
            f"{count} attempts of {1000 * seconds:g} ms CPU: threads {wall[None]:.2f} s, "
            f"cluster {wall[executor]:.2f} s, ratio {ratios[-1]:.2f}; the same CPU in {NODES} bare processes "
            f"{limit:.2f} s, ratio {limits[-1]:.2f} ({load()})",
            flush=True,
        )
    return statistics.median(ratios), statistics.median(limits)


def overhead(executor: RayExecutor, count: int) -> tuple[float, float]:
    """Milliseconds a task takes beyond the attempt itself, one at a time: wall, and CPU of the driver."""
    (here, here_cpu), (there, there_cpu) = attempts(None, count, 0.0, 1), attempts(executor, count, 0.0, 1)
    del here_cpu  # the attempt's own CPU is spent on the worker
    return 1000 * (there - here) / count, 1000 * there_cpu / count


def same(name: str, found: tuple[float, Any], expected: tuple[float, Any]) -> None:
    """Print a run's time beside the threads'; end if it came to something else."""
    print(f"{name}: {found[0]:.2f} s, threads {expected[0]:.2f} s, the same result ({load()})", flush=True)
    if found[1] != expected[1]:
        raise SystemExit(f"{name}: differs from threads\n{found[1]}\n{expected[1]}")


def measure(cluster: Any, executor: RayExecutor, count: int, seconds: float, repeats: int, examples: int) -> None:
    """Everything, on a cluster that loses its second node at the end."""
    warm(executor)
    ratio, limit = speed(executor, count, seconds, repeats)
    wall, cpu = overhead(executor, max(20, count // 4))
    expected = learned(None, Burns(seconds), examples)
    if not expected[1][0]:
        raise SystemExit("threads learned nothing, so there is nothing to compare")
    same("a run on the cluster", learned(executor, Burns(seconds), examples), expected)
    with tempfile.TemporaryDirectory() as folder:
        deadly = Path(folder) / "died"
        same("a worker killed", learned(executor, Burns(seconds, deadly), examples), expected)
        if not deadly.exists():
            raise SystemExit("no worker was killed")
    second = next(iter(cluster.worker_nodes))
    half = Then(executor, examples + examples * 2, lambda: cluster.remove_node(second, allow_graceful=False))
    same("a node killed half way", learned(half, Burns(seconds), examples), expected)
    if not half.done:
        raise SystemExit("no node was killed")
    print(f"threads / cluster: {ratio:.2f}; threads / bare processes, the most there is to gain: {limit:.2f} (medians)")
    print(f"a task costs {wall:.1f} ms beyond its attempt, and {cpu:.1f} ms CPU of the driver")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    options = command_line(
        __doc__, "40 attempts of 20 ms, one pair, runs of 6 examples", attempts=(200, "attempts that are timed"),
        milliseconds=(50.0, "CPU an attempt burns"), repeats=(5, "pairs that are timed"),
    ).parse_args(arguments)  # fmt: skip
    count, seconds, repeats = (40, 0.02, 1) if options.quick else (
        options.attempts, options.milliseconds / 1000, options.repeats,
    )  # fmt: skip
    quiet()
    began = time.perf_counter()
    with two_nodes() as cluster, RayExecutor(cluster.address) as executor:
        print(f"cluster of {NODES} nodes up in {time.perf_counter() - began:.1f} s")
        measure(cluster, executor, count, seconds, repeats, 6 if options.quick else 20)
    print(
        "The offline model is no large language model; the figures are about where attempts run, not what they learn."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
