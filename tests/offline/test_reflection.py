"""Summaries, lessons, proposals and plans: natural sentences, drawn from what the prompts show."""

from __future__ import annotations

from typing import Any

import dspy
import pytest

from trgrpo_dspy.learning.prompts import (
    CompareAnswers,
    CompareAttempts,
    ConsolidateEdits,
    ProposeEdits,
    SummarizeAttempt,
)
from trgrpo_dspy.library import Edit, ExperienceLibrary, LibraryLimits, apply_edits
from trgrpo_dspy.offline import offline_lm

TASK = "note: The pipe behind the barn is frozen, please send somebody."
ATTEMPTS = (
    "Attempt 1 (score 1, completed)\nAnswer: crew: basalt\nFeedback: right\nSummary: s\n\n"
    "Attempt 2 (score 0, completed)\nAnswer: crew: onyx\nSummary: s\n\n"
    "Attempt 3 (score 0, parse_error)\nFailure: AdapterParseError: no"
)
LIBRARY = (
    "[E1] When the note mentions 'barn', choose crew 'onyx'.\n"
    "[E2] When the note mentions 'snow' or 'hail', choose crew 'basalt'.\n"
    "[E3 | sort] Be kind."
)


def adapters() -> dict[str, dspy.Adapter]:
    return {
        "chat": dspy.ChatAdapter(use_json_adapter_fallback=False),
        "json": dspy.JSONAdapter(),
        "xml": dspy.XMLAdapter(),
    }


def ask(signature: Any, style: str = "chat", **inputs: str) -> Any:
    for name in [n for n in signature.input_fields if n not in inputs]:
        signature = signature.delete(name)
    with dspy.context(lm=offline_lm(3), adapter=adapters()[style]):
        return dspy.Predict(signature)(**inputs)


def edits_of(reply: Any) -> list[tuple[str, str, str]]:
    return [(e.operation, e.id, e.text) for e in reply.edits.root]


def test_a_summary_quotes_the_attempt_and_says_what_was_right() -> None:
    told = ask(
        SummarizeAttempt,
        task=TASK,
        attempt="=== Final ===\ncrew: onyx",
        expected="crew: basalt",
        score="0",
        feedback="no",
    ).summary
    assert "'onyx'" in told
    assert "wrong" in told
    assert "'basalt'" in told
    assert "frozen" in told
    assert len(told.split()) <= 150


def test_without_labels_a_summary_judges_nothing() -> None:
    told = ask(SummarizeAttempt, task=TASK, attempt="=== Final ===\ncrew: onyx").summary
    assert "'onyx'" in told
    assert not {"right", "wrong", "scored", "expected"} & set(told.casefold().replace(".", "").split())
    assert ask(SummarizeAttempt, task="x", attempt="something " * 900).summary


@pytest.mark.parametrize("style", ["chat", "json", "xml"])
def test_lessons_are_natural_sentences_about_the_task(style: str) -> None:
    told = ask(CompareAttempts, style, max_lessons="2", task=TASK, expected="crew: basalt", attempts=ATTEMPTS)
    assert "basalt" in told.comparison
    (lesson,) = told.lessons.root
    assert lesson.text.startswith("When the note mentions '")
    assert "'frozen'" in lesson.text
    assert "choose crew 'basalt', not 'onyx'" in lesson.text
    assert lesson.text.endswith(".")
    assert len(lesson.text.split()) <= 32


def test_a_lesson_says_which_experience_misled() -> None:
    told = ask(CompareAttempts, experiences=LIBRARY, task=TASK, expected="crew: basalt", attempts=ATTEMPTS)
    assert "E1 misleads by 'barn'" in told.lessons.root[0].text


def test_only_fields_that_went_wrong_are_taught_and_the_predictor_is_named() -> None:
    attempts = (
        "Attempt 1 (score 1, completed)\nAnswer: crew: basalt\nspeed: fast\n\n"
        "Attempt 2 (score 0.5, completed)\nAnswer: crew: onyx\nspeed: fast"
    )
    predictors = "first.sort: note -> reasoning, crew\nsecond: note, crew -> speed"
    told = ask(
        CompareAttempts, predictors=predictors, task=TASK, expected="crew: basalt\nspeed: fast", attempts=attempts
    )  # fmt: skip
    (lesson,) = told.lessons.root
    assert "crew 'basalt'" in lesson.text
    assert lesson.predictors == "first.sort"


def test_the_number_of_lessons_is_bounded() -> None:
    attempts = "Attempt 1 (score 1, completed)\nAnswer: a: x\nb: x\nc: x\n\n"
    attempts += "Attempt 2 (score 0, completed)\nAnswer: a: y\nb: y\nc: y"
    assert len(ask(CompareAttempts, max_lessons="2", task=TASK, attempts=attempts).lessons.root) == 2


def test_without_labels_the_majority_counts() -> None:
    attempts = "\n\n".join(
        f"Attempt {i} (label_free)\nAnswer: crew: {crew}" for i, crew in enumerate(["onyx", "basalt", "basalt"], 1)
    )
    told = ask(CompareAnswers, max_lessons="2", task=TASK, attempts=attempts)
    assert "choose crew 'basalt', not 'onyx'" in told.lessons.root[0].text


