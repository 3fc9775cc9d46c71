"""What a run will take, said before it; and what it took, beside that."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.lm15 import ServerError
from support.scripted import QUEUES, TOKENS, Call, Triage, exact, examples, learner, scripted_lm

from programs import tickets
from trgrpo_dspy import InfrastructureError, Reflector, TrainingFreeGRPO
from trgrpo_dspy.engine.calls import state
from trgrpo_dspy.library import LibraryLimits
from trgrpo_dspy.meter import Budget, Estimate, total_spend
from trgrpo_dspy.meter.estimate import estimate_calls
from trgrpo_dspy.offline import offline_lm

PRICES = {"scripted/model": (1.0, 1.0), "offline/ngram-1-seed0": (1.0, 4.0)}

SUMMARIZE = {"paper": "always", "batch": "auto"}


def by_stage(rows: Any) -> Counter[str]:
    found: Counter[str] = Counter()
    for row in rows:
        found[row.stage] += row.calls
    return found


def contrasting(call: Call) -> Any:
    """Half the attempts of every group are right, whatever they are asked: all groups have a contrast."""
    if call.kind != "program":
        return learner(call)
    return {name: QUEUES[call.chance("queue") % 2] for name in call.outputs}


class Alternating:
    """A metric under which no two attempts at an example score the same."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.lock = threading.Lock()

    def __call__(self, example: dspy.Example, prediction: Any, trace: Any = None) -> float:
        with self.lock:
            self.seen[example.ticket] += 1
            return float(self.seen[example.ticket])


def growing(call: Call) -> Any:
    """A new lesson from every comparison, and a plan that adds them all."""
    number = call.chance("lesson") % 10**6
    if call.kind == "comparison":
        text = f"When the case is {number}, consider page {number}."
        return {"comparison": "c", "lessons": [{"text": text}], "edits": [{"operation": "ADD", "text": text}]}
    return contrasting(call) if call.kind == "program" else learner(call)


def estimated(lm: Any, program: dspy.Module | None = None, size: int = 4, **options: Any) -> Estimate:
    sets = {name: options.pop(name) for name in ("valset", "sample") if name in options}
    with dspy.context(lm=lm):
        optimizer = TrainingFreeGRPO(metric=exact, **options)
        return optimizer.estimate(program or dspy.Predict(Triage), trainset=examples(size), **sets)


def calls_of(found: Estimate) -> dict[str, float]:
    return {row.stage: row.calls for row in found.stages}


# -- without trials ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "options"),
    [
        (6, {"group_size": 3, "num_epochs": 2, "batch_size": 4}),
        (5, {"group_size": 2, "num_epochs": 1, "val_repeats": 2}),
    ],
)
@pytest.mark.parametrize("form", ["paper", "batch"])
def test_at_most_bounds_the_fact_where_every_group_has_a_contrast(
    size: int, options: dict[str, Any], form: str
) -> None:
    reflector = Reflector(form=form, summarize=SUMMARIZE[form])
    optimizer = TrainingFreeGRPO(metric=Alternating(), num_threads=4, reflector=reflector, **options)
    # Each step proposes to add what is not there yet, so that there is something to merge and to measure.
    lm = scripted_lm(growing)
    sets = {"trainset": examples(size), "valset": examples(5, start=50)}
    with dspy.context(lm=lm):
        expected = optimizer.estimate(dspy.Predict(Triage), **sets)
        assert not lm.engine.calls
        results = optimizer.compile(dspy.Predict(Triage), **sets).detailed_results
    in_fact, at_most = by_stage(results.spend), {row.stage: row.at_most for row in expected.stages}
    assert results.estimate == expected
    if form == "paper":
        assert at_most == in_fact and expected.at_most == len(lm.engine.calls)
    assert set(in_fact) <= set(at_most) and all(calls <= at_most[stage] for stage, calls in in_fact.items())
    assert (in_fact["rollout"], in_fact["validation"]) == (at_most["rollout"], at_most["validation"])


def test_a_large_batch_is_consolidated_in_a_tree_and_checked_in_three_calls() -> None:
    given: Any = {"examples": 80, "epochs": 2, "group_size": 5, "val_examples": 0, "val_repeats": 1}
    calls = calls_of(estimate_calls(**given, steps=2, calls_per_attempt=1, form="batch", checks=True))
    assert calls["consolidation"] == 2 * (9 + 1) and calls["check"] == 2 * 3


