"""Every `trgrpo` line of README and docs runs, with the offline model in place of a paid one."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
from support import ROOT
from support.commands import command

from trgrpo_dspy import ExperienceLibrary
from trgrpo_dspy.library.exchange import FORMATS

OWN = "command_line.md"
"""The page that `tests/cli/test_page.py` runs from an empty directory."""
PAGES = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.name != OWN)]
BLOCK = re.compile(r"```(?:bash|console|sh)\n(.*?)```", re.DOTALL)
PAID = re.compile(r"--(model|reflection-model|max-cost|lm)[ =]\S+")


def lines_of(page: Path) -> list[str]:
    """The commands of a page, whole."""
    text = "\n".join(BLOCK.findall(page.read_text())).replace("\\\n", " ")
    lines = [line.strip().removeprefix("$ ") for line in text.splitlines()]
    return [line for line in lines if line.startswith("trgrpo ")]


def words_of(line: str) -> list[str]:
    """What is run for a line: no paid model, no pipe behind it."""
    plain, paid = PAID.subn("", line)
    words = shlex.split(plain, comments=True)[1:]
    words = words[: min((words.index(mark) for mark in ("|", ">") if mark in words), default=len(words))]
    return [*words, "--offline"] if paid and "--offline" not in words and words[0] != "resume" else words


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a target, a run, a compiled program and files of other projects."""
    folder, before = tmp_path_factory.mktemp("commands"), Path.cwd()
    os.chdir(folder)
    try:
        command("init", "my_task.py")
        command("compile", "my_task.py", "--offline", "--auto", "light", "--save", "compiled.json")
    finally:
        os.chdir(before)
    library = ExperienceLibrary.of("When the note is about water, choose crew 'red'.")
    (folder / "playbook.txt").write_text(FORMATS["ace"].write(library, ""))
    (folder / "library.md").write_text(library.to_markdown())
    return folder


@pytest.mark.parametrize(
    "page", [page for page in PAGES if lines_of(page)], ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_every_command_of_a_page_runs(
    page: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDITOR", "true")  # an editor that changes nothing
    monkeypatch.setenv("COLUMNS", "80")
    for line in lines_of(page):
        words = words_of(line)
        if words[0] == "init":
            Path(words[1]).unlink(missing_ok=True)
        command(*words)
