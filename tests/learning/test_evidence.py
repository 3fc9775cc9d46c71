"""The evidence table: what it shows, in which order it is cut, how it is dealt out to the nodes of a tree."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.learning.evidence import Evidence, Memory, Row, evidence_of
from trgrpo_dspy.learning.group import RolloutGroup
from trgrpo_dspy.library import Edit
from trgrpo_dspy.library.entries import count_tokens
from trgrpo_dspy.program.rollout import Rollout


def group(example: int, *scores: float | None, answer: str = "queue: legal", **fields: Any) -> RolloutGroup:
    rollouts = tuple(
        Rollout(example, i, Outcome.COMPLETED, s, answer=answer, feedback=f"should differ {i}", shown=("E1",))
        for i, s in enumerate(scores)
    )
    return RolloutGroup(example, f"ticket: case {example}", "queue: billing", rollouts, **fields)


def table(*groups: RolloutGroup, memory: Memory | None = None, ceiling: float = 1.0, seed: int = 0) -> Evidence:
    return evidence_of(groups, ceiling, memory, random.Random(seed), step=2)


def test_a_row_says_what_was_asked_expected_answered_and_shown() -> None:
    (row,) = table(group(7, 0.0, 0.0, 1.0)).rows
    assert row.text.splitlines() == [
        "Example 7",
        "Task: ticket: case 7",
        "Expected: queue: billing",
        'Attempts: 2 x "queue: legal" (score 0); 1 x "queue: legal" (score 1)',
        "Shown: E1",
    ]
    assert row.wrong
    assert "Feedback" not in row.text, "it is one attempt's; the label says more"
    (unlabelled,) = table(replace(group(7, 0.0), expected="")).rows
    assert "Feedback: should differ 0" in unlabelled.text


def test_what_attempts_found_out_stands_in_the_row_and_is_remembered_as_most_of_them_saw_it() -> None:
    seen = group(7, 0.0, 0.0, 1.0)
    found = ("old(1) -> x", "look(1) -> 49 EUR\nlook(2) -> Example 9", "look(1) -> 49 EUR\nlook(2) -> Example 9")
    rollouts = tuple(replace(r, observed=text) for r, text in zip(seen.rollouts, found, strict=True))
    (row,) = table(replace(seen, rollouts=rollouts)).rows
    assert row.text.splitlines()[1:6] == [
        "Task: ticket: case 7",
        "Observed:",
        "  look(1) -> 49 EUR",
        "  look(2) -> Example 9",
        "Expected: queue: billing",
    ]
    memory = Memory()
    memory.note_observed([replace(seen, rollouts=rollouts), group(8, 1.0)])
    assert memory.observed == {7: found[1]}


def test_label_free_rows_hold_answers_and_agreement_only() -> None:
    rollouts = tuple(Rollout(0, i, Outcome.LABEL_FREE, None, answer=a, feedback="SECRET") for i, a in enumerate("aab"))
    (row,) = table(RolloutGroup(0, "t", "", rollouts, label_free=True)).rows
    assert 'Attempts: 2 x "a"; 1 x "b"' in row.text
    assert "score" not in row.text and "SECRET" not in row.text and "Expected" not in row.text


def test_wrong_and_changed_examples_come_first_the_others_by_seed() -> None:
    memory = Memory()
    memory.note_scores(1, [group(3, 0.0)])
    groups = [group(i, 1.0) for i in range(8)] + [group(8, 0.0), group(9, None)]
    first, second = (table(*groups, memory=memory, seed=s).rows for s in (0, 1))
    assert {row.example for row in first[:2]} == {3, 8}, "3 was wrong before, 8 is wrong now"
    assert {row.example for row in first} == set(range(9)), "9 has no verdict"
    assert [r.example for r in first] != [r.example for r in second]
    assert [r.example for r in first] == [r.example for r in table(*groups, memory=memory).rows]


def test_examples_with_the_same_answer_stand_side_by_side() -> None:
    rows = tuple(Row(i, expected, True, f"Example {i}") for i, expected in enumerate("baba"))
    assert Evidence(rows).text.split("\n\n") == ["Example 1", "Example 3", "Example 0", "Example 2"]


rows_of = st.lists(st.text("xy ", max_size=60), max_size=150).map(
    lambda texts: tuple(Row(i, "", True, text) for i, text in enumerate(texts))
)


@given(rows_of, st.integers(0, 400))
def test_within_keeps_the_most_important_that_fit(rows: tuple[Row, ...], bound: int) -> None:
    kept = Evidence(rows).within(bound).rows
    assert kept == rows[: len(kept)] and len(kept) <= 64
    assert sum(count_tokens(row.text) for row in kept) <= bound


@given(rows_of, st.lists(st.integers(0, 200), max_size=20))
def test_nodes_lose_no_proposal_and_share_out_the_rows(rows: tuple[Row, ...], sources: list[int]) -> None:
    proposals = [Edit("ADD", text=f"rule {i}", sources=(s,)) for i, s in enumerate(sources)]
    nodes = Evidence(rows).nodes(proposals, 10**6)
    if len(nodes) == 1:
        assert nodes[0].rows == rows and len(rows) <= 64
        return
    assert sorted(e.text for n in nodes for e in n.proposals) == sorted(e.text for e in proposals)
    assert sorted(row.example for n in nodes for row in n.rows) == list(range(len(rows)))
    assert max(len(n.rows) for n in nodes) <= 2 * len(rows) ** 0.5 + 8


class TestMemory:
    def test_an_example_s_history_is_in_its_row(self) -> None:
        memory = Memory()
        memory.note_scores(1, [group(0, 0.0, 1.0)])
        memory.note_scores(2, [group(0, 1.0, 1.0)])
        assert "Earlier: 0.5 in step 1, 1 in step 2" in table(group(0, 0.0), memory=memory).rows[0].text

    def test_edits_and_refusals_are_remembered(self) -> None:
        memory = Memory()
        memory.note_edits(1, [Edit("ADD", text="When a, b"), Edit("KEEP", "E1")], [(Edit("DELETE", "E9"), "no entry")])
        assert memory.history(2) == 'Step 1: ADD "When a, b"'
        assert memory.refused == "DELETE E9 (no entry)"
        evidence = table(group(0, 0.0), memory=memory)
        assert (evidence.history, evidence.refused) == (memory.history(2), memory.refused)