def test_about_a_third_of_the_groups_are_expected_to_teach() -> None:
    paper = Reflector(form="paper", summarize="always")
    expected = estimated(scripted_lm(), size=60, valset=examples(30), group_size=5, num_epochs=3, reflector=paper)
    assert calls_of(expected) == {
        "rollout": 60 * 3 * 5, "summary": 300, "comparison": 60, "proposals": 60, "consolidation": 3,
        "validation": 30 * 4,
    }  # fmt: skip
    assert expected.calls == sum(calls_of(expected).values())


class Several(dspy.Module):
    """Two predictors, each asked so often."""

    def __init__(self, times: int = 1) -> None:
        super().__init__()
        self.times, self.one, self.two = times, dspy.Predict(Triage), dspy.ChainOfThought(Triage)

    def forward(self, ticket: str) -> Any:
        for i in range(self.times):
            found = self.two(ticket=f"{self.one(ticket=ticket).queue} {i}")
        return found


def test_an_attempt_is_a_call_of_each_predictor_or_what_the_trials_made() -> None:
    options = {"group_size": 2, "num_epochs": 1, "size": 10}
    found = estimated(scripted_lm(), Several(), **options)
    assert calls_of(found)["rollout"] == 10 * 2 * 2 and calls_of(found)["validation"] == 0
    assert found.cost is None and str(found).splitlines()[-1].split()[-3:] == ["?", "?", "?"]
    assert calls_of(estimated(scripted_lm(), Several(3), sample=2, **options))["rollout"] == 10 * 2 * 6


# -- with trials -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "reflection"),
    [
        ("paper", {"summary": 2, "comparison": 1, "proposals": 1, "consolidation": 1}),
        ("batch", {"comparison": 1, "consolidation": 1}),
    ],
)
def test_trials_make_exactly_the_promised_calls(form: str, reflection: dict[str, int]) -> None:
    lm, reflector = scripted_lm(growing), Reflector(form=form, summarize=SUMMARIZE[form])
    given = {"num_threads": 4, "budget": Budget(prices=PRICES), "reflector": reflector, "valset": examples(6)}
    expected = estimated(lm, size=12, sample=3, **given)
    assert lm.engine.kinds() == {"program": 4, **reflection}
    assert len({call.user for call in lm.engine.of("program")}) == 3
    assert len({call.seed for call in lm.engine.of("program")}) == 4
    assert expected.sample == 4
    for row in expected.stages:
        assert row.completion_tokens == pytest.approx(row.calls * TOKENS[1])
    tokens = sum((row.prompt_tokens or 0) + (row.completion_tokens or 0) for row in expected.stages)
    assert expected.cost == pytest.approx(tokens / 1e6)


def test_prompts_grow_with_the_library() -> None:
    """Half of its largest size, from the second step on; summaries do not see it."""
    paper = Reflector(form="paper", summarize="always")
    expected = estimated(scripted_lm(growing), size=12, valset=examples(6), sample=3, num_epochs=2, reflector=paper)
    grown = {row.stage: round((row.prompt_tokens or 0) / row.calls - TOKENS[0]) for row in expected.stages}
    half = LibraryLimits().max_tokens / 2
    assert grown == {
        "rollout": half / 2, "summary": 0, "comparison": half / 2, "proposals": half / 2,
        "consolidation": half / 2, "validation": round(half * 2 / 3),
    }  # fmt: skip


@pytest.mark.parametrize(("sample", "attempts"), [(1, 2), (2, 3), (50, 5)])
def test_trials_are_no_more_than_there_are_examples_and_an_unknown_price_stays_unknown(
    sample: int, attempts: int
) -> None:
    lm = scripted_lm()
    expected = estimated(lm, sample=sample)
    assert len(lm.engine.of("program")) == attempts
    assert expected.cost is None and all(row.prompt_tokens is not None for row in expected.stages)


