"""The reflection steps: what enters their prompts, what comes out, and that users and DSPy can take hold of them."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
import pytest
from support.scripted import Call, Reply, Triage, examples, learner, scripted_lm, told

from trgrpo_dspy import Experience, ExperienceLibrary, Reflector, TrainingFreeGRPO
from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.learning.group import RolloutGroup
from trgrpo_dspy.learning.reflector import Comparison, Lesson, library_text
from trgrpo_dspy.library import Edit, LibraryLimits
from trgrpo_dspy.program.rollout import Rollout


def rollout(attempt: int, score: float | None, answer: str = "legal", **fields: Any) -> Rollout:
    given = {"feedback": f"feedback {attempt}", "transcript": f"=== Step 1 ===\nqueue: {answer}", **fields}
    return Rollout(3, attempt, Outcome.COMPLETED, score, answer=f"queue: {answer}", **given)


def group(*rollouts: Rollout, **fields: Any) -> RolloutGroup:
    given = {"task": "ticket: refund case 3", "expected": "queue: billing", **fields}
    return RolloutGroup(3, rollouts=rollouts or (rollout(0, 0.0), rollout(1, 1.0, "billing")), **given)


NOTHING = ExperienceLibrary()


class TestSteps:
    def test_forward_learns_from_one_group(self, lm: dspy.LM) -> None:
        learned = Reflector()(attempts=group(), experiences=NOTHING)
        assert len(learned.summaries) == 2 and all("It read the ticket" in s for s in learned.summaries)
        assert isinstance(learned.comparison, Comparison)
        assert [x.text for x in learned.lessons] == ["When the ticket says 'refund', answer 'billing'."]
        assert [(e.operation, e.text, e.sources) for e in learned.edits] == [("ADD", learned.lessons[0].text, (3,))]
        assert lm.engine.kinds() == {"summary": 2, "comparison": 1, "proposals": 1}

    def test_the_summary_sees_label_score_and_feedback(self, lm: dspy.LM) -> None:
        Reflector().summarize(group(), rollout(1, 0.25))
        (call,) = lm.engine.calls
        assert call.input("task") == "ticket: refund case 3" and call.input("expected") == "queue: billing"
        assert call.input("score") == "0.25" and call.input("feedback") == "feedback 1"
        assert call.input("attempt").startswith("=== Step 1")

    def test_the_comparison_sees_the_library_and_every_attempt(self, lm: dspy.LM) -> None:
        library = ExperienceLibrary.of("When the ticket says 'laptop', answer 'hardware'.")
        Reflector(max_lessons=4).compare(group(), ["first told", "second told"], library, "a: x -> y\nb: y -> z")
        (call,) = lm.engine.calls
        assert call.input("experiences") == "[E1] When the ticket says 'laptop', answer 'hardware'."
        assert call.input("max_lessons") == "4" and call.input("predictors") == "a: x -> y\nb: y -> z"
        attempts = call.input("attempts")
        assert (
            "Attempt 1 (score 0, completed)\nAnswer: queue: legal\nFeedback: feedback 0\nSummary: first told"
            in attempts
        )
        assert "Attempt 2 (score 1, completed)" in attempts and "second told" in attempts

    def test_a_failure_is_told(self, lm: dspy.LM) -> None:
        failed = Rollout(3, 0, Outcome.PROGRAM_ERROR, 0.0, error="KeyError: 'x'", transcript="t")
        Reflector().compare(group(failed, rollout(1, 1.0)), ["a", "b"], NOTHING)
        assert "Attempt 1 (score 0, program_error)\nFailure: KeyError: 'x'" in lm.engine.calls[0].input("attempts")

    def test_a_lost_summary_falls_back_to_the_transcript(self, lm: dspy.LM) -> None:
        long = rollout(1, 1.0, transcript="start " + "x" * 9000 + " end")
        Reflector().compare(group(rollout(0, 0.0), long), ["told", None], NOTHING)
        attempts = lm.engine.calls[0].input("attempts")
        assert "Summary: told" in attempts and "Transcript: start" in attempts and attempts.endswith(" end")
        assert len(attempts) < 4 * 600, "bounded like a summary"

    def test_unscored_attempts_are_not_compared(self, lm: dspy.LM) -> None:
        unscored = Rollout(3, 1, Outcome.INFRASTRUCTURE, None, transcript="OUTAGE-MARK")
        learned = Reflector()(attempts=group(rollout(0, 0.0), unscored, rollout(2, 1.0)), experiences=NOTHING)
        assert len(learned.summaries) == 2
        assert not any("OUTAGE-MARK" in call.text for call in lm.engine.calls)

    def test_no_lessons_no_proposal_call(self, lm: dspy.LM) -> None:
        assert Reflector().propose((), NOTHING, source=3) == ()
        assert not lm.engine.calls

    def test_consolidation_sees_all_proposals_and_keeps_their_sources(self, lm: dspy.LM) -> None:
        library = ExperienceLibrary.of("old advice")
        proposals = [
            Edit("ADD", text="When the ticket says 'refund', answer 'billing'.", sources=(3,), targets=("a",)),
            Edit("MODIFY", "E1", "better advice", sources=(5,)),
            Edit("DELETE", "E1", sources=(7,)),
            Edit("ADD", text="When the ticket says 'refund', answer 'billing'.", sources=(9,)),
        ]
        edits = Reflector().consolidate(proposals, library)
        (call,) = lm.engine.calls
        assert call.input("proposals").splitlines() == [
            "P1. ADD: When the ticket says 'refund', answer 'billing'. (for: a)",
            "P2. MODIFY E1: better advice",
            "P3. DELETE E1",
            "P4. ADD: When the ticket says 'refund', answer 'billing'.",
        ]
        assert call.input("max_experiences") == str(LibraryLimits().max_entries)
        assert [(e.operation, e.id, e.sources) for e in edits] == [
            ("ADD", "", (3, 9)),
            ("MODIFY", "E1", (5,)),
            ("DELETE", "E1", (7,)),
        ]

    def test_sources_of_a_plan_that_names_no_proposals(self, lm: dspy.LM) -> None:
        lm.engine.script = lambda call: {"edits": [{"operation": "ADD", "text": "When a refund is asked, say billing"}]}
        proposals = [
            Edit("ADD", text="When a refund is due, say billing", sources=(3,)),
            Edit("ADD", text="Laptops are hardware", sources=(4,)),
        ]
        assert [e.sources for e in Reflector().consolidate(proposals, NOTHING)] == [(3,)]

    def test_replies_are_bounded(self, lm: dspy.LM) -> None:
        lm.engine.script = lambda call: {"summary": "s" * 50_000, "comparison": "c" * 50_000, "lessons": []}
        assert len(Reflector().summarize(group(), rollout(0, 0.0))) <= 4 * 400
        lm.engine.script = lambda call: {
            "comparison": "c" * 50_000,
            "lessons": [{"text": f"lesson {i}"} for i in range(9)],
        }
        found = Reflector(max_lessons=3).compare(group(), ["a", "b"], NOTHING)
        assert len(found.text) <= 4 * 300 and [x.text for x in found.lessons] == ["lesson 0", "lesson 1", "lesson 2"]


class TestAbsentInputs:
    """An absent input is an absent field: not a placeholder, and not in the instructions' field list either."""

    def names(self, call: Call) -> set[str]:
        head = call.system.split("Your output fields are:")[0]
        return {name for name in ("predictors", "experiences", "expected", "feedback", "score") if f"`{name}`" in head}

    def test_an_empty_library_no_labels_no_feedback(self, lm: dspy.LM) -> None:
        plain = group(expected="")
        Reflector().summarize(plain, rollout(0, 0.0, feedback=""))
        Reflector().compare(plain, ["a", "b"], NOTHING)
        Reflector().propose([Lesson("x")], NOTHING, source=0)
        assert [self.names(call) for call in lm.engine.calls] == [{"score"}, set(), set()]
        assert all("None" not in call.user and "N/A" not in call.user for call in lm.engine.calls)

    def test_what_is_there_is_there(self, lm: dspy.LM) -> None:
        library = ExperienceLibrary.of("advice")
        Reflector().summarize(group(), rollout(0, 0.0))
        Reflector().compare(group(), ["a", "b"], library, "p: x -> y")
        assert self.names(lm.engine.calls[0]) == {"expected", "score", "feedback"}
        assert self.names(lm.engine.calls[1]) == {"predictors", "experiences", "expected"}

    def test_label_free(self, lm: dspy.LM) -> None:
        """Even if a group should hold what it must not."""
        leaky = [replace(rollout(i, 0.5), outcome=Outcome.LABEL_FREE) for i in range(2)]
        free = group(*leaky, label_free=True)
        reflector = Reflector(label_free=True)
        reflector.summarize(free, free.rollouts[0])
        reflector.compare(free, ["a", "b"], NOTHING)
        for call in lm.engine.calls:
            assert self.names(call) == set() and "queue: billing" not in call.user
            assert "feedback" not in call.user and "0.5" not in call.user
        assert "Attempt 2 (label_free)" in lm.engine.calls[1].user
        assert "Nobody has told which is right" in lm.engine.calls[1].system


