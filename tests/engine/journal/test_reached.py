"""Whatever a metric, a program or a tool reaches is seen when it changes, and nothing else is."""

from __future__ import annotations

import importlib
import json
import linecache
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy
import pytest
from support import ROOT
from support.waiting import LONG

from trgrpo_dspy.engine.journal.differences import differences
from trgrpo_dspy.engine.journal.fingerprint import fingerprint


@dataclass
class Case:
    """Source files and a change of them, from `reached.txt`."""

    files: dict[str, str]
    old: str = ""
    new: str = ""
    message: str = ""


TASK = """
import dspy
class Task(dspy.Signature):
    'Do it.'
    a: str = dspy.InputField()
    b: str = dspy.OutputField()
class Program(dspy.Module):
    def __init__(self):
        super().__init__()
        self.run = dspy.Predict(Task)
    def forward(self, a):
        return self.run(a=a)
"""
"""What `from task import *` brings into a case."""


def read_cases() -> dict[str, Case]:
    found = {}
    for block in (Path(__file__).parent / "reached.txt").read_text().split("\n== ")[1:]:
        head, *files = block.split("\n>> ")
        name, *lines = head.splitlines()
        marked = {line[:2]: line[3:].replace("\\n", "\n") for line in lines if line}
        texts = {file.split("\n", 1)[0]: file.partition("\n")[2] for file in files}
        found[name] = Case(texts, *(marked.get(mark, "") for mark in ("--", "++", "??")))
    return found


CASES = read_cases()


@pytest.fixture(autouse=True)
def own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    forget()


def forget() -> None:
    for name in ("mine", "beside", "deep", "pack", "pack.inner", "task"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    linecache.clearcache()


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in {"task.py": TASK, **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def described(folder: Path, files: dict[str, str], old: str = "", new: str = "") -> dict[str, Any]:
    """The fingerprint of what `mine.py` defines, after a replacement in all files."""
    forget()
    write(folder / "code", {name: text.replace(old, new) if old else text for name, text in files.items()})
    mine = importlib.import_module("mine")
    return of(getattr(mine, "metric", None), getattr(mine, "program", None))


def of(metric: Any = None, student: dspy.Module | None = None) -> dict[str, Any]:
    programs = {} if student is None else {"program": student}
    found = fingerprint(kind="a test", settings={}, programs=programs, data={}, metric=metric, lms={})
    return dict(json.loads(json.dumps(found)))


@pytest.mark.parametrize("what", CASES)
def test_a_change_that_matters_is_named_and_no_other(tmp_path: Path, what: str) -> None:
    case = CASES[what]
    assert any(case.old in text for text in case.files.values())
    before = described(tmp_path, case.files)
    assert "sk-secret" not in json.dumps(before)
    found = "; ".join(differences(before, described(tmp_path, case.files, case.old, case.new)))
    assert re.search(case.message, found) and bool(found) is bool(case.message), found
    assert "#" not in found


def test_another_version_of_a_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trgrpo_dspy.engine.journal import reached

    files = {"mine.py": "from numpy import mean\ndef metric(e, p, t=None):\n    return mean(p)"}
    before = described(tmp_path, files)
    monkeypatch.setattr(reached, "version", lambda name: "9.9" if name == "numpy" else "1")
    assert any("metric packages numpy: was '" in line for line in differences(before, described(tmp_path, files)))


def all_described(folder: Path, early: bool) -> dict[str, Any]:
    """The fingerprint of each case; what `mine.py` imports is imported before, if `early`."""
    found = {}
    for number, case in enumerate(CASES.values()):
        forget()
        path = folder / str(number)
        write(path, case.files)
        sys.path.insert(0, str(path))
        for name in ("deep", "beside", "pack.inner") if early else ():
            if (path / (name.replace(".", "/") + ".py")).exists():
                importlib.import_module(name)
        mine = importlib.import_module("mine")
        found[str(number)] = of(getattr(mine, "metric", None), getattr(mine, "program", None))
        sys.path.remove(str(path))
    return found


def test_other_processes_say_the_same(tmp_path: Path) -> None:
    """No address, no order of a set, no randomised hash, whatever was imported before."""
    code = "from test_reached import *; print(json.dumps(all_described(Path(sys.argv[1]), False)))"
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests/engine/journal")))
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True,
        timeout=3 * LONG, env={**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": paths},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    here = all_described(tmp_path, early=True)
    assert json.loads(done.stdout.splitlines()[-1]) == here
    assert "0x" not in json.dumps(here)


def test_the_work_is_bounded(tmp_path: Path) -> None:
    source = """if True:
        BIG = {i: [i, {i}] for i in range(60_000)}
        class Node:
            pass
        node = Node()
        for _ in range(21_000):
            outer = Node()
            outer.node = node
            node = outer
        deep = []
        for _ in range(5_000):
            deep = [deep]
        def metric(e, p, t=None):
            return BIG, node, deep
    """
    described(tmp_path, {"mine.py": source})
    began = time.process_time()
    found = of(sys.modules["mine"].metric)
    assert time.process_time() - began < 5
    assert "not read" in json.dumps(found)
