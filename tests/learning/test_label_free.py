"""Without a metric: answers are compared, and no label, score or feedback reaches any prompt."""

from __future__ import annotations

import re
from typing import Any

import dspy
import pytest
from support.scripted import RIGHT, Triage, examples, learner, scripted_lm, told

from trgrpo_dspy import Reflector, TrainingFreeGRPO

MARKS = ("LABEL-MARK", "NOTE-MARK", "JUDGE-MARK", "0.73519")


def marked(count: int) -> list[dspy.Example]:
    """Tickets whose labels can't be missed where they leak."""
    return [
        dspy.Example(ticket=e.ticket, queue=f"LABEL-MARK {e.queue}", note="NOTE-MARK", score=0.73519).with_inputs(
            "ticket"
        )
        for e in examples(count)
    ]


def judged(example: dspy.Example, prediction: Any, trace: Any = None) -> dspy.Prediction:
    right = example.queue.endswith(prediction.queue)
    return dspy.Prediction(score=0.73519 if right else 0.0, feedback=f"JUDGE-MARK {example.queue}")


def compile(program: dspy.Module, **options: Any) -> Any:
    given = {"metric": None, "group_size": 4, "num_epochs": 2, **options}
    return TrainingFreeGRPO(**given).compile(program, trainset=marked(12))


@pytest.mark.parametrize("adapter", [dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter()])
@pytest.mark.parametrize("program", [dspy.Predict(Triage), dspy.ChainOfThought(Triage)])
def test_no_label_score_or_feedback_in_any_prompt(lm: dspy.LM, program: dspy.Module, adapter: dspy.Adapter) -> None:
    with dspy.context(adapter=adapter):
        compiled = compile(program)
    assert len(compiled.experiences) > 0, "there was something to leak"
    assert set(lm.engine.kinds()) == {"program", "comparison", "consolidation"}, "and nothing is checked against labels"
    for call in lm.engine.calls:
        leaked = [mark for mark in MARKS if mark in call.text]
        assert not leaked, f"{leaked} in a {call.kind} prompt"
    for call in lm.engine.calls:
        if call.kind != "program":
            assert not re.search(r"\bscore\b|\bfeedback\b|\bexpected\b", call.user, re.IGNORECASE)


def test_the_search_would_find_a_leak(lm: dspy.LM) -> None:
    """The same search over a run with a metric finds every mark, so the test above can fail."""
    compile(dspy.Predict(Triage), metric=judged)
    everything = "\n".join(call.text for call in lm.engine.calls)
    assert all(mark in everything for mark in MARKS)


def test_nothing_of_a_label_is_in_the_results(lm: dspy.LM) -> None:
    compiled = compile(dspy.Predict(Triage))
    text = compiled.detailed_results.to_json() + str(compiled.experiences)
    assert not any(mark in text for mark in MARKS)


def test_groups_whose_answers_differ_are_compared(lm: dspy.LM) -> None:
    lm.engine.script = lambda call: (
        {"queue": "legal"} if call.kind == "program" and "refund" in call.user else learner(call)
    )
    compiled = compile(dspy.Predict(Triage), num_epochs=1)
    compared = lm.engine.of("comparison")
    assert compared and not any("refund" in call.input("groups") for call in compared)
    (step,) = compiled.detailed_results.steps
    assert step.train_mean is None and step.outcomes == {"label_free": 48}


def test_the_majority_is_learned(lm: dspy.LM) -> None:
    lm.engine.script = lambda call: (
        {
            "queue": "legal"
            if call.chance("rare") % 5 == 0
            else RIGHT[call.user.split("## ticket ## ]]\n")[1].split()[0]]
        }
        if call.kind == "program"
        else learner(call)
    )
    compiled = compile(dspy.Predict(Triage), group_size=8)
    learned = dict(re.findall(r"says '(\w+)', answer '(\w+)'", str(compiled.experiences)))
    assert learned and sum(RIGHT[word] == queue for word, queue in learned.items()) >= len(learned) - 1


