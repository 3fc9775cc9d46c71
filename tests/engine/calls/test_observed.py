"""Copies of adapters: what they remember, and which callbacks hear of them."""

from __future__ import annotations

import asyncio
from typing import Any

import dspy
import pytest
from support.scripted import Triage, exact, examples, scripted_lm

from trgrpo_dspy.engine.calls.gate import Gate
from trgrpo_dspy.engine.calls.observed import observe_adapter
from trgrpo_dspy.engine.calls.reported import OutsideAdapters
from trgrpo_dspy.engine.calls.units import Unit
from trgrpo_dspy.engine.runner import Runner
from trgrpo_dspy.meter import Stage
from trgrpo_dspy.program.copies import Copier


class Counting(dspy.Signature):
    """Count the words."""

    text: str = dspy.InputField()
    count: int = dspy.OutputField(desc="how many")


@pytest.mark.parametrize("kind", [dspy.ChatAdapter, dspy.JSONAdapter, dspy.XMLAdapter])
def test_system_messages_are_made_once_as_plain_dspy_writes_them(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    signatures = (Counting, Triage, Counting.with_instructions("Count well."))
    written = [kind().format_system_message(signature) for signature in signatures]
    made: list[str] = []
    plain = kind.format_task_description
    monkeypatch.setattr(kind, "format_task_description", lambda s, g: made.append(g.__name__) or plain(s, g))
    observed = observe_adapter(kind(), Gate())
    for _ in range(3):
        assert [observed.format_system_message(signature) for signature in signatures] == written
    assert made == [signature.__name__ for signature in signatures]
    changed = signatures[2]
    changed.instructions = "Count twice."
    assert "Count twice." in observed.format_system_message(changed)
    changed.output_fields["count"].json_schema_extra["desc"] = "a whole number"
    assert "a whole number" in observed.format_system_message(changed) == kind().format_system_message(changed)
    for number in range(100):
        assert f"Task {number}." in observed.format_system_message(Counting.with_instructions(f"Task {number}."))
    assert 0 < len(observed._system_messages) <= 30


def test_a_users_adapter_is_asked_each_time() -> None:
    class Mine(dspy.ChatAdapter):
        count = 0

        def format_task_description(self, signature: Any) -> str:
            self.count += 1
            return f"Request {self.count}."

    observed = observe_adapter(Mine(), Gate())
    assert [f"Request {n}." in observed.format_system_message(Counting) for n in (1, 2, 3)] == [True] * 3


class Heard(dspy.utils.BaseCallback):
    def __init__(self) -> None:
        self.events: list[str] = []

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.events.append("module")

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.events.append("lm")

    def on_adapter_format_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.events.append("format")

    def on_adapter_parse_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.events.append("parse")


class HeardOutside(Heard, OutsideAdapters):
    pass


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_callback_outside_adapters_hears_of_modules_alone(lm: dspy.LM, asynchronous: bool) -> None:
    everything, outside, program = Heard(), HeardOutside(), dspy.Predict(Triage)
    with dspy.context(callbacks=[everything]), Gate().context(Unit(Stage.ROLLOUT, 1, ("a",)), outside):
        asyncio.run(program.acall(ticket="refund")) if asynchronous else program(ticket="refund")
        assert dspy.settings.callbacks == [everything, outside]
    assert outside.events == ["module"] and everything.events == ["module", "format", "lm", "parse"]


def test_one_copy_of_an_adapter_for_a_run(lm: dspy.LM) -> None:
    adapter, calls, seen = dspy.ChatAdapter(), Gate(), []
    for number in range(2):
        with dspy.context(adapter=adapter), calls.context(Unit(Stage.ROLLOUT, 1, (number,))):
            seen.append(dspy.settings.adapter)
    assert seen[0] is seen[1] and seen[0] is not adapter and type(adapter) is dspy.ChatAdapter


class Holder(dspy.Module):
    def __init__(self, lm: Any) -> None:
        super().__init__()
        self.first, self.then, self.lm = dspy.Predict("a -> b"), [dspy.Predict("b -> c")], lm


def test_copies_of_a_program_share_lms_and_nothing_else() -> None:
    program = Holder(scripted_lm())
    program.first.lm = scripted_lm()
    copier = Copier(program)
    one, two = copier.copy(), copier.copy()
    assert one.lm is two.lm is program.lm and one.first.lm is program.first.lm
    assert len({id(p) for m in (program, one, two) for p in (m.first, m.then[0])}) == 6
    assert copier.names == {program.first.stage: "first", program.then[0].stage: "then[0]"}
    assert one.then[0].stage == program.then[0].stage


def test_a_runner_knows_the_programs_under_way(lm: dspy.LM) -> None:
    """More programs than it remembers, in turns: each attempt runs its own."""
    runner, programs = Runner(Gate(), exact), [dspy.Predict(Triage.with_instructions(f"No. {n}")) for n in range(6)]
    for number, program in [*enumerate(programs)] * 2:
        unit = Unit(Stage.ROLLOUT, 1, ("a", number, len(lm.engine.calls)))
        runner.attempt(program, examples(1)[0], unit, index=0, attempt=0)
        assert f"No. {number}" in lm.engine.calls[-1].system
    assert len(runner._copiers) == 4
