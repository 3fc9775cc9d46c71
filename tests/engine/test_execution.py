"""Flows run side by side on a bounded pool; what they compute does not depend on who finishes first."""

from __future__ import annotations

import contextvars
import functools
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.scripted import Peak
from support.waiting import LONG

from trgrpo_dspy.engine.calls.gate import Gate
from trgrpo_dspy.engine.executors.threads import ThreadExecutor
from trgrpo_dspy.engine.flows import Execution, Flow
from trgrpo_dspy.engine.pool import Task
from trgrpo_dspy.errors import FatalError, RunStopped


def task(fn: Callable[..., Any], *args: Any, remaining: int = 0) -> Task:
    return Task(functools.partial(fn, *args), remaining)


def single(fn: Callable[..., Any], *args: Any) -> Flow[Any]:
    (result,) = yield [task(fn, *args)]
    return result


def run(flows: list[Flow[Any]], threads: int = 4) -> list[Any]:
    with Execution(Gate(), threads) as execution:
        return execution.run(flows)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), max_size=4), max_size=6), st.integers(1, 9), st.integers(0, 99))
def test_results_come_in_input_order_whatever_finishes_first(shape: list[list[int]], threads: int, seed: int) -> None:
    chance = random.Random(seed)

    def work(value: int) -> int:
        time.sleep(chance.random() / 2000)
        return value

    def flow(sizes: list[int]) -> Flow[list[int]]:
        total: list[int] = []
        for size in sizes:
            found = yield [task(work, len(total) + k, remaining=size) for k in range(size)]
            assert isinstance(found, list) and len(found) == size, "an empty batch gets an empty list"
            total += found
        return total

    expected = [list(range(sum(sizes))) for sizes in shape]
    assert run([flow(sizes) for sizes in shape], threads) == expected


def test_a_thousand_tasks() -> None:
    assert run([single(lambda i=i: i) for i in range(1000)], 32) == list(range(1000))


def test_a_slow_flow_does_not_hold_another_ones_next_stage() -> None:
    released, done = threading.Event(), []

    def fast() -> Flow[str]:
        for stage in range(3):
            yield [task(done.append, stage), task(lambda: None)]
        yield [task(released.set)]
        return "fast"

    def slow() -> Flow[bool]:
        yield [task(lambda: None)]  # the first task of a run goes alone
        (result,) = yield [task(released.wait, LONG)]
        return result

    assert run([slow(), fast()], threads=2) == [True, "fast"]
    assert done == [0, 1, 2]


def test_the_longest_remaining_chain_goes_first() -> None:
    order: list[str] = []

    def flow(name: str, remaining: int) -> Flow[None]:
        yield [task(order.append, name, remaining=remaining)]

    run([flow("first", 9), flow("short", 1), flow("long", 5), flow("middle", 3)], threads=1)
    assert order == ["first", "long", "middle", "short"]


@pytest.mark.parametrize("threads", [1, 3, 8])
def test_concurrency_is_bounded_and_used(threads: int) -> None:
    peak, together = Peak(), threading.Barrier(threads, timeout=LONG)

    def work() -> None:
        with peak:
            together.wait()

    run([single(lambda: None), *(single(work) for _ in range(5 * threads))], threads)  # the first one goes alone
    assert peak.most == threads


def test_the_first_task_of_a_run_goes_alone_and_only_the_first() -> None:
    seen: list[int] = []
    running = threading.Semaphore(0)

    def work() -> None:
        running.release()
        time.sleep(0.02)
        seen.append(running._value)

    with Execution(Gate(), 8) as execution:
        execution.run([single(work) for _ in range(6)])
        assert seen[0] == 1, "nothing else had started when the first one ended"
        assert max(seen) == 6
        barrier = threading.Barrier(4, timeout=LONG)
        execution.run([single(barrier.wait) for _ in range(4)])  # later work does not go alone again


class Boom(Exception):
    pass


def fails(seconds: float = 0.0) -> None:
    time.sleep(seconds)
    raise Boom("outer") from KeyError("inner")


