"""Who waits gives its place up; nobody waits for ever, and no more are at work than there are places."""

from __future__ import annotations

import asyncio
import functools
import random
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.lm15 import Request, Response, ServerError
from support.scripted import AsyncScripted, Call, Peak, ScriptedEngine, Triage, exact, examples, learner, scripted_lm

from trgrpo_dspy import Budget, FatalError, evaluate
from trgrpo_dspy.engine.calls.gate import Gate
from trgrpo_dspy.engine.calls.slots import Slot, Slots
from trgrpo_dspy.engine.calls.units import Account, Unit
from trgrpo_dspy.engine.journal.journal import Journal
from trgrpo_dspy.meter import Stage


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trgrpo_dspy.engine.calls.state.BACKOFF", 0.2)
    monkeypatch.setattr("trgrpo_dspy.engine.calls.slots._TAKEOVER", 0.05)


def measured(program: dspy.Module, lm: dspy.LM, count: int = 9, **options: Any) -> Any:
    """An evaluation that has to end."""
    found: list[Any] = []

    def measure() -> None:
        try:
            with dspy.context(lm=lm):
                found.append(evaluate(program, examples(count), exact, **options))
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=measure, daemon=True)
    thread.start()
    thread.join(20)
    assert found, "it hangs"
    return found[0]


class OneByOne(dspy.Module):
    """A program that asks under a lock all its copies share."""

    lock = threading.Lock()

    def __init__(self) -> None:
        super().__init__()
        self.triage = dspy.Predict(Triage)

    def forward(self, ticket: str) -> Any:
        with self.lock:
            return self.triage(ticket=ticket)


class Mixed(OneByOne):
    """Asks synchronously while an asynchronous call is under way in the same loop."""

    def forward(self, ticket: str) -> Any:
        return asyncio.run(self.both(ticket))

    async def both(self, ticket: str) -> Any:
        pending = asyncio.ensure_future(self.triage.acall(ticket=f"{ticket} first"))
        await asyncio.sleep(0.01)
        found = self.triage(ticket=ticket)
        await pending
        return found


class GoesOn(OneByOne):
    """Makes nothing of outages, and asks nobody about some tickets."""

    def forward(self, ticket: str) -> Any:
        for attempt in range(0 if ticket.endswith("case 0") else 3):
            try:
                return self.triage(ticket=f"{ticket} {attempt}")
            except Exception:
                time.sleep(0.01)
        return dspy.Prediction(queue="legal")


def failing(*numbers: int) -> ScriptedEngine:
    def script(call: Call) -> Any:
        time.sleep(0.005)
        return ServerError("down") if call.number in numbers else learner(call)

    return ScriptedEngine(script)


def lm_of(engine: ScriptedEngine) -> dspy.LM:
    return dspy.LM("scripted/model", engine=engine, async_engine=Slowly(engine), seed=7, cache=False, num_retries=4)


class Slowly(AsyncScripted):
    async def complete(self, request: Request) -> Response:
        await asyncio.sleep(0.05)
        return self.engine.complete(request)


class TestNobodyWaitsForEver:
    def test_for_a_lock_that_a_call_in_a_retry_holds(self) -> None:
        found = measured(OneByOne(), lm_of(failing(2, 4)), num_threads=3)
        assert found.outcomes == {"completed": 9}

    @pytest.mark.parametrize("threads", [1, 3])
    def test_for_an_asynchronous_call_whose_loop_it_blocks(self, threads: int) -> None:
        assert measured(Mixed(), lm_of(failing()), num_threads=threads).outcomes == {"completed": 9}

    def test_nor_for_the_last_place_in_the_budget(self) -> None:
        engine = failing()
        found = measured(Mixed(), lm_of(engine), num_threads=2, budget=Budget(max_lm_calls=5))
        assert found.stop_reason == "max_lm_calls" and len(engine.calls) <= 5

    def test_for_a_first_answer_that_waits_for_a_place(self) -> None:
        found = measured(GoesOn(), scripted_lm(lambda call: (time.sleep(0.02), ServerError("down"))[1]), num_threads=4)
        assert isinstance(found, FatalError) and "none of 8 requests" in str(found)

    def test_to_hear_that_the_run_was_stopped(self) -> None:
        calls, lm = Gate(backoff=300), lm_of(failing(0))

        async def asked() -> None:
            with calls.context(Unit(Stage.ROLLOUT), lm=lm):
                await dspy.Predict(Triage).acall(ticket="refund")

        timer = threading.Timer(0.2, calls.stop)
        timer.start()
        began = time.monotonic()
        with pytest.raises(BaseException, match="stopped"):
            asyncio.run(asked())
        assert time.monotonic() - began < 10


