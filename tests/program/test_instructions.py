"""One writer, one reader: the block goes in, comes back, and goes away without a trace."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.utils import DummyLM
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.scripted import TwoSteps

from trgrpo_dspy.library import Edit, ExperienceLibrary, apply_edits
from trgrpo_dspy.library.entries import clean_entry
from trgrpo_dspy.program.carrying import attach, read_library, write_library
from trgrpo_dspy.program.instructions import (
    has_unreadable_block,
    original_instructions,
    read_block,
    remove_block,
    teachable_predictors,
    write_block,
)  # fmt: skip

ADVICE = ExperienceLibrary.of("When the amount is above $500, choose approval", "When unsure, ask")
BLOCK = write_block("", ADVICE.entries)
HEADER, *_, FOOTER = BLOCK.split("\n")

pieces = st.sampled_from(
    [HEADER, FOOTER, BLOCK, "[E1] an entry", "[E2] another", "\n", "\n\n", " ", "\t", "    ", "Answer.", "\r", "\u2028",
     "\xa0"]
)  # fmt: skip
user_texts = st.one_of(
    st.text(max_size=80), st.lists(st.one_of(pieces, st.text(max_size=8)), max_size=12).map("".join)
).map(inspect.cleandoc)
libraries = st.lists(st.text(max_size=30), max_size=5).map(
    lambda texts: ExperienceLibrary.of(*(text for text in texts if clean_entry(text)))
)


def instructions(program: dspy.Module) -> dict[str, str]:
    return {name: predictor.signature.instructions for name, predictor in program.named_predictors()}


def targeted() -> ExperienceLibrary:
    edits = [
        Edit("ADD", text="For everyone"),
        Edit("ADD", text="For notes", targets=("notes",)),
        Edit("ADD", text="For answers", targets=("answer.predict",)),
    ]
    return apply_edits(ExperienceLibrary(), edits).library


# --- The text of one predictor


def test_the_block_stands_after_the_instructions_with_ids_and_in_order() -> None:
    assert write_block("Answer.", ADVICE.entries) == (
        "Answer.\n\n"
        "--- Experiences from earlier attempts. Apply those whose condition fits; ignore the others. ---\n"
        "[E1] When the amount is above $500, choose approval\n"
        "[E2] When unsure, ask\n"
        "--- End of experiences ---"
    )


@settings(max_examples=50, deadline=None)
@given(user_texts, libraries, libraries)
def test_writing_and_removing_a_block(text: str, library: ExperienceLibrary, other: ExperienceLibrary) -> None:
    written = write_block(text, library.entries)
    original = remove_block(text)
    assert remove_block(written) == original
    assert write_block(written, library.entries) == written
    assert write_block(write_block(text, other.entries), library.entries) == written
    assert write_block(written, ()) == original
    assert [(e.id, e.text) for e in read_block(written)] == [(e.id, e.text) for e in library]


@settings(max_examples=50, deadline=None)
@given(user_texts)
def test_text_without_a_block_of_ours_is_left_alone(text: str) -> None:
    assume(FOOTER not in text)
    assert remove_block(text) == text
    assert read_block(text) == ()
    assert write_block(text, ()) == text


VARIANTS = {
    "text after it": (f"Answer.\n\n{BLOCK}\n\nBe brief.", "Answer.\n\nBe brief."),
    "a line after it": (f"Answer.\n\n{BLOCK}\nBe brief.", "Answer.\nBe brief."),
    "nothing before it": (f"{BLOCK}\n\nBe brief.", "Be brief."),
    "one line end before it": (f"Answer.\n{BLOCK}", "Answer."),
    "Windows line ends": (f"Answer.\n\n{BLOCK}\n\nBe brief.".replace("\n", "\r\n"), "Answer.\r\n\r\nBe brief."),
    "a double space after an id": (f"Answer.\n\n{BLOCK}".replace("[E2] ", "[E2]  "), "Answer."),
    "spaces round its lines": ("Answer.\n\n" + BLOCK.replace("\n", "  \n\t"), "Answer."),
    "two in a row": (f"Answer.\n\n{BLOCK}\n\n{BLOCK}", "Answer."),
    "two apart": (f"Answer.\n\n{BLOCK}\n\nBe brief.\n\n{BLOCK}", "Answer.\n\nBe brief."),
}


@pytest.mark.parametrize(("text", "original"), VARIANTS.values(), ids=VARIANTS)
def test_a_block_is_recognised_wherever_it_stands(text: str, original: str) -> None:
    assert [(e.id, e.text) for e in read_block(text)] == [(e.id, e.text) for e in ADVICE]
    assert remove_block(text) == original
    assert not has_unreadable_block(text)
    assert write_block(text, ADVICE.entries) == f"{original}\n\n{BLOCK}"


@pytest.mark.parametrize(
    "rewritten",
    [
        BLOCK.replace("ignore the others", "skip the others"),
        BLOCK.replace("--- End", "-- End"),
        BLOCK.replace("[E2] ", "- "),
        BLOCK.replace("[E2] ", "[E1] "),
        BLOCK.replace("[E2] ", "[E02] "),
        BLOCK.replace("[E2] ", "[E1234567890] "),
        BLOCK.replace("[E2] ", "[E\u0662] "),
        BLOCK.replace("[E2] ", "[E2]"),
        BLOCK.replace("[E2] ", "\n[E2] "),
        BLOCK.replace("unsure", "unsure \u2028"),
        BLOCK.replace("unsure", "<s>unsure</s>"),
        BLOCK.replace("ask", "ask\nand wait"),
        f"{HEADER}\n{FOOTER}",
        BLOCK.replace("--- End", "x --- End"),
        "Be brief. " + BLOCK.replace("\n", " "),
        "Be brief.\u2028" + BLOCK.replace("\n", "\u2028"),
        "Be brief.\\n" + BLOCK.replace("\n", "\\n"),
    ],
)
def test_a_block_that_somebody_rewrote_is_the_users_text_and_is_warned_about(
    rewritten: str, caplog: pytest.LogCaptureFixture
) -> None:
    text = f"Answer.\n\n{rewritten}"
    assert read_block(text) == ()
    assert remove_block(text) == text
    assert remove_block(write_block(text, ADVICE.entries)) == text
    program = TwoSteps()
    program.notes.signature = program.notes.signature.with_instructions(f"\n{text}")
    assert len(read_library(program)) == 0
    assert "predictor 'notes'" in caplog.text and "can't be read" in caplog.text


def test_ordinary_instructions_are_not_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    program = TwoSteps()
    program.notes.signature = program.notes.signature.with_instructions(
        "Learn from experiences. See [E1] and --- this."
    )
    read_library(attach(program, ADVICE))
    assert caplog.text == ""


@settings(max_examples=50, deadline=None)
@given(user_texts, libraries)
def test_the_same_through_a_real_program(text: str, library: ExperienceLibrary) -> None:
    program = dspy.Predict(dspy.Signature("question -> answer").with_instructions(text))
    before = program.signature.instructions
    assume(not read_block(before))
    write_library(program, library)
    assert program.signature.instructions == write_block(before, library.entries)
    assert [(e.id, e.text) for e in read_library(program)] == [(e.id, e.text) for e in library]
    write_library(program, ExperienceLibrary())
    assert program.signature.instructions == before


@pytest.mark.parametrize("docstring", ["", "\n    - first\n   second", "\n\n      \n  a", "one\n\ttwo\n", "a\n   "])
def test_docstrings_as_dspy_reads_them_come_back_byte_for_byte(docstring: str) -> None:
    signature = dspy.Signature("question -> answer")
    signature.instructions = docstring
    program = dspy.Predict("question -> answer")
    program.signature = signature
    before = program.signature.instructions
    write_library(program, ADVICE)
    assert program.signature.instructions == write_block(before, ADVICE.entries)
    write_library(program, ExperienceLibrary())
    assert program.signature.instructions == before


# --- Programs


def test_each_predictor_carries_its_own_entries_and_reading_gives_them_back() -> None:
    program, library = TwoSteps(), targeted()
    program.notes.demos = [dspy.Example(question="q", notes="n")]
    fields, demos, before = repr(program.notes.signature.fields), list(program.notes.demos), instructions(program)
    write_library(program, library)
    assert (repr(program.notes.signature.fields), program.notes.demos) == (fields, demos)
    assert instructions(program) == {
        "notes": write_block("Take notes.", [library.entries[0], library.entries[1]]),
        "answer.predict": write_block("Answer\nfrom the notes.", [library.entries[0], library.entries[2]]),
    }
    read = read_library(program)
    assert [(e.id, e.text, e.targets) for e in read] == [(e.id, e.text, e.targets) for e in library]
    assert read.next_id == 4
    assert {name: original_instructions(p) for name, p in program.named_predictors()} == before
    write_library(program, ExperienceLibrary())
    assert instructions(program) == before


def test_only_the_named_predictors_are_written_to_and_read_from_in_the_programs_order() -> None:
    program = TwoSteps()
    write_library(program, ADVICE, iter(["notes"]))
    assert instructions(program)["answer.predict"] == "Answer\nfrom the notes."
    assert len(read_library(program, ["notes"])) == 2
    assert len(read_library(program, ["answer.predict"])) == 0
    assert list(teachable_predictors(program, ["answer.predict", "notes"])) == ["notes", "answer.predict"]


def test_what_cannot_be_taught_is_refused_with_the_way_out() -> None:
    program = TwoSteps()
    for names, message in (
        (["notes", "judge"], r"names \['judge'\]; the program's teachable predictors are \['notes', 'answer.p"),
        ([], r"predictors=\[\] leaves nothing to teach"),
    ):
        with pytest.raises(ValueError, match=message):
            write_library(program, ADVICE, names)
    with pytest.raises(ValueError, match=r"Module has no predictor left to teach. Build it from dspy.Predict"):
        teachable_predictors(dspy.Module())
    program.answer._compiled = True
    with pytest.raises(ValueError, match=r"names \['answer.predict'\]"):
        write_library(program, ADVICE, ["answer.predict"])
    write_library(program, ADVICE)  # a frozen sub-module is left alone
    assert program.answer.predict.signature.instructions == "Answer\nfrom the notes."
    assert read_block(program.notes.signature.instructions)
    program.notes = dspy.ChainOfThought("question -> notes")
    program.notes._compiled = True
    with pytest.raises(ValueError, match=r"(?s)TwoSteps has no predictor left.*`sub_module._compiled = False`"):
        write_library(program, ADVICE)


def test_entries_edited_by_hand_are_read_and_different_texts_under_one_id_are_both_kept() -> None:
    program = TwoSteps()
    write_library(program, ADVICE)
    changed = instructions(program)["answer.predict"].replace("When unsure, ask", "When unsure, guess")
    program.answer.predict.signature = program.answer.predict.signature.with_instructions(changed)
    library = read_library(program)
    assert [(e.id, e.text, e.targets) for e in library] == [
        ("E1", "When the amount is above $500, choose approval", ()),
        ("E2", "When unsure, ask", ("notes",)),
        ("E3", "When unsure, guess", ("answer.predict",)),
    ]
    assert library.next_id == 4


# --- What ships

LOADER = """
import sys


