"""What a run reports is frozen, round-trips through JSON and refuses what a newer version wrote."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from trgrpo_dspy.errors import SchemaVersionError
from trgrpo_dspy.evaluation.result import DetailedResults, Measurement, RejectedProposal, StepResult, Verdict, step_line
from trgrpo_dspy.evaluation.statistics.intervals import Interval, Mean
from trgrpo_dspy.library import Edit, ExperienceLibrary, apply_edits
from trgrpo_dspy.meter import Spend
from trgrpo_dspy.meter.estimate import Estimate, StageEstimate

LIBRARY = apply_edits(
    ExperienceLibrary.of("When the sum is above $500, choose “approval”"),
    [Edit("ADD", text="ask", targets=("first",), sources=(1, 4))],
    step=1,
).library
INPUT = Measurement(
    0, ExperienceLibrary(), (0.0, None, 1.0), Mean(0.5, None, 2, 1), {"completed": 2, "infrastructure": 1}
)
LEARNED = Measurement(
    1, LIBRARY, (1.0, 0.1 + 0.2, None), Mean(0.65, Interval(-0.25, 1.5, 0.95), 2, 1), {"completed": 3}
)
SPEND = (Spend("rollout", "openai/m", 5, 1, 2, 0, 1, 100, 20, 30, None), Spend("summary", "openai/m", cost=0.001))
STEP = StepResult(
    step=1,
    epoch=1,
    examples=(3, 0, 2),
    train_mean=1 / 3,
    informative=2 / 3,
    outcomes={"completed": 14, "program_error": 1},
    edits={"DELETE": 1, "ADD": 2},
    rejected=(RejectedProposal("MODIFY", "E9", "text", "there is no entry E9"),),
    lost={"summary: cut off": 1},
    library=LIBRARY,
    library_tokens=17,
    spend=SPEND,
    validation=LEARNED,
)
RESULTS = DetailedResults(
    verdict=Verdict("No improvement found; the input is returned.", False, 0, 0.15, Interval(-0.1, 0.4, 0.95), 1),
    baseline=INPUT,
    steps=(STEP, replace(STEP, step=2, train_mean=None, validation=None)),
    stop_reason="completed",
    warnings=("The valset has 3 examples.",),
    spend=SPEND,
    estimate=Estimate((StageEstimate("rollout", 15, 15), StageEstimate("summary", 5, 15.5, 100.0, 20.0, None)), 3),
    settings={"group_size": 5, "rollout_temperature": 0.7, "metric": "exact", "batch_size": None, "predictors": ["a"]},
    seconds=12.5,
)
BARE = DetailedResults(Verdict("Not measured.", None, 2), None, (), "Ctrl-C", (), (), Estimate(()), {}, 0.0)


@pytest.mark.parametrize("results", [RESULTS, BARE])
def test_json_round_trips(results: DetailedResults) -> None:
    text = results.to_json()
    loaded = DetailedResults.from_json(text)
    assert loaded == results
    assert loaded.to_json() == text
    assert DetailedResults.from_json(text.encode()) == results
    assert type(loaded.steps) is tuple
    assert type(loaded.settings) is dict


def test_nested_records_come_back_as_records() -> None:
    step = DetailedResults.from_json(RESULTS.to_json()).steps[0]
    assert step.validation == LEARNED
    assert isinstance(step.library, ExperienceLibrary)
    assert step.library.entries[1].sources == (1, 4)
    assert step.rejected[0].reason == "there is no entry E9"
    assert step.spend[0].cost is None
    assert step.validation.scores == (1.0, 0.1 + 0.2, None)
    # What was loaded can be used: ids go on where they were.
    assert apply_edits(step.library, [Edit("ADD", text="new")]).library.entries[-1].id == "E3"


def test_json_is_plain_and_has_a_version() -> None:
    data = json.loads(RESULTS.to_json())
    assert data["schema_version"] == 1
    assert data["baseline"]["scores"] == [0.0, None, 1.0]
    assert data["steps"][0]["library"]["next_id"] == 3


def changed(**fields: Any) -> str:
    return json.dumps({**json.loads(RESULTS.to_json()), **fields})


def test_a_newer_file_is_refused_saying_what_to_do() -> None:
    with pytest.raises(
        SchemaVersionError, match="results of schema 2; this version reads up to 1: upgrade trgrpo-dspy"
    ):
        DetailedResults.from_json(changed(schema_version=2, verdict="of another shape"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"schema_version": 1}',
        "[" * 100_000,
        changed(steps=7),
        changed(schema_version="x"),
        changed(verdict=None),
        changed(baseline={**json.loads(RESULTS.to_json())["baseline"], "library": {"entries": [], "next_id": 0}}),
        changed(
            baseline={
                **json.loads(RESULTS.to_json())["baseline"],
                "library": {"entries": [{"id": "E1", "text": " \n"}], "next_id": 2},
            }
        ),
        pickle.dumps(RESULTS).decode("latin-1"),
    ],
    ids=lambda text: text[:30],
)
def test_junk_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        DetailedResults.from_json(text)


def test_fields_of_an_older_or_newer_patch_do_not_matter() -> None:
    assert DetailedResults.from_json(changed(note="unknown")) == RESULTS
    without = json.loads(RESULTS.to_json())
    del without["schema_version"]
    assert DetailedResults.from_json(json.dumps(without)) == RESULTS


def test_records_are_frozen_and_copied_whole() -> None:
    for record, name in ((RESULTS, "steps"), (STEP, "step"), (INPUT, "mean"), (RESULTS.verdict, "text")):
        with pytest.raises(FrozenInstanceError):
            setattr(record, name, None)
    twin = copy.deepcopy(RESULTS)
    assert twin == RESULTS
    twin.settings["group_size"] = 7
    twin.steps[0].outcomes.clear()
    assert RESULTS.settings["group_size"] == 5
    assert STEP.outcomes == {"completed": 14, "program_error": 1}


def test_what_was_measured_starts_with_the_input() -> None:
    assert RESULTS.measured == (INPUT, LEARNED)
    assert BARE.measured == ()
    assert replace(RESULTS, baseline=None).measured == (LEARNED,)


def test_the_total_is_one_row() -> None:
    assert RESULTS.total == Spend("total", "", 5, 1, 2, 0, 1, 100, 20, 30, None)


def test_printed_it_is_the_verdict_and_a_line_a_step() -> None:
    lines = str(RESULTS).split("\n")
    assert lines == [
        "No improvement found; the input is returned.",
        "input: validation 0.500",
        "step 1 (epoch 1) | train 0.333 | 67% of 3 groups informative | 2 ADD, 1 DELETE, 1 rejected | "
        "library 2 entries, 17 tokens | lost: 1 summary: cut off | validation 0.650",
        "step 2 (epoch 1) | train unscored | 67% of 3 groups informative | 2 ADD, 1 DELETE, 1 rejected | "
        "library 2 entries, 17 tokens | lost: 1 summary: cut off",
        "spent: 5 LM calls (1 cached, 0 failed, 2 retries), 100 prompt and 20 completion tokens, cost unknown",
        "warning: The valset has 3 examples.",
    ]
    assert str(BARE).startswith("Not measured.\nspent: 0 LM calls")
    assert "no edits, 1 rejected" in step_line(replace(STEP, edits={}))
    assert "library 1 entry, " in step_line(replace(STEP, library=ExperienceLibrary.of("When in doubt, ask.")))
