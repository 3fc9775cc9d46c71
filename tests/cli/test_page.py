"""Every command of docs/command_line.md runs, in order, with the offline model in place of a named one."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from support import ROOT
from support.commands import command

from trgrpo_dspy.cli.errors import EXIT_CODES

PAGE = (ROOT / "docs" / "command_line.md").read_text()


def test_every_command_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDITOR", "true")
    Path("notes.csv").write_text("text,team\n" + "".join(f"pipe {i},red\nlamp {i},green\n" for i in range(4)))
    lines = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
    assert len(lines) > 20
    for line in lines:
        name, *words = shlex.split(re.sub(r"--model \S+", "--offline", line))
        assert name == "trgrpo"
        command(*words)


def test_the_page_names_every_verb_and_exit_code() -> None:
    verbs = re.findall(r"^  (\w+) {2,}\S", command("--help").stdout.partition("Commands:")[2], re.MULTILINE)
    assert len(verbs) > 15
    assert [verb for verb in verbs if f"trgrpo {verb}" not in PAGE] == []
    assert [code.value for code in EXIT_CODES] == [int(n) for n in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)]
