"""Learning on top of what other optimizers left: their instructions and demos stay."""

from __future__ import annotations

import logging
from typing import Any

import dspy
import pytest
from support.scripted import RIGHT, Call, Triage, answer, exact, examples, learner, scripted_lm, told, word_of

from trgrpo_dspy import ExperienceLibrary, TrainingFreeGRPO, attach, evaluate
from trgrpo_dspy.program.instructions import original_instructions, remove_block


def optimizer(**options: Any) -> TrainingFreeGRPO:
    return TrainingFreeGRPO(**{"metric": told, "group_size": 4, "num_epochs": 1, **options})


@pytest.fixture(autouse=True)
def quiet(caplog: Any) -> None:
    caplog.set_level(logging.CRITICAL, "dspy")


class TestAfterOurselves:
    def test_learning_goes_on(self, lm: dspy.LM) -> None:
        first = optimizer().compile(dspy.Predict(Triage), trainset=examples(4))
        lm.engine.calls.clear()
        second = optimizer().compile(first, trainset=examples(8, start=4))
        assert all(first.experiences.entries[0].line() in call.system for call in lm.engine.of("program"))
        assert str(second.experiences).startswith(str(first.experiences))
        assert len(second.experiences) > len(first.experiences)
        assert second.signature.instructions.count("Experiences from earlier attempts") == 1
        assert original_instructions(second) == dspy.Predict(Triage).signature.instructions

    def test_steps_sources_and_the_next_id_are_kept(self, lm: dspy.LM) -> None:
        first = optimizer().compile(dspy.Predict(Triage), trainset=examples(8))
        assert all(entry.sources for entry in first.experiences)
        again = optimizer().compile(first, trainset=examples(2))
        for entry in first.experiences:
            assert again.experiences.get(entry.id).sources[: len(entry.sources)] == entry.sources
        assert again.experiences.next_id >= first.experiences.next_id

    def test_from_a_saved_program(self, lm: dspy.LM, tmp_path: Any) -> None:
        first = optimizer().compile(dspy.Predict(Triage), trainset=examples(8))
        first.save(str(tmp_path / "p.json"))
        loaded = dspy.Predict(Triage)
        loaded.load(str(tmp_path / "p.json"))
        again = optimizer().compile(loaded, trainset=examples(2))
        assert [e.line() for e in again.experiences][: len(first.experiences)] == [e.line() for e in first.experiences]

    def test_a_block_somebody_rewrote_is_the_users_text(self, lm: dspy.LM) -> None:
        first = attach(dspy.Predict(Triage), ExperienceLibrary.of("old advice"))
        rewritten = first.signature.instructions.replace("[E1] ", "- ")
        first.signature = first.signature.with_instructions(rewritten)
        first.experiences = ExperienceLibrary.of("old advice")
        again = optimizer().compile(first, trainset=examples(8))
        assert again.signature.instructions.startswith(rewritten)
        assert "old advice" not in str(again.experiences)

    def test_with_a_valset_the_input_is_what_it_carried(self, lm: dspy.LM) -> None:
        carried = ExperienceLibrary.of(*(f"When the ticket says '{w}', answer '{q}'." for w, q in RIGHT.items()))
        student = attach(dspy.Predict(Triage), carried)
        compiled = optimizer().compile(student, trainset=examples(8), valset=examples(10, start=100))
        baseline = compiled.detailed_results.baseline
        assert baseline.mean.value == 1.0 and baseline.library == carried
        assert compiled.signature.instructions == student.signature.instructions


def with_demos() -> dspy.Module:
    bootstrap = dspy.BootstrapFewShot(metric=exact, max_bootstrapped_demos=2, max_labeled_demos=1)
    return bootstrap.compile(dspy.ChainOfThought(Triage), trainset=examples(16))


