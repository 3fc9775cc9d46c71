"""Every adapter carries the library and parses the reflection's replies."""

from __future__ import annotations

import re
from typing import Any

import dspy
import pytest
from support.scripted import Call, Triage, exact, examples, learner, scripted_lm, told, write

from trgrpo_dspy import ExperienceLibrary, Reflector, TrainingFreeGRPO, evaluate
from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.learning.evidence import Evidence
from trgrpo_dspy.learning.group import RolloutGroup
from trgrpo_dspy.learning.reflection import Context
from trgrpo_dspy.learning.steps import in_place
from trgrpo_dspy.library import Edit
from trgrpo_dspy.program.rollout import Rollout

ADAPTERS = ["chat", "json", "xml", "two-step"]


def adapter_of(name: str) -> Any:
    """The adapter, and the LM it may hold."""
    if name == "two-step":
        return dspy.TwoStepAdapter(scripted_lm(name="scripted/extraction"))
    return {"chat": dspy.ChatAdapter, "json": dspy.JSONAdapter, "xml": dspy.XMLAdapter}[name]()


@pytest.mark.parametrize(
    ("program", "name"),
    [(dspy.Predict(Triage), "chat"), *((dspy.ChainOfThought(Triage), name) for name in ADAPTERS)],
)
def test_a_whole_compile(lm: dspy.LM, program: dspy.Module, name: str) -> None:
    with dspy.context(adapter=adapter_of(name)):
        compiled = TrainingFreeGRPO(metric=told, group_size=4, num_epochs=2).compile(
            program, trainset=examples(16), valset=examples(24, start=1000)
        )
        if name != "two-step":
            assert {call.style for call in lm.engine.calls} == {name}
        assert set(lm.engine.kinds()) >= {"program", "comparison", "consolidation", "check"}
        testset = examples(24, start=3000)
        before, after = evaluate(program, testset, exact).score, evaluate(compiled, testset, exact).score
        results = compiled.detailed_results
        assert all(step.lost == {} for step in results.steps), "every reflection reply was parsed"
        assert all(set(step.outcomes) == {"completed"} for step in results.steps)
        assert len(compiled.experiences) >= 5 and before < 0.6 < after
        lm.engine.calls.clear()
        compiled(ticket="refund case 1")
    entries = str(compiled.experiences).splitlines()
    assert re.findall(r"^ *(\[E\d+\] .+)$", lm.engine.calls[0].system, re.MULTILINE) == entries


@pytest.mark.parametrize("name", ADAPTERS)
def test_items_with_everything_in_them_are_parsed(lm: dspy.LM, name: str) -> None:
    edits = [
        {"operation": "ADD", "id": "", "text": "When it says “a < b & c”, answer 'x'; never y.", "predictors": "p, q",
         "sources": "P1, P2"},
        {"operation": "MODIFY", "id": "E3", "text": "Zwölf Boxkämpfer: ½ €", "predictors": "", "sources": ""},
        {"operation": "DELETE", "id": "E1", "text": "", "predictors": "", "sources": "P2"},
    ]  # fmt: skip

    def script(call: Call) -> Any:
        if call.style != "xml":
            return {"reasoning": "r", "edits": edits, "dispositions": []}
        from xml.sax.saxutils import escape

        items = "".join(
            "<item>" + "".join(f"<{k}>{escape(v)}</{k}>" for k, v in edit.items()) + "</item>" for edit in edits
        )
        return f"<reasoning>r</reasoning><edits>{items}</edits><dispositions>[]</dispositions>"

    lm.engine.script = script
    adapter = adapter_of(name)
    proposals = [Edit("ADD", text="a", sources=(4,)), Edit("DELETE", "E1", sources=(6,))]
    with dspy.context(adapter=adapter):
        library = ExperienceLibrary.of("one", "two", "three")
        found = in_place(Reflector().consolidate(proposals, Evidence(), Context("", library))).edits
    assert [(e.operation, e.id, e.targets, e.sources) for e in found] == [
        ("ADD", "", ("p", "q"), (4, 6)),
        ("MODIFY", "E3", (), ()),
        ("DELETE", "E1", (), (6,)),
    ]
    assert found[0].text.startswith("When it says") and "answer 'x'" in found[0].text
    assert found[1].text == "Zwölf Boxkämpfer: ½ €"


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_group_goes_through_forward(lm: dspy.LM, name: str) -> None:
    rollouts = tuple(
        Rollout(0, i, Outcome.COMPLETED, float(i), answer=f"queue: {queue}", transcript=f"queue: {queue}")
        for i, queue in enumerate(("legal", "billing"))
    )
    with dspy.context(adapter=adapter_of(name)):
        learned = Reflector()([RolloutGroup(0, "ticket: refund", "queue: billing", rollouts)])
    assert [(e.operation, e.text) for e in learned.edits] == [
        ("ADD", "When the ticket says 'refund', answer 'billing'.")
    ]


def test_an_adapter_a_program_sets_itself(lm: dspy.LM) -> None:
    class Own(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.predict = dspy.Predict(Triage)

        def forward(self, ticket: str) -> Any:
            with dspy.context(adapter=dspy.JSONAdapter()):
                return self.predict(ticket=ticket)

    compiled = TrainingFreeGRPO(metric=told, group_size=4, num_epochs=1).compile(Own(), trainset=examples(8))
    assert len(compiled.experiences) > 0
    assert {call.style for call in lm.engine.of("program")} == {"json"}
    assert compiled.detailed_results.total.calls == len(lm.engine.calls)


def test_a_subclassed_adapter_is_called_as_plain_dspy_calls_it(lm: dspy.LM) -> None:
    counted: list[str] = []

    class Mine(dspy.ChatAdapter):
        def format(self, signature: Any, demos: Any, inputs: Any) -> Any:
            counted.append("format")
            return super().format(signature, demos, inputs)

    class Watch(dspy.utils.BaseCallback):
        def on_adapter_format_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
            counted.append("callback")

    with dspy.context(adapter=Mine(), callbacks=[Watch()]):
        dspy.Predict(Triage)(ticket="refund case 0")
        plain, counted[:] = list(counted), []
        evaluate(dspy.Predict(Triage), examples(5), exact, num_threads=1)
    assert plain.count("format") == 1 and counted == 5 * plain


def test_replies_of_the_wrong_style_are_counted(lm: dspy.LM) -> None:
    lm.engine.script = lambda call: (
        learner(call) if call.kind == "program" else write(call, {"nothing": "that was asked"})
    )
    with dspy.context(adapter=dspy.JSONAdapter()):
        compiled = TrainingFreeGRPO(metric=told, group_size=4, num_epochs=1).compile(
            dspy.Predict(Triage), trainset=examples(8)
        )
    lost = compiled.detailed_results.steps[0].lost
    assert lost["comparison: unusable reply"] > 0 and lost["consolidation: unusable reply"] > 0
    assert len(compiled.experiences) == 0