class TestReplies:
    """One bad item never loses the rest; what is no lesson is none."""

    def compared(self, lm: dspy.LM, lessons: Any) -> list[tuple[str, tuple[str, ...]]]:
        text = lessons if isinstance(lessons, str) else json.dumps(lessons)
        lm.engine.script = lambda call: (
            f"[[ ## comparison ## ]]\nok\n\n[[ ## lessons ## ]]\n{text}\n\n[[ ## completed ## ]]"
        )
        found = Reflector(max_lessons=9).compare(group(), ["a", "b"], NOTHING)
        return [(lesson.text, lesson.targets) for lesson in found.lessons]

    def test_good_items_survive_bad_ones(self, lm: dspy.LM) -> None:
        mixed = [
            {"text": "first"},
            None,
            7,
            {"lesson": "no text"},
            "bare",
            {"text": None},
            [],
            {"text": "last", "x": 1},
        ]
        assert [text for text, _ in self.compared(lm, mixed)] == ["first", "bare", "last"]

    @pytest.mark.parametrize(
        "reply",
        [
            '[{"text": "the lesson"}]',
            '{"text": "the lesson"}',
            '{"lessons": [{"text": "the lesson"}]}',
            '```json\n[{"text": "the lesson"}]\n```',
            '[{"text": "the lesson"',
            '["the lesson"]',
            '[{"TEXT": "the lesson", "predictors": null}]',
        ],
    )
    def test_many_shapes_are_read(self, lm: dspy.LM, reply: str) -> None:
        assert [text for text, _ in self.compared(lm, reply)] == ["the lesson"]

    @pytest.mark.parametrize(
        "reply",
        [
            "[]",
            "null",
            "",
            "none",
            "None.",
            "No lesson, only chance.",
            '["None"]',
            "{}",
            '[{"text": ""}, {"text": "   "}]',
            "[1, 2]",
        ],
    )
    def test_nothing_is_nothing(self, lm: dspy.LM, reply: str) -> None:
        assert self.compared(lm, reply) == []

    def test_targets(self, lm: dspy.LM) -> None:
        replies = [("a, b", ("a", "b")), ("`a`", ("a",)), ("all", ()), ("", ()), (["a", "b"], ("a", "b")), ("None", ())]
        found = self.compared(
            lm, [{"text": f"lesson {i}", "predictors": given} for i, (given, _) in enumerate(replies)]
        )
        assert [targets for _, targets in found] == [expected for _, expected in replies]

    def test_edits(self, lm: dspy.LM) -> None:
        edits = [
            {"operation": "add", "text": "new"}, {"operation": "UPDATE", "id": "[E3]", "text": "changed"},
            {"operation": "Delete", "id": 4}, {"operation": "NONE", "id": "E5"}, "prose", {"id": "E6"},
            {"operation": "ADD", "text": "targeted", "predictors": "a"},
        ]  # fmt: skip
        lm.engine.script = lambda call: {"edits": edits}
        found = Reflector().propose([Lesson("x")], NOTHING, source=8)
        assert [(e.operation, e.id, e.text, e.targets) for e in found] == [
            ("ADD", "", "new", ()), ("MODIFY", "E3", "changed", ()), ("DELETE", "E4", "", ()), ("KEEP", "E5", "", ()),
            ("", "", "", ()), ("", "E6", "", ()), ("ADD", "", "targeted", ("a",)),
        ]  # fmt: skip
        assert all(e.sources == (8,) for e in found)