def test_attempts_that_agree_teach_nothing() -> None:
    attempts = (
        "Attempt 1 (score 1, completed)\nAnswer: crew: onyx\n\nAttempt 2 (score 1, completed)\nAnswer: crew: onyx"
    )
    assert ask(CompareAttempts, task=TASK, attempts=attempts).lessons.root == []
    assert ask(CompareAttempts, task=TASK, attempts="garbage").lessons.root == []


def test_proposals_add_widen_keep_and_correct() -> None:
    lesson = "When the note mentions 'frozen', choose crew 'basalt', not 'onyx' (E1 misleads by 'barn')."
    assert edits_of(ask(ProposeEdits, lessons=f"1. {lesson}")) == [
        ("ADD", "", "When the note mentions 'frozen', choose crew 'basalt'.")
    ]
    assert edits_of(ask(ProposeEdits, experiences=LIBRARY, lessons=f"1. {lesson}")) == [
        ("MODIFY", "E2", "When the note mentions 'snow', 'hail' or 'frozen', choose crew 'basalt'."),
        ("DELETE", "E1", ""),
    ]
    known = "When the note mentions 'hail', choose crew 'basalt'."
    assert edits_of(ask(ProposeEdits, experiences=LIBRARY, lessons=f"1. {known}")) == [("KEEP", "E2", "")]
    assert edits_of(ask(ProposeEdits, lessons="1. Count to ten. (for: sort)")) == [("ADD", "", "Count to ten.")]


def test_a_full_entry_is_not_widened() -> None:
    full = "When the note mentions " + ", ".join(f"'longword{i}'" for i in range(14)) + ", choose crew 'basalt'."
    lesson = "When the note mentions 'frozen', choose crew 'basalt'."
    (edit,) = ask(ProposeEdits, experiences=f"[E1] {full}", lessons=f"1. {lesson}").edits.root
    assert edit.operation == "ADD"


def test_a_misleading_word_is_dropped() -> None:
    lesson = "When the note mentions 'frozen', choose crew 'onyx' (E2 misleads by 'hail')."
    library = "[E2] When the note mentions 'snow' or 'hail', choose crew 'basalt'."
    edits = edits_of(ask(ProposeEdits, experiences=library, lessons=f"1. {lesson}"))
    assert ("MODIFY", "E2", "When the note mentions 'snow', choose crew 'basalt'.") in edits


def add(number: int, words: str, crew: str) -> str:
    listed = " or ".join(f"'{w}'" for w in words.split())
    return f"P{number}. ADD: When the note mentions {listed}, choose crew '{crew}'."


@pytest.mark.parametrize("style", ["chat", "json", "xml"])
def test_a_plan_merges_what_speaks_for_one_answer(style: str) -> None:
    proposals = "\n".join(
        [add(1, "frozen pipe", "basalt"), add(2, "ice frozen", "basalt"), add(3, "pipe leak", "onyx")]
    )
    reply = ask(ConsolidateEdits, style, max_experiences="30", proposals=proposals)
    assert edits_of(reply) == [
        ("ADD", "", "When the note mentions 'frozen' or 'ice', choose crew 'basalt'."),
        ("ADD", "", "When the note mentions 'leak', choose crew 'onyx'."),
    ]
    assert reply.edits.root[0].proposals == "P1, P2"


def test_a_plan_modifies_deletes_and_passes_on_what_it_cannot_read() -> None:
    proposals = "\n".join([
        "P1. MODIFY E2: When the note mentions 'snow', 'hail' or 'ice', choose crew 'basalt'.",
        "P2. DELETE E1",
        "P3. DELETE E1",
        "P4. ADD: Count to ten. (for: sort)",
        "P5. DELETE E3",
    ])  # fmt: skip
    edits = ask(ConsolidateEdits, max_experiences="30", experiences=LIBRARY, proposals=proposals).edits.root
    done = [(e.operation, e.id) for e in edits]
    assert sorted(done) == [("ADD", ""), ("DELETE", "E1"), ("DELETE", "E3"), ("MODIFY", "E2")]
    assert [e.predictors for e in edits if e.text == "Count to ten."] == ["sort"]


def test_plans_keep_every_cap() -> None:
    lines = [add(n, " ".join(f"thing{n:03}{i}extra" for i in range(9)), f"crew{n % 40}") for n in range(200)]
    library = ExperienceLibrary()
    for _ in range(3):
        inputs = {"max_experiences": "30", "proposals": "\n".join(lines)}
        if len(library):
            inputs["experiences"] = str(library)
        reply = ask(ConsolidateEdits, **inputs)
        edits = [Edit.parse(e.operation, e.id, e.text) for e in reply.edits.root]
        report = apply_edits(library, edits, limits=LibraryLimits())
        assert not report.rejected
        library = report.library
        assert 0 < len(library) <= 30
        assert all(len(entry.text.split()) <= 32 for entry in library)
