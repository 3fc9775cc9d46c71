"""More than DSPy's 100 calls of one LM are in flight where the user asks for more; else nothing is changed."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import dspy
import pytest
from support.scripted import Triage, exact, examples, scripted_lm
from support.waiting import LONG

from trgrpo_dspy import evaluate
from trgrpo_dspy.engine.calls.gate import Gate
from trgrpo_dspy.engine.calls.units import Unit
from trgrpo_dspy.meter import Stage
from trgrpo_dspy.offline.server import OfflineServer


class Gathers(OfflineServer):
    """Answers the first request at once, and no other before so many of them are there at a time."""

    def __init__(self, wanted: int) -> None:
        super().__init__()
        self.wanted, self.asked = wanted, 0
        self.gathered = asyncio.Event()

    async def _answer(self, *served: Any) -> Any:
        self.asked += 1
        if self.asked > self.wanted:
            self.gathered.set()
        if self.asked > 1:
            await asyncio.wait_for(self.gathered.wait(), LONG)
        return await super()._answer(*served)


def ask(calls: Gate, lm: Any, text: str = "hello") -> None:
    with calls.context(Unit(Stage.ROLLOUT, key=(text,)), lm=lm):
        dspy.settings.lm(text)


def pools(lm: Any) -> list[Any]:
    return list(lm._engine_store.values())


def test_as_many_requests_are_in_flight_as_there_are_threads() -> None:
    with Gathers(120) as server:
        lm = server.lm(num_retries=0)
        with dspy.context(lm=lm):
            found = evaluate(dspy.Predict(Triage), examples(121), exact, num_threads=120)
        assert server.gathered.is_set() and len(server.requests) == found.mean.n == 121
    assert not pools(lm), "the user's LM is left as it was"


def test_where_dspys_connections_do_the_users_are_used() -> None:
    with OfflineServer() as server:
        lm, calls = server.lm(), Gate(width=64)
        ask(calls, lm)
        (pool,) = pools(lm)
        assert pool.config.max_connections is None and pools(calls.observe(lm)) == [pool]
        calls.close()
        assert pools(lm) == [pool], "it is the user's to close"
        lm.close()


def test_the_runs_own_are_shared_by_copies_and_closed() -> None:
    with OfflineServer() as server:
        lm, calls = server.lm(), Gate(width=101)
        observed = calls.observe(lm)
        ask(calls, lm, "one")
        ask(calls, observed.copy(temperature=1.0), "two")  # as dspy.BestOfN does
        (pool,) = pools(observed)
        assert pool.config.max_connections == 101 and not pools(lm) and len(observed.history) == 1
        ask(calls, copy.deepcopy(observed), "three")
        assert len(server.requests) == 3
        calls.close()
        assert not pools(observed)
        with pytest.raises(dspy.lm15.ConfigurationError, match="closed"):
            pool.complete(dspy.lm15.Request(model=lm.model, messages=(dspy.lm15.Message.user("four"),)))


def test_async_calls_have_them_too() -> None:
    with OfflineServer() as server:
        lm, calls = server.lm(), Gate(width=101)

        async def both() -> list[Any]:
            with calls.context(Unit(Stage.ROLLOUT, key=(1,)), lm=lm):
                await asyncio.gather(dspy.settings.lm.acall("one"), dspy.settings.lm.acall("two"))
                found = pools(calls.observe(lm))
                await calls.observe(lm).aclose()
                return found

        assert [pool.config.max_connections for pool in asyncio.run(both())] == [101]
        assert len(server.requests) == 2


@pytest.mark.parametrize("engine", ["litellm", "scripted"])
def test_other_engines_are_left_alone(engine: str) -> None:
    lm = scripted_lm() if engine == "scripted" else dspy.LM("openai/any", engine="litellm", api_key="x")
    calls = Gate(width=500)
    observed = calls.observe(lm)
    assert observed.engine is lm.engine and not pools(observed)
    calls.close()
