"""A run of a program that does several things at a time: the same transcripts and library at any number of threads."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import dspy
import pytest
from dspy.lm15 import Request, Response
from support.scripted import AsyncScripted, ScriptedEngine, Triage, exact, examples, scripted_lm

from trgrpo_dspy import TrainingFreeGRPO
from trgrpo_dspy.events import AttemptFinished


class Unsteady(ScriptedEngine):
    """Answers after a while that nobody knows."""

    def complete(self, request: Request) -> Response:
        time.sleep(random.random() / 300)
        return super().complete(request)


class AsyncUnsteady(AsyncScripted):
    """The same on an event loop."""

    async def complete(self, request: Request) -> Response:
        await asyncio.sleep(random.random() / 300)
        return self.engine.complete(request)


class Fan(dspy.Module):
    """Asks about three parts of a ticket at a time."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.ask = how, dspy.ChainOfThought(Triage)

    def forward(self, ticket: str) -> Any:
        parts = [f"{ticket} part {i}" for i in range(3)]
        if self.how == "gather":
            return asyncio.run(self.gather(parts))
        pairs = [(self.ask, dspy.Example(ticket=part).with_inputs("ticket")) for part in parts]
        return dspy.Parallel(num_threads=3, disable_progress_bar=True)(pairs)[0]

    async def gather(self, parts: list[str]) -> Any:
        return (await asyncio.gather(*(self.ask.acall(ticket=part) for part in parts)))[0]


@pytest.mark.parametrize("how", ["Parallel", "gather"])
def test_a_program_that_is_concurrent_inside(how: str) -> None:
    runs, libraries = [], set()
    for threads in (1, 1, 8, 8):
        transcripts: dict[tuple[str, int, int], str] = {}

        def note(event: Any, found: dict[tuple[str, int, int], str] = transcripts) -> None:
            if isinstance(event, AttemptFinished):
                found[event.stage, event.rollout.example, event.rollout.attempt] = event.rollout.transcript

        settings = {"metric": exact, "num_epochs": 1, "group_size": 3, "num_threads": threads, "callbacks": [note]}
        engines = {"engine": Unsteady(), "async_engine": AsyncUnsteady(ScriptedEngine())}
        with dspy.context(lm=dspy.LM("scripted/model", **engines, seed=7, cache=False, num_retries=0)):
            compiled = TrainingFreeGRPO(**settings).compile(Fan(how), trainset=examples(5))
        runs.append(transcripts)
        libraries.add(compiled.experiences.to_json())
    assert len(runs[0]) == 15
    assert all("=== Step 3: ask.predict" in text for text in runs[0].values())
    assert all(run == runs[0] for run in runs)
    assert len(libraries) == 1


class Waits(dspy.Module):
    """Tasks that show what they do only after a while, each in its own time."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.ask, self.how = dspy.Predict(Triage), how

    async def one(self, ticket: str) -> Any:
        for again in ("", " again"):
            await asyncio.sleep(random.random() * 0.02)
            answer = await self.ask.acall(ticket=ticket + again)
        return answer

    async def aforward(self, ticket: str) -> Any:
        parts = [self.one(f"{ticket} part {i}") for i in range(4)]
        if self.how == "as_completed":
            answers = [await part for part in asyncio.as_completed(parts)]
            return min(answers, key=lambda answer: answer.queue)
        found = await asyncio.gather(*parts)
        return (await asyncio.gather(*(self.one(f"{ticket} later {i}") for i in range(3))) if found else found)[0]


@pytest.mark.parametrize("how", ["gather", "as_completed"])
def test_tasks_that_wait_before_they_call_stand_in_one_order(how: str) -> None:
    texts = set()
    for threads in (1, 1, 4):
        heard: list[Any] = []
        with dspy.context(lm=scripted_lm()):
            TrainingFreeGRPO(
                metric=lambda e, p, trace=None: 0.0, group_size=2, num_epochs=1, num_threads=threads,
                learn_from=lambda group, ceiling: "", callbacks=[heard.append],
            ).compile(Waits(how), trainset=examples(3))  # fmt: skip
        rollouts = [event.rollout for event in heard if type(event).__name__ == "AttemptFinished"]
        texts.add(tuple(r.transcript for r in sorted(rollouts, key=lambda r: (r.example, r.attempt))))
    assert len(texts) == 1 and "part 3 again" in str(texts)
