"""show, diff, edit, apply, export, import: each once with its main error; no LM."""

from __future__ import annotations

import json
from collections.abc import Callable
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
def library(tmp_path: Path) -> Path:
    (tmp_path / "library.json").write_text(LIBRARY.to_json())
    return Path("library.json")


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes an $EDITOR that runs a line of shell on the file `$1`."""
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", str(tmp_path / "ed"))

    def make(script: str) -> None:
        (tmp_path / "ed").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "ed").chmod(0o755)

    return make


def test_what_is_shown_is_data(trgrpo: Command, library: Path, tmp_path: Path) -> None:
    """Markup of the terminal's or of rich stays text; nothing is cut at 80 columns."""
    assert "(pinned)" in trgrpo("show", "library.json").stdout
    assert json.loads(trgrpo("show", "library.json", "--json").stdout)["entries"][1]["pinned"] is True
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
    (tmp_path / "other.md").write_text(LIBRARY.without("E1").add("New.").to_markdown())
    assert trgrpo("diff", "library.json", "other.md").stdout.splitlines() == [
        "- [E1] When the note mentions 'pump', choose 'red'.",
        "+ [E3] New.",
    ]


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
        ("none.json", None, "is not there"),
    ],
)
def test_a_file_that_can_not_be_read_is_said(
    trgrpo: Command, tmp_path: Path, name: str, text: str | None, said: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    assert said in trgrpo("show", name, code=2).stderr


def test_edit_is_written_back_and_an_invalid_one_loses_nothing(
    trgrpo: Command, library: Path, editor: Callable[[str], None]
) -> None:
    editor("sed -i 's/pump/pipe/' \"$1\"")
    assert "+ [E1] When the note mentions 'pipe'" in trgrpo("edit", "library.json").stdout
    found = ExperienceLibrary.from_json(before := library.read_text())
    assert found == LIBRARY.with_text("E1", "When the note mentions 'pipe', choose 'red'.")
    assert "nothing was changed" in trgrpo("edit", "library.json").stderr
    editor("printf '%s\\n' '- mine' '- [E1] again' >> \"$1\"")
    assert "stands twice" in trgrpo("edit", "library.json", code=2).stderr
    assert library.read_text() == before
    editor("sed -i '/again/d' \"$1\"")
    done = trgrpo("edit", "library.json")
    assert "going on from" in done.stderr and "+ [E3] mine" in done.stdout
    assert not list(Path().glob("*.edit.md"))


def test_edit_without_an_editor(trgrpo: Command, library: Path, editor: Callable[[str], None]) -> None:
    editor("exit 1")
    trgrpo("edit", "library.json", "--remove", "E1", "--add", "When new, do.")
    trgrpo("edit", "library.json", "--ban", "E2", "--pin", "E3")
    found = ExperienceLibrary.from_json(library.read_text())
    assert found == LIBRARY.without("E1").add("When new, do.").ban("E2").pin("E3")
    assert "there is no entry 'E9'; ids: E3" in trgrpo("edit", "library.json", "--remove", "E9", code=2).stderr
    assert "ended with" not in trgrpo("edit", "library.json", "--add", "", code=2).stderr


def test_a_list_is_edited_as_it_stands(trgrpo: Command, tmp_path: Path, editor: Callable[[str], None]) -> None:
    (tmp_path / "notes.md").write_text("# Ours\n\nRead this.\n\n- When wet, red.\n\nThe end.\n")
    editor("sed -i 's/wet/dry/' \"$1\"")
    trgrpo("edit", "notes.md")
    assert (tmp_path / "notes.md").read_text() == "# Ours\n\nRead this.\n\n- When dry, red.\n\nThe end.\n"
    trgrpo("edit", "notes.md", "--add", "When cold, blue.")
    assert (tmp_path / "notes.md").read_text().startswith("# Ours\n\nRead this.\n\n- When dry, red.\n")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("printf '%s\\n' 'garbage\n- [E2] When dark' > \"$1\"", "line 1 belongs to no entry"),
        ("echo '- [E2 When' > \"$1\"", "is not closed"),
        ("exit 3", "ended with 3"),
        ("", "can't be started"),
        ("echo '- mine' >> \"$1\"; echo >> library.json", "by something else meanwhile"),
    ],
)
def test_what_an_editor_spoils_changes_nothing(
    trgrpo: Command, library: Path, editor: Callable[[str], None], script: str, said: str
) -> None:
    if script:
        editor(script)
    assert said in trgrpo("edit", "library.json", code=2).stderr
    assert library.read_text().rstrip() == LIBRARY.to_json()
    assert Path("library.json.edit.md").exists() == bool(script)