class TestCutReplies:
    """A reply cut by length, known from its finish reason, is never a lesson."""

    @pytest.mark.parametrize("kind", ["summary", "comparison", "proposals", "consolidation"])
    def test_each_step(self, kind: str) -> None:
        def script(call: Call) -> Any:
            from support.scripted import write

            reply = write(call, learner(call)) if not isinstance(learner(call), str) else ""
            return Reply(reply.replace("answer '", "answer 'CUT-"), "length") if call.kind == kind else reply

        lm = scripted_lm(script)
        with dspy.context(lm=lm):
            compiled = TrainingFreeGRPO(metric=told, group_size=4, num_epochs=1).compile(
                dspy.Predict(Triage), trainset=examples(8)
            )
        (step,) = compiled.detailed_results.steps
        assert step.lost[f"{kind}: cut by length"] >= 1
        assert "CUT-" not in str(compiled.experiences)
        cut_calls = sum(s.truncated for s in compiled.detailed_results.spend)
        assert cut_calls == step.lost[f"{kind}: cut by length"]
        if kind in ("summary", "consolidation"):
            assert len(compiled.experiences) > 0, "what is whole is learned from"
        else:
            assert len(compiled.experiences) == 0
        if kind == "summary":
            assert all("Transcript:\n" in c.input("attempts") for c in lm.engine.of("comparison"))

    def test_a_whole_reply_that_looks_cut_is_not(self, lm: dspy.LM) -> None:
        lm.engine.script = lambda call: (
            {**learner(call), "summary": "It goes on and on and"} if call.kind == "summary" else learner(call)
        )
        compiled = TrainingFreeGRPO(metric=told, group_size=4, num_epochs=1).compile(
            dspy.Predict(Triage), trainset=examples(8)
        )
        assert compiled.detailed_results.steps[0].lost == {}


