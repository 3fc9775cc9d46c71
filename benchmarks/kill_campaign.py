"""Kill a run at random moments, resume it until it is done, and count at the server what was paid twice.

    python -m benchmarks.kill_campaign
    python -m benchmarks.kill_campaign --kills 60 --seed 3
    python -m benchmarks.kill_campaign --quick

The run is a process of its own with 16 threads; the offline model is served over HTTP by this one. A one-call program
and a ReAct agent of several calls an attempt are each killed (SIGKILL) many times: half of the moments are spread
evenly over the run's requests, half over its stages. Every request carries the names under which the journal would keep
its reply, so that after each kill it is known which replies were committed and which requests were in flight.

What must hold: the final library, scores and spend are those of a run that was never killed; no request whose reply was
committed is sent again; no committed reply disappears; the requests sent again are at most those in flight at a kill.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import signal
import sqlite3
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")  # of killed processes

import dspy

from benchmarks.shared import command_line, judge, quiet
from programs import tickets
from trgrpo_dspy import TrainingFreeGRPO
from trgrpo_dspy.engine.calls.units import Unit
from trgrpo_dspy.engine.journal.requests import request_hash
from trgrpo_dspy.offline.server import OfflineServer

THREADS = 16
LATENCY = "lognormal:0.03,0.6"
PROGRAMS = ("one call", "ReAct")
SIZE, SMALL = (12, 8, 2), (6, 4, 1)
"""Training examples, validation examples and epochs."""


class Tagged(dspy.LM):
    """An LM that tells the server under which names the journal keeps the reply."""

    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """Send the unit of work and the request's hash along, as the request's user."""
        unit = dspy.settings.get("trgrpo_dspy_unit")
        assert isinstance(unit, Unit)
        tag = f"{unit.id}|{request_hash(self, prompt, messages, kwargs)}"
        return super().__call__(prompt, messages=messages, user=tag, **kwargs)


class TaggedServer(OfflineServer):
    """The offline server, which keeps the tags of the requests that arrive, in order."""

    def __init__(self) -> None:
        """Serve with latency and without faults."""
        super().__init__(latency=LATENCY)
        self.tags: list[str] = []
        self.arrived = threading.Condition()
        self.last: Callable[[], bool] = lambda: False
        """Whether the request that has just arrived gets no reply, since its process is to be killed."""

    async def _answer(self, http: Any, body: Any, record: Any) -> Any:
        with self.arrived:
            self.tags.append(str(body.get("user")))
            last = self.last()
            self.arrived.notify_all()
        if last:  # the process can't end before it is killed, which cancels this
            await asyncio.sleep(3600)
        return await super()._answer(http, body, record)

    def settle(self) -> None:
        """Return once all that a killed process has sent was read: connections are served in order."""
        for _ in range(3):
            with closing(HTTPConnection(urlsplit(self.url).netloc, timeout=60)) as connection:
                connection.request("GET", "/nothing")
                connection.getresponse().read()


def rule_book(topic: str) -> str:
    """Look a topic up in the company's rule book."""
    return f"The rule book says of {topic!r}: read the ticket twice, then decide by what the customer wants."


def compile_once(name: str, size: tuple[int, int, int], url: str, log_dir: Path | None) -> dspy.Module:
    """The run under test."""
    quiet()
    train, val, epochs = size
    program = tickets.program()
    if name == "ReAct":
        program = dspy.ReAct(tickets.TriageTicket, tools=[rule_book], max_iters=3)
    lm = Tagged("openai/offline", api_base=url, api_key="offline", cache=False, seed=0, num_retries=0)
    with dspy.context(lm=lm):
        optimizer = TrainingFreeGRPO(
            metric=tickets.metric, group_size=4, batch_size=6, num_epochs=epochs, num_threads=THREADS, log_dir=log_dir
        )
        return optimizer.compile(program, trainset=examples("train", train), valset=examples("val", val))


def examples(split: str, count: int) -> list[dspy.Example]:
    """The first tickets of the splits "train" or "val"."""
    return (tickets.trainset() if split == "train" else tickets.valset())[:count]


