"""What is returned and what is said of it: never below the input, a tie keeps it, 'improved' only beyond noise."""

import random
from dataclasses import replace

import pytest

from trgrpo_dspy.evaluation.result import Measurement, Verdict
from trgrpo_dspy.evaluation.statistics.intervals import mean_with_interval
from trgrpo_dspy.evaluation.verdict import decide, with_ending
from trgrpo_dspy.library import ExperienceLibrary
from trgrpo_dspy.meter import Spend


def measured(step, scores):
    return Measurement(step, ExperienceLibrary(), tuple(scores), mean_with_interval(scores))


def coin(rng, n, p):
    return [float(rng.random() < p) for _ in range(n)]


def test_a_clear_gain_is_called_improved_and_told_with_its_interval():
    verdict = decide(measured(0, [0.0] * 60), [measured(1, [0.0] * 20 + [1.0] * 40)], last_step=1)
    assert verdict.improved is True and verdict.step == 1
    assert verdict.text.startswith("Improved: +0.667 on 60 validation examples (95% interval +")
    assert "1 library tried" in verdict.text and verdict.interval.low > 0


def test_a_tie_returns_the_input():
    scores = [0.0, 1.0] * 30
    verdict = decide(measured(0, scores), [measured(1, scores), measured(2, scores[::-1])], last_step=2)
    assert (verdict.step, verdict.improved) == (0, False)
    assert verdict.text.startswith("No improvement found, the input is returned")


def test_a_small_gain_is_returned_but_not_called_improved():
    verdict = decide(measured(0, [0.0] * 60), [measured(1, [0.0] * 59 + [1.0])], last_step=1)
    assert (verdict.step, verdict.improved) == (1, False)
    assert verdict.text.startswith("Not distinguishable from noise: +0.017")


def test_never_below_the_input():
    for seed in range(20):
        rng = random.Random(seed)
        baseline = measured(0, coin(rng, 40, 0.5))
        tried = [measured(step, coin(rng, 40, rng.random())) for step in range(1, 6)]
        verdict = decide(baseline, tried, last_step=5)
        chosen = next((m for m in tried if m.step == verdict.step), baseline)
        assert chosen.mean.value >= baseline.mean.value
        assert (verdict.step == 0) == (verdict.gain is None or verdict.gain <= 0)


def test_a_library_scored_on_a_few_examples_only_is_not_chosen():
    baseline = measured(0, [0.5] * 40)
    lucky = measured(1, [1.0] * 3 + [None] * 37)
    solid = measured(2, [0.6] * 40)
    assert decide(baseline, [lucky, solid], last_step=2).step == 2
    assert decide(baseline, [lucky], last_step=1).step == 0


@pytest.mark.parametrize(
    "baseline, given, step, text",
    [
        (None, {"wanted": False}, 3, "there was no valset, so the last library is returned"),
        (None, {"wanted": False}, 0, "there was no valset, so the input is returned"),
        (
            None,
            {"wanted": False, "scored": False},
            2,
            "no attempt could be scored, and there was no valset, so",
        ),
        (None, {}, 0, "the run ended before the input was"),
        (measured(0, [None] * 5), {}, 0, "no validation example could be scored"),
    ],
)
def test_what_was_not_measured_is_said(baseline, given, step, text):
    verdict = decide(baseline, [], last_step=step, **given)
    assert verdict.text.startswith(f"Not measured: {text}") and verdict.step == step


def test_the_way_to_a_library_that_was_not_measured_is_named():
    text = decide(measured(0, [1.0, 0.0]), [], last_step=2, unmeasured=True).text
    assert "the run ended before a new library was measured. attach(program, compiled.detailed_results.steps" in text
    later = decide(measured(0, [0.0] * 60), [measured(1, [1.0] * 60)], last_step=2, unmeasured=True).text
    assert later.startswith("Improved: ") and "the library of step 1 is returned. attach(program, compiled" in later


@pytest.mark.parametrize("last_step, why", [(2, "no step changed the library"), (0, "no step was completed")])
def test_without_a_new_library_the_input_is_returned(last_step, why):
    verdict = decide(measured(0, [1.0, 0.0]), [], last_step=last_step)
    assert verdict.step == 0 and why in verdict.text


def test_an_early_end_and_cut_replies_are_said_with_the_cure():
    spend = (Spend("summary", "m", calls=10, truncated=4), Spend("rollout", "m", calls=100, truncated=1))
    text = with_ending(Verdict("Improved.", True, 1), "max_cost", spend).text
    assert "max_cost was reached" in text
    assert "4 of 10 replies in stage 'summary' were cut by length" in text and "max_tokens" in text
    assert "'rollout'" not in text
    assert with_ending(Verdict("Improved.", True, 1), "completed", ()).text == "Improved."


def test_copies_are_one_input_and_the_sentence_says_so():
    scores = [0.0] * 8, [1.0] * 4 + [0.0] * 4
    base, better = (replace(measured(i, s * 5), inputs=tuple(range(8)) * 5) for i, s in enumerate(scores))
    verdict = decide(base, [better], last_step=1)
    assert verdict.improved is False and "+0.500 on 40 validation examples (8 distinct) (95% interval" in verdict.text
    assert "only a rough guide below 30 examples" in verdict.text


def test_lost_validation_is_counted_in_the_sentence():
    base, better = measured(0, [0.0] * 30 + [None] * 30), measured(1, [1.0] * 28 + [None] * 32)
    assert "Improved: +1.000 on 28 of 60 validation examples (" in decide(base, [better], last_step=1).text
    assert "none of 1 library scored above it on 30 of 60 validation" in decide(base, [base], last_step=1).text
