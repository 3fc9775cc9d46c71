"""The plain files of a run: for people, whole at any moment, without secrets, and the program loads in plain DSPy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import dspy
import pytest
from support.scripted import Triage, examples, learner, scripted_lm, told
from support.waiting import LONG, until

from trgrpo_dspy import Budget, DetailedResults, ExperienceLibrary, JournalError, TrainingFreeGRPO

TRAIN, VAL = examples(4), examples(3, start=4)


def run(log_dir: Path | None, program: dspy.Module | None = None, lm: Any = None, **settings: Any) -> dspy.Module:
    arguments = {"metric": told, "group_size": 3, "num_epochs": 2, "num_threads": 4, "log_dir": log_dir, **settings}
    with dspy.context(lm=lm or scripted_lm()):
        return TrainingFreeGRPO(**arguments).compile(program or dspy.Predict(Triage), trainset=TRAIN, valset=VAL)


def kept(log_dir: Path) -> DetailedResults:
    return DetailedResults.from_json((log_dir / "results.json").read_text())


def test_the_files_of_a_run_are_whole_at_any_moment(tmp_path: Path) -> None:
    for name in (".results.json.tmp", ".config.json.tmp", ".program.tmp.json"):
        (tmp_path / name).write_text("{ half")  # as a killed process leaves them
    seen, done = list[int](), threading.Event()

    def read() -> None:
        while not done.wait(0.001):
            for path in [*tmp_path.glob("[!.]*.json"), *tmp_path.glob("libraries/[!.]*.json")]:
                seen.append(len(json.loads(path.read_text())))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        results = run(tmp_path).detailed_results
        assert until(lambda: seen)
    finally:
        done.set()
        reader.join()
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == [
        "config.json", "events.jsonl", "journal.sqlite", "libraries/step_001.json", "libraries/step_002.json",
        "program.json", "report.html", "results.json", "run.lock",
    ]  # fmt: skip
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["group_size"], config["metric"], config["log_dir"]) == (3, "told", str(tmp_path))
    for step in results.steps:
        text = (tmp_path / "libraries" / f"step_{step.step:03d}.json").read_text()
        assert ExperienceLibrary.from_json(text) == step.library
    assert kept(tmp_path) == results


class Staged(dspy.Module):
    """Two predictors, one with an LM of its own that carries secrets, and demos."""

    def __init__(self, lm: Any) -> None:
        super().__init__()
        self.draft, self.final = dspy.ChainOfThought(Triage), dspy.Predict(Triage)
        self.final.lm = lm
        self.final.demos = [dspy.Example(ticket="refund case", queue="billing")]

    def forward(self, ticket: str) -> Any:
        self.draft(ticket=ticket)
        return self.final(ticket=ticket)


def test_the_program_loads_in_plain_dspy(tmp_path: Path) -> None:
    """In a process that can't import this package: it needs nothing of ours."""
    compiled = run(tmp_path, Staged(scripted_lm(name="scripted/own", temperature=0.123)))
    text = (tmp_path / "program.json").read_text()
    assert "0.123" not in text and "scripted" not in text
    assert [json.loads(text)[name]["lm"] for name in ("draft.predict", "final")] == [None, None]
    assert len(compiled.experiences) > 0
    code = """if True:
        import sys
        import dspy
        from typing import Literal

        sys.modules["trgrpo_dspy"] = None  # as if it were not installed

        class Triage(dspy.Signature):
            ticket: str = dspy.InputField()
            queue: Literal["access", "billing", "hardware", "legal"] = dspy.OutputField()

        program = dspy.Module()
        program.draft, program.final = dspy.ChainOfThought(Triage), dspy.Predict(Triage)
        program.load(sys.argv[1])
        print(program.final.signature.instructions)
        print(len(program.final.demos), program.final.lm)
    """
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "program.json")], cwd="/", text=True, capture_output=True,
        timeout=2 * LONG, env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{compiled.final.signature.instructions}\n1 None\n"


def test_a_run_that_was_cut_leaves_its_best_program_and_results(tmp_path: Path) -> None:
    compiled = run(tmp_path, budget=Budget(max_lm_calls=20))
    assert compiled.detailed_results.stop_reason == "max_lm_calls"
    program = dspy.Predict(Triage)
    program.load(tmp_path / "program.json")
    assert program.signature.instructions == compiled.signature.instructions
    assert kept(tmp_path) == compiled.detailed_results


def test_a_program_that_json_can_not_hold_is_told_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program = dspy.Predict(Triage)
    program.demos = [dspy.Example(ticket="refund", queue="billing", extra=object())]
    compiled = run(tmp_path, program)
    assert "program.json was not written: this program can't be saved as JSON" in caplog.text
    assert not list(tmp_path.glob("*program*")) and kept(tmp_path) == compiled.detailed_results


def test_lone_surrogates_from_a_model_do_not_lose_the_run(tmp_path: Path) -> None:
    """A proposal that is rejected is kept word for word in the results."""
    edit = {"operation": "MODIFY", "id": "E99", "text": "When \\ud83d is there, look twice."}

    def script(call: Any) -> Any:
        return {"comparison": "", "edits": [edit]} if call.kind == "comparison" else learner(call)

    results = run(tmp_path, lm=scripted_lm(script)).detailed_results
    assert any(r.edit.id == "E99" for step in results.steps for r in step.rejected)
    assert kept(tmp_path) == results


@pytest.mark.parametrize("name", ["config.json", "program.json", "results.json", "libraries"])
def test_a_file_that_can_not_be_written_is_a_clear_error(tmp_path: Path, name: str) -> None:
    blocker = tmp_path / name
    blocker.write_text("") if name == "libraries" else (blocker / "full").mkdir(parents=True)
    with pytest.raises(JournalError, match=rf"{name} in .* can't be written: .*; make room or mend the directory"):
        run(tmp_path)


def test_nothing_is_written_without_a_log_dir_or_by_an_estimate(
    tmp_path: Path, lm: dspy.LM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(None)
    optimizer = TrainingFreeGRPO(metric=told, log_dir=tmp_path / "run", num_threads=2)
    optimizer.estimate(dspy.Predict(Triage), trainset=TRAIN, valset=VAL, sample=2)
    assert not list(tmp_path.iterdir())


def test_a_home_directory_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    run(Path("~/deep/run"))
    assert (tmp_path / "deep/run/results.json").exists()