def test_failed_attempts_are_not_compared(lm: dspy.LM) -> None:
    lm.engine.script = lambda call: (
        ("prose" if call.chance("x") % 2 else {"queue": "legal"}) if call.kind == "program" else learner(call)
    )
    compiled = compile(dspy.Predict(Triage), num_epochs=1)
    (step,) = compiled.detailed_results.steps
    assert step.informative == 0 and step.outcomes["parse_error"] > 0 and not lm.engine.of("comparison")


class TestCompareFields:
    def program(self) -> dspy.Module:
        class Talks(dspy.Module):
            def __init__(self) -> None:
                super().__init__()
                self.predict = dspy.ChainOfThought(Triage)

            def forward(self, ticket: str) -> Any:
                found = self.predict(ticket=ticket)
                return dspy.Prediction(queue="Always!", chatter=found.queue, reasoning=found.queue)

        return Talks()

    @pytest.mark.parametrize(
        "fields, informative", [(["queue"], False), (["chatter"], True), (["queue", "chatter"], True), (None, True)]
    )
    def test_only_these_are_compared(self, lm: dspy.LM, fields: list[str] | None, informative: bool) -> None:
        (step,) = compile(self.program(), compare_fields=fields, num_epochs=1).detailed_results.steps
        assert (step.informative > 0) == informative

    def test_reasoning_is_not_compared_by_default(self, lm: dspy.LM) -> None:
        lm.engine.script = lambda call: (
            {"queue": "legal", "reasoning": f"thought {call.chance('r')}"} if call.kind == "program" else learner(call)
        )
        (step,) = compile(dspy.ChainOfThought(Triage), num_epochs=1).detailed_results.steps
        assert step.informative == 0

    def test_an_unknown_field_is_named_after_one_attempt(self, lm: dspy.LM) -> None:
        with pytest.raises(
            Exception, match=r"compare_fields names \['answer'\]; the program's outputs are \['queue'\]"
        ):
            compile(dspy.Predict(Triage), compare_fields=["answer"])
        assert len(lm.engine.calls) == 1


def test_a_valset_is_refused(lm: dspy.LM) -> None:
    with pytest.raises(ValueError, match="valset= needs a metric"):
        TrainingFreeGRPO(metric=None).compile(dspy.Predict(Triage), trainset=marked(3), valset=marked(3))
    assert not lm.engine.calls


def test_examples_need_no_labels(lm: dspy.LM) -> None:
    bare = [dspy.Example(ticket=e.ticket).with_inputs("ticket") for e in examples(8)]
    compiled = TrainingFreeGRPO(metric=None, group_size=4, num_epochs=1).compile(dspy.Predict(Triage), trainset=bare)
    assert len(compiled.experiences) > 0
    assert compiled.detailed_results.verdict.improved is None


def test_a_reflector_of_the_users_must_be_label_free(lm: dspy.LM) -> None:
    compiled = compile(dspy.Predict(Triage), reflector=Reflector(label_free=True), num_epochs=1)
    assert len(compiled.experiences) > 0
    with pytest.raises(ValueError, match="label_free=True"):
        TrainingFreeGRPO(metric=None, reflector=Reflector())


def test_a_reflector_of_the_users_is_handed_no_labels_either(lm: dspy.LM) -> None:
    handed: list[Any] = []

    class Looks(Reflector):
        def compare(self, groups: Any, summaries: Any, context: Any) -> Any:
            handed.extend([*groups, context])
            return super().compare(groups, summaries, context)

    compile(dspy.Predict(Triage), reflector=Looks(label_free=True), num_epochs=1)
    assert handed and not any(mark in repr(group) for group in handed for mark in MARKS)


def test_a_metric_is_never_called_where_there_is_none() -> None:
    lm = scripted_lm()
    with dspy.context(lm=lm):
        with_metric = TrainingFreeGRPO(metric=told, group_size=4, num_epochs=1).compile(
            dspy.Predict(Triage), trainset=examples(8)
        )
        without = TrainingFreeGRPO(metric=None, group_size=4, num_epochs=1).compile(
            dspy.Predict(Triage), trainset=examples(8)
        )
    assert with_metric.detailed_results.steps[0].train_mean is not None
    assert without.detailed_results.steps[0].train_mean is None
