"""A task that waits gives its place to another, gets one back before new work does, and nothing waits for ever."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.lm15 import RateLimitError, Request, Response, ServerError
from hypothesis import given, settings
from hypothesis import strategies as st
from support.scripted import AsyncScripted, Call, ScriptedEngine, Triage, exact, examples, learner, scripted_lm
from support.waiting import LONG, until

from trgrpo_dspy import Budget, FatalError, RunStopped, evaluate
from trgrpo_dspy.engine.calls.gate import Gate
from trgrpo_dspy.engine.calls.slots import Slot, Slots, Use
from trgrpo_dspy.engine.calls.units import Account, Unit, current_unit
from trgrpo_dspy.engine.flows import Execution, Flow
from trgrpo_dspy.engine.journal.journal import Journal
from trgrpo_dspy.engine.pool import Task
from trgrpo_dspy.meter import Meter, Stage


class Busy:
    """A script that keeps the order of its calls, how many were out at a time, and fails where it is told."""

    def __init__(self, fails: dict[str, float] | None = None, takes: dict[str, Any] | None = None) -> None:
        self.fails, self.takes = fails or {}, takes or {}
        """What is asked: seconds to wait after its first try, which fails; seconds its reply takes, or until what."""
        self.order: list[str] = []
        self.open = self.most = 0
        self.lock = threading.Lock()

    def __call__(self, call: Call) -> Any:
        name = call.user
        with self.lock:
            first, self.open = name not in self.order, self.open + 1
            self.order.append(name)
            self.most = max(self.most, self.open)
        if not (first and name in self.fails):
            takes = self.takes.get(name, 0.0)
            assert until(takes) if callable(takes) else not time.sleep(takes)
        with self.lock:
            self.open -= 1
        return RateLimitError("busy", retry_after=self.fails[name]) if first and name in self.fails else "done"


def another_wants_its_place() -> bool:
    """Whether a task that waited wants its place back, which the one that asks has."""
    return bool(current_unit().account.slot.slots.wanted)


def ask(name: str) -> Any:
    return dspy.settings.lm(name)


def ask_async(name: str) -> Any:
    return asyncio.run(dspy.settings.lm.acall(name))


def parallel(*names: str) -> Any:
    pairs = [(dspy.Predict("text -> answer"), {"text": name}) for name in names]
    return dspy.Parallel(num_threads=len(names), disable_progress_bar=True)(pairs)


def flow(
    calls: Gate, lm: Any, key: int | str, work: Callable[[], Any], timeout: float | None = None, remaining: int = 0
) -> Flow[Any]:
    unit = Unit(Stage.ROLLOUT, key=(key,))

    def run() -> Any:
        with calls.context(unit, lm=lm):
            return work()

    def late() -> str:
        calls.abandon(unit)
        return "late"

    (result,) = yield [Task(run, remaining, unit, timeout, late if timeout else None)]
    return result


def run(
    busy: Any, work: dict[str, Callable[[], Any]], places: int, calls: Gate | None = None,
    again: Callable[[], bool] = lambda: False,
) -> list[Any]:  # fmt: skip
    """Run work side by side, after a first call that proves that the backend answers.

    A call that failed is tried again when its time has come, or `again` says so.
    """
    calls, lm = calls or Gate(backoff=0.001), scripted_lm(busy, num_retries=8)
    wait = calls.state.waiting.until
    calls.state.waiting.until = lambda moment, seconds: again() or wait(moment, min(seconds, 0.02))  # type: ignore[method-assign]
    with Execution(calls, places) as execution:
        execution._pool._most = 4 * places  # also with one, where a user's run begins nothing beside what waits
        first = flow(calls, lm, "first", functools.partial(ask, "first"), remaining=9)
        found = execution.run([first, *(flow(calls, lm, name, one) for name, one in work.items())])
        assert not execution._pool._slots.held and not execution._pool._slots.wanted
    return found[1:]


class TestWaiting:
    def test_one_thread_begins_nothing_beside_a_task_that_waits(self) -> None:
        """Who asks for one thread may have a program that bears no second attempt beside it."""
        busy, calls = Busy(fails={"a": 0.1}), Gate(backoff=0.001)
        lm = scripted_lm(busy, num_retries=8)
        with Execution(calls, 1) as execution:
            execution.run([flow(calls, lm, name, functools.partial(ask, name)) for name in ("first", "a", "b")])
        assert busy.order == ["first", "a", "a", "b"]

    @pytest.mark.parametrize("way", [ask, ask_async], ids=["sync", "async"])
    def test_what_comes_back_goes_before_what_has_not_begun(self, way: Callable[[str], Any]) -> None:
        busy = Busy(fails={"a": LONG}, takes={"b": another_wants_its_place, "c": 0.1, "d": 0.1})
        work = {name: functools.partial(way, name) for name in ("a", "b", "c", "d")}
        run(busy, work, places=1, again=lambda: "b" in busy.order)
        assert busy.order == ["first", "a", "b", "a", "c", "d"]
        assert busy.most == 1

    @pytest.mark.parametrize("places", [1, 8])
    def test_never_more_at_work_than_places(self, places: int) -> None:
        class Fails(Busy):
            """A fifth of the calls fail at first, as their names decide."""

            def __call__(self, call: Call) -> Any:
                if (chance := hashlib.blake2b(call.user.encode()).digest()[0]) < 50:
                    self.fails = {**self.fails, call.user: chance / 10_000}
                self.takes = {**self.takes, call.user: 0.002 * places}
                return super().__call__(call)

        busy = Fails()
        work = {f"{i}": functools.partial(ask_async if i % 7 == 0 else ask, f"{i}") for i in range(100)}
        assert len(run(busy, work, places)) == 100
        assert len(busy.order) > 112, "many were tried again"
        assert busy.most <= places

    def test_a_program_with_calls_side_by_side_keeps_its_place_until_all_of_them_wait(self) -> None:
        done: list[str] = []
        out, failed = threading.Event(), threading.Event()

        def script(call: Call) -> Any:
            name = call.input("text") or call.user
            if name == "fails" and not failed.is_set():
                assert out.wait(LONG)
                failed.set()
                return RateLimitError("busy", retry_after=LONG)
            if name == "slow":
                out.set()
                assert failed.wait(LONG)
                time.sleep(0.2)
            done.append(name)
            return {"answer": name} if call.outputs else "done"

        work = {"a": functools.partial(parallel, "fails", "slow"), "b": functools.partial(ask, "b")}
        run(script, work, places=1, again=lambda: "b" in done)
        assert done == ["first", "slow", "b", "fails"]

    def test_no_call_of_a_program_goes_out_without_a_place(self) -> None:
        """The place is given up while one call waits; the next call of the same program has to wait for one too."""
        busy = Busy(fails={"a": LONG}, takes={"b": another_wants_its_place})

        async def two() -> None:
            first = asyncio.create_task(dspy.settings.lm.acall("a"))
            assert await asyncio.to_thread(until, lambda: "b" in busy.order)  # then the place is another's
            await dspy.settings.lm.acall("a2")
            await first

        work = {"a": lambda: asyncio.run(two()), "b": functools.partial(ask, "b")}
        run(busy, work, places=1, again=lambda: "a2" in busy.order)
        assert busy.order == ["first", "a", "b", "a2", "a"]
        assert busy.most == 1


class TestTheEnd:
    def test_an_abandoned_task_gives_its_place_back(self) -> None:
        released = threading.Event()
        calls, busy = Gate(backoff=0.001), Busy(fails={"waits": LONG})
        lm = scripted_lm(busy, num_retries=3)
        work = {"waits": lambda: ask("waits"), "hangs": lambda: released.wait(LONG), "b": lambda: ask("b")}
        with Execution(calls, 1) as execution:
            flows = [flow(calls, lm, name, one, None if name == "b" else 0.2) for name, one in work.items()]
            execution.run([flow(calls, lm, "first", lambda: ask("first"))])
            began = time.monotonic()
            assert execution.run(flows) == ["late", "late", ["done"]]
            assert time.monotonic() - began < 45, "the hint is 60 s"
            assert not execution._pool._slots.held
            released.set()
            assert execution.run([flow(calls, lm, "c", lambda: ask("c"))]) == [["done"]]
            assert not execution._pool._slots.held and not execution._pool._slots.wanted
        calls.stop()

    def test_a_stopped_run_ends_while_calls_wait(self) -> None:
        calls = Gate(backoff=0.001)
        busy = Busy(fails={"a": LONG, "b": LONG})

        def stop_once_both_wait() -> None:
            until(lambda: len(busy.order) == 3)
            calls.stop("interrupted")

        began = time.monotonic()
        threading.Thread(target=stop_once_both_wait).start()
        with pytest.raises(RunStopped):
            run(busy, {"a": lambda: ask("a"), "b": lambda: ask_async("b")}, 1, calls)
        assert time.monotonic() - began < 45, "the hint is 60 s"
        assert busy.order == ["first", "a", "b"]

    def test_a_call_that_its_program_gives_up_while_it_waits(self) -> None:
        busy = Busy(fails={"a": LONG})

        async def gives_up() -> Any:
            waits = asyncio.create_task(dspy.settings.lm.acall("a"))
            assert await asyncio.to_thread(until, lambda: "b" in busy.order)  # the place is another's
            waits.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waits
            return await dspy.settings.lm.acall("instead")

        assert run(busy, {"a": lambda: asyncio.run(gives_up()), "b": lambda: ask("b")}, places=1) == [["done"]] * 2
        assert busy.order == ["first", "a", "b", "instead"] and busy.most == 1


def test_a_replayed_call_is_over(tmp_path: Path) -> None:
    lm, places = scripted_lm(), Slots(lambda: 1)
    for _ in range(2):  # the second time from the journal
        with Journal(tmp_path) as journal:
            unit = Unit(Stage.ROLLOUT, 1, ("rollout", 1, 0), account=Account(slot=places.take()))
            with Gate(journal=journal).context(unit, lm=lm):
                dspy.Predict(Triage)(ticket="refund")
        assert unit.account.slot is not None and not unit.account.slot._uses
        unit.account.slot.end()
    assert len(lm.engine.calls) == 1


class Locked(dspy.Module):
    """A program that asks under a lock all its copies share; or while an asynchronous call is under way in its loop."""

    lock = threading.Lock()

    def __init__(self, mixed: bool = False) -> None:
        super().__init__()
        self.triage, self.mixed = dspy.Predict(Triage), mixed

    def forward(self, ticket: str) -> Any:
        if self.mixed:
            return asyncio.run(self.both(ticket))
        with self.lock:
            return self.triage(ticket=ticket)

    async def both(self, ticket: str) -> Any:
        pending = asyncio.ensure_future(self.triage.acall(ticket=f"{ticket} first"))
        await asyncio.sleep(0.01)
        found = self.triage(ticket=ticket)
        await pending
        return found


class GoesOn(Locked):
    """Makes nothing of outages, and asks nobody about some tickets."""

    def forward(self, ticket: str) -> Any:
        for attempt in range(0 if ticket.endswith("case 0") else 3):
            with contextlib.suppress(Exception):
                return self.triage(ticket=f"{ticket} {attempt}")
        return dspy.Prediction(queue="legal")


class Slowly(AsyncScripted):
    async def complete(self, request: Request) -> Response:
        await asyncio.sleep(0.05)
        return self.engine.complete(request)


class TestNothingWaitsForEver:
    def measured(self, program: dspy.Module, *failed: int, threads: int, calls: int | None = None) -> Any:
        """An evaluation that has to end, with an LM whose requests of these numbers fail."""

        def script(call: Call) -> Any:
            time.sleep(0.005)
            return ServerError("down") if call.number in failed else learner(call)

        engine = ScriptedEngine(script)
        lm = dspy.LM("scripted/model", engine=engine, async_engine=Slowly(engine), seed=7, cache=False, num_retries=4)
        with dspy.context(lm=lm):
            budget = Budget(max_lm_calls=calls, max_seconds=LONG)
            return evaluate(program, examples(9), exact, num_threads=threads, budget=budget)

    @pytest.fixture
    def impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("trgrpo_dspy.engine.calls.state.BACKOFF", 0.05)
        monkeypatch.setattr("trgrpo_dspy.engine.calls.slots._TAKEOVER", 0.05)

    def test_for_a_lock_that_a_call_in_a_retry_holds(self, impatient: None) -> None:
        assert self.measured(Locked(), 2, 4, threads=3).outcomes == {"completed": 9}

    @pytest.mark.parametrize("threads", [1, 3])
    def test_for_an_asynchronous_call_whose_loop_it_blocks(self, threads: int) -> None:
        assert self.measured(Locked(mixed=True), threads=threads).outcomes == {"completed": 9}

    def test_for_the_last_place_in_the_budget(self) -> None:
        found = self.measured(Locked(mixed=True), threads=2, calls=5)
        assert found.stop_reason == "max_lm_calls" and sum(row.calls for row in found.spend) <= 5

    def test_for_a_first_answer_that_waits_for_a_place(self, impatient: None) -> None:
        with pytest.raises(FatalError, match="none of 8 requests"):
            self.measured(GoesOn(), *range(99), threads=4)

    def test_for_the_first_answer_of_another_lm(self) -> None:
        """All but one call of an LM that never answered wait for that one, and hold no place as long."""
        calls, started = Gate(Meter(Budget(max_seconds=2 * LONG)), backoff=0.001), threading.Event()

        def slow(call: Call) -> Any:
            if call.memory["calls"]:
                return "done"
            call.memory["calls"] += 1
            assert started.wait(LONG), "the other LM's calls never got a place"
            return RateLimitError("busy", retry_after=0.01)

        other = scripted_lm(slow, name="scripted/other", num_retries=3)
        others = {f"other {i}": functools.partial(other_lm, calls, other, f"{i}") for i in range(5)}
        found = run(Busy(), {**others, "a": lambda: started.set() or ask("a")}, 2, calls)
        assert found == [["done"]] * 6

    def test_for_a_reservation_that_a_waiting_call_holds(self) -> None:
        """One place: who waits to come back holds the budget's last place, who has the place waits for that."""
        calls = Gate(Meter(Budget(max_lm_calls=3, max_seconds=LONG)), backoff=0.001)

        def script(call: Call) -> Any:
            if call.user == "holds" and not call.memory["holds"]:
                call.memory["holds"] += 1
                return RateLimitError("busy", retry_after=0.3)
            time.sleep(0.1)
            return {"answer": "yes"} if call.outputs else "done"

        with pytest.raises(RunStopped):
            run(script, {"x": lambda: ask("holds"), "a": lambda: parallel("one", "two")}, 1, calls)
        assert calls.state.ending.reason == "max_lm_calls", "not because time was up"

    @pytest.mark.parametrize("places", [1, 4])
    def test_for_a_budget_with_many_retries_under_way(self, places: int) -> None:
        calls = Gate(Meter(Budget(max_lm_calls=12, max_seconds=LONG)), backoff=0.001)
        names = [f"{i}" for i in range(20)]
        busy = Busy(fails=dict.fromkeys(names, 0.02))
        with pytest.raises(RunStopped):
            run(busy, {name: functools.partial(ask, name) for name in names}, places, calls)
        assert calls.state.ending.reason == "max_lm_calls"
        assert len(busy.order) - len(set(busy.order)) == 11, "the first, and 11 that were tried twice"


