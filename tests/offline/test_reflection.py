"""Reflection prompts, as they are and reworded: natural sentences, drawn from what the prompts show."""

from __future__ import annotations

import re
from typing import Any

import dspy
import pytest
from support.adapters import adapter, every_adapter

from trgrpo_dspy.learning import paper_prompts, prompts
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
GROUPS = (
    f"Example 4\nTask: {TASK}\nExpected: crew: basalt\n"
    "Attempt 1 (score 0, completed)\nAnswer: crew: onyx\nThe same again: 4 more\n\n"
    "Example 9\nTask: note: A leaking pump in the yard.\nExpected: crew: onyx\n"
    "Attempt 1 (score 0, parse_error)\nFailure: AdapterParseError: no"
)


def ask(signature: Any, style: str = "chat", wording: str = "", **inputs: str) -> Any:
    for name in [n for n in signature.input_fields if n not in inputs]:
        signature = signature.delete(name)
    signature = signature.with_instructions(wording) if wording else signature
    with dspy.context(lm=offline_lm(3), adapter=adapter(style)):
        return dspy.Predict(signature)(**inputs)


def edits_of(reply: Any) -> list[tuple[str, str, str]]:
    return [(e.operation, e.id, e.text) for e in reply.edits.root]


# -- attempts to lessons ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signature", [paper_prompts.SummarizeAttempt, prompts.DescribeAttempt])
def test_a_summary_quotes_the_attempt_and_judges_by_what_the_prompt_gives(signature: Any) -> None:
    plain = ask(signature, task=TASK, attempt="=== Final ===\ncrew: onyx").summary
    assert "crew 'onyx'" in plain and "frozen" in plain and "expected" not in plain and "scored" not in plain
    assert len(ask(signature, task="x", attempt="something " * 900).summary.split()) <= 150
    if "score" in signature.input_fields:
        text = ask(signature, task=TASK, attempt="mood: bad\ncrew: onyx", expected="crew: basalt", score="0").summary
        assert text.endswith("The attempt answered crew 'onyx'. It scored 0.")


@every_adapter
def test_a_contrast_becomes_a_lesson_about_the_task(style: str) -> None:
    reply = ask(
        paper_prompts.CompareAttempts, style, max_lessons="2", task=TASK, expected="crew: basalt", attempts=ATTEMPTS
    )
    assert "the better answer is 'basalt', not onyx" in reply.comparison
    (lesson,) = reply.lessons.root
    assert re.fullmatch(r"When the note mentions '.*'frozen'.*, choose crew 'basalt'\.", lesson.text)
    assert len(lesson.text.split()) <= 32


@every_adapter
def test_groups_side_by_side_become_edits_mistakes_and_failures_included(style: str) -> None:
    reply = ask(prompts.CompareGroups, style, "Whatever you like.", max_edits="4", groups=GROUPS)
    first, second = reply.edits.root
    assert "'frozen'" in first.text and first.text.endswith("choose crew 'basalt'.") and first.sources == "4"
    assert "'leaking'" in second.text and second.text.endswith("choose crew 'onyx'.") and second.sources == "9"
    assert len(ask(prompts.CompareGroups, style, max_edits="1", groups=GROUPS).edits.root) == 1


def test_only_what_the_library_lacks_is_added() -> None:
    held = ask(prompts.CompareGroups, max_edits="1", groups=GROUPS).edits.root[0].text
    for groups, new in ((GROUPS, []), (GROUPS.replace("frozen", "chilly"), ["chilly"])):
        edits = ask(prompts.CompareGroups, max_edits="1", experiences=f"[E1] {held}", groups=groups).edits.root
        assert [e.text for e in edits] == [f"When the note mentions '{word}', choose crew 'basalt'." for word in new]


def test_only_outputs_that_went_wrong_are_taught_and_their_predictor_is_named() -> None:
    attempts = (
        "Attempt 1 (score 1, completed)\nAnswer:\n  crew: basalt\n  speed: fast\n\n"
        "Attempt 2 (score 0.5, completed)\nAnswer:\n  crew: onyx\n  speed: fast"
    )
    program = (
        "Predictor `first.sort`\ninstructions: Sort.\ninputs: note (string)\noutputs:\n  reasoning (string)\n"
        "  crew (one of \"basalt\", \"onyx\")\n\nPredictor `second`\ninputs: crew (string)\noutputs: speed (string)"
    )  # fmt: skip
    expected = "crew: basalt\nspeed: fast"
    for shown, targets in ((program, "first.sort"), (program.partition("\n\n")[0], "")):
        reply = ask(paper_prompts.CompareAttempts, program=shown, task=TASK, expected=expected, attempts=attempts)
        (lesson,) = reply.lessons.root
        assert "crew 'basalt'" in lesson.text and lesson.predictors == targets