def facts(results: str) -> Any:
    """What a run found, without times and arguments."""
    found = json.loads(results)
    for name in ("seconds", "settings", "calls_before"):
        del found[name]
    return found


def committed(log_dir: Path) -> set[str]:
    """Tags of the replies in a journal, read as a stranger would."""
    path = log_dir / "journal.sqlite"
    if not path.exists() or not path.stat().st_size:
        return set()
    with closing(sqlite3.connect(path)) as db:
        if not db.execute("SELECT count(*) FROM sqlite_master WHERE name='calls'").fetchone()[0]:
            return set()
        return {f"{unit}|{request}" for unit, request in db.execute("SELECT unit, request FROM calls")}


@dataclass
class Outcome:
    """What came of one killed and resumed run."""

    program: str
    kills: int = 0
    wanted: int = 0
    requests: int = 0
    """Requests of the uninterrupted run."""
    sent: int = 0
    in_flight: int = 0
    """Requests that were out, uncommitted, at the kills."""
    repeated: int = 0
    """Requests sent more than once."""
    repeated_committed: int = 0
    """Requests sent although their reply was in the journal."""
    disappeared: int = 0
    """Committed replies that a later journal did not hold."""
    stages: Counter[str] = field(default_factory=Counter)
    """Kills by the stage of the last request before it."""
    differences: list[str] = field(default_factory=list)
    """What is not as in the uninterrupted run."""

    @property
    def passed(self) -> bool:
        """Whether all that must hold holds."""
        bounded = self.repeated <= self.in_flight <= THREADS * self.kills
        sound = not (self.repeated_committed or self.disappeared or self.differences)
        return bounded and sound and self.sent == self.requests + self.repeated and self.kills == self.wanted

    def __str__(self) -> str:
        """One line of the table."""
        return (
            f"{self.program:<9} {self.kills:>5} {self.requests:>8} {self.sent:>6} {self.repeated:>8} "
            f"{self.in_flight:>9} {self.repeated_committed:>10} {self.disappeared:>11}  "
            f"{', '.join(self.differences) or 'equal'}"
        )


HEADER = "program   kills requests   sent repeated in flight  committed disappeared  library, scores, spend"


