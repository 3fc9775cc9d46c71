"""init, doctor, options, estimate; and how the command starts and ends as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from support import ROOT
from support.commands import Command
from support.waiting import LONG, until

from trgrpo_dspy.cli.settings import built, texts_of
from trgrpo_dspy.evaluation.options import EvaluationOptions
from trgrpo_dspy.learning.options import LearningOptions
from trgrpo_dspy.library import ExperienceLibrary


def process(*words: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "trgrpo_dspy", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_init_writes_over_nothing_and_doctor_finds_what_would_go_wrong(trgrpo: Command) -> None:
    assert "is there already" in trgrpo("init", "my_task.py", code=2).stderr
    assert "must end in .py" in trgrpo("init", "task", code=2).stderr
    trgrpo("init", "my_task.py", "--force")
    found = json.loads(trgrpo("doctor", "my_task.py", "--offline", "--json").stdout)
    assert {check["what"]: check["verdict"] for check in found if check["what"] != "data"}["attempt"] == "ok"
    assert "too few" in str(found) and "offline model, no LLM" in str(found)
    Path("other.py").write_text(
        "import dspy\nprogram = dspy.Predict('a -> b')\nmetric = None\ntrainset = [dspy.Example(a=1)]\n"
    )
    done = trgrpo("doctor", "other.py", "--model", "openai/gpt-4o-mini", code=1)
    assert "OPENAI_API_KEY" in done.stdout and "without inputs" in " ".join(done.stdout.split())


@pytest.mark.parametrize("kind", [LearningOptions, EvaluationOptions])
def test_every_option_is_listed_with_its_meaning(kind: type[LearningOptions]) -> None:
    texts = {text.name: text.meaning for text in texts_of(kind)}
    assert all(texts.values())
    whole = {name.partition(".")[0] for name in texts} | {"log_dir", "metric", "reflection_lm"}
    assert whole >= {field.name for field in fields(kind)}


def test_options_are_read_by_their_types(trgrpo: Command) -> None:
    Path("other.py").write_text("def expose(library, example, rng): return library\nclass Pool:\n    submit = 1\n")
    given = {
        "group_size": "8", "batch_size": "none", "rollout_temperature": "0.5", "evidence": "no", "auto": "light",
        "predictors": "a, b", "expose": "other.py:expose", "learn_from": "contrast", "allow": "H1.2",
        "budget.max_cost": "2.5", "reflector.form": "paper", "executor": "other.py:Pool", "objective": "a: b",
    }  # fmt: skip
    found = built(LearningOptions, {**given, "objective": "route"})
    assert (found["group_size"], found["batch_size"], found["rollout_temperature"]) == (8, None, 0.5)
    assert (found["evidence"], found["predictors"], found["allow"]) == (False, ["a", "b"], ["H1.2"])
    assert found["expose"].__name__ == "expose" and type(found["executor"]).__name__ == "Pool"
    assert (found["budget"].max_cost, found["reflector"].form) == (2.5, "paper")
    assert built(LearningOptions, {"objective": "a: b"}) == {"objective": "a: b"}
    assert "group_size=None" in trgrpo("options").stdout
    assert "k=1" in trgrpo("options", "evaluate").stdout


def test_estimate_reads_data_in_every_form(trgrpo: Command) -> None:
    rows = [{"text": f"note {i}", "crew": "red"} for i in range(4)]
    Path("d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    Path("d.json").write_text(json.dumps(rows))
    Path("d.csv").write_text("text,crew\n" + "\n".join(f"{r['text']},red" for r in rows))
    for source, size in (("d.jsonl", 4), ("d.json[1:]", 3), ("d.csv[:2]", 2)):
        done = trgrpo("estimate", "my_task.py", "--trainset", source, "--columns", "note=text", "--json")
        assert json.loads(done.stdout)["stages"][0]["calls"] == size * 15
    assert "--columns" in trgrpo("estimate", "my_task.py", "--trainset", "d.csv", code=2).stderr
    Path("bad.jsonl").write_text("{]")
    assert "bad.jsonl can't be read" in trgrpo("estimate", "my_task.py", "--trainset", "bad.jsonl", code=2).stderr
    Path("empty.jsonl").touch()
    assert "holds no rows" in trgrpo("estimate", "my_task.py", "--trainset", "empty.jsonl", code=2).stderr


def test_help_imports_no_dspy() -> None:
    code = (
        "import sys\nfrom trgrpo_dspy.cli.app import app\n"
        "try: app(['compile', '--help'])\nexcept SystemExit as end: assert not end.code\n"
        "assert not {'dspy', 'litellm', 'datasets'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=LONG)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Example: trgrpo compile" in done.stdout and "\x1b" not in done.stdout


HOLDING = """import itertools
import os

import pytest
from support.waiting import stops

CALLS, STOPPED = itertools.count(), stops(pytest.MonkeyPatch())


def metric("""


def test_a_killed_compile_is_resumed_and_ctrl_c_ends_cleanly(trgrpo: Command) -> None:
    """Each process scores 20 attempts, says so and goes on once it is stopped."""
    text = Path("my_task.py").read_text().replace("def metric(", HOLDING)
    held = "    if 'HELD' in os.environ and next(CALLS) >= 20:\n        open(os.environ['HELD'], 'w').close()\n"
    Path("my_task.py").write_text(text.replace("    right =", held + "        STOPPED.wait(600)\n    right ="))
    words = ("my_task.py", "--offline", "--auto", "light", "--set", "num_threads=1")
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    for end, code in ((signal.SIGKILL, -9), (signal.SIGINT, 130)):
        held = f"held-{code}"
        run = process(*(("resume",) if end == signal.SIGINT else ("compile", *words)), PYTHONPATH=paths, HELD=held)
        assert until(lambda held=held, run=run: Path(held).exists() or run.poll() is not None)
        run.send_signal(end)
        _, said = run.communicate(timeout=LONG)
        assert run.returncode == code, said
    assert "go on with: trgrpo resume runs/my_task-1" in said and "Traceback" not in said
    rest = process("resume", "--set", "num_threads=8", PYTHONPATH=paths)
    assert "LM calls were made before" in rest.communicate(timeout=LONG)[1] and rest.returncode == 0


def test_a_pipe_that_closes_and_a_terminal_without_utf8(trgrpo: Command, tmp_path: Path) -> None:
    (tmp_path / "l.json").write_text(ExperienceLibrary.of("Übung 中文").to_json())
    narrow = process("show", "l.json", PYTHONIOENCODING="ascii", NO_COLOR="1")
    out, said = narrow.communicate(timeout=LONG)
    assert narrow.returncode == 0 and "bung" in out and said == ""
    closed = process("export", "l.json")
    assert closed.stdout is not None
    closed.stdout.close()
    closed.wait(timeout=LONG)
    assert closed.stderr is not None and closed.stderr.read() == ""
    closed.stderr.close()
