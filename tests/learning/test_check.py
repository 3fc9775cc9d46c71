"""Entries against labelled examples: counted in code, repaired once, refused with figures."""

from __future__ import annotations

from typing import Any

import pytest

from trgrpo_dspy import ExperienceLibrary, Reflector
from trgrpo_dspy.learning.cases import Case
from trgrpo_dspy.learning.check import batches, closed_labels, count, problems_text
from trgrpo_dspy.learning.reflection import Decision
from trgrpo_dspy.learning.steps import Reply
from trgrpo_dspy.learning.verify import verify
from trgrpo_dspy.library import Edit, LibraryLimits

LIBRARY = ExperienceLibrary.of("When refund, answer billing", "When login, answer access", "When lost, answer legal")
CASES = [Case(i, f"ticket {i}", f"queue: {label}", label) for i, label in enumerate(["billing", "access", "legal"])]
LABELS = frozenset({"billing", "access", "legal"})


class TestLabels:
    def test_few_values_that_recur_are_a_closed_set(self) -> None:
        assert closed_labels(["A", "b", "a", "B", " b "]) == {"a", "b"}

    @pytest.mark.parametrize("labels", [[], ["", ""], [str(i) for i in range(20)], ["x" * 99] * 9])
    def test_others_are_not(self, labels: list[str]) -> None:
        assert closed_labels(labels) == frozenset()


class TestCount:
    @pytest.mark.parametrize(
        ("decision", "verdict"),
        [
            ("billing", "right"), ("'Billing'.", "right"), ("queue: billing", "right"), ("access", "wrong"),
            ("say access, as ever", "wrong"), ("access or billing", "silent"), ("escalate", "silent"), ("", "silent"),
            ("not shown", "silent"),
        ],
    )  # fmt: skip
    def test_a_blind_decision_is_compared_with_the_label(self, decision: str, verdict: str) -> None:
        found = count([Decision(0, "E1", decision)], CASES, LIBRARY, LABELS)
        counted = {"right": found.supported, "wrong": found.contradicted}
        assert {name for name, by in counted.items() if by} == {verdict} - {"silent"}
        assert (0 in found.uncovered) == (verdict == "silent")

    def test_judgements(self) -> None:
        said = [
            Decision(0, "E1", "supports"),
            Decision(1, "E1", "Contradicts: it leads away"),
            Decision(2, "E1", "silent"),
        ]
        found = count(said, CASES, LIBRARY, frozenset())
        assert (found.supported, found.contradicted, found.uncovered) == ({"E1": (0,)}, {"E1": (1,)}, (2,))

    def test_unknown_entries_and_examples_are_dropped(self) -> None:
        found = count([Decision(9, "E1", "billing"), Decision(0, "E7", "billing")], CASES, LIBRARY, LABELS)
        assert not found.supported and not found.contradicted and found.uncovered == (0, 1, 2)

    def test_a_value_that_no_label_has_is_wrong_where_the_program_may_answer_it(self) -> None:
        labels = closed_labels(["billing", "access"] * 4, ["billing", "access", "hardware"])
        found = count([Decision(0, "E1", "hardware")], CASES, LIBRARY, labels)
        assert found.contradicted == {"E1": (0,)}

    def test_an_entry_that_decides_both_decides_neither(self) -> None:
        both = [Decision(0, "E1", "billing"), Decision(0, "E1", "choose access")]
        found = count(both, CASES, LIBRARY, LABELS)
        assert not found.supported and not found.contradicted and 0 in found.uncovered

    def test_entries_that_disagree(self) -> None:
        found = count([Decision(0, "E2", "access"), Decision(0, "E1", "billing")], CASES, LIBRARY, LABELS)
        assert found.disagreeing == (("E1", "E2"),)


def test_calls_hold_a_bounded_number_of_examples_and_show_labels_only_where_they_are_judged() -> None:
    cases = [Case(i, f"ticket {i}", "queue: SECRET", "SECRET") for i in range(70)]
    calls = batches(cases, 10**6, blind=True)
    assert [len(group) for group, _ in calls] == [30, 30, 10] and "SECRET" not in str([text for _, text in calls])
    assert "Expected: queue: SECRET" in batches(cases, 10**6, blind=False)[0][1]
    assert len(batches(cases, 40, blind=True)) > 10


def test_problems_name_the_entry_its_figures_and_its_counter_examples() -> None:
    found = count([Decision(0, "E1", "billing"), Decision(1, "E1", "billing")], CASES, LIBRARY, LABELS)
    text = problems_text(LIBRARY, ["E1", "E2"], found, CASES, {"E2": "has 99 words; write at most 32"})
    assert text == (
        "[E1] decides 1 of 2 examples wrongly:\nExample 1\nTask: ticket 1\nExpected: queue: access\n"
        "What E1 decides: billing\n\n[E2] has 99 words; write at most 32"
    )