class TestFailure:
    def test_an_exception_ends_the_run_and_closes_the_flows(self) -> None:
        closed: list[int] = []
        started: list[int] = []

        def work(i: int) -> None:
            started.append(i)
            if i == 3:
                fails()
            time.sleep(0.01)

        def flow(i: int) -> Flow[None]:
            try:
                yield [task(work, i)]
                yield [task(time.sleep, 0)]
            finally:
                closed.append(i)

        calls = Gate()
        with Execution(calls, 2) as execution, pytest.raises(Boom) as caught:
            execution.run([flow(i) for i in range(50)])
        assert sorted(closed) == list(range(50))
        assert len(started) < 25 and calls.stopped
        assert isinstance(caught.value.__cause__, KeyError), "what it was raised from stays"

    def test_an_error_of_a_flow_itself_ends_the_run(self) -> None:
        def flow() -> Flow[None]:
            yield [task(lambda: None)]
            fails()

        calls = Gate()
        with Execution(calls, 2) as execution, pytest.raises(Boom):
            execution.run([flow(), single(time.sleep, 0)])
        assert calls.stopped

    def test_ctrl_c_shuts_the_gate(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calls, closed = Gate(), []

        def flow() -> Flow[None]:
            try:
                yield [task(time.sleep, 0.05)]
            finally:
                closed.append(True)

        with Execution(calls, 2) as execution:
            monkeypatch.setattr(execution, "_settle", lambda *done: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                execution.run([flow(), flow()])
        assert calls.stopped and closed == [True, True]

    def test_a_fatal_error_tells_the_first_cause(self) -> None:
        calls = Gate()

        def work() -> None:
            calls.stop("fatal", FatalError("the/model was refused"))
            raise RunStopped("too late")

        with Execution(calls, 2) as execution, pytest.raises(FatalError, match="the/model"):
            execution.run([single(work)])

    def test_nothing_is_begun_after_a_stop(self) -> None:
        """The interruption comes while the driver is at work: no attempt, no tool, no metric runs after it."""
        calls, ran = Gate(), []
        calls.stop("interrupted")
        with Execution(calls, 4) as execution, pytest.raises(RunStopped):
            execution.run([single(ran.append, 1) for _ in range(4)])
        assert ran == []

    @pytest.mark.parametrize(("grace", "returns"), [(LONG, True), (0.1, False)])
    def test_calls_in_flight_may_return_but_are_not_waited_for_for_ever(
        self, grace: float, returns: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("trgrpo_dspy.engine.flows._GRACE", grace)
        began, returned, hangs = threading.Event(), threading.Event(), threading.Event()

        def slow() -> None:
            began.set()
            hangs.wait(0.2 if returns else 2 * LONG)
            returned.set()

        def fails_meanwhile() -> None:
            assert began.wait(LONG)
            fails(0.05)

        started = time.monotonic()
        with pytest.raises(Boom):
            run([single(lambda: None), single(slow), single(fails_meanwhile)])
        assert returned.is_set() == returns and time.monotonic() - started < LONG
        hangs.set()


def test_context_variables_and_dspy_settings_travel() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="lost")

    def look() -> tuple[str, Any]:
        found = (variable.get(), dspy.settings.get("max_errors"))
        variable.set("changed by a task")
        return found

    variable.set("there")
    with dspy.context(max_errors=1234):
        assert set(run([single(look) for _ in range(20)])) == {("there", 1234)}
    assert variable.get() == "there"


def test_threads_are_daemons_and_end_with_the_run() -> None:
    before = set(threading.enumerate())
    with Execution(Gate(), 5) as execution:
        barrier = threading.Barrier(5, timeout=LONG)
        execution.run([single(lambda: None), *(single(barrier.wait) for _ in range(5))])
        threads = [t for t in threading.enumerate() if t.name.startswith("trgrpo-") and t not in before]
        assert len(threads) == 5 and all(thread.daemon for thread in threads)
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()


def test_the_executor_starts_threads_only_as_needed_and_hands_on_exceptions() -> None:
    pool = ThreadExecutor()
    for i in range(20):
        assert pool.submit(lambda i=i: i).result(LONG) == i
        with pytest.raises(KeyError):
            pool.submit(lambda: {}["x"]).result(LONG)
        time.sleep(0.001)
    assert pool._threads <= 3
    pool.close()
