"""Programs and metrics that are asynchronous."""

from __future__ import annotations

import asyncio
from typing import Any

import dspy
import pytest
from support.scripted import Triage, exact, examples, scripted_lm, told

from trgrpo_dspy import ExperienceLibrary, TrainingFreeGRPO, attach, evaluate, read_library
from trgrpo_dspy.program.calling import call_program


class Asynchronous(dspy.Module):
    """A program with `aforward` only."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict(Triage)

    async def aforward(self, ticket: str) -> Any:
        return await self.answer.acall(ticket=ticket)


class AsyncForward(dspy.Module):
    """A program whose `forward` is one."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict(Triage)

    async def forward(self, ticket: str) -> Any:
        await asyncio.sleep(0)
        return await self.answer.acall(ticket=ticket)


class OnTheInstance(dspy.Module):
    """A program whose `aforward` is set on the instance."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = answer = dspy.Predict(Triage)

        async def aforward(ticket: str) -> Any:
            return await answer.acall(ticket=ticket)

        self.aforward = aforward


def test_an_aforward_of_the_instance_runs() -> None:
    with dspy.context(lm=scripted_lm()):
        assert call_program(OnTheInstance(), {"ticket": "refund"}).queue


def test_a_class_in_place_of_a_program_is_told_to_be_one() -> None:
    for call in (
        lambda: TrainingFreeGRPO(metric=exact).compile(Asynchronous, trainset=examples(1)),  # type: ignore[arg-type]
        lambda: evaluate(Asynchronous, examples(1), exact),  # type: ignore[arg-type]
        lambda: attach(Asynchronous, ExperienceLibrary.of("Ask.")),  # type: ignore[arg-type]
        lambda: read_library(Asynchronous),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError, match=r"is the class Asynchronous; pass an instance: Asynchronous\(\.\.\.\)"):
            call()


async def slow(example: dspy.Example, prediction: Any, trace: Any = None) -> Any:
    await asyncio.sleep(0)
    return told(example, prediction)


class Judge(dspy.Module):
    """A metric that is a module with `aforward` only."""

    async def aforward(self, example: dspy.Example, prediction: Any, trace: Any = None) -> Any:
        return exact(example, prediction)


class Callable5:
    """An object with an asynchronous call, in GEPA's form."""

    async def __call__(self, gold: Any, pred: Any, trace: Any, pred_name: Any, pred_trace: Any) -> float:
        return exact(gold, pred)


@pytest.mark.parametrize("program", [Asynchronous, AsyncForward, lambda: dspy.Predict(Triage)])
@pytest.mark.parametrize("metric", [exact, slow, Judge(), Callable5()])
def test_each_scores_as_its_synchronous_twin(program: Any, metric: Any) -> None:
    with dspy.context(lm=scripted_lm()):
        expected = evaluate(dspy.Predict(Triage), examples(8), exact)
        found = evaluate(program(), examples(8), metric)
    assert found.outcomes == {"completed": 8}
    assert found.score == expected.score
    assert [r.answer for rs in found.rollouts for r in rs] == [r.answer for rs in expected.rollouts for r in rs]


def test_they_run_where_a_loop_runs_already() -> None:
    """As in a notebook."""

    async def notebook() -> Any:
        with dspy.context(lm=scripted_lm()):
            return call_program(Asynchronous(), {"ticket": "refund"})

    assert "queue" in asyncio.run(notebook())