class TestAfterOthers:
    def test_bootstrap_few_shot(self, lm: dspy.LM) -> None:
        student = with_demos()
        demos = student.predict.demos
        assert len(demos) >= 2
        lm.engine.calls.clear()
        compiled = optimizer().compile(student, trainset=examples(8))
        assert [repr(d) for d in compiled.predict.demos] == [repr(d) for d in demos]
        assert len(compiled.experiences) > 0
        prompts = lm.engine.of("program")
        assert prompts and all(len(call.messages) == 1 + 2 * len(demos) for call in prompts), "demos in every rollout"

    def test_demos_are_not_taken_for_the_attempt(self, lm: dspy.LM) -> None:
        student = dspy.Predict(Triage)
        student.demos = [dspy.Example(ticket="DEMO-MARK", queue="legal").with_inputs("ticket")]
        optimizer().compile(student, trainset=examples(8))
        assert not any("DEMO-MARK" in call.text for call in lm.engine.of("summary"))

    def test_gepa(self, lm: dspy.LM) -> None:
        def script(call: Call) -> Any:
            if call.kind == "program" and "queue" not in call.outputs:
                return dict.fromkeys(call.outputs, "GEPA-MARK read the ticket well.")
            if call.kind == "program" and "GEPA-MARK" in call.system:
                word = word_of(call.user)
                return {"queue": RIGHT[word] if word in ("refund", "login") else answer(call)["queue"]}
            return learner(call)

        lm.engine.script = script

        def metric(gold: Any, pred: Any, trace: Any = None, pred_name: Any = None, pred_trace: Any = None) -> Any:
            return dspy.Prediction(score=exact(gold, pred), feedback=f"expected {gold.queue}")

        train = examples(6, words=["refund", "login"])
        gepa = dspy.GEPA(
            metric=metric, max_metric_calls=40, reflection_lm=lm, num_threads=1, track_stats=False, use_merge=False
        )
        student = gepa.compile(dspy.Predict(Triage), trainset=train, valset=train)
        theirs = student.signature.instructions
        assert "GEPA-MARK" in theirs, "GEPA left its own instructions"
        compiled = optimizer(metric=metric).compile(student, trainset=examples(16))
        assert len(compiled.experiences) > 0
        assert original_instructions(compiled) == theirs

    def test_mipro(self, lm: dspy.LM) -> None:
        pytest.importorskip("optuna")

        def script(call: Call) -> Any:
            if call.kind == "program" and "queue" not in call.outputs:
                return dict.fromkeys(call.outputs, "MIPRO-MARK read the ticket well.")
            if "MIPRO-MARK" in call.system and call.kind == "program":
                return {"queue": RIGHT[word_of(call.user)]}
            return learner(call)

        lm.engine.script = script
        mipro = dspy.MIPROv2(
            metric=exact, auto=None, num_candidates=2, max_bootstrapped_demos=1, max_labeled_demos=1, num_threads=1,
            verbose=False,
        )  # fmt: skip
        student = mipro.compile(
            dspy.Predict(Triage), trainset=examples(8), valset=examples(8, start=50), num_trials=4, minibatch=False
        )
        theirs = student.signature.instructions, [repr(d) for d in student.demos]
        assert "MIPRO-MARK" in theirs[0], "MIPROv2 left its own instructions"
        lm.engine.script = learner
        compiled = optimizer().compile(student, trainset=examples(16, start=200))
        assert len(compiled.experiences) > 0
        assert (original_instructions(compiled), [repr(d) for d in compiled.demos]) == theirs

    def test_instructions_changed_by_hand_after_us(self, lm: dspy.LM) -> None:
        first = optimizer().compile(dspy.Predict(Triage), trainset=examples(8))
        theirs = "CHANGED entirely.\n\nTwo paragraphs, and a rule:\n---\nend"
        first.signature = first.signature.with_instructions(theirs)
        again = optimizer().compile(first, trainset=examples(8))
        assert remove_block(again.signature.instructions) == first.signature.instructions
        assert len(again.experiences) > 0


@pytest.mark.parametrize("strategy", ["ours -> theirs", "theirs -> ours", "ours -> theirs -> ours"])
def test_better_together(strategy: str) -> None:
    lm = scripted_lm()
    student = dspy.ChainOfThought(Triage)
    student.set_lm(lm)
    together = dspy.BetterTogether(
        metric=exact, ours=optimizer(), theirs=dspy.BootstrapFewShot(metric=exact, max_bootstrapped_demos=2)
    )
    with dspy.context(lm=lm):
        compiled = together.compile(
            student, trainset=examples(16), valset=examples(16, start=1000), strategy=strategy, num_threads=2, seed=1
        )
        assert not compiled.flag_compilation_error_occurred
        whole = next(c for c in compiled.candidate_programs if c["strategy"] == strategy)["program"]
        assert "[E1]" in whole.predict.signature.instructions
        assert len(whole.predict.demos) > 0
        assert evaluate(compiled, examples(16, start=2000), exact).score > 0.6  # type: ignore[operator]
    assert student.predict.lm is lm and "[E1]" not in student.predict.signature.instructions


def test_better_together_hands_our_arguments_on() -> None:
    lm = scripted_lm()
    student = dspy.Predict(Triage)
    student.set_lm(lm)
    library = ExperienceLibrary.of("HANDED ON by BetterTogether")
    with dspy.context(lm=lm):
        dspy.BetterTogether(metric=exact, ours=optimizer()).compile(
            student, trainset=examples(8), valset=examples(4, start=1000), strategy="ours",
            optimizer_compile_args={"ours": {"library": library}},
        )  # fmt: skip
    assert any("HANDED ON" in call.system for call in lm.engine.of("program"))
