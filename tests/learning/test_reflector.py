"""The reflection steps: what enters their prompts, what comes out, and that users and DSPy can take hold of them."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
import pytest
from support.scripted import Call, Reply, Triage, examples, learner, scripted_lm, told, write

from trgrpo_dspy import Experience, ExperienceLibrary, Reflector, TrainingFreeGRPO
from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.learning.evidence import Evidence, Row
from trgrpo_dspy.learning.group import RolloutGroup
from trgrpo_dspy.learning.reflection import Comparison, Context, Lesson, Plan
from trgrpo_dspy.learning.rendering import library_text
from trgrpo_dspy.learning.steps import in_place
from trgrpo_dspy.library import Edit, LibraryLimits
from trgrpo_dspy.program.rollout import Rollout

NOTHING = Context()
PAPER = ("summary", "comparison", "proposals", "consolidation")


def rollout(attempt: int, score: float | None, answer: str = "legal", **fields: Any) -> Rollout:
    given = {"feedback": f"feedback {attempt}", "transcript": f"=== Step 1 ===\nthought {attempt}", **fields}
    return Rollout(3, attempt, Outcome.COMPLETED, score, answer=f"queue: {answer}", **given)


def group(*rollouts: Rollout, **fields: Any) -> RolloutGroup:
    given = {"example": 3, "task": "ticket: refund case 3", "expected": "queue: billing", **fields}
    return RolloutGroup(rollouts=rollouts or (rollout(0, 0.0), rollout(1, 1.0, "billing")), **given)


def paper(**options: Any) -> Reflector:
    return Reflector(form="paper", summarize="always", **options)


def compile(reflector: Reflector | None = None, train: int = 8, **options: Any) -> Any:
    given = {"metric": told, "group_size": 4, "num_epochs": 1, "reflector": reflector, **options}
    return TrainingFreeGRPO(**given).compile(dspy.Predict(Triage), trainset=examples(train))


class TestTheBatchForm:
    def test_groups_are_compared_side_by_side_and_proposals_know_their_examples(self, lm: dspy.LM) -> None:
        two = [group(), group(rollout(0, 0.0), example=5, task="ticket: login case 5", expected="queue: access")]
        learned = Reflector()(two, NOTHING)
        assert lm.engine.kinds() == {"comparison": 1}
        assert [(e.operation, e.text, e.sources) for e in learned.edits] == [
            ("ADD", "When the ticket says 'refund', answer 'billing'.", (3,)),
            ("ADD", "When the ticket says 'login', answer 'access'.", (5,)),
        ]
        (reflection,) = learned.reflections
        assert reflection.examples == (3, 5) and reflection.summaries == {3: ("", ""), 5: ("",)}

    def test_the_comparison_sees_program_library_label_and_every_attempt(self, lm: dspy.LM) -> None:
        library = ExperienceLibrary.of("When the ticket says 'laptop', answer 'hardware'.")
        in_place(Reflector(max_lessons=4).reflect([group()], Context("a: x -> y", library)))
        (call,) = lm.engine.calls
        assert call.input("program") == "a: x -> y" and call.input("max_edits") == "4"
        assert call.input("experiences") == "[E1] When the ticket says 'laptop', answer 'hardware'."
        assert call.input("groups") == (
            "Example 3\nTask: ticket: refund case 3\nExpected: queue: billing\n"
            "Attempt 1 (score 0, completed)\nAnswer: queue: legal\nFeedback: feedback 0\n"
            "Transcript:\n  === Step 1 ===\n  thought 0\n"
            "Attempt 2 (score 1, completed)\nAnswer: queue: billing\nFeedback: feedback 1\n"
            "Transcript:\n  === Step 1 ===\n  thought 1"
        )

    def test_attempts_that_came_back_the_same_are_shown_once(self, lm: dspy.LM) -> None:
        same = [replace(rollout(0, 0.0), attempt=i) for i in range(3)]
        in_place(Reflector().reflect([group(*same, rollout(3, 1.0))], NOTHING))
        shown = lm.engine.calls[0].input("groups")
        assert shown.count("Attempt ") == 2 and "The same again: 2 more" in shown

    def test_a_transcript_that_only_repeats_the_answer_is_left_out(self, lm: dspy.LM) -> None:
        bare = rollout(0, 0.0, transcript="=== Step 1: self ===\nqueue: legal")
        in_place(Reflector().reflect([group(bare)], NOTHING))
        assert "Transcript" not in lm.engine.calls[0].input("groups")

    def test_failed_and_unscored_attempts(self, lm: dspy.LM) -> None:
        failed = Rollout(3, 0, Outcome.PROGRAM_ERROR, 0.0, error="KeyError: 'x'", transcript="t")
        lost = Rollout(3, 1, Outcome.INFRASTRUCTURE, None, transcript="OUTAGE-MARK")
        in_place(Reflector().reflect([group(failed, lost, rollout(2, 1.0))], NOTHING))
        shown = lm.engine.calls[0].input("groups")
        assert "Attempt 1 (score 0, program_error)\nFailure: KeyError: 'x'" in shown
        assert "OUTAGE-MARK" not in lm.engine.calls[0].text

    def test_only_attempts_too_long_to_be_read_whole_are_summarized(self, lm: dspy.LM) -> None:
        long = rollout(1, 1.0, transcript="start " + "x" * 9000 + " end")
        found = in_place(Reflector().reflect([group(rollout(0, 0.0), long)], NOTHING))
        assert lm.engine.kinds() == {"summary": 1, "comparison": 1}
        assert found[0].summaries[3][0] == "" and found[0].summaries[3][1].startswith("It read the ticket")
        summary = lm.engine.of("summary")[0]
        assert "expected" not in summary.system and "score" not in summary.user, (
            "a summary describes and does not judge"
        )

    @pytest.mark.parametrize(("tokens", "calls"), [(32_000, 3), (400, 7)])
    def test_what_is_read_scales_with_the_context(self, lm: dspy.LM, tokens: int, calls: int) -> None:
        groups = [group(rollout(0, 0.0, transcript="y" * 80), example=i) for i in range(20)]
        in_place(Reflector(context_tokens=tokens, summarize="auto").reflect(groups, NOTHING))
        comparisons = lm.engine.of("comparison")
        assert len(comparisons) == calls
        assert all(len(call.input("groups")) <= 4 * tokens // 2 for call in comparisons)

    def test_no_more_edits_than_asked_for(self, lm: dspy.LM) -> None:
        lm.engine.script = lambda call: {
            "comparison": "c" * 50_000, "edits": [{"operation": "ADD", "text": f"lesson {i}"} for i in range(9)],
        }  # fmt: skip
        (found,) = in_place(Reflector(max_lessons=3).reflect([group()], NOTHING))
        assert [e.text for e in found.edits] == ["lesson 0", "lesson 1", "lesson 2"] and len(found.comparison) <= 8000
        assert all(e.sources == (3,) for e in found.edits), "without sources an edit comes from all groups compared"


ROW = Row(3, "queue: billing", True, "Example 3\nTask: ticket: refund")


class TestConsolidation:
    PROPOSALS = (
        Edit("ADD", text="When the ticket says 'refund', answer 'billing'.", sources=(3,), targets=("a",)),
        Edit("MODIFY", "E1", "better advice", sources=(5,)),
        Edit("DELETE", "E1", sources=(7,)),
        Edit("ADD", text="When the ticket says 'refund', answer 'billing'.", sources=(9,)),
    )

    def test_it_sees_evidence_and_all_proposals_and_keeps_their_sources(self, lm: dspy.LM) -> None:
        context = Context("the program", ExperienceLibrary.of("old advice"))
        evidence = Evidence((ROW,), history="Step 1: nothing", refused="ADD x (bad)")
        plan = in_place(Reflector().consolidate(self.PROPOSALS, evidence, context))
        (call,) = lm.engine.calls
        assert call.input("proposals").splitlines() == [
            "P1. ADD: When the ticket says 'refund', answer 'billing'. (for: a) (from: 3)",
            "P2. MODIFY E1: better advice (from: 5)",
            "P3. DELETE E1 (from: 7)",
            "P4. ADD: When the ticket says 'refund', answer 'billing'. (from: 9)",
        ]
        assert call.input("evidence") == ROW.text and call.input("history") == "Step 1: nothing"
        assert call.input("refused") == "ADD x (bad)" and call.input("program") == "the program"
        assert call.input("max_experiences") == str(LibraryLimits().max_entries)
        assert [(e.operation, e.id, e.sources) for e in plan.edits] == [
            ("ADD", "", (3, 9)), ("MODIFY", "E1", (5,)), ("DELETE", "E1", (7,)),
        ]  # fmt: skip

    def test_sources_may_be_examples_of_the_table(self, lm: dspy.LM) -> None:
        edit = {"operation": "ADD", "text": "new", "sources": "P2, 3, 99"}
        lm.engine.script = lambda call: {"reasoning": "r", "edits": [edit], "dispositions": []}
        plan = in_place(Reflector().consolidate(self.PROPOSALS, Evidence((ROW,)), NOTHING))
        assert plan.edits[0].sources == (3, 5) and plan.reasoning == "r"

    def test_sources_of_an_edit_that_names_none(self, lm: dspy.LM) -> None:
        edit = {"operation": "ADD", "text": "When a refund is asked, say billing"}
        lm.engine.script = lambda call: {"reasoning": "", "edits": [edit], "dispositions": []}
        proposals = [
            Edit("ADD", text="When a refund is due, say billing", sources=(3,)),
            Edit("ADD", text="no", sources=(4,)),
        ]
        assert in_place(Reflector().consolidate(proposals, Evidence(), NOTHING)).edits[0].sources == (3,)

    def test_where_each_proposal_went(self, lm: dspy.LM) -> None:
        went = [{"proposal": "P1", "outcome": "used"}, {"proposal": "2", "outcome": "dropped because wrong"}]
        lm.engine.script = lambda call: {"reasoning": "", "edits": [], "dispositions": went}
        plan = in_place(Reflector().consolidate(self.PROPOSALS, Evidence(), NOTHING))
        assert plan.dispositions == {"P1": "used", "P2": "dropped because wrong"} and plan.edits == ()

    def test_nothing_wrong_and_nothing_proposed_costs_no_call(self, lm: dspy.LM) -> None:
        fine = Evidence((replace(ROW, wrong=False),))
        assert in_place(Reflector().consolidate((), fine, NOTHING)).edits == () and not lm.engine.calls
        in_place(Reflector().consolidate((), Evidence((ROW,)), NOTHING))
        assert lm.engine.calls[0].input("proposals") == "(none)"

    def test_a_batch_too_large_for_one_prompt_is_consolidated_in_a_tree(self, lm: dspy.LM) -> None:
        rows = tuple(Row(i, "", True, f"Example {i}\nTask: t") for i in range(100))
        proposals = [Edit("ADD", text=f"When the case is {i}, answer x", sources=(i,)) for i in range(100)]
        plan = in_place(Reflector().consolidate(proposals, Evidence(rows), NOTHING))
        sizes = [call.input("evidence").count("Example ") for call in lm.engine.calls]
        assert len(sizes) == 11 and max(sizes[:-1]) == 10 and sizes[-1] == 64
        assert sorted(e.sources for e in plan.edits) == [(i,) for i in range(100)], "no proposal is lost on the way"

    def test_lost_parts_of_a_tree_are_counted_and_keep_their_proposals(self) -> None:
        class Forgets(Reflector):
            def merge(self, proposals: Any, evidence: Evidence, context: Context) -> Plan:
                return Plan(tuple(proposals) if len(proposals) == 80 else ())

        rows = tuple(Row(i, "", True, f"Example {i}\nTask: t") for i in range(80))
        proposals = [Edit("ADD", text=f"When the case is {i}, answer x", sources=(i,)) for i in range(80)]
        plan = in_place(Forgets().consolidate(proposals, Evidence(rows), NOTHING))
        assert len(plan.edits) == len(plan.proposals) == 80
        assert len(plan.lost) == 9 and set(plan.lost) == {"consolidation: empty plan"}

    def test_an_empty_plan_without_a_word_applies_the_proposals(self, lm: dspy.LM) -> None:
        lm.engine.script = lambda call: {"reasoning": "", "edits": [], "dispositions": []}
        plan = in_place(Reflector().consolidate(self.PROPOSALS, Evidence(), NOTHING))
        assert plan.edits == self.PROPOSALS and plan.lost == ("consolidation: empty plan",)


class TestThePapersForm:
    def test_forward(self, lm: dspy.LM) -> None:
        learned = paper()([group()], NOTHING)
        assert lm.engine.kinds() == {"summary": 2, "comparison": 1, "proposals": 1}
        assert [(e.operation, e.text, e.sources) for e in learned.edits] == [
            ("ADD", "When the ticket says 'refund', answer 'billing'.", (3,))
        ]

    def test_a_whole_run_makes_the_four_calls(self, lm: dspy.LM) -> None:
        compiled = compile(paper(), learn_from="contrast")
        assert set(lm.engine.kinds()) == {"program", *PAPER} and len(compiled.experiences) > 0
        assert all("evidence" not in call.user for call in lm.engine.of("consolidation"))

    def test_the_summary_sees_label_score_and_feedback(self, lm: dspy.LM) -> None:
        paper().summarize(group(), rollout(1, 0.25), NOTHING)
        (call,) = lm.engine.calls
        assert call.input("task") == "ticket: refund case 3" and call.input("expected") == "queue: billing"
        assert call.input("score") == "0.25" and call.input("feedback") == "feedback 1"

    def test_no_lessons_no_proposal_call(self, lm: dspy.LM) -> None:
        lm.engine.script = lambda call: {"summary": "s", "comparison": "chance", "lessons": []}
        assert paper()([group()], NOTHING).edits == () and not lm.engine.of("proposals")

    def test_a_single_proposal_needs_no_consolidation(self, lm: dspy.LM) -> None:
        one = (Edit("ADD", text="x"),)
        empty = (Edit("ADD"), Edit("MODIFY", "E1"), Edit("KEEP", "E1"))
        assert in_place(paper().consolidate((*empty, *one), Evidence(), NOTHING)).edits == one and not lm.engine.calls


def test_a_comparison_shows_right_examples_for_contrast_by_their_answers_alone(lm: dspy.LM) -> None:
    right = group(rollout(0, 1.0), rollout(1, 1.0), rollout(2, 1.0), example=8)
    context = Context(right=tuple(replace(right, example=i) for i in range(8, 28)))
    Reflector(groups_per_comparison=4).compare([group()], {3: ["", ""]}, context)
    Reflector(groups_per_comparison=4, context_tokens=600).compare([group()], {3: ["s", "s"]}, context)
    shown, bounded = (call.input("groups") for call in lm.engine.of("comparison"))
    assert shown.count(" (right)") == 4 and "Example 3\n" in shown
    assert "transcript" not in shown.partition(" (right)")[2]
    assert bounded.count(" (right)") < 4, "they take an eighth of the context at most"


def test_the_nearest_with_another_answer_stand_beside_each_group_of_a_comparison(lm: dspy.LM) -> None:
    tasks = {1: "refund case 4", 2: "parcel lost", 4: "parcel lost today", 5: "refund case 9"}
    right = [group(rollout(0, 1.0), example=i, task=f"ticket: {t}", expected="queue: legal") for i, t in tasks.items()]
    alike = group(rollout(0, 1.0), example=6, task="ticket: refund case 5")  # the same answer tells nothing
    wrong = [group(), group(rollout(0, 0.0), example=7, task="ticket: parcel lost today")]
    Reflector(groups_per_comparison=2).compare(wrong, {3: ["", ""], 7: [""]}, Context(right=(alike, *right)))
    shown = lm.engine.of("comparison")[0].input("groups")
    assert [i for i in range(9) if f"Example {i} (right)" in shown] == [1, 4], "one for each, not two for the first"


def test_right_examples_can_be_the_sources_of_a_proposal(lm: dspy.LM) -> None:
    add = {"operation": "ADD", "text": "When late, answer legal", "sources": "8, 3, 99"}
    lm.engine.script = lambda call: {"comparison": "c", "edits": [add]}
    right = group(rollout(0, 1.0), rollout(1, 1.0), example=8)
    (reflection,) = in_place(Reflector().reflect([group()], Context(right=(right,))))
    assert [edit.sources for edit in reflection.edits] == [(3, 8)], "99 was not shown"


class TestAbsentInputs:
    """An absent input is an absent field: not a placeholder, and not in the instructions' field list either."""

    def names(self, call: Call) -> set[str]:
        head = call.system.split("Your output fields are:")[0]
        return {n for n in ("program", "experiences", "expected", "feedback", "score", "history") if f"`{n}`" in head}

    @pytest.mark.parametrize("context", [NOTHING, Context("p", ExperienceLibrary.of("advice"))])
    def test_what_is_there_is_there_and_what_is_not_is_not(self, lm: dspy.LM, context: Context) -> None:
        plain = group(rollout(0, 0.0, feedback=""), expected="")
        paper().summarize(plain, plain.rollouts[0], context)
        Reflector().compare([plain], {3: [""]}, context)
        Reflector().merge((), Evidence(), context)
        there = {"program"} if context.program else set()
        both = there | {"experiences"}  # an empty library is said to be empty
        assert [self.names(call) for call in lm.engine.calls] == [{"score"} | there, both, both]
        assert all("None" not in call.user and "N/A" not in call.user for call in lm.engine.calls)

    @pytest.mark.parametrize("form", ["batch", "paper"])
    def test_label_free(self, lm: dspy.LM, form: Any) -> None:
        """Even if a group should hold what it must not."""
        leaky = [replace(rollout(i, 0.5), outcome=Outcome.LABEL_FREE) for i in range(2)]
        in_place(Reflector(form=form, label_free=True).reflect([group(*leaky, label_free=True)], NOTHING))
        for call in lm.engine.calls:
            assert self.names(call) <= {"experiences"} and "queue: billing" not in call.user
            assert "feedback" not in call.user and "0.5" not in call.user
        assert "Attempt 2 (label_free)" in lm.engine.of("comparison")[0].user
        assert "Nobody has" in lm.engine.of("comparison")[0].system


