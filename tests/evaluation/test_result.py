"""What a run reports is frozen, round-trips through JSON and refuses what a newer version wrote."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from trgrpo_dspy.evaluation.gepa_names import GEPANames
from trgrpo_dspy.evaluation.result import DetailedResults, Measurement, StepResult, Verdict, step_line
from trgrpo_dspy.evaluation.statistics.intervals import Mean
from trgrpo_dspy.evaluation.statistics.resampling import Interval
from trgrpo_dspy.library import Edit, ExperienceLibrary, apply_edits
from trgrpo_dspy.library.edits import RejectedEdit
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
    rejected=(RejectedEdit(Edit("MODIFY", "E9", "text"), "there is no entry E9"),),
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
    assert loaded == results and loaded.to_json() == text
    assert type(loaded.steps) is tuple and type(loaded.settings) is dict
    for step in loaded.steps:  # what was loaded can be used: ids go on where they were
        assert apply_edits(step.library, [Edit("ADD", text="new")]).library.entries[-1].id == "E3"
    with pytest.raises(ValueError, match=r"this is no results: .*verdict"):
        DetailedResults.from_json(json.dumps({**json.loads(text), "verdict": None}))


def test_what_was_measured_starts_with_the_input_and_the_total_is_one_row() -> None:
    assert RESULTS.measured == (INPUT, LEARNED) and BARE.measured == ()
    assert replace(RESULTS, baseline=None).measured == (LEARNED,)
    assert RESULTS.total == Spend("total", "", 5, 1, 2, 0, 1, 100, 20, 30, None)


def test_printed_it_is_the_verdict_and_a_line_a_step() -> None:
    lines = str(RESULTS).split("\n")
    assert lines == [
        "No improvement found; the input is returned.",
        "input: validation 0.500 over 2 of 3 examples",
        "step 1 (epoch 1) | train 0.333 | 67% of 3 groups informative | 2 ADD, 1 DELETE, 1 rejected | "
        "library 2 entries, 17 tokens | lost: 1 summary: cut off | validation 0.650 over 2 of 3 examples",
        "step 2 (epoch 1) | train unscored | 67% of 3 groups informative | 2 ADD, 1 DELETE, 1 rejected | "
        "library 2 entries, 17 tokens | lost: 1 summary: cut off",
        "spent: 5 LM calls (1 cached, 0 failed, 2 retries), 100 prompt and 20 completion tokens, cost unknown",
        "warning: The valset has 3 examples.",
    ]
    assert str(BARE).startswith("Not measured.\nspent: 0 LM calls")
    assert "no edits, 1 rejected" in step_line(replace(STEP, edits={}))
    assert "library 1 entry, " in step_line(replace(STEP, library=ExperienceLibrary.of("When in doubt, ask.")))


def test_lost_attempts_and_what_taught_are_counted_in_a_step() -> None:
    step = replace(STEP, outcomes={"completed": 4, "infrastructure": 2, "metric_error": 1}, mistakes=1 / 3)
    step = replace(step, held=(RejectedEdit(Edit("ADD", text="visit http://x"), "an address"),), notes=("a note",))
    line = step_line(step)
    assert "train 0.333 over 4 of 7 attempts | 67% of 3 groups informative, 33% by mistakes alone" in line
    assert "1 rejected, 1 held back" in line and line.endswith(" | a note")


def test_what_was_paid_before_is_not_said_to_be_spent_now() -> None:
    assert "spent: 5 LM calls (5 of them before, 0 now) (" in str(RESULTS.replayed)
    assert RESULTS.replayed == RESULTS, "the same results"


def test_json_of_schema_1_is_read() -> None:
    data = json.loads(RESULTS.to_json())
    data["schema_version"] = 1
    for step in data["steps"]:
        for name in ("mistakes", "held", "notes"):
            del step[name]
        step["rejected"] = [{**r["edit"], "reason": r["reason"]} for r in step["rejected"]]
        for edit in step["rejected"]:
            del edit["targets"], edit["sources"]
    for measurement in (data["baseline"], data["steps"][0]["validation"]):
        del measurement["inputs"], measurement["mean"]["distinct"]
    assert DetailedResults.from_json(json.dumps(data)).steps == RESULTS.steps


def test_users_of_gepa_find_the_names_they_know() -> None:
    assert RESULTS.val_aggregate_scores == [0.5, 0.65] and RESULTS.num_full_val_evals == 2
    assert RESULTS.val_subscores == [{0: 0.0, 2: 1.0}, {0: 1.0, 1: 0.1 + 0.2}]
    assert RESULTS.best_idx == 0 and BARE.best_idx is None
    assert replace(RESULTS, verdict=replace(RESULTS.verdict, step=1)).best_idx == 1
    assert RESULTS.per_val_instance_best_candidates == {0: {1}, 1: {1}, 2: {0}}
    assert RESULTS.highest_score_achieved_per_val_task == {0: 1.0, 1: 0.1 + 0.2, 2: 1.0}
    assert RESULTS.total_metric_calls == 15 + 15 + 3 + 3
    assert (RESULTS.seed, RESULTS.log_dir) == (None, None)
    assert replace(RESULTS, settings={"seed": 3, "log_dir": "run"}).log_dir == "run"
    from dspy.teleprompt.gepa.gepa import DspyGEPAResult

    theirs = set(DspyGEPAResult.__dataclass_fields__) | set(vars(DspyGEPAResult))
    assert {name for name in vars(GEPANames) if not name.startswith("_")} <= theirs


@pytest.mark.parametrize("results", [RESULTS, BARE])
def test_a_notebook_shows_it_and_every_text_is_data(results: DetailedResults) -> None:
    hostile = "<script>alert(1)</script>\x1b[31m\u202e"
    shown = replace(results, verdict=replace(results.verdict, text=hostile), warnings=(hostile,))._repr_html_()
    assert "<script>" not in shown and "&lt;script&gt;" in shown and "\x1b" not in shown and "\u202e" not in shown
    assert shown.startswith("<div") and shown.endswith("</div>") and "color:" not in shown
    assert ("0.650 over 2 of 3 examples" in shown) is bool(results.steps)
