"""What the tests of the command share: a scratch directory with a target, and a run in it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import Command, command


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A pipe of 80 columns without colour; what targets put on the path is taken off again."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TRGRPO_PROGRESS", "0")
    for name in ("FORCE_COLOR", "TRGRPO_DEBUG", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    path = list(sys.path)
    yield
    sys.path[:] = path
    for name in {"my_task", "other", "pack", "pack.data", "pack.task"} & set(sys.modules):
        del sys.modules[name]


@pytest.fixture
def trgrpo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command in a scratch directory that holds the template as `my_task.py`."""
    monkeypatch.chdir(tmp_path)
    command("init", "my_task.py")
    return command


@pytest.fixture(scope="session")
def compiled_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which the template was compiled offline: `my_task.py`, `compiled.json`, `runs/my_task-1`."""
    folder, before = tmp_path_factory.mktemp("compiled"), Path.cwd()
    os.chdir(folder)
    try:
        command("init", "my_task.py")
        command("compile", "my_task.py", "--offline", "--auto", "light", "--save", "compiled.json")
    finally:
        os.chdir(before)
        del sys.modules["my_task"]
    return folder


@pytest.fixture
def compiled(compiled_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command in a copy of that directory."""
    shutil.copytree(compiled_files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return command