class TestReplies:
    """One bad item never loses the rest; what is no lesson is none. (Shapes of lists: `test_prompts.py`.)"""

    def lessons(self, lm: dspy.LM, lessons: Any) -> list[tuple[str, tuple[str, ...]]]:
        text = lessons if isinstance(lessons, str) else json.dumps(lessons)
        lm.engine.script = lambda call: (
            f"[[ ## comparison ## ]]\nok\n\n[[ ## lessons ## ]]\n{text}\n\n[[ ## completed ## ]]"
        )
        found = paper(max_lessons=9).compare([group()], {3: ["a", "b"]}, NOTHING)
        return [(lesson.text, lesson.targets) for lesson in found.lessons]

    @pytest.mark.parametrize(
        "reply", ["[]", "null", "", "none", "None.", "No lesson, only chance.", '["None"]', "[1, 2]"]
    )
    def test_nothing_is_nothing(self, lm: dspy.LM, reply: str) -> None:
        assert self.lessons(lm, reply) == []

    def test_targets(self, lm: dspy.LM) -> None:
        replies = [("a, b", ("a", "b")), ("`a`", ("a",)), ("all", ()), ("", ()), (["a", "b"], ("a", "b")), ("None", ())]
        found = self.lessons(lm, [{"text": f"lesson {i}", "predictors": given} for i, (given, _) in enumerate(replies)])
        assert [targets for _, targets in found] == [expected for _, expected in replies]

    def test_edits(self, lm: dspy.LM) -> None:
        edits = [
            {"operation": "add", "text": "new"}, {"operation": "UPDATE", "id": "[E3]", "text": "changed"},
            {"operation": "Delete", "id": 4}, {"operation": "NONE", "id": "E5"}, "prose", {"id": "E6"},
            {"operation": "ADD", "text": "targeted", "predictors": "a"},
        ]  # fmt: skip
        lm.engine.script = lambda call: {"edits": edits}
        found = paper().propose([Lesson("x")], NOTHING, source=8)
        assert [(e.operation, e.id, e.text, e.targets) for e in found] == [
            ("ADD", "", "new", ()), ("MODIFY", "E3", "changed", ()), ("DELETE", "E4", "", ()), ("KEEP", "E5", "", ()),
            ("", "", "", ()), ("", "E6", "", ()), ("ADD", "", "targeted", ("a",)),
        ]  # fmt: skip
        assert all(e.sources == (8,) for e in found)

    def test_decisions(self, lm: dspy.LM) -> None:
        said = [
            {"example": "3", "entry": "E1", "decision": "billing"}, {"example": "Example 4", "entries": "E1, E2"},
            {"example": "none", "entry": "E1"}, {"example": 5, "entry": "[E3]", "decision": "legal"}, "prose",
            {"example": 6, "entry": "Entry 4", "decision": "x"}, {"example": 7, "entry": "e5", "decision": "x"},
        ]  # fmt: skip
        lm.engine.script = lambda call: {"decisions": said}
        found = Reflector().check(ExperienceLibrary.of("x"), "Example 3", "p", blind=True)
        assert [(d.example, d.entry, d.decision) for d in found] == [
            (3, "E1", "billing"), (4, "E1", ""), (4, "E2", ""), (5, "E3", "legal"), (6, "E4", "x"), (7, "E5", "x"),
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("reflector", "kind", "learns"),
    [
        (paper, "summary", True), (paper, "comparison", False), (paper, "proposals", False),
        (paper, "consolidation", True), (Reflector, "comparison", False), (Reflector, "consolidation", True),
        (Reflector, "check", True),
    ],
)  # fmt: skip
def test_a_reply_cut_by_length_is_never_a_lesson(reflector: Any, kind: str, learns: bool) -> None:
    def script(call: Call) -> Any:
        reply = write(call, learner(call))
        return Reply(reply.replace("answer '", "answer 'CUT-"), "length") if call.kind == kind else reply

    lm = scripted_lm(script)
    with dspy.context(lm=lm):
        compiled = compile(reflector(), train=20)
    (step,) = compiled.detailed_results.steps
    assert step.lost[f"{kind}: cut by length"] == sum(s.truncated for s in compiled.detailed_results.spend) >= 1
    assert "CUT-" not in str(compiled.experiences)
    assert (len(compiled.experiences) > 0) == learns