def test_no_file_of_another_kind_is_written_over(trgrpo: Command, library: Path, tmp_path: Path) -> None:
    for name in ("README.md", "package.json"):
        (tmp_path / name).write_text('{"mine": 1}\n')
        for verb in ("export", "import"):
            assert "is no library" in trgrpo(verb, "library.json", "-o", name, code=2).stderr
    for verb in ("compile", "evaluate"):
        done = trgrpo(verb, "my_task.py", "--offline", "--save", "package.json", code=2)
        assert "holds something else" in done.stderr
    assert (tmp_path / "package.json").read_text() == '{"mine": 1}\n'


def test_apply_writes_what_attach_writes(trgrpo: Command, library: Path, tmp_path: Path) -> None:
    """A saved program is changed as text; DSPy loads the same from it as `attach` makes."""
    plain = dspy.ChainOfThought(tickets.TriageTicket)
    plain.save(tmp_path / "program.json")
    trgrpo("apply", "library.json", "program.json", "-o", "new.json")
    assert read_source("program.json").library == ExperienceLibrary()
    assert read_source("new.json").library == LIBRARY
    program = dspy.ChainOfThought(tickets.TriageTicket)
    program.load("new.json")
    assert program.predict.signature.instructions == attach(plain, LIBRARY).predict.signature.instructions
    (tmp_path / "empty.md").write_text("Next id: E1\n")
    trgrpo("apply", "empty.md", "new.json")
    program.load("new.json")
    assert program.predict.signature.instructions == plain.predict.signature.instructions
    assert "no saved program" in trgrpo("apply", "library.json", "library.json", code=2).stderr


@pytest.mark.parametrize(
    ("learned", "said"),
    [
        ("question -> answer", ""),
        ("note -> crew", "learned with another program: the fields of 'self' are Note: Crew: there and Question:"),
        ("two", "learned with another program: it has no predictor 'self', only 'first'"),
    ],
)
def test_apply_warns_of_experiences_of_another_program(trgrpo: Command, learned: str, said: str) -> None:
    program = dspy.Module()
    program.first = dspy.Predict("a -> b")
    program = program if learned == "two" else dspy.Predict(learned)
    attach(program, ExperienceLibrary.of("one")).save("learned.json")
    dspy.Predict("question -> answer").save("program.json")
    done = trgrpo("apply", "learned.json", "program.json")
    assert ("warning" in done.stderr) == bool(said) and said in done.stderr
    assert "+ [E1] one" in done.stdout


@pytest.mark.parametrize("name", FORMATS)
def test_export_and_import_in_every_format(trgrpo: Command, library: Path, name: str) -> None:
    trgrpo("export", "library.json", "--format", name, "-o", "out.txt")
    trgrpo("import", "out.txt", "--format", name, "-o", "back.json")
    assert [e.text for e in read_source("back.json").library] == [e.text for e in LIBRARY]


def test_export_to_the_screen_and_into_a_file(trgrpo: Command, library: Path, tmp_path: Path) -> None:
    assert trgrpo("export", "library.json").stdout.rstrip("\n") == LIBRARY.to_markdown().rstrip("\n")
    (tmp_path / "skill.md").write_text("# Mine\n\nKeep this heading.\n")
    trgrpo("export", "library.json", "--format", "skillopt", "-o", "skill.md")
    assert (tmp_path / "skill.md").read_text().startswith("# Mine")
    assert "the formats are json, markdown" in trgrpo("export", "library.json", "--format", "xml", code=2).stderr
    (tmp_path / "d.json").write_text('{"entries": 5}')
    assert "no experience was found in d.json" in trgrpo("import", "d.json", "--format", "ace", code=2).stderr