def moments(stages: Sequence[str], kills: int, chance: random.Random) -> list[int]:
    """Requests after which to kill: half spread over all requests, half over the stages; in order, all different."""
    count = len(stages)
    picked = {int((i + chance.random()) * count / (kills - kills // 2)) for i in range(kills - kills // 2)}
    names = sorted(set(stages))
    turn = chance.randrange(len(names))
    while len(picked) < min(kills, count):
        places = [i for i, stage in enumerate(stages) if stage == names[turn % len(names)]]
        picked.add(chance.choice(places))
        turn += 1
    return sorted(picked)


@contextmanager
def child(name: str, size: tuple[int, int, int], url: str, log_dir: Path) -> Iterator[ForkServerProcess]:
    """The run in a process of its own, forked from one that has imported what it needs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([compile_once.__module__, "trgrpo_dspy.offline"])
    process = context.Process(target=run_child, args=(name, size, url, log_dir))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def run_child(name: str, size: tuple[int, int, int], url: str, log_dir: Path) -> None:
    """What the child does; a failure is left in a file."""
    try:
        compile_once(name, size, url, log_dir)
    except BaseException:
        (log_dir.parent / "failure.txt").write_text(traceback.format_exc())
        raise


def kill_at(process: ForkServerProcess, server: TaggedServer, before: int, moment: int, wait: float) -> bool:
    """Kill the process when so many different requests have arrived; False if it ended before that."""

    def reached() -> bool:
        return len(set(server.tags[before:])) > moment

    with server.arrived:
        server.last = reached
        while not reached() and process.is_alive():
            server.arrived.wait(0.02)
    time.sleep(wait)
    process.kill()  # SIGKILL
    process.join()
    server.last = lambda: False
    return process.exitcode == -signal.SIGKILL


def campaign(server: TaggedServer, name: str, kills: int, expected: Reference, chance: random.Random) -> Outcome:
    """Kill and resume one run until it is done."""
    found = Outcome(name, wanted=kills, requests=len(expected.stages))
    first, known = len(server.tags), set[str]()
    plan: list[int | None] = [*moments(expected.stages, kills, chance), None]
    with tempfile.TemporaryDirectory() as folder:
        log_dir = Path(folder) / "run"
        for moment in plan:
            start = len(server.tags)
            with child(name, expected.size, server.url, log_dir) as process:
                if moment is None:
                    process.join()
                    if process.exitcode:
                        found.differences.append((log_dir.parent / "failure.txt").read_text()[-2000:])
                elif kill_at(process, server, first, moment, chance.uniform(0, 0.06)):
                    found.kills += 1
            server.settle()
            sent, now = server.tags[start:], committed(log_dir)
            found.repeated_committed += len(known & set(sent))
            found.disappeared += len(known - now)
            if moment is not None and sent:
                found.in_flight += len([tag for tag in sent if tag not in now])
                found.stages[sent[-1].split("/")[0]] += 1
            known = now
        found.differences += expected.differences(log_dir)
    found.sent = len(server.tags) - first
    found.repeated = found.sent - len(set(server.tags[first:]))
    return found


@dataclass
class Reference:
    """The run that was never killed."""

    size: tuple[int, int, int]
    results: Any
    stages: list[str]
    """Stages of its requests, in order of arrival."""

    def differences(self, log_dir: Path) -> list[str]:
        """What of a killed run is not as here."""
        path = log_dir / "results.json"
        if not path.exists():
            return ["no results"]
        found = facts(path.read_text(encoding="utf-8"))
        parts = [name for name in self.results if found[name] != self.results[name]]
        return parts


def reference(server: TaggedServer, name: str, size: tuple[int, int, int]) -> Reference:
    """Run it once, in this process, without a journal."""
    start = len(server.tags)
    compiled = compile_once(name, size, server.url, None)
    tags = server.tags[start:]
    if len(set(tags)) != len(tags):
        raise SystemExit(f"{name}: a unit of work sends equal requests; they can't be told apart here")
    results = compiled.detailed_results
    return Reference(size, facts(results.to_json()), [tag.split("/")[0] for tag in tags])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign; the exit status is 0 if all holds."""
    numbers = {"kills": (60, "kills in all"), "per_run": (10, "kills of one run"), "seed": (0, "seed of the moments")}
    options = command_line(__doc__, "3 kills", **numbers).parse_args(arguments)
    kills = [2, 1] if options.quick else [options.per_run] * max(2, round(options.kills / options.per_run))
    chance, began = random.Random(options.seed), time.monotonic()
    outcomes = []
    with TaggedServer() as server:
        references = {name: reference(server, name, SMALL if options.quick else SIZE) for name in PROGRAMS}
        print(HEADER)
        for number, count in enumerate(kills):
            name = PROGRAMS[number % len(PROGRAMS)]
            outcomes.append(campaign(server, name, count, references[name], chance))
            print(outcomes[-1], flush=True)
    return report(outcomes, time.monotonic() - began)


def report(outcomes: Sequence[Outcome], seconds: float) -> int:
    """Print what holds and what does not."""
    stages = sum((o.stages for o in outcomes), Counter[str]())
    print(f"\nkills by stage: {', '.join(f'{name} {count}' for name, count in stages.most_common())}; {seconds:.0f} s")
    total = {n: sum(getattr(o, n) for o in outcomes) for n in ("kills", "wanted", "repeated", "in_flight")}
    committed_again = sum(o.repeated_committed for o in outcomes)
    lost = sum(o.disappeared for o in outcomes)
    lines = [
        (all(not o.differences for o in outcomes), "library, scores and spend equal the uninterrupted run's"),
        (not committed_again, f"requests repeated whose reply had been committed: {committed_again}"),
        (not lost, f"committed replies that disappeared: {lost}"),
        (
            total["repeated"] <= total["in_flight"],
            "requests repeated {repeated}, in flight at kills {in_flight}".format(**total),
        ),
        (total["kills"] == total["wanted"], "kills {kills} of {wanted}".format(**total)),
        (all(o.passed for o in outcomes), "every run by itself"),
    ]
    return judge(lines)


if __name__ == "__main__":
    sys.exit(main())
