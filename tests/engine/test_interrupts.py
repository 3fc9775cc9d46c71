"""Ctrl-C: once ends the run with what it has, twice ends it at once; either way nothing that was paid for is lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.lm15 import Request
from support import ROOT
from support.scripted import Call, ScriptedEngine, Triage, exact, examples, learner, read_call, scripted_lm, told
from support.waiting import LONG, stops

from trgrpo_dspy import TrainingFreeGRPO, evaluate
from trgrpo_dspy.engine.interrupts import graceful_interrupt

CHILD = """
import json, sys, threading, time
sys.path.insert(0, "tests")
import conftest, dspy, pytest
from support.scripted import Triage, examples, learner, scripted_lm, told
from support.waiting import LONG, stops
from trgrpo_dspy import TrainingFreeGRPO
from trgrpo_dspy.engine import flows

log_dir, at, seconds, flows._GRACE = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])

stopped = stops(pytest.MonkeyPatch())
threading.Thread(target=lambda: stopped.wait() and print("stopped", flush=True), daemon=True).start()

def script(call):
    if call.number == at:
        print("now", flush=True)
    if call.number >= at:
        stopped.wait(LONG)
    time.sleep(seconds if call.number >= at else 0.001)
    return learner(call)

lm = scripted_lm(script)
dspy.configure(lm=lm)
optimizer = TrainingFreeGRPO(metric=told, num_epochs=2, batch_size=4, group_size=4, num_threads=8, log_dir=log_dir)
compiled = optimizer.compile(dspy.Predict(Triage), trainset=examples(8), valset=examples(6, start=8))
results = compiled.detailed_results
print(json.dumps({"reason": results.stop_reason, "made": len(lm.engine.calls), "calls": results.total.calls,
                  "verdict": results.verdict.text, "step": results.verdict.step, "library": str(compiled.experiences),
                  "steps": [str(s.library) for s in results.steps]}), flush=True)