def test_without_labels_the_majority_counts() -> None:
    attempts = "\n\n".join(
        f"Attempt {i} (completed)\nAnswer: crew: {crew}" for i, crew in enumerate(["onyx", "basalt", "basalt"], 1)
    )
    alone = ask(paper_prompts.CompareAnswers, max_lessons="2", task=TASK, attempts=attempts).lessons.root
    groups = f"Example 3\nTask: {TASK}\n{attempts}"
    beside = ask(prompts.CompareGroupsUnlabelled, max_edits="2", groups=groups).edits.root
    assert [item.text.rpartition(", ")[2] for item in (*alone, *beside)] == ["choose crew 'basalt'."] * 2


def test_attempts_that_agree_teach_nothing() -> None:
    agree = "Attempt 1 (score 1, completed)\nAnswer: crew: x\n\nAttempt 2 (score 1, completed)\nAnswer: crew: x"
    for attempts in (agree, "garbage"):
        assert ask(paper_prompts.CompareAttempts, task=TASK, attempts=attempts).lessons.root == []


def test_better_prose_teaches_what_it_brings_in() -> None:
    long = "Attempt {} (score {}, completed)\nAnswer: answer: One had better {} the old valve before the winter comes"
    attempts = "\n\n".join([long.format(1, 1, "insulate"), long.format(2, 0, "ignore")])
    (lesson,) = ask(paper_prompts.CompareAttempts, task=TASK, attempts=attempts).lessons.root
    assert "insulate" in lesson.text and "ignore" not in lesson.text


# -- lessons to edits -------------------------------------------------------------------------------------------------


def test_a_lesson_becomes_an_edit() -> None:
    lessons = (
        "1. When the note mentions 'hail' or 'frozen', choose crew 'basalt'.\n"
        "2. When the note mentions 'hail', choose crew 'basalt'.\n3. Count to ten. (for: sort)"
    )
    reply = ask(paper_prompts.ProposeEdits, experiences=LIBRARY, lessons=lessons)
    added = ("ADD", "", "When the note mentions 'frozen', choose crew 'basalt'.")
    assert edits_of(reply) == [added, ("ADD", "", "Count to ten.")]
    assert [(e.predictors, e.sources) for e in reply.edits.root] == [("", "1"), ("sort", "3")]


def add(number: int, words: str, crew: str, source: str = "") -> str:
    cues = " or ".join(f"'{word}'" for word in words.split())
    return f"P{number}. ADD: When the note mentions {cues}, choose crew '{crew}'.{source}"


@every_adapter
@pytest.mark.parametrize("signature", [paper_prompts.MergeEdits, prompts.ConsolidateEdits])
def test_a_plan_merges_what_speaks_for_one_answer(style: str, signature: Any) -> None:
    proposals = [
        add(1, "frozen pipe", "basalt", " (from: 4, 7)"),
        add(2, "ice frozen", "basalt"),
        add(3, "pipe", "onyx"),
    ]
    reply = ask(
        signature, style, "Do it.", max_experiences="30", proposals="\n".join([*proposals, add(4, "leak", "onyx")])
    )
    assert edits_of(reply) == [
        ("ADD", "", "When the note mentions 'frozen' or 'ice', choose crew 'basalt'."),
        ("ADD", "", "When the note mentions 'leak', choose crew 'onyx'."),
    ]
    assert [e.sources for e in reply.edits.root] == ["P1, 4, 7, P2", "P4"]
    if "dispositions" in signature.output_fields:
        went = {item.proposal: item.outcome.split()[0] for item in reply.dispositions.root}
        assert went == {"P1": "used", "P2": "used", "P3": "dropped", "P4": "used"}
        assert reply.reasoning


