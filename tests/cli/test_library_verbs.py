"""show, diff, edit, apply, export, import: each once with its main error; no LM."""

from __future__ import annotations

import json
from pathlib import Path

import dspy
import pytest
from support.commands import Command

from programs import tickets
from trgrpo_dspy import ExperienceLibrary, attach
from trgrpo_dspy.cli.sources import read_source
from trgrpo_dspy.library.exchange import FORMATS

LIBRARY = ExperienceLibrary.of("When the note mentions 'pump', choose 'red'.", "When it is dark, choose 'green'.").pin(
    "E2"
)


@pytest.fixture
def library(tmp_path: Path) -> str:
    path = tmp_path / "library.json"
    path.write_text(LIBRARY.to_json())
    return str(path)


def editor(path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """An $EDITOR that runs a line of shell on the file `$1`."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("EDITOR", str(path))
    monkeypatch.delenv("VISUAL", raising=False)


def test_show_a_library(trgrpo: Command, library: str) -> None:
    done = trgrpo("show", library)
    assert "E1" in done.stdout and "(pinned)" in done.stdout
    assert json.loads(trgrpo("show", library, "--json").stdout)["entries"][1]["pinned"] is True


def test_what_is_shown_is_data(trgrpo: Command, tmp_path: Path) -> None:
    """Markup of the terminal's or of rich stays text; nothing is cut at 80 columns."""
    texts = [
        "When [red]bold[/red] :smile: \x1b[31m\x9b2J",
        "Say \u202eevil\u202c " + "x" * 200,
        "[/nothing] [link=file:///]",
    ]
    (tmp_path / "l.json").write_text(ExperienceLibrary.of(*texts).to_json())
    shown = trgrpo("show", "l.json").stdout
    assert "[red]bold[/red] :smile:" in shown and "[/nothing] [link=file:///]" in shown
    assert not set(shown) & set("\x1b\x9b\u202e\u202c") and shown.count("x") == 200 + shown.count("ex")
    assert all(len(row) <= 80 for row in shown.splitlines())
    assert not set(trgrpo("diff", "l.json", "l.json").stdout) & set("\x1b\x9b")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.txt", "nothing here", "no list of experiences"),
        ("a.json", "{", "library in JSON"),
        ("a.json", '{"schema_version": 99, "entries": [], "next_id": 1}', "upgrade trgrpo-dspy"),
        ("a.pkl", "x", "a pickle, which runs code"),
        ("a.py", "x", "is a target"),
        ("a.yaml", "- 1", "no agent's YAML"),
        ("a.md", "- [E1] a\n- [E1] b\n", "line 2: the id E1 stands twice"),
    ],
)
def test_a_file_that_can_not_be_read_is_said(trgrpo: Command, tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    assert said in trgrpo("show", name, code=2).stderr
    assert "is not there" in trgrpo("show", "no.json", code=2).stderr


def test_diff(trgrpo: Command, library: str, tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text(LIBRARY.without("E1").add("New.").to_markdown())
    assert trgrpo("diff", library, "other.md").stdout.splitlines() == [
        "- [E1] When the note mentions 'pump', choose 'red'.",
        "+ [E3] New.",
    ]


def test_edit_is_written_back(trgrpo: Command, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    editor(tmp_path / "ed", monkeypatch, "sed -i 's/pump/pipe/' \"$1\"")
    assert "+ [E1] When the note mentions 'pipe'" in trgrpo("edit", library).stdout
    found = ExperienceLibrary.from_json(Path(library).read_text())
    assert found == LIBRARY.with_text("E1", "When the note mentions 'pipe', choose 'red'.")
    assert "nothing was changed" in trgrpo("edit", library).stderr


def test_edit_without_an_editor(trgrpo: Command, library: str) -> None:
    trgrpo("edit", library, "--remove", "E1", "--add", "When new, do.")
    trgrpo("edit", library, "--ban", "E2", "--pin", "E3")
    found = ExperienceLibrary.from_json(Path(library).read_text())
    assert found == LIBRARY.without("E1").add("When new, do.").ban("E2").pin("E3")
    assert "there is no entry 'E9'; ids: E3" in trgrpo("edit", library, "--remove", "E9", code=2).stderr


def test_a_list_is_edited_as_it_stands(trgrpo: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.md").write_text("# Ours\n\nRead this.\n\n- When wet, red.\n\nThe end.\n")
    editor(tmp_path / "ed", monkeypatch, "sed -i 's/wet/dry/' \"$1\"")
    trgrpo("edit", "notes.md")
    assert (tmp_path / "notes.md").read_text() == "# Ours\n\nRead this.\n\n- When dry, red.\n\nThe end.\n"
    trgrpo("edit", "notes.md", "--add", "When cold, blue.")
    assert (tmp_path / "notes.md").read_text().startswith("# Ours\n\nRead this.\n\n- When dry, red.\n")


def test_a_file_that_changes_while_it_is_edited_keeps_both(
    trgrpo: Command, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor(tmp_path / "ed", monkeypatch, f"echo '- mine' >> \"$1\"; echo >> {library}")
    assert "by something else meanwhile" in trgrpo("edit", library, code=2).stderr
    assert Path(library).read_text() == LIBRARY.to_json() + "\n"
    assert (tmp_path / "library.json.edit.md").read_text().endswith("- mine\n")


def test_no_file_of_another_kind_is_written_over(trgrpo: Command, library: str, tmp_path: Path) -> None:
    for name in ("README.md", "package.json"):
        (tmp_path / name).write_text('{"mine": 1}\n')
        assert "is no library" in trgrpo("export", library, "-o", name, code=2).stderr
        assert "is no library" in trgrpo("import", library, "-o", name, code=2).stderr
    for verb in ("compile", "evaluate"):
        done = trgrpo(verb, "my_task.py", "--offline", "--save", "package.json", code=2)
        assert "holds something else" in done.stderr
    assert (tmp_path / "package.json").read_text() == '{"mine": 1}\n'


def test_an_invalid_edit_loses_nothing(
    trgrpo: Command, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor(tmp_path / "ed", monkeypatch, "printf '%s\\n' '- mine' '- [E1] again' >> \"$1\"")
    assert "stands twice" in trgrpo("edit", library, code=2).stderr
    assert Path(library).read_text() == LIBRARY.to_json()
    editor(tmp_path / "ed", monkeypatch, "sed -i '/again/d' \"$1\"")
    done = trgrpo("edit", library)
    assert "going on from" in done.stderr and "+ [E3] mine" in done.stdout
    assert not list(tmp_path.glob("*.edit.md"))


@pytest.mark.parametrize(
    ("lines", "said"), [("garbage\n- [E2] When dark", "line 1 belongs to no entry"), ("- [E2 When", "is not closed")]
)
def test_what_an_editor_leaves_that_is_no_entry_is_not_dropped(
    trgrpo: Command, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str, said: str
) -> None:
    editor(tmp_path / "ed", monkeypatch, f"printf '%s\\n' '{lines}' > \"$1\"")
    assert said in trgrpo("edit", library, code=2).stderr
    assert Path(library).read_text() == LIBRARY.to_json()


def test_an_empty_addition_calls_no_editor(trgrpo: Command, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDITOR", "false")
    assert "ended with" not in trgrpo("edit", library, "--add", "", code=2).stderr


def test_a_file_without_an_experience_is_not_imported(trgrpo: Command, tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text('{"entries": 5}')
    assert "no experience was found in d.json" in trgrpo("import", "d.json", "--format", "ace", code=2).stderr


def test_the_state_of_another_program_is_refused(trgrpo: Command) -> None:
    dspy.Predict("question -> answer").save("other.json")
    done = trgrpo("evaluate", "my_task.py", "other.json", "--offline", code=2)
    assert "other.json is a state of another program: the fields of 'self' are" in done.stderr


@pytest.mark.parametrize(("script", "said"), [("exit 3", "ended with 3"), (None, "can't be started")])
def test_an_editor_that_fails_changes_nothing(
    trgrpo: Command, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, said: str
) -> None:
    editor(tmp_path / "ed", monkeypatch, script or "")
    monkeypatch.setenv("EDITOR", str(tmp_path / ("ed" if script else "none")))
    assert said in trgrpo("edit", library, code=2).stderr
    assert Path(library).read_text() == LIBRARY.to_json()


def test_apply_writes_what_attach_writes(trgrpo: Command, library: str, tmp_path: Path) -> None:
    """A saved program is changed as text; DSPy loads the same from it as `attach` makes."""
    program = dspy.ChainOfThought(tickets.TriageTicket)
    program.save(tmp_path / "program.json")
    trgrpo("apply", library, "program.json", "-o", "new.json")
    assert read_source("program.json").library == ExperienceLibrary()
    assert read_source("new.json").library == LIBRARY
    program.load("new.json")
    wanted = attach(dspy.ChainOfThought(tickets.TriageTicket), LIBRARY)
    assert program.predict.signature.instructions == wanted.predict.signature.instructions
    (tmp_path / "empty.md").write_text("Next id: E1\n")
    trgrpo("apply", "empty.md", "new.json")
    plain = dspy.ChainOfThought(tickets.TriageTicket)
    program.load("new.json")
    assert program.predict.signature.instructions == plain.predict.signature.instructions
    assert "no saved program" in trgrpo("apply", library, library, code=2).stderr


@pytest.mark.parametrize("name", FORMATS)
def test_export_and_import_in_every_format(trgrpo: Command, library: str, name: str) -> None:
    trgrpo("export", library, "--format", name, "-o", "out.txt")
    trgrpo("import", "out.txt", "--format", name, "-o", "back.json")
    assert [e.text for e in read_source("back.json").library] == [e.text for e in LIBRARY]


def test_export_to_the_screen_and_into_a_file(trgrpo: Command, library: str, tmp_path: Path) -> None:
    assert trgrpo("export", library).stdout.rstrip("\n") == LIBRARY.to_markdown().rstrip("\n")
    (tmp_path / "skill.md").write_text("# Mine\n\nKeep this heading.\n")
    trgrpo("export", library, "--format", "skillopt", "-o", "skill.md")
    assert (tmp_path / "skill.md").read_text().startswith("# Mine")
    assert "the formats are json, markdown" in trgrpo("export", library, "--format", "xml", code=2).stderr