"""


class Child:
    """A run in a process of its own, up to the `at`-th LM call; from there on a call takes `seconds` from the stop."""

    def __init__(self, log_dir: Path, at: int, seconds: float, grace: float = LONG) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(CHILD), str(log_dir), str(at), str(seconds), str(grace)],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "now\n", self.process.communicate()[1]

    def interrupt(self, *, stops: bool = True) -> None:
        """Press Ctrl-C, and wait until the run is stopped."""
        self.interrupted = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        assert not stops or self.process.stdout.readline() == "stopped\n", self.process.communicate()[1]

    def finish(self) -> tuple[int, str, float]:
        """Exit status, last line said, seconds it took from the interruption: far fewer than the calls take."""
        out, err = self.process.communicate(timeout=LONG)
        seconds = time.monotonic() - self.interrupted
        return self.process.returncode, (out.strip() or err.strip()).splitlines()[-1], seconds


def check_journal(log_dir: Path) -> int:
    """Rows of replies in a journal that is sound."""
    with sqlite3.connect(log_dir / "journal.sqlite") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        (replies,) = db.execute("SELECT count(*) FROM calls").fetchone()
    db.close()
    return int(replies)


def whole_run(log_dir: Path | None = None) -> tuple[dspy.Module, int]:
    """The same run, from where it stands, without an interruption."""
    lm = scripted_lm()
    optimizer = TrainingFreeGRPO(metric=told, num_epochs=2, batch_size=4, group_size=4, num_threads=8, log_dir=log_dir)
    with dspy.context(lm=lm):
        compiled = optimizer.compile(dspy.Predict(Triage), trainset=examples(8), valset=examples(6, start=8))
    return compiled, len(lm.engine.calls)


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT to a child")
class TestARun:
    def test_once_the_best_so_far_is_returned_and_the_run_resumes(self, tmp_path: Path) -> None:
        child = Child(tmp_path, at=60, seconds=0.4)
        child.interrupt()
        status, said, _ = child.finish()
        result = json.loads(said)
        assert (status, result["reason"]) == (0, "interrupted")
        assert "The run was interrupted." in result["verdict"]
        assert result["made"] <= 60 + 8  # what was in flight, nothing after it
        assert result["calls"] == result["made"] == check_journal(tmp_path)  # calls in flight came back and were kept
        assert result["library"] == (result["steps"][result["step"] - 1] if result["step"] else "")
        whole, calls = whole_run()
        resumed, rest = whole_run(tmp_path)
        assert rest + result["made"] == calls
        assert resumed.experiences == whole.experiences
        assert resumed.detailed_results.stop_reason == "completed"
        assert resumed.detailed_results.spend == whole.detailed_results.spend

    def test_calls_that_do_not_come_back_are_waited_for_so_long(self, tmp_path: Path) -> None:
        child = Child(tmp_path, at=10, seconds=600, grace=0.5)
        child.interrupt()
        status, said, seconds = child.finish()
        assert (status, '"interrupted"' in said) == (0, True)
        assert seconds > 0.4
        check_journal(tmp_path)

    def test_twice_it_leaves_at_once_and_the_journal_is_sound(self, tmp_path: Path) -> None:
        child = Child(tmp_path, at=40, seconds=600, grace=600)
        child.interrupt()
        time.sleep(0.4)
        assert child.process.poll() is None  # it waits for the calls in flight
        child.interrupt(stops=False)
        status, said, _ = child.finish()
        assert status in (-signal.SIGINT, 130)
        assert said == "KeyboardInterrupt"
        kept = check_journal(tmp_path)
        assert 30 <= kept <= 40
        resumed, rest = whole_run(tmp_path)
        whole, calls = whole_run()
        assert rest == calls - kept
        assert resumed.experiences == whole.experiences


class TestHandlers:
    """Whose handler it is."""

    def seen_during(self, work: Callable[[TrainingFreeGRPO, list[dspy.Example]], Any]) -> Any:
        """The handler in place while attempts run."""
        seen: set[Any] = set()

        def script(call: Call) -> Any:
            seen.add(signal.getsignal(signal.SIGINT))
            return learner(call)

        with dspy.context(lm=scripted_lm(script)):
            work(TrainingFreeGRPO(metric=exact, num_epochs=1, group_size=2, num_threads=2), examples(2))
        (handler,) = seen
        return handler

    def compile_and_see(self) -> Any:
        return self.seen_during(lambda optimizer, data: optimizer.compile(dspy.Predict(Triage), trainset=data))

    def test_ours_is_in_place_during_a_run_and_gone_after_it(self) -> None:
        assert self.compile_and_see() is not signal.default_int_handler
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_an_estimate_leaves_ctrl_c_as_it_is(self) -> None:
        def estimate(optimizer: TrainingFreeGRPO, data: list[dspy.Example]) -> None:
            optimizer.estimate(dspy.Predict(Triage), trainset=data, sample=1)

        assert self.seen_during(estimate) is signal.default_int_handler

    def test_a_users_own_is_left_alone(self) -> None:
        def mine(number: int, frame: Any) -> None:
            raise AssertionError("nobody pressed it")

        before = signal.signal(signal.SIGINT, mine)
        try:
            assert self.compile_and_see() is signal.getsignal(signal.SIGINT) is mine
        finally:
            signal.signal(signal.SIGINT, before)

    def test_off_the_main_thread_none_is_touched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def touched(*_: Any) -> None:
            raise AssertionError("a signal handler was touched")

        monkeypatch.setattr(signal, "signal", touched)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(self.compile_and_see).result(LONG) is signal.default_int_handler

    def test_the_first_stops_and_the_second_interrupts(self) -> None:
        """The main thread may hold the lock that `stop` takes: the handler may run between any two instructions."""
        lock, stopped = threading.Lock(), threading.Event()

        def stop() -> None:
            with lock:
                stopped.set()

        with pytest.raises(KeyboardInterrupt), graceful_interrupt(stop):
            with lock:
                signal.raise_signal(signal.SIGINT)
                time.sleep(0.01)
            assert stopped.wait(LONG)
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class Side(dspy.Module):
    """Asks side by side, on an event loop of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict(Triage)

    def forward(self, ticket: str) -> Any:
        async def one(number: int) -> Any:
            await self.answer.acall(ticket=f"{ticket}, part {number}")
            return await self.answer.acall(ticket=f"{ticket}, part {number}, again")

        async def ask() -> Any:
            return (await asyncio.gather(*(one(number) for number in range(3))))[0]

        return asyncio.run(ask())


class Slow:
    """Answers asynchronously; some requests take much longer than others. The n-th ends the run, before any reply."""

    def __init__(self, at: int, stopped: threading.Event) -> None:
        self.at, self.stopped, self.asked, self.answered = at, stopped, 0, 0
        self.lock = threading.Lock()  # there are two event loops

    def __deepcopy__(self, memo: Any) -> Slow:
        return self

    async def complete(self, request: Request) -> Any:
        with self.lock:
            self.asked += 1
            number = self.asked
        if number == self.at:
            os.kill(os.getpid(), signal.SIGINT)
        if number >= self.at:
            assert await asyncio.to_thread(self.stopped.wait, LONG)
        call = read_call(request)
        await asyncio.sleep(0.3 if "part 2" in call.user else 0.02)
        with self.lock:
            self.answered += 1
        return ScriptedEngine().complete(request)


@pytest.mark.parametrize("at", [11, 20])
def test_what_is_out_beside_a_call_that_is_refused_is_not_lost(
    tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal ends the `gather`, and the loop with all that is on it: not before the replies are there."""

    def run(engine: Slow, log_dir: Path) -> Any:
        lm = dspy.LM("scripted/model", engine=ScriptedEngine(), async_engine=engine, seed=7, cache=False)
        with dspy.context(lm=lm):
            return evaluate(Side(), examples(6), exact, num_threads=2, log_dir=log_dir)

    stopped = stops(monkeypatch)
    first, second = Slow(at, stopped), Slow(99, stopped)
    assert run(first, tmp_path).stop_reason == "interrupted"
    assert first.answered == first.asked < 36
    assert run(second, tmp_path).mean.n == 6
    assert first.asked + second.asked == 36