def run(
    replies: list[Any], changed: list[str], library: ExperienceLibrary = LIBRARY, cases: Any = CASES,
    objection: Any = lambda edit: "",
) -> Any:  # fmt: skip
    """Drive the check with these replies; returns what it came to and the stages that were asked for."""
    steps = verify(Reflector(), library, changed, cases, LABELS, "", LibraryLimits(), 4, objection)
    asked, send = [], None
    try:
        while True:
            calls = steps.send(send) if send is not None else next(steps)
            asked += [call.stage.value for call in calls]
            send = [reply if isinstance(reply := replies.pop(0), Reply) else Reply(reply) for _ in calls]
    except StopIteration as end:
        return end.value, asked


WRONG = (Decision(0, "E1", "legal"), Decision(1, "E1", "legal"))
RIGHT = (Decision(0, "E1", "billing"),)


class TestVerify:
    def test_what_holds_needs_one_call(self) -> None:
        found, asked = run([RIGHT], ["E1"])
        assert asked == ["check"] and found.draft == LIBRARY and found.refused == ()

    def test_what_is_contradicted_is_repaired_once_and_checked_again(self) -> None:
        repair = (Edit("MODIFY", "E1", "When refund today, answer billing"),)
        found, asked = run([WRONG, repair, RIGHT], ["E1"])
        assert asked == ["check", "repair", "check"]
        assert found.draft["E1"].text == "When refund today, answer billing" and found.refused == ()

    def test_what_stays_wrong_is_refused_with_the_figures(self) -> None:
        repair = (Edit("MODIFY", "E1", "When refund today, answer legal"),)
        found, _ = run([WRONG, repair, WRONG], ["E1"])
        assert found.refused == (("E1", "decides 2 of 2 labelled examples wrongly"),)

    def test_a_second_look_that_is_lost_accepts_nothing(self) -> None:
        """What was not repaired is judged by the first look, what was repaired is refused."""
        wrong = (*WRONG, Decision(0, "E2", "legal"))
        repair = (Edit("MODIFY", "E1", "When refund today, answer billing"),)
        found, _ = run([wrong, repair, Reply(lost="check: cut by length")], ["E1", "E2"])
        assert dict(found.refused) == {
            "E1": "its repair could not be checked", "E2": "decides 1 of 1 labelled examples wrongly",
        }  # fmt: skip

    def test_an_entry_that_is_mostly_unclear_is_said_plainer_and_never_refused_for_it(self) -> None:
        unclear = (Decision(0, "E1", "Unclear."), Decision(1, "E1", "unclear"))
        repair = (Edit("MODIFY", "E1", "When the word refund is there, answer billing"),)
        found, asked = run([unclear, repair, unclear], ["E1"])
        assert asked == ["check", "repair", "check"] and found.refused == ()
        assert found.draft["E1"].text == repair[0].text and found.findings.unclear == {"E1": (0, 1)}
        text = problems_text(LIBRARY, ["E1"], found.findings, CASES, {})
        assert text.startswith("[E1] is unclear:") and "Example 0\n" in text and "Example 1\n" in text
        assert "What E1 decides" not in text
        assert run([(*RIGHT, unclear[1])], ["E1"])[1] == ["check"], "as often clear as not: no repair"

    def test_a_repair_that_must_not_count_is_dropped(self) -> None:
        repair = (Edit("MODIFY", "E1", "When order ABC-1000, answer billing"),)
        found, _ = run([WRONG, repair], ["E1"], objection=lambda edit: "an answer key")
        assert found.draft == LIBRARY and found.refused == (("E1", "decides 2 of 2 labelled examples wrongly"),)

    def test_entries_that_were_not_changed_are_neither_repaired_nor_refused(self) -> None:
        found, asked = run([WRONG], ["E2"])
        assert asked == ["check"] and found.refused == ()

    def test_a_repair_touches_only_what_failed(self) -> None:
        repair = (Edit("MODIFY", "E2", "changed"), Edit("ADD", text="new"), Edit("DELETE", "E1"))
        found, _ = run([WRONG, repair, ()], ["E1"])
        assert [e.text for e in found.draft] == [e.text for e in list(LIBRARY)[1:]]

    def test_a_long_entry_is_shortened(self) -> None:
        long = LIBRARY.with_text("E1", "word " * 100)
        found, asked = run([(), (Edit("MODIFY", "E1", "short"),), ()], ["E1"], long)
        assert asked == ["check", "repair", "check"] and found.draft["E1"].text == "short"

    @pytest.mark.parametrize("lost", [Reply(lost="check: cut by length"), Reply(lost="check: infrastructure")])
    def test_lost_replies_are_counted_and_decide_nothing(self, lost: Reply) -> None:
        found, _ = run([lost], ["E1"])
        assert found.lost == (lost.lost,) and found.refused == () and not found.findings.supported

    def test_without_cases_only_lengths_are_looked_at(self) -> None:
        assert run([], ["E1"], cases=[])[1] == []