def test_a_replayed_call_is_over(tmp_path: Path) -> None:
    lm, places = lm_of(failing()), Slots(lambda: 1)
    for _ in range(2):  # the second time from the journal
        with Journal(tmp_path) as journal:
            unit = Unit(Stage.ROLLOUT, 1, ("rollout", 1, 0), account=Account(slot=places.take()))
            with Gate(journal=journal).context(unit, lm=lm):
                dspy.Predict(Triage)(ticket="refund")
        assert unit.account.slot is not None and not unit.account.slot._uses
        unit.account.slot.end()
    assert len(lm.engine.calls) == 1


class TestPlaces:
    def test_what_is_left_uses_and_waits_gives_the_place_up(self) -> None:
        freed: list[bool] = []
        places = Slots(lambda: 1, lambda: freed.append(True))
        place = places.take()
        assert place is not None and places.take() is None
        waiting, other = place.use(), place.use()
        waiting.wait()
        assert len(places.held) == 1, "the other one is at work"
        other.end()
        assert len(places.held) == 0 and freed == [True]
        assert waiting.go_on(0) and len(places.held) == 1

    def test_a_task_whose_place_is_anothers_waits_before_its_next_call(self) -> None:
        places = Slots(lambda: 1)
        place = places.take()
        assert place is not None
        place.use().wait()
        another = places.take()
        assert another is not None
        busy = another.use()
        assert not place.use().go_on(0.1), "no more than one at work"
        busy.end()
        another.end()
        assert place.use().go_on(0)

    def test_what_is_not_wanted_any_more_is_free(self) -> None:
        freed: list[bool] = []
        places = Slots(lambda: 1, lambda: freed.append(True))
        place = places.take()
        assert place is not None
        gone = place.use()
        gone.wait()
        other = places.take()
        assert other is not None
        other.use()
        assert not gone.go_on(0)
        other.end()
        assert places.take() is None, "it goes to the one that waited"
        gone.end()  # cancelled
        assert freed == [True, True] and places.take() is not None

    def test_any_order_of_events(self) -> None:
        places, at_work = Slots(lambda: 3), Peak()

        def work(seed: int) -> None:
            chance = random.Random(seed)
            while (place := places.take()) is None:
                time.sleep(0.0005)
            for _ in range(6):
                use = place.use()
                if chance.random() < 0.5:
                    use.wait()
                    time.sleep(chance.random() / 500)
                if chance.random() < 0.9:
                    while not use.go_on(chance.choice([0, 0.01])):
                        time.sleep(0.0005)
                    with at_work:
                        time.sleep(chance.random() / 1000)
                use.end()
            place.end()

        side_by_side(work, range(24))
        assert at_work.most == 3
        assert not places.held and not places.wanted

    def test_any_order_of_events_in_tasks_of_several_threads(self) -> None:
        places = Slots(lambda: 2)

        def call(place: Slot, seed: int) -> None:
            chance = random.Random(seed)
            for _ in range(12):
                use = place.use()
                while chance.random() < 0.6:
                    use.wait()
                    time.sleep(chance.random() / 2000)
                    while not use.go_on(chance.choice([0, 0.001])):
                        pass
                use.end()

        def work(seed: int) -> None:
            while (place := places.take()) is None:
                time.sleep(0.0005)
            side_by_side(functools.partial(call, place), range(seed, seed + 3))
            place.end()

        side_by_side(work, range(0, 60, 10))
        assert not places.held and not places.wanted


def side_by_side(work: Callable[[int], None], seeds: Iterable[int]) -> None:
    """Each in a thread of its own; all of them have to end well."""
    with ThreadPoolExecutor(30) as pool:
        for future in [pool.submit(work, seed) for seed in seeds]:
            future.result(20)