def other_lm(calls: Gate, lm: Any, text: str) -> Any:
    return calls.observe(lm)(text)


# -- places alone ----------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 3), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 5)), max_size=60))
def test_places_add_up(width: int, moves: list[tuple[int, int, int]]) -> None:
    """Whatever tasks and their calls do: places in use are those held, and never more than there are."""
    freed: list[int] = []
    places = Slots(lambda: width, lambda: freed.append(1))
    tasks: dict[int, Slot] = {}
    uses: dict[tuple[int, int], Use] = {}
    for task, call, move in moves:
        place, use = tasks.get(task), uses.get((task, call))
        if place is None:
            if (new := places.take()) is not None:
                tasks[task] = new
        elif use is None:
            if move == 0:
                new_one = place.use()
                if new_one.go_on(0):
                    uses[task, call] = new_one
                else:
                    new_one.end()
        elif move == 1:
            use.wait()
        elif move == 2:
            use.go_on(0)
        elif move in (3, 4):
            use.end()
            del uses[task, call]
        elif move == 5:
            place.end()
            del tasks[task]
            uses = {key: value for key, value in uses.items() if key[0] != task}
        check_sums(places, tasks, uses)
        assert len(places.held) <= width
    for place in tasks.values():
        place.end()
    assert not places.held and not places.wanted


