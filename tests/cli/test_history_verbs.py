"""why, watch, report and show of a run, on one that was compiled offline."""

from __future__ import annotations

import json
from pathlib import Path

import dspy
import pytest
from dspy.lm15 import AuthError, ServerError
from support.commands import Command
from support.scripted import Triage, exact, examples, scripted_lm

from trgrpo_dspy import FatalError, TrainingFreeGRPO, evaluate


def test_a_run_and_its_entries_are_shown(compiled: Command) -> None:
    shown = compiled("show").stdout
    assert "not a large \nlanguage model" in shown and "step 1" in shown and "E1" in shown
    assert json.loads(compiled("show", "runs/my_task-1", "--json").stdout)["kind"] == "compile"
    shown = compiled("why", "e1").stdout
    for part in ("added", "from examples", "expected: crew:", "compared (", "Attempts at its examples scored"):
        assert part in shown
    assert json.loads(compiled("why", "1", "runs/my_task-1", "--json").stdout)["entry"]["id"] == "E1"
    assert "no library of this run has an entry 'E99'; ids: E1" in compiled("why", "E99", code=2).stderr
    compiled("report", "-o", "out.html")
    assert "<html" in Path("out.html").read_text()


def test_watch_a_run_that_goes_on(compiled: Command) -> None:
    """A pipe is shown the state once; a log that was cut in the middle of a line is read up to there."""
    assert "of 78 attempts" in compiled("watch").stdout
    log = Path("runs/my_task-1/events.jsonl")
    log.write_bytes(log.read_bytes()[: log.stat().st_size // 2])
    assert "not over yet" in compiled("watch", "runs/my_task-1").stdout
    log.write_text("")
    assert "holds no run yet" in compiled("watch", "runs/my_task-1", code=2).stderr


@pytest.mark.parametrize("words", ["--offline", "--model openai/gpt-4o-mini"], ids=["unscored", "no key"])
def test_a_run_that_failed_with_nothing_to_show_is_not_the_newest(compiled: Command, words: str) -> None:
    """The verbs that look at the newest run pass it over and say so; resume goes on with it."""
    task = Path("my_task.py")
    task.write_text(task.read_text().replace("    right =", "    raise OSError(3)\n    right ="))
    done = compiled("compile", "my_task.py", *words.split(), code=1)
    assert "trgrpo resume runs/my_task-2" in done.stderr
    done = compiled("show")
    assert done.stdout.startswith("runs/my_task-1:") and "runs/my_task-2 is newer and failed" in done.stderr
    compiled("why", "E1")
    assert compiled("show", "runs/my_task-2").stderr == ""
    assert "resume runs/my_task-2" in compiled("resume", code=1).stderr
    Path("runs/my_task-2/run.pid").touch()  # as while it goes on, or where it was killed
    assert compiled("show").stdout.startswith("runs/my_task-2:")


@pytest.mark.parametrize("work", ["compile", "evaluate"])
@pytest.mark.parametrize(
    ("error", "raised"),
    [(AuthError("no"), FatalError), (ServerError("down"), FatalError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_a_run_from_python_that_failed_is_not_the_newest(
    work: str, error: BaseException, raised: type[BaseException], compiled: Command
) -> None:
    lm, program = scripted_lm(lambda call: error), dspy.Predict(Triage)
    with dspy.context(lm=lm), pytest.raises(raised):
        if work == "compile":
            TrainingFreeGRPO(metric=exact, log_dir="runs/mine").compile(program, trainset=examples(12))
        else:
            evaluate(program, examples(12), exact, log_dir="runs/mine")
    done = compiled("show")
    assert done.stdout.startswith("runs/my_task-1:") and "runs/mine is newer and failed" in done.stderr
    compiled("report", "-o", "out.html")
    with dspy.context(lm=scripted_lm()):
        evaluate(program, examples(4), exact, log_dir="runs/right")
    assert compiled("show").stdout.startswith("runs/right:"), "it has something to show"


def test_what_a_run_holds_is_data(compiled: Command) -> None:
    """Escapes of a terminal, marks that turn text, markup and lone surrogates in feedback, tasks and comparisons."""
    log = Path("runs/my_task-1/events.jsonl")
    hostile = r"\u001b]0;x\u0007 \u202e[/red] [bold] \ud800 </script>"
    log.write_text(
        log.read_text().replace("the crew is", f"{hostile} the crew is").replace("note: ", f"{hostile} note: ")
    )
    for words in (("why", "E1", "--all"), ("watch",), ("show",)):
        shown = compiled(*words).stdout
        assert not set(shown) & set("\x1b\x07\u202e")
        assert all(len(row) <= 80 for row in shown.splitlines())
    assert "[/red] [bold]" in " ".join(compiled("why", "E1").stdout.split())