def test_evidence_decides_between_answers_and_adds_words() -> None:
    proposals = "\n".join([add(1, "pipe", "basalt"), add(2, "pipe", "onyx"), add(3, "frozen", "basalt")])
    evidence = "\n\n".join(
        f'Example {i}\nTask: note: {text}\nExpected: crew: {crew}\nAttempts: 5 x "crew: onyx" (score 0)\nShown: E1'
        for i, (text, crew) in enumerate([("old pipe", "onyx"), ("frozen hail", "basalt"), ("hail frozen", "basalt")])
    )
    reply = ask(prompts.ConsolidateEdits, max_experiences="30", evidence=evidence, proposals=proposals)
    texts = {e.text: e.sources for e in reply.edits.root}
    assert texts == {
        "When the note mentions 'frozen' or 'hail', choose crew 'basalt'.": "P3",
        "When the note mentions 'pipe' or 'old', choose crew 'onyx'.": "P2",
    }
    nothing = ask(prompts.ConsolidateEdits, max_experiences="30", evidence=evidence, proposals="(none)")
    assert nothing.edits.root == [] == nothing.dispositions.root


def test_a_plan_modifies_deletes_and_passes_on_what_it_cannot_read() -> None:
    proposals = "\n".join([
        "P1. MODIFY E2: When the note mentions 'snow', 'hail' or 'ice', choose crew 'basalt'. (from: 3)",
        "P2. DELETE E1", "P3. DELETE E1 (from: 3)", "P4. ADD: Count to ten. (for: sort) (from: 3)", "P5. DELETE E3",
    ])  # fmt: skip
    edits = ask(prompts.ConsolidateEdits, max_experiences="30", experiences=LIBRARY, proposals=proposals).edits.root
    assert sorted((e.operation, e.id) for e in edits) == [
        ("ADD", ""), ("DELETE", "E1"), ("DELETE", "E3"), ("MODIFY", "E2"),
    ]  # fmt: skip
    assert [(e.text, e.predictors, e.sources) for e in edits if e.operation == "ADD"] == [
        ("Count to ten.", "sort", "P4, 3")
    ]


def test_plans_keep_every_cap() -> None:
    lines = [add(n, " ".join(f"thing{chr(97 + n % 26)}{chr(97 + n // 26)}{chr(97 + i)}" for i in range(9)),
                 f"crew{n % 40}") for n in range(200)]  # fmt: skip
    library = ExperienceLibrary()
    for _ in range(3):
        inputs = {"max_experiences": "30", "proposals": "\n".join(lines)}
        inputs |= {"experiences": "\n".join(f"[{e.id}] {e.text}" for e in library)} if len(library) else {}
        edits = [Edit.parse(e.operation, e.id, e.text) for e in ask(prompts.ConsolidateEdits, **inputs).edits.root]
        report = apply_edits(library, edits, limits=LibraryLimits())
        assert not report.rejected
        library = report.library
        assert 0 < len(library) <= 30
        assert all(len(entry.text.split()) <= 32 for entry in library)


# -- checks -----------------------------------------------------------------------------------------------------------

EXAMPLES = (
    "Example 2\nTask: note: the barn is cold\n\nExample 5\nTask:\n  note: hail on the barn,\n    and snow\n"
    "  day: 1\n\nExample 6\nTask: note: nothing"
)


def decisions(style: str, signature: Any, examples: str) -> list[tuple[str, str, str]]:
    reply = ask(signature, style, "Go on.", program="p", experiences=LIBRARY, examples=examples)
    return [(d.example, d.entry, d.decision) for d in reply.decisions.root]


@every_adapter
def test_entries_are_applied_as_they_would_decide_an_input(style: str) -> None:
    found = decisions(style, prompts.CheckEntries, EXAMPLES)
    assert found == [("2", "E1", "onyx"), ("5", "E2", "basalt")]


@every_adapter
def test_where_the_answer_is_shown_entries_are_held_against_it(style: str) -> None:
    labelled = EXAMPLES.replace("\n\n", "\nExpected: crew: onyx\n\n")
    assert decisions(style, prompts.JudgeEntries, labelled) == [("2", "E1", "supports"), ("5", "E2", "contradicts")]


@every_adapter
def test_a_repair_drops_what_the_counter_examples_show(style: str) -> None:
    problems = (
        "[E1] decides 1 of 1 examples wrongly:\nExample 2\nTask: note: the barn is cold\nExpected: crew: basalt\n"
        "What E1 decides: onyx\n\n[E2] decides 1 of 9 examples wrongly:\nExample 5\nTask: note: hail\nExpected: crew: x"
    )
    reply = ask(prompts.RepairEntries, style, experiences=LIBRARY, problems=problems)
    repaired = ("MODIFY", "E2", "When the note mentions 'snow', choose crew 'basalt'.")
    assert edits_of(reply) == [("DELETE", "E1", ""), repaired]