class TestAsAModule:
    def test_named_predictors(self) -> None:
        names = [name for name, _ in Reflector().named_predictors()]
        assert names == [
            f"steps['{name}']" for name in ("summarize", "compare", "consolidate", "check", "judge", "repair")
        ]
        assert [n for n, _ in paper().named_predictors()] == [
            f"steps['{name}']" for name in ("summarize", "compare", "propose", "consolidate")
        ]

    def test_save_and_load(self, tmp_path: Path, lm: dspy.LM) -> None:
        reflector = Reflector()
        step = reflector.steps["compare"]
        step.signature = step.signature.with_instructions("MY OWN INSTRUCTIONS")
        reflector.save(str(tmp_path / "reflector.json"))
        loaded = Reflector()
        loaded.load(str(tmp_path / "reflector.json"))
        loaded([group()], NOTHING)
        assert "MY OWN INSTRUCTIONS" in lm.engine.of("comparison")[0].system

    def test_bootstrap_few_shot_compiles_it(self, lm: dspy.LM, caplog: Any) -> None:
        caplog.set_level(logging.CRITICAL)
        training = [dspy.Example(groups=[group()], context=NOTHING).with_inputs("groups", "context")]
        bootstrap = dspy.BootstrapFewShot(
            metric=lambda e, p, trace=None: len(p.edits) == 1, max_bootstrapped_demos=2, max_labeled_demos=0
        )
        compiled = bootstrap.compile(Reflector(), trainset=training)
        assert len(compiled.steps["compare"].demos) == 1
        lm.engine.calls.clear()
        own = compiled.deepcopy()
        own._compiled = False
        assert len(compile(own).experiences) > 0
        (call, *_) = lm.engine.of("comparison")
        assert "ticket: refund case 3" in call.messages[0][1] and len(call.messages) > 1, "the demo is in the prompt"

    def test_a_reflector_frozen_by_an_optimizer_works_as_it_is(self, lm: dspy.LM) -> None:
        reflector = Reflector()
        reflector._compiled = True
        assert len(compile(reflector).experiences) > 0