class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "trgrpo_dspy":
            raise ImportError("trgrpo_dspy is not installed here")


sys.meta_path.insert(0, Block())
import dspy
from dspy.utils import DummyLM

try:
    import trgrpo_dspy
except ImportError:
    pass
else:
    raise SystemExit("the package is importable, so this proves nothing")
program = dspy.ChainOfThought("question -> answer")
program.load(sys.argv[1])
lm = DummyLM([{"reasoning": "r", "answer": "42"}])
with dspy.context(lm=lm):
    print(program(question="?").answer)
print(program.predict.signature.instructions)
print([name for name in sys.modules if name.startswith("trgrpo")])
"""


def test_a_saved_program_needs_nothing_of_ours(tmp_path: Path) -> None:
    program = dspy.ChainOfThought(dspy.Signature("question -> answer", "Answer."))
    write_library(program, ADVICE)
    program.save(tmp_path / "program.json")
    saved = json.loads((tmp_path / "program.json").read_text())
    assert saved["predict"]["signature"]["instructions"] == f"Answer.\n\n{BLOCK}"
    command = [sys.executable, "-c", LOADER, str(tmp_path / "program.json")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"42\nAnswer.\n\n{BLOCK}\n[]\n"


def adapters() -> list[Any]:
    return [dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter(), dspy.TwoStepAdapter(DummyLM([]))]


@pytest.mark.parametrize("adapter", adapters(), ids=lambda adapter: type(adapter).__name__)
def test_every_adapter_carries_the_block_in_the_system_message(adapter: Any) -> None:
    program = dspy.Predict(dspy.Signature("question -> answer", "Answer."))
    write_library(program, ADVICE)
    messages = adapter.format(program.signature, [], {"question": "How much?"})
    system = "\n".join(line.strip() for line in messages[0]["content"].splitlines())
    assert messages[0]["role"] == "system"
    assert BLOCK in system
    assert not any(BLOCK.split("\n")[1] in str(message["content"]) for message in messages[1:])
