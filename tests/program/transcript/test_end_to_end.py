"""A run of a program that does several things at a time: the same transcripts and library at any number of threads."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import dspy
import pytest
from dspy.lm15 import Request, Response
from support.scripted import AsyncScripted, ScriptedEngine, Triage, exact, examples

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