class TestSubclasses:
    def test_one_step_overridden(self, lm: dspy.LM) -> None:
        class Terse(Reflector):
            def summarize(self, group: RolloutGroup, rollout: Rollout, context: Context) -> str:
                return f"TERSE {rollout.attempt}"

        assert len(compile(Terse(summarize="always")).experiences) > 0 and not lm.engine.of("summary")
        assert all("Summary: TERSE" in call.input("groups") for call in lm.engine.of("comparison"))

    def test_a_signature_replaced(self, lm: dspy.LM) -> None:
        reflector = Reflector()
        step = reflector.steps["compare"]
        reflector.steps["compare"] = dspy.Predict(step.signature.with_instructions("SAY IT IN FRENCH"))
        compile(reflector)
        assert all("SAY IT IN FRENCH" in call.system for call in lm.engine.of("comparison"))

    def test_a_step_with_an_lm_of_its_own(self, lm: dspy.LM) -> None:
        strong, reflector = scripted_lm(name="scripted/strong"), Reflector()
        reflector.steps["consolidate"].lm = strong
        compiled = compile(reflector)
        assert strong.engine.kinds() == {"consolidation": 1} and lm.engine.kinds()["consolidation"] == 0
        assert ("consolidation", "scripted/strong") in {(s.stage, s.model) for s in compiled.detailed_results.spend}
        assert reflector.steps["consolidate"].lm is strong and strong.history == []

    def test_a_bug_in_one_is_counted_by_its_name(self, lm: dspy.LM) -> None:
        class Broken(Reflector):
            def compare(self, *args: Any) -> Any:
                raise NotImplementedError

        assert compile(Broken()).detailed_results.steps[0].lost["comparison: NotImplementedError"] > 0

    @pytest.mark.parametrize("edits", [({"operation": "ADD"},), "ADD", 3])
    def test_what_is_no_edit_is_refused_by_name(self, lm: dspy.LM, edits: Any) -> None:
        class Wrong(Reflector):
            def compare(self, *args: Any) -> Any:
                return Comparison("", edits)

        with pytest.raises(TypeError, match="edits"):
            compile(Wrong())

    def test_what_is_no_comparison_is_refused_by_name(self, lm: dspy.LM) -> None:
        class Wrong(Reflector):
            def compare(self, *args: Any) -> Any:
                return dspy.Prediction(lessons=[])

        with pytest.raises(TypeError, match=r"Reflector\.compare"):
            compile(Wrong())

    def test_the_users_reflector_is_unchanged(self, lm: dspy.LM) -> None:
        reflector = Reflector(max_lessons=7)
        compile(reflector, max_experiences=3)
        assert reflector.limits == LibraryLimits() and reflector.max_lessons == 7
        assert reflector.history == [] and reflector.steps["compare"].history == []
        assert lm.engine.of("consolidation")[0].input("max_experiences") == "3", "it is told the cap that is enforced"

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("form", "papers"),
            ("summarize", "never"),
            ("groups_per_comparison", 0),
            ("max_lessons", -1),
            ("context_tokens", 0),
        ],
    )
    def test_bad_arguments_are_named(self, name: str, value: Any) -> None:
        with pytest.raises(ValueError, match=f"{name}={value!r} must be"):
            Reflector(**{name: value})

    def test_what_is_no_plan_is_refused_by_name(self, lm: dspy.LM) -> None:
        class Wrong(Reflector):
            def merge(self, *args: Any) -> Any:
                return []

        with pytest.raises(TypeError, match=r"Reflector\.merge must return a Plan"):
            compile(Wrong())


def test_the_library_as_reflection_sees_it() -> None:
    library = ExperienceLibrary((Experience("E2", "for all"), Experience("E5", "for one", ("a", "b"))), 9)
    assert library_text(library) == "[E2] for all\n[E5 | a, b] for one"
    assert library_text(ExperienceLibrary()) == "(the library is empty)"