def test_an_estimate_is_within_reason_of_the_fact() -> None:
    """On the offline model: prompt tokens a call within a factor of two, and the cost of the whole run."""
    options = {"metric": tickets.metric, "num_epochs": 1, "batch_size": 4, "num_threads": 4}
    optimizer = TrainingFreeGRPO(budget=Budget(prices=PRICES), **options)
    sets = {"trainset": tickets.trainset()[:8], "valset": tickets.valset()[:6]}
    with dspy.context(lm=offline_lm()):
        expected = optimizer.estimate(tickets.program(), **sets, sample=3)
        results = optimizer.compile(tickets.program(), **sets).detailed_results
    for row in expected.stages:
        spent = total_spend(s for s in results.spend if s.stage == row.stage)
        assert row.prompt_tokens is not None and row.completion_tokens is not None
        if not (row.calls and spent.calls) or row.stage in ("check", "repair"):  # priced as the comparison
            continue
        assert 0.5 < (row.prompt_tokens / row.calls) / (spent.prompt_tokens / spent.calls) < 2, row.stage
        if row.stage not in ("comparison", "consolidation"):  # a trial has one group and one proposal: short replies
            assert 0.3 < (row.completion_tokens / row.calls) / (spent.completion_tokens / spent.calls) < 3, row.stage
    at_most = sum(row.cost * row.at_most / row.calls for row in expected.stages if row.calls and row.cost)
    assert expected.cost is not None and 0.5 * expected.cost < results.total.cost < 1.5 * at_most


def test_a_comparison_without_a_lesson_leaves_no_hole() -> None:
    def script(call: Call) -> Any:
        return {"comparison": "all alike", "lessons": []} if call.kind == "comparison" else learner(call)

    assert estimated(scripted_lm(script), budget=Budget(prices=PRICES), sample=1).cost is not None


# -- what it leaves ----------------------------------------------------------------------------------------------------


def test_an_estimate_leaves_no_file_and_no_program_changed_and_takes_nothing_of_the_runs_budget(tmp_path: Path) -> None:
    lm, log_dir, program = scripted_lm(), tmp_path / "run", dspy.Predict(Triage)
    before = program.dump_state()
    optimizer = TrainingFreeGRPO(metric=exact, log_dir=log_dir, budget=Budget(max_lm_calls=30))
    with dspy.context(lm=lm):
        optimizer.estimate(program, trainset=examples(8), sample=3)
        made = len(lm.engine.calls)
        assert made and not log_dir.exists() and program.dump_state() == before
        compiled = optimizer.compile(program, trainset=examples(8))
    assert len(lm.engine.calls) - made == 30 == compiled.detailed_results.total.calls


@pytest.mark.parametrize(
    ("options", "text"),
    [
        *[({"sample": sample}, r"sample=.*must be a whole number, 0 for") for sample in (-1, 1.5, True, None, "3")],
        ({"size": 0}, "trainset is empty"),
    ],
)
def test_bad_arguments_are_refused(options: Any, text: str) -> None:
    lm = scripted_lm()
    with pytest.raises(ValueError, match=text):
        estimated(lm, **options)
    assert not lm.engine.calls


def test_trials_that_are_capped_or_lost_are_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "BACKOFF", 0.001)
    lm = scripted_lm()
    with pytest.raises(ValueError, match=r"sample=3: .* by max_lm_calls; take a smaller"):
        estimated(lm, size=8, sample=3, budget=Budget(max_lm_calls=5))
    assert len(lm.engine.calls) == 5
    lm = scripted_lm(lambda call: learner(call) if call.number < 5 else ServerError("gone"))
    with pytest.raises(InfrastructureError, match="the estimate was given up"):
        estimated(lm, size=80, sample=70)


def test_what_was_expected_stands_beside_the_fact_in_a_table() -> None:
    lm = scripted_lm()
    optimizer = TrainingFreeGRPO(metric=exact, num_epochs=1, budget=Budget(prices=PRICES))
    with dspy.context(lm=lm):
        compiled = optimizer.compile(dspy.Predict(Triage), trainset=examples(8), valset=examples(4, start=8))
    results = compiled.detailed_results
    lines = [line.split() for line in results.spend_table.splitlines()]
    assert lines[0][:4] == ["stage", "expected", "at", "most"] and lines[-1][0] == "all"
    spent = by_stage(results.spend)
    assert [line[:4] for line in lines[1:-1]] == [
        [row.stage, f"{row.calls:.0f}", f"{row.at_most:.0f}", str(spent[row.stage])] for row in results.estimate.stages
    ]
    assert int(lines[-1][3]) == results.total.calls == len(lm.engine.calls)
    assert type(results).from_json(results.to_json()).spend_table == results.spend_table
