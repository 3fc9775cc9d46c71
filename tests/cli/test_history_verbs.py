"""why, watch, report and show of a run, on one that was compiled offline."""

from __future__ import annotations

import json
from pathlib import Path

from support.commands import Command


def test_show_a_run(compiled: Command) -> None:
    shown = compiled("show").stdout
    assert "no large language model" in shown and "step 1" in shown and "E1" in shown
    assert all(len(row) <= 80 for row in shown.splitlines())
    assert json.loads(compiled("show", "runs/my_task-1", "--json").stdout)["kind"] == "compile"


def test_why(compiled: Command) -> None:
    shown = compiled("why", "e1").stdout
    for part in ("added", "from examples", "expected: crew:", "compared (", "Attempts at its examples scored"):
        assert part in shown
    assert json.loads(compiled("why", "1", "runs/my_task-1", "--json").stdout)["entry"]["id"] == "E1"
    assert "no library of this run has an entry 'E99'; ids: E1" in compiled("why", "E99", code=2).stderr
    assert "has no events.jsonl" in compiled("why", "E1", ".", code=2).stderr


def test_watch_a_run_that_goes_on(compiled: Command) -> None:
    """A pipe is shown the state once; a log that was cut in the middle of a line is read up to there."""
    assert "of 78 attempts" in compiled("watch").stdout
    log = Path("runs/my_task-1/events.jsonl")
    log.write_bytes(log.read_bytes()[: log.stat().st_size // 2])
    assert "not over yet" in compiled("watch", "runs/my_task-1").stdout
    log.write_text("")
    assert "holds no run yet" in compiled("watch", "runs/my_task-1", code=2).stderr


def test_report(compiled: Command) -> None:
    compiled("report", "-o", "out.html")
    assert "<html" in Path("out.html").read_text()


def test_what_a_run_holds_is_data(compiled: Command) -> None:
    """Escapes of a terminal, marks that turn text, markup and lone surrogates in feedback, tasks and comparisons."""
    log = Path("runs/my_task-1/events.jsonl")
    hostile = "\\\\u001b]0;x\\\\u0007 \\\\u202e[/red] [bold] \\\\ud800 </script>".replace("\\\\", "\\")
    log.write_text(
        log.read_text().replace("the crew is", f"{hostile} the crew is").replace("note: ", f"{hostile} note: ")
    )
    for words in (("why", "E1", "--all"), ("watch",), ("show",)):
        shown = compiled(*words).stdout
        assert not set(shown) & set("\x1b\x07\u202e")
        assert all(len(row) <= 80 for row in shown.splitlines())
    assert "[/red] [bold]" in " ".join(compiled("why", "E1").stdout.split())
