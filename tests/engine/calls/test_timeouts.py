"""Attempts that take too long are given up, and the run goes on at its pace; the rate limit holds for all threads."""

from __future__ import annotations

import asyncio
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import dspy
import pytest
from aiohttp import web
from dspy.lm15 import RateLimitError
from support import ROOT
from support.scripted import Call, Triage, exact, examples, learner, scripted_lm
from support.waiting import LONG, until

from trgrpo_dspy import Budget, FatalError, RunStopped, TrainingFreeGRPO, evaluate
from trgrpo_dspy.engine.calls import state
from trgrpo_dspy.engine.calls.backends import Backend
from trgrpo_dspy.engine.calls.gate import Gate
from trgrpo_dspy.engine.calls.units import Unit, current_unit
from trgrpo_dspy.engine.executors.threads import ThreadExecutor
from trgrpo_dspy.engine.pool import Started
from trgrpo_dspy.meter import Meter, Stage
from trgrpo_dspy.offline.server import OfflineServer


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """Ends what hangs when the test is over."""
    event = threading.Event()
    yield event
    event.set()


def only_what_hangs_is_late(monkeypatch: pytest.MonkeyPatch, program: Hangs, together: int = 1) -> None:
    """Let no attempt be late that does not hang, however slow the machine is, nor any before so many hang."""
    own = Started.deadline.fget

    def deadline(started: Started) -> float:
        hangs = len(program.hung) >= together and started.task.unit.id in program.hung
        return own(started) if hangs else math.inf

    monkeypatch.setattr(Started, "deadline", property(deadline))
    monkeypatch.setattr("trgrpo_dspy.engine.pool._LOOK", 0.05)


class Hangs(dspy.Module):
    """Some attempts never end: what decides is the reply, so that it is the same ones every time."""

    def __init__(self, released: threading.Event) -> None:
        super().__init__()
        self.answer, self.after = dspy.Predict(Triage), dspy.Predict(Triage)
        self.released, self.hung, self.refused = released, [], []

    def __deepcopy__(self, memo: Any) -> Hangs:
        other = Hangs(self.released)
        other.hung, other.refused = self.hung, self.refused
        other.answer.signature = self.answer.signature
        return other

    def forward(self, ticket: str) -> Any:
        found = self.answer(ticket=ticket)
        if found.queue == "legal":
            self.hung.append(current_unit().id)
            self.released.wait(LONG)
            try:
                self.after(ticket=f"{ticket} afterwards")
            except BaseException as error:
                self.refused.append(type(error).__name__)
                raise
        return found


def compile_with(lm: dspy.LM, program: dspy.Module, **options: Any) -> dspy.Module:
    optimizer = TrainingFreeGRPO(**{"metric": exact, "num_epochs": 1, "group_size": 4, "num_threads": 4, **options})
    with dspy.context(lm=lm):
        return optimizer.compile(program, trainset=examples(8))