def check_sums(places: Slots, tasks: dict[int, Slot], uses: dict[tuple[int, int], Use]) -> None:
    held = [one for one in tasks.values() if one.held]
    assert len(places.held) == len(held)
    assert places.wanted <= set(tasks.values())
    for number, one in tasks.items():
        away = [value.waits for (owner, _), value in uses.items() if owner == number]
        assert sorted(use.waits for use in one._uses) == sorted(away)
        assert not (one.held and away and all(away)), "it is another's while all wait"


def test_one_waits_for_a_moment_behind_a_task_without_a_call() -> None:
    """It may be at work itself, or wait at a lock that the other one holds."""
    places = Slots(lambda: 1)
    place = places.take()
    assert place is not None
    call = place.use()
    call.wait()
    idle = places.take()
    assert idle is not None and idle.held
    began = time.monotonic()
    while not call.go_on(5.0):
        pass
    assert 0.3 < time.monotonic() - began < 30
    assert not idle.held


def test_what_is_left_uses_and_waits_gives_the_place_up_and_waits_for_another() -> None:
    freed: list[bool] = []
    places = Slots(lambda: 1, lambda: freed.append(True))
    place = places.take()
    assert place is not None and places.take() is None
    waiting, other = place.use(), place.use()
    waiting.wait()
    assert place.held, "the other one is at work"
    other.end()
    assert not place.held and freed == [True]
    another = places.take()
    assert another is not None
    busy = another.use()
    assert not waiting.go_on(0.01) and not place.use().go_on(0.01), "no more than one at work"
    busy.end()
    another.end()
    assert places.take() is None, "it goes to the one that waited"
    assert waiting.go_on(0) and place.held


def test_what_is_not_wanted_any_more_is_free() -> None:
    freed: list[bool] = []
    places = Slots(lambda: 1, lambda: freed.append(True))
    first = places.take()
    assert first is not None
    (gone := first.use()).wait()
    other = places.take()
    assert other is not None
    other.use()
    assert not gone.go_on(0)
    other.end()
    gone.end()  # cancelled
    assert freed == [True, True] and places.take() is not None