class TestAsAModule:
    def test_named_predictors(self) -> None:
        names = [name for name, _ in Reflector().named_predictors()]
        assert names == ["summarize_attempt", "compare_attempts", "propose_edits", "consolidate_edits"]

    def test_save_and_load(self, tmp_path: Path, lm: dspy.LM) -> None:
        reflector = Reflector(max_lessons=3)
        step = reflector.compare_attempts
        step.signature = step.signature.with_instructions("MY OWN INSTRUCTIONS")
        step.demos = [dspy.Example(task="t", attempts="a", max_lessons="2", comparison="c", lessons=[])]
        reflector.save(str(tmp_path / "reflector.json"))
        loaded = Reflector(max_lessons=3)
        loaded.load(str(tmp_path / "reflector.json"))
        assert loaded.compare_attempts.signature.instructions == "MY OWN INSTRUCTIONS"
        assert len(loaded.compare_attempts.demos) == 1
        loaded(attempts=group(), experiences=NOTHING)
        assert "MY OWN INSTRUCTIONS" in lm.engine.of("comparison")[0].system

    def test_bootstrap_few_shot_compiles_it(self, lm: dspy.LM, caplog: Any) -> None:
        caplog.set_level(logging.CRITICAL)
        training = [
            dspy.Example(attempts=group(rollout(0, 0.0), rollout(1, 1.0, "billing")), experiences=NOTHING).with_inputs(
                "attempts", "experiences"
            )
        ]

        def learned_something(example: Any, prediction: Any, trace: Any = None) -> bool:
            return len(prediction.edits) == 1

        bootstrap = dspy.BootstrapFewShot(metric=learned_something, max_bootstrapped_demos=2, max_labeled_demos=0)
        compiled = bootstrap.compile(Reflector(), trainset=training)
        assert len(compiled.summarize_attempt.demos) >= 1 and len(compiled.compare_attempts.demos) == 1
        lm.engine.calls.clear()
        own = compiled.deepcopy()
        own._compiled = False
        optimizer = TrainingFreeGRPO(metric=told, group_size=4, num_epochs=1, reflector=own)
        program = optimizer.compile(dspy.Predict(Triage), trainset=examples(8))
        assert len(program.experiences) > 0
        for kind in ("summary", "comparison", "proposals"):
            calls = lm.engine.of(kind)
            assert calls and all(len(call.messages) > 1 for call in calls), f"demos appear in every {kind} prompt"
        assert "ticket: refund case 3" in lm.engine.of("comparison")[0].messages[0][1]

    def test_a_reflector_frozen_by_an_optimizer_works_as_it_is(self, lm: dspy.LM) -> None:
        reflector = Reflector()
        reflector._compiled = True
        program = TrainingFreeGRPO(metric=told, group_size=4, num_epochs=1, reflector=reflector).compile(
            dspy.Predict(Triage), trainset=examples(8)
        )
        assert len(program.experiences) > 0


