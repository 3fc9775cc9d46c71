"""What a run did, read back from its log directory alone."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
import pytest
from support.scripted import Triage, examples, scripted_lm, told

from trgrpo_dspy import DetailedResults, ExperienceLibrary, JournalError, evaluate
from trgrpo_dspy.events import EditApplied, EditRefused, EntriesChecked
from trgrpo_dspy.library.edits import Edit
from trgrpo_dspy.report import RunHistory, read_run, write_report


def test_it_holds_what_the_result_holds(run: tuple[Path, DetailedResults], history: RunHistory) -> None:
    results = run[1]
    assert [step.step for step in history.steps] == [step.step for step in results.steps] == [1, 2, 3, 4]
    for step, expected in zip(history.steps, results.steps, strict=True):
        assert tuple(group.example for group in step.groups) == expected.examples
        assert step.ended is not None and step.ended.library == expected.library
        outcomes = Counter(r.outcome.value for group in step.groups for r in group.attempts)
        assert outcomes == expected.outcomes
        assert Counter(change.edit.operation for change in step.applied) == expected.edits
        assert [refused.edit for refused in step.refused if not refused.held] == [r.edit for r in expected.rejected]
    for measured in results.measured:
        assert tuple(history.measured[measured.step].scores.values()) == measured.scores
    assert history.ended is not None and history.ended.verdict == results.verdict.text
    assert history.total == results.total and history.models == ("scripted/model",) and not history.offline
    assert history.libraries[0] == ExperienceLibrary.of("Read the whole ticket.")
    assert history.started.instructions == {"self": "Say which queue a ticket belongs to."}
    assert history.started.estimate == results.estimate


def test_failures_are_counted_by_kind_with_the_first_error(history: RunHistory) -> None:
    (failure,) = [failure for failure in history.failures if failure.kind == "infrastructure"]
    assert failure.unscored and "503 from upstream" in failure.first and failure.where.startswith("step 2, example")
    assert failure.count == sum(r.outcome.value == "infrastructure" for r in history.attempts) > 0


def test_an_entry_has_its_whole_history(history: RunHistory) -> None:
    added = next(change for step in history.steps for change in step.applied if change.before is None)
    assert added.after is not None
    found = history.entry_history(added.after.id)
    (moment,) = [moment for moment in found.moments if moment.kind == "added"]
    assert moment.step == added.step and moment.edit == added.edit and moment.examples == added.edit.sources
    assert {group.example for group in found.groups if group.step == added.step} == set(added.edit.sources)
    assert all(group.compared is not None and group.compared.comparison for group in found.groups)
    assert found.effect.after is None or found.effect.attempts_after > 0
    assert found.effect.attempts_before > 0
    assert history.entry_history("E1").moments[0].kind == "handed in"
    number, start = len(history.steps), history.libraries[0]
    twin = EditRefused(step=number, edit=Edit("ADD", text="Read all."), reason="says the same as E1")
    gone = EditApplied(step=number, edit=Edit("DELETE", "E1"), before=start["E1"], after=None)
    checked = EntriesChecked(step=number, supported={"E1": (1,)}, contradicted={"E1": (2,)})
    last = replace(history.steps[-1], refused=(twin,), applied=(gone,), check=checked)
    found = replace(history, steps=(*history.steps[:-1], last)).entry_history("E1")
    kinds = {moment.kind: moment for moment in found.moments if moment.step == number}
    assert kinds["refused"].edit == twin.edit and kinds["deleted"].before == start["E1"]
    assert (kinds["checked"].support, kinds["checked"].against) == ((1,), (2,))
    with pytest.raises(KeyError, match=r"an entry 'E99'.*ids: E1"):
        history.entry_history("E99")


@pytest.mark.parametrize("share", [0.0, 0.05, 0.4, 0.99])
def test_a_run_that_still_goes_on_is_read_as_far_as_it_is(run: tuple[Path, Any], tmp_path: Path, share: float) -> None:
    whole = (run[0] / "events.jsonl").read_bytes()
    (tmp_path / "events.jsonl").write_bytes(whole[: max(whole.index(b"\n") + 1, int(share * len(whole)))])
    history = read_run(tmp_path)
    assert history.ended is None and history.spend == () and history.library == list(history.libraries.values())[-1]
    assert history.models == ("scripted/model",)
    for entry in history.library:
        assert history.entry_history(entry.id).returned
    text = write_report(tmp_path, tmp_path / "now.html").read_text()
    assert "This run has not ended." in text and "Not finished" in text


def test_a_log_without_a_beginning_and_a_missing_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_run(tmp_path)
    (tmp_path / "events.jsonl").write_text('{"event": "RunStar')
    with pytest.raises(JournalError, match="holds no run yet"):
        read_run(tmp_path)


def test_the_last_process_tells_the_story_and_unknown_events_are_passed_over(
    run: tuple[Path, Any], history: RunHistory, tmp_path: Path
) -> None:
    lines = (run[0] / "events.jsonl").read_text().splitlines()
    later = json.dumps({"event": "FromLater", "schema_version": 1, "step": 1})
    (tmp_path / "events.jsonl").write_text("\n".join([*lines[:30], later, *lines, ""]))
    assert read_run(tmp_path).steps == history.steps


def test_lone_surrogates_become_replacement_characters_and_what_is_not_finite_none(
    run: tuple[Path, Any], tmp_path: Path
) -> None:
    log = (run[0] / "events.jsonl").read_text().replace("case 0", "case \\ud83d 0")
    (tmp_path / "events.jsonl").write_text(log.replace('"score": 1.0', '"score": NaN'))
    found = read_run(tmp_path)
    assert found.started.trainset[0][0] == "ticket: refund case \N{REPLACEMENT CHARACTER} 0"
    assert 1.0 not in {r.score for r in found.attempts}


@pytest.mark.parametrize(
    ("old", "new"),
    [('"score": 1.0', '"score": "high"'), ('"id": "E2"', '"id": "<b>"'), ('"example": 0', '"example": null')],
)
def test_a_record_that_is_no_event_is_named(run: tuple[Path, Any], tmp_path: Path, old: str, new: str) -> None:
    log = (run[0] / "events.jsonl").read_text()
    assert old in log
    (tmp_path / "events.jsonl").write_text(log.replace(old, new))
    with pytest.raises(JournalError, match=r"an event \w+ can't be read: .*run again with the same log_dir"):
        read_run(tmp_path)


def test_an_evaluation_is_read_too(tmp_path: Path) -> None:
    with dspy.context(lm=scripted_lm()):
        found = evaluate(dspy.Predict(Triage), examples(4), told, k=2, log_dir=tmp_path)
    history = read_run(tmp_path)
    assert history.started.run == "evaluate" and tuple(history.measured[0].scores.values()) == found.scores
    assert len(history.attempts) == 8 and history.library == ExperienceLibrary()