class TestRolloutTimeout:
    def test_a_hung_attempt_is_given_up_its_place_filled_and_its_further_calls_refused(
        self, released: threading.Event, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lm, program = scripted_lm(), Hangs(released)
        only_what_hangs_is_late(monkeypatch, program, together=4)  # not one after the other
        compiled = compile_with(lm, program, rollout_timeout=0.2)
        calls, hung = len(lm.engine.calls), len(program.hung)
        (step,) = compiled.detailed_results.steps
        assert hung > 4  # more than there are threads
        assert step.outcomes == {"completed": 32 - hung, "infrastructure": hung}
        assert compiled.detailed_results.stop_reason == "completed"
        released.set()
        until(lambda: len(program.refused) == hung)
        assert program.refused == ["RunStopped"] * hung
        assert len(lm.engine.calls) == calls == compiled.detailed_results.total.calls

    def test_calls_are_refused_while_the_run_goes_on(self, lm: dspy.LM) -> None:
        calls = Gate()
        slow, quick = Unit(Stage.ROLLOUT, key=(1,)), Unit(Stage.ROLLOUT, key=(2,))
        calls.abandon(slow)
        for unit in (slow, slow.as_judge()):
            with calls.context(unit), pytest.raises(BaseException, match="abandoned"):
                dspy.Predict(Triage)(ticket="refund")
        with calls.context(quick):
            assert dspy.Predict(Triage)(ticket="refund").queue
        assert len(lm.engine.calls) == 1

    def test_a_call_that_waits_for_its_turn_is_refused_and_gives_its_reservation_back(self, lm: dspy.LM) -> None:
        calls, unit = Gate(Meter(Budget(max_lm_calls=2)), requests_per_minute=1), Unit(Stage.ROLLOUT, key=(1,))
        calls.state.waiting.pace()
        began = time.monotonic()
        threading.Timer(0.1, calls.abandon, [unit]).start()
        with calls.context(unit), pytest.raises(RunStopped, match="abandoned"):
            dspy.Predict(Triage)(ticket="refund")
        assert [calls.state.meter.reserve()[0] for _ in range(3)] == [True, True, False]
        assert time.monotonic() - began < 45 and not lm.engine.calls, "its turn is in a minute"

    def test_validation_too(self, released: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
        lm, program = scripted_lm(), Hangs(released)
        only_what_hangs_is_late(monkeypatch, program)
        optimizer = TrainingFreeGRPO(metric=exact, num_epochs=1, num_threads=4, group_size=2, rollout_timeout=0.2)
        with dspy.context(lm=lm):
            compiled = optimizer.compile(program, trainset=examples(2), valset=examples(8, start=8))
        baseline = compiled.detailed_results.baseline
        assert baseline.mean.unscored == baseline.outcomes["infrastructure"] > 0
        assert baseline.mean.n == 8 - baseline.mean.unscored

    @pytest.mark.parametrize("engine", ["auto", "litellm"])
    def test_a_hanging_lm_call(self, engine: str) -> None:
        """The client would wait for a minute; the run gives the attempt up, and the server's silence in the end."""
        with OfflineServer(error_rate=0.15, errors=("hang",), hang_seconds=LONG) as server:
            lm = server.lm(engine, timeout=LONG)
            with suppress(Exception):  # LiteLLM takes seconds to import
                server.lm(engine, timeout=1, num_retries=0)("hello")
            began = time.monotonic()
            compiled = compile_with(lm, dspy.Predict(Triage), rollout_timeout=3.0, num_threads=8,
                                    reflection_lm=scripted_lm())  # fmt: skip
            seconds = time.monotonic() - began
            hung = [r for r in server.requests if r.fault == "hang"]
            assert not hung  # they still hang
        (step,) = compiled.detailed_results.steps
        assert 1 <= step.outcomes["infrastructure"] <= 12
        assert step.outcomes["infrastructure"] + step.outcomes["completed"] == 32
        assert seconds < 45

    def test_a_server_that_never_answers_is_given_up(self) -> None:
        with (
            OfflineServer(error_rate=1.0, errors=("hang",), hang_seconds=LONG) as server,
            pytest.raises(FatalError, match=r"none of 8 requests got a reply.*rollout_timeout"),
        ):
            compile_with(server.lm(timeout=LONG), dspy.Predict(Triage), rollout_timeout=0.3, num_threads=16)
        assert len(server.requests) <= 8

    def test_time_in_the_queue_of_the_rate_limit_is_no_time_of_the_attempt(self, lm: dspy.LM) -> None:
        found = evaluate(
            dspy.Predict(Triage), examples(8), exact, num_threads=8, rollout_timeout=3.0, requests_per_minute=100
        )  # the last in line waits for more than four seconds
        assert found.outcomes == {"completed": 8}

    def test_calls_side_by_side_are_held_back_once(self, lm: dspy.LM) -> None:
        calls, unit, began = Gate(requests_per_minute=6), Unit(Stage.ROLLOUT), time.monotonic()
        calls.state.waiting.until = lambda moment, seconds: True  # type: ignore[method-assign]  # the wait is only counted
        with calls.context(unit):
            pairs = [(dspy.Predict(Triage), {"ticket": f"refund {i}"}) for i in range(12)]
            dspy.Parallel(num_threads=12, disable_progress_bar=True)(pairs)
        assert len(lm.engine.calls) == 12
        seconds = time.monotonic() - began  # after it the last has its turn in 110 s; one by one they come to 660
        assert unit.account.clock.held == pytest.approx(110, abs=seconds + 0.1)


class TestThePool:
    def test_a_stuck_thread_is_replaced(self, released: threading.Event) -> None:
        """Also where work was handed in at the very moment a thread became free: it is not counted as idle twice."""
        pool, later, start = ThreadExecutor(), [], threading.Event()
        first = pool.submit(start.wait, LONG)
        first.add_done_callback(lambda _: later.append(pool.submit(lambda: "second")))
        start.set()
        assert first.result(LONG)
        assert until(lambda: later)
        assert later[0].result(LONG) == "second"
        stuck = pool.submit(released.wait, LONG)
        assert pool.submit(lambda: "went on").result(LONG / 2) == "went on"
        assert not stuck.done()
        pool.close()

    def test_the_process_ends_while_a_worker_sleeps(self) -> None:
        code = """if True:
            import sys, time
            sys.path.insert(0, "tests")
            import conftest, dspy
            from support.scripted import *
            from trgrpo_dspy import evaluate

            class Sleeps(dspy.Predict):
                def forward(self, ticket):
                    found = super().forward(ticket=ticket)
                    if found.queue == "legal":
                        time.sleep(600)
                    return found

            dspy.configure(lm=scripted_lm())
            found = evaluate(Sleeps(Triage), examples(8), exact, num_threads=4, rollout_timeout=0.3)
            print(found.outcomes["infrastructure"])
        """
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, timeout=2 * LONG, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) > 0


class TestRequestsPerMinute:
    def test_across_threads_and_retries_included(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(state, "BACKOFF", 0.001)
        stamps: list[float] = []

        def flaky(call: Call) -> Any:
            stamps.append(time.monotonic())
            key = repr((call.text, call.seed))
            call.memory[key] += 1
            return RateLimitError("busy") if call.memory[key] < 3 else learner(call)

        lm = scripted_lm(flaky, num_retries=3)
        began = time.monotonic()
        compiled = compile_with(lm, dspy.Predict(Triage), requests_per_minute=6000, num_threads=16)
        assert compiled.detailed_results.total.retries == 2 * compiled.detailed_results.total.calls
        assert len(stamps) > 30  # the n-th goes out no earlier than n intervals after the first could
        assert all(stamp >= began + number * 0.01 - 0.001 for number, stamp in enumerate(sorted(stamps)))


class Trickles(OfflineServer):
    """Never ends its reply to a prompt with this text, and sends a byte of it now and then."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.begun = text, 0

    async def _answer(self, http: web.Request, body: Any, record: Any) -> web.StreamResponse:
        if self.text not in str(body["messages"]):
            return await super()._answer(http, body, record)
        self.begun += 1
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(http)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.05)


class TestARequestThatNeverEnds:
    """A client's own timeout is for the wait between two bytes: it never ends a reply that trickles."""

    @pytest.fixture(autouse=True)
    def soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def most_seconds(backend: Backend, timeout: float | None) -> float:
            return 3.0 if timeout else LONG  # the scripted LM has none

        monkeypatch.setattr(Backend, "most_seconds", most_seconds)
        monkeypatch.setattr("trgrpo_dspy.engine.pool._LOOK", 0.1)

    def test_of_an_attempt(self) -> None:
        with Trickles("printer case") as server:
            compiled = compile_with(server.lm(timeout=LONG), dspy.Predict(Triage), reflection_lm=scripted_lm())
        (step,) = compiled.detailed_results.steps
        assert server.begun == 4
        assert step.outcomes == {"completed": 28, "infrastructure": 4}
        assert compiled.detailed_results.stop_reason == "completed"

    def test_of_a_reflection_step(self) -> None:
        with Trickles("`comparison` (str)") as server:
            compiled = compile_with(
                scripted_lm(), dspy.Predict(Triage), reflection_lm=server.lm(timeout=LONG), num_threads=16
            )
        (step,) = compiled.detailed_results.steps
        assert step.outcomes == {"completed": 32} and server.begun >= 1
        assert step.lost == {"comparison: infrastructure": server.begun}
        assert len(compiled.experiences) == 0 and compiled.detailed_results.stop_reason == "completed"
