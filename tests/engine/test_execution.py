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

from trgrpo_dspy.engine.calls.gate import Gate
from trgrpo_dspy.engine.executors.threads import ThreadExecutor
from trgrpo_dspy.engine.flows import Execution, Flow
from trgrpo_dspy.engine.pool import Task
from trgrpo_dspy.errors import FatalError, RunStopped
from trgrpo_dspy.meter import Stage


def task(fn: Callable[..., Any], *args: Any, remaining: int = 0) -> Task:
    return Task(Stage.ROLLOUT, functools.partial(fn, *args), remaining)


def single(fn: Callable[..., Any], *args: Any) -> Flow[Any]:
    (result,) = yield [task(fn, *args)]
    return result


def run(flows: list[Flow[Any]], threads: int = 4) -> list[Any]:
    with Execution(Gate(), threads) as execution:
        return execution.run(flows)


def test_results_come_in_input_order_whatever_finishes_first() -> None:
    def work(i: int) -> int:
        time.sleep(0.002 * ((7 * i) % 5))
        return i

    def flow(i: int) -> Flow[list[int]]:
        first = yield [task(work, 10 * i + k) for k in range(4)]
        second = yield [task(work, 100 * x) for x in first]
        return first + second

    expected = [[10 * i + k for k in range(4)] + [100 * (10 * i + k) for k in range(4)] for i in range(6)]
    assert run([flow(i) for i in range(6)]) == expected


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), max_size=4), max_size=6), st.integers(1, 9), st.integers(0, 99))
def test_any_shape_of_flows_gives_the_same(shape: list[list[int]], threads: int, seed: int) -> None:
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


def test_nothing_to_do_is_done_at_once() -> None:
    assert run([]) == []


def test_a_slow_flow_does_not_hold_another_ones_next_stage() -> None:
    released, done = threading.Event(), []

    def slow() -> str:
        assert released.wait(10), "the fast flow never got to its end"
        return "slow"

    def fast() -> Flow[str]:
        for stage in range(3):
            yield [task(done.append, stage), task(lambda: None)]
        yield [task(released.set)]
        return "fast"

    def slow_flow() -> Flow[str]:
        yield [task(lambda: None)]  # the first task of a run goes alone
        (result,) = yield [task(slow)]
        return result

    assert run([slow_flow(), fast()], threads=2) == ["slow", "fast"]
    assert done == [0, 1, 2]


def test_the_longest_remaining_chain_goes_first() -> None:
    order: list[str] = []

    def flow(name: str, remaining: int) -> Flow[None]:
        yield [task(order.append, name, remaining=remaining)]

    run([flow("first", 9), flow("short", 1), flow("long", 5), flow("middle", 3)], threads=1)
    assert order == ["first", "long", "middle", "short"]


@pytest.mark.parametrize("threads", [1, 3, 8])
def test_concurrency_is_bounded_and_used(threads: int) -> None:
    lock, running, most = threading.Lock(), 0, 0

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1

    run([single(work) for _ in range(40)], threads)
    assert most == threads


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
        barrier = threading.Barrier(4, timeout=10)
        execution.run([single(barrier.wait) for _ in range(4)])  # later work does not go alone again


class Boom(Exception):
    pass


class TestFailure:
    def test_an_exception_ends_the_run_and_closes_the_flows(self) -> None:
        closed: list[int] = []
        started: list[int] = []

        def work(i: int) -> None:
            started.append(i)
            if i == 3:
                raise Boom("three")
            time.sleep(0.01)

        def flow(i: int) -> Flow[None]:
            try:
                yield [task(work, i)]
                yield [task(time.sleep, 0)]
            finally:
                closed.append(i)

        calls = Gate()
        with Execution(calls, 2) as execution, pytest.raises(Boom, match="three") as caught:
            execution.run([flow(i) for i in range(50)])
        assert sorted(closed) == list(range(50))
        assert len(started) < 10 and calls.stopped
        assert caught.value.__cause__ is None

    def test_what_an_exception_was_raised_from_stays(self) -> None:
        def work() -> None:
            raise Boom("outer") from KeyError("inner")

        with pytest.raises(Boom) as caught:
            run([single(work)])
        assert isinstance(caught.value.__cause__, KeyError)

    def test_an_error_of_a_flow_itself_ends_the_run(self) -> None:
        def flow() -> Flow[None]:
            yield [task(lambda: None)]
            raise Boom("in the flow")

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

    def test_calls_in_flight_may_return(self) -> None:
        returned = threading.Event()

        def slow() -> None:
            time.sleep(0.2)
            returned.set()

        def fails() -> None:
            time.sleep(0.05)
            raise Boom

        with pytest.raises(Boom):
            run([single(lambda: None), single(slow), single(fails)])
        assert returned.is_set()

    def test_but_the_run_does_not_wait_for_them_for_ever(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("trgrpo_dspy.engine.flows._GRACE", 0.1)
        hangs = threading.Event()

        def fails() -> None:
            raise Boom

        started = time.monotonic()
        with pytest.raises(Boom):
            run([single(lambda: None), single(hangs.wait, 20), single(fails)])
        assert time.monotonic() - started < 5
        hangs.set()


class TestContext:
    def test_context_variables_and_dspy_settings_travel(self) -> None:
        variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="lost")

        def look() -> tuple[str, Any]:
            found = (variable.get(), dspy.settings.get("max_errors"))
            variable.set("changed by a task")
            return found

        variable.set("there")
        with dspy.context(max_errors=1234):
            assert set(run([single(look) for _ in range(20)])) == {("there", 1234)}
        assert variable.get() == "there"

    def test_workers_are_daemons(self) -> None:
        daemons = run([single(lambda: threading.current_thread().daemon) for _ in range(5)])
        assert all(daemons)

    def test_threads_end_with_the_run(self) -> None:
        before = set(threading.enumerate())
        with Execution(Gate(), 5) as execution:
            execution.run([single(time.sleep, 0.01) for _ in range(10)])
            threads = [t for t in threading.enumerate() if t.name.startswith("trgrpo-") and t not in before]
            assert len(threads) == 5
        for thread in threads:
            thread.join(5)
            assert not thread.is_alive()


def test_a_thousand_tasks() -> None:
    started = time.monotonic()
    assert run([single(lambda i=i: i) for i in range(1000)], 32) == list(range(1000))
    assert time.monotonic() - started < 10


def test_the_pool_starts_threads_only_as_needed() -> None:
    pool = ThreadExecutor()
    for i in range(20):
        assert pool.submit(lambda i=i: i).result(5) == i
        time.sleep(0.001)
    assert pool._threads <= 3
    pool.close()


def test_the_pool_hands_on_exceptions() -> None:
    pool = ThreadExecutor()
    with pytest.raises(KeyError):
        pool.submit(lambda: {}["x"]).result(5)
    assert pool.submit(lambda: "still alive").result(5) == "still alive"
    pool.close()