class Terse(Reflector):
    def summarize(self, group: RolloutGroup, rollout: Rollout) -> str:
        return f"TERSE {rollout.attempt}"


class Whole(Reflector):
    def forward(self, attempts: RolloutGroup, experiences: ExperienceLibrary, predictors: str = "") -> Any:
        return dspy.Prediction(edits=[Edit("ADD", text=f"learned from case {attempts.example}")])


class TestSubclasses:
    def compile(self, reflector: Reflector, **settings: Any) -> Any:
        given = {"metric": told, "group_size": 4, "num_epochs": 1, **settings}
        return TrainingFreeGRPO(reflector=reflector, **given).compile(dspy.Predict(Triage), trainset=examples(8))

    def test_one_step_overridden(self, lm: dspy.LM) -> None:
        compiled = self.compile(Terse())
        assert len(compiled.experiences) > 0 and lm.engine.kinds()["summary"] == 0
        assert all("Summary: TERSE 0" in call.input("attempts") for call in lm.engine.of("comparison"))

    def test_forward_overridden(self, lm: dspy.LM) -> None:
        compiled = self.compile(Whole())
        assert set(lm.engine.kinds()) == {"program", "consolidation"}
        assert all(e.text.startswith("learned from case") for e in compiled.experiences)
        assert all(e.sources == (int(e.text.rsplit(" ", 1)[1]),) for e in compiled.experiences)

    def test_a_signature_replaced(self, lm: dspy.LM) -> None:
        reflector = Reflector()
        reflector.summarize_attempt = dspy.Predict(
            reflector.summarize_attempt.signature.with_instructions("SAY IT IN FRENCH")
        )
        self.compile(reflector)
        assert all("SAY IT IN FRENCH" in call.system for call in lm.engine.of("summary"))

    def test_a_step_with_an_lm_of_its_own(self, lm: dspy.LM) -> None:
        strong = scripted_lm(name="scripted/strong")
        reflector = Reflector()
        reflector.consolidate_edits.lm = strong
        compiled = self.compile(reflector)
        assert strong.engine.kinds() == {"consolidation": 1} and lm.engine.kinds()["consolidation"] == 0
        rows = {(s.stage, s.model) for s in compiled.detailed_results.spend}
        assert ("consolidation", "scripted/strong") in rows
        assert reflector.consolidate_edits.lm is strong and strong.history == []

    def test_a_bug_in_one_is_counted_by_its_name(self, lm: dspy.LM) -> None:
        class Broken(Reflector):
            def summarize(self, group: RolloutGroup, rollout: Rollout) -> str:
                raise NotImplementedError

        compiled = self.compile(Broken())
        assert compiled.detailed_results.steps[0].lost["summary: NotImplementedError"] > 0

    @pytest.mark.parametrize("edits", [[{"operation": "ADD"}], "ADD", None, 3])
    def test_what_is_no_edit_is_refused_by_name(self, lm: dspy.LM, edits: Any) -> None:
        class Wrong(Reflector):
            def propose(self, lessons: Any, experiences: Any, predictors: str = "", *, source: int) -> Any:
                return edits

        with pytest.raises(TypeError, match="edits"):
            self.compile(Wrong())

    def test_what_is_no_comparison_is_refused_by_name(self, lm: dspy.LM) -> None:
        class Wrong(Reflector):
            def compare(self, *args: Any, **kwargs: Any) -> Any:
                return dspy.Prediction(lessons=[])

        with pytest.raises(TypeError, match=r"Reflector\.compare"):
            self.compile(Wrong())

    def test_the_users_reflector_is_unchanged(self, lm: dspy.LM) -> None:
        reflector = Terse(max_lessons=7)
        self.compile(reflector, max_experiences=3)
        assert reflector.limits == LibraryLimits() and reflector.max_lessons == 7
        assert reflector.history == [] and reflector.compare_attempts.history == []
        (call,) = lm.engine.of("consolidation")
        assert call.input("max_experiences") == "3", "it is told the limit that is enforced"


def test_the_library_as_reflection_sees_it() -> None:
    library = ExperienceLibrary((Experience("E2", "for all"), Experience("E5", "for one", ("a", "b"))), 9)
    assert library_text(library) == "[E2] for all\n[E5 | a, b] for one"
    assert library_text(NOTHING) == ""
