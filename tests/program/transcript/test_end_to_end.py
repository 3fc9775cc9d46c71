"""A run of a program that does several things at a time: the same transcripts and library at any number of threads."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import dspy
import pytest
from support.scripted import Triage, examples, scripted_lm

from trgrpo_dspy import TrainingFreeGRPO


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
