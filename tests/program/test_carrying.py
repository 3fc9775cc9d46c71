"""What was learned travels with the program, and what `.experiences` says is what the prompt holds."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
import pytest
from support.scripted import Triage, TwoSteps

from trgrpo_dspy.library import Experience, ExperienceLibrary
from trgrpo_dspy.program.carrying import attach, carried, read_library, write_library
from trgrpo_dspy.program.instructions import read_block

LEARNED = ExperienceLibrary(
    (
        Experience("E1", "For everyone", (), 1, 2, (0, 3), (0, 3, 4), (1,)),
        Experience("E3", "For notes", ("notes",), 2, 2, (5,), pinned=True),
        Experience("E4", "For both by name", ("answer.predict", "notes"), 3, 3, helpful=2),
    ),
    7,
    ("Never this again",),
)
ADVICE = ExperienceLibrary.of("Look twice.")


def taught(program: dspy.Module | None = None, library: ExperienceLibrary = LEARNED) -> dspy.Module:
    found = program or TwoSteps()
    write_library(found, library)
    return found


def change(program: Any, old: str, new: str) -> None:
    """Edit the notes' instructions by hand."""
    signature = program.notes.signature
    program.notes.signature = signature.with_instructions("\n" + signature.instructions.replace(old, new))


@pytest.mark.parametrize("suffix", [".json", ".pkl"])
def test_steps_sources_support_pins_and_bans_survive_save_and_load(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"program{suffix}"
    taught().save(path)
    loaded = TwoSteps()
    loaded.load(path, allow_pickle=True)
    assert read_library(loaded) == LEARNED
    again = tmp_path / "again.json"
    attach(loaded, read_library(loaded).add("More")).save(again)
    loaded.load(again)
    assert read_library(loaded)["E7"].text == "More"
    assert read_library(loaded).next_id == 8


def test_a_bare_predictor_carries_it_too(tmp_path: Path) -> None:
    library = replace(LEARNED, entries=LEARNED.entries[:1])
    taught(dspy.Predict(Triage), library).save(tmp_path / "program.json")
    loaded = dspy.Predict(Triage)
    loaded.load(tmp_path / "program.json")
    assert read_library(loaded) == library


def test_the_block_stays_the_truth() -> None:
    """An entry whose text was changed by hand has no history, one that was taken out is gone, a new one is read."""
    program = taught()
    change(program, "For everyone", "For all")
    change(program, "[E3] For notes", "[E9] By hand")
    read = read_library(program)
    assert [(e.id, e.text) for e in read] == [
        ("E1", "For all"), ("E4", "For both by name"), ("E9", "By hand"), ("E10", "For everyone")
    ]  # fmt: skip
    assert (read["E1"].sources, read["E1"].targets) == ((), ("notes",))
    assert (read["E10"].sources, read["E10"].targets) == ((0, 3), ("answer.predict",))
    assert read.next_id == 11


@pytest.mark.parametrize(
    "note", ["{", "[]", '{"entries": 3}', '{"entries": [], "next_id": 1, "schema_version": 99}', 7]
)
def test_what_is_damaged_in_a_saved_file_is_said_and_never_executed(
    note: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    taught().save(tmp_path / "program.json")
    saved = json.loads((tmp_path / "program.json").read_text())
    saved["notes"]["traces"] = [{"trgrpo_dspy": note}, "something else"]
    (tmp_path / "program.json").write_text(json.dumps(saved))
    loaded = TwoSteps()
    loaded.load(tmp_path / "program.json")
    assert [e.text for e in read_library(loaded)] == [e.text for e in LEARNED]
    assert "What is known of the program's experiences" in caplog.text
    write_library(loaded, LEARNED)
    assert loaded.notes.traces[0] == "something else"
    assert len(loaded.notes.traces) == 2


def test_nothing_is_left_of_an_empty_library() -> None:
    program = taught()
    write_library(program, ExperienceLibrary())
    assert program.notes.traces == []
    assert read_library(program) == ExperienceLibrary()


# --- Onto another program


def test_attach_writes_a_library_or_texts_to_a_copy() -> None:
    program = TwoSteps()
    for given in (ADVICE, ["Look twice."], ("Look twice.",), iter(["Look twice."])):
        found = attach(program, given)
        assert [(e.id, e.text) for e in read_library(found)] == [("E1", "Look twice.")]
        assert found.experiences == read_library(found)
    assert program.notes.signature.instructions == "Take notes."
    for wrong in ("Look twice.", 3, [3], [""]):
        with pytest.raises((TypeError, ValueError)):
            attach(program, wrong)  # type: ignore[arg-type]


def test_attach_takes_targets_the_program_does_not_have_for_all_of_it() -> None:
    found = attach(dspy.Predict("question -> answer"), LEARNED)
    assert [(e.text, e.targets) for e in read_library(found)] == [(e.text, ()) for e in LEARNED]


def test_attach_to_some_predictors_gives_them_no_other_ones_entries() -> None:
    found = attach(TwoSteps(), LEARNED, iter(["notes"]))
    assert [e.id for e in read_block(found.notes.signature.instructions)] == ["E1", "E3", "E4"]
    assert read_block(found.answer.predict.signature.instructions) == ()
    assert [e.id for e in found.experiences] == ["E1", "E3", "E4"]


def test_attach_replaces_what_the_program_carried_and_says_so() -> None:
    first = attach(TwoSteps(), LEARNED)
    first.detailed_results = "of the first"
    second = attach(first, ADVICE)
    assert second.notes.signature.instructions == attach(TwoSteps(), ADVICE).notes.signature.instructions
    assert [e.text for e in second.experiences] == ["Look twice."]
    assert not hasattr(second, "detailed_results")
    assert first.experiences == LEARNED
    assert first.detailed_results == "of the first"


# --- The attribute


def test_what_experiences_says_is_what_the_prompt_holds(tmp_path: Path) -> None:
    program = attach(TwoSteps(), LEARNED)
    assert program.experiences == LEARNED
    assert isinstance(program.experiences, ExperienceLibrary)
    attach(TwoSteps(), ADVICE).save(tmp_path / "other.json")
    copied, deep = copy.copy(program.experiences), copy.deepcopy(program)
    program.load(tmp_path / "other.json")
    assert [e.text for e in program.experiences] == ["Look twice."]
    change(program, "Look twice.", "Look thrice.")
    assert "Look thrice." in str(program.experiences)
    program.notes.signature = dspy.Signature("question -> notes", "New.")
    assert [e.targets for e in program.experiences] == [("answer.predict",)]
    assert copied == deep.experiences == LEARNED  # values, and the copy's own
    change(deep, "For everyone", "For all")
    assert "For all" in str(deep.experiences)


def test_it_is_a_library_like_any_other() -> None:
    program = attach(TwoSteps(), LEARNED)
    live = program.experiences
    for value in (pickle.loads(pickle.dumps(live)), ExperienceLibrary.from_json(live.to_json()), replace(live)):
        assert type(value) is ExperienceLibrary
        assert value == live == LEARNED
        assert hash(value) == hash(live)
    assert type(live.add("More")) is ExperienceLibrary
    assert (repr(live), str(live)) == (repr(LEARNED), str(LEARNED))
    assert live.without("E1").digest != live.digest
    assert copy.deepcopy(live) == LEARNED
    assert carried(program, ["answer.predict"]).get("E3") is None
