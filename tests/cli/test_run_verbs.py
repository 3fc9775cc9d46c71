"""compile, evaluate, compare, resume: each once with its main errors, offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dspy
import pytest
from support.commands import Command

from trgrpo_dspy import read_library
from trgrpo_dspy.cli.subject import language_model


def test_compile_keeps_a_run_and_saves_what_plain_dspy_loads(compiled: Command) -> None:
    program = dspy.Predict("note -> crew")
    program.load("compiled.json")
    assert len(read_library(program)) > 0
    path = Path("runs/my_task-1/command.json")
    record = json.loads(before := path.read_text())
    assert (record["verb"], record["offline"], record["options"]) == ("compile", True, {"auto": "light"})
    assert path.stat().st_mode & 0o077 == 0
    done = compiled("compile", "my_task.py", "--offline", "--set", "seed=3", "--log-dir", "runs/my_task-1", code=2)
    assert "seed" in done.stderr and path.read_text() == before
    path.unlink()
    assert "Run the same lines of Python again" in compiled("resume", code=2).stderr
    path.write_text('{"schema_version": 99}')
    assert "upgrade trgrpo-dspy" in compiled("resume", code=2).stderr


def test_compile_tells_a_script_and_what_programs_print_is_no_result(trgrpo: Command) -> None:
    Path("my task.py").write_text("print('from the target')\n" + Path("my_task.py").read_text())
    words = ("--offline", "--set", "group_size=2", "--set", "num_epochs=1", "--max-cost", "1", "--json")
    done = trgrpo("compile", "my task.py", *words)
    found = json.loads(done.stdout)
    assert (found["stop_reason"], found["run"], found["offline"]) == ("completed", "runs/my_task-1", True)
    assert "from the target" in done.stderr and done.stderr.count("not a large language model") == 1
    assert " ".join(trgrpo("show").output.split()).count("not a large language model") == 1


def test_a_budget_ends_with_its_code_and_resume_goes_on(trgrpo: Command, tmp_path: Path) -> None:
    done = trgrpo("compile", "my_task.py", "--offline", "--set", "budget.max_lm_calls=30", "--save", "c.json", code=3)
    assert "go on with: trgrpo resume runs/my_task-1 --set budget.max_lm_calls=..." in done.stderr
    assert " ".join(done.output.split()).count("not a large language model") == 1
    done = trgrpo("resume", "runs/my_task-1", "--set", "budget.max_lm_calls=1000", "--json")
    assert json.loads(done.stdout)["stop_reason"] == "completed"
    assert "30 LM calls were made before" in done.stderr and (tmp_path / "c.json").exists()


def test_evaluate_and_compare(compiled: Command) -> None:
    plain = json.loads(compiled("evaluate", "my_task.py", "--offline", "--json", "--log-dir", "runs/e").stdout)
    words = ("my_task.py", "compiled.json", "--offline", "--json", "-k", "2", "--save", "e.json")
    better = json.loads(compiled("evaluate", *words).stdout)
    assert better["score"] > plain["score"] and len(better["examples"][0]["scores"]) == 2
    done = compiled("resume", "runs/e")
    assert "nothing paid" not in done.stderr and "not a large" in done.stdout
    found = json.loads(compiled("compare", "my_task.py", "runs/my_task-1", "--offline", "--json").stdout)
    assert found["difference"] == pytest.approx(better["score"] - plain["score"])
    assert "won" in compiled("compare", "my_task.py", "input", "compiled.json", "--offline", "--on", "val").stdout
    dspy.Predict("question -> answer").save("other.json")
    done = compiled("evaluate", "my_task.py", "other.json", "--offline", code=2)
    assert "other.json is a state of another program: the fields of 'self' are" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("compile nowhere.py --offline", "`trgrpo init nowhere.py` writes a target"),
        ("compile no.such.module --offline", "there is no module 'no.such.module'"),
        ("compile my_task.py", "no model: pass --model openai/gpt-4o-mini"),
        ("compile my_task.py --offline --model x", "--offline is the built-in model"),
        ("compile my_task.py --offline --set grop_size=8", "did you mean group_size?"),
        ("compile my_task.py --offline --set max_lm_calls=8", "did you mean budget.max_lm_calls?"),
        ("compile my_task.py --offline --set group_size=eight", "a whole number is wanted"),
        ("compile my_task.py --offline --set group_size=0", "group_size=0 must be at least 1"),
        ("compile my_task.py --offline --set group_size", "write --set name=value"),
        ("compile my_task.py --offline --auto light --set auto=light", "auto is given twice"),
        ("compile my_task.py --offline --auto lite", "light, medium, heavy"),
        ("compile my_task.py --offline --set log_dir=x", "use --log-dir"),
        ("compile my_task.py --offline --save c.pkl", "must end in .json"),
        ("compile my_task.py --offline --save no/c.json", "its directory is not there"),
        ("compile my_task.py --offline --trainset no.jsonl", "no.jsonl is not there"),
        ("compile my_task.py --model openai/x --lm api_key=sk-12345678901234", "environment variable"),
        ("compile my_task.py --modle x", "--model"),
        ("compile my_task.py --price x --model openai/x --max-cost 1", "--price 0.15,0.60"),
        ("compile", "See: trgrpo compile --help"),
        ("init json.py", "would hide the module json"),
        ("why E1 .", "has no events.jsonl"),
        ("complie", "Did you mean 'compile'"),
        ("compare my_task.py no.json --offline", "no.json is not there"),
        ("evaluate my_task.py --offline --on dev", "train, val or test is wanted"),
        ("resume runs/none", "runs/none is not there"),
        ("show", "there is no run in runs/"),
    ],
)
def test_errors_are_one_line_with_the_way_out(trgrpo: Command, words: str, said: str) -> None:
    done = trgrpo(*words.split(), code=2)
    *_, last = done.stderr.strip().splitlines()
    assert last.startswith("trgrpo: ") and said in last
    assert done.stdout == "" and "sk-123" not in done.output
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("program = dspy", "qa = dspy", "it has the programs qa: write `program = qa`"),
        ("def metric(", "def judge(", "my_task.py has no metric"),
        ("import dspy\n", "import dspy\nimport no_such_package\n", "line 11: ModuleNotFoundError"),
        ("import dspy\n", "import dspy\n)\n", "line 11: SyntaxError"),
        ("import dspy\n", "import dspy\nraise SystemExit(3)\n", "SystemExit"),
        ("trainset = examples(0, 5)", "def trainset():\n    return 1 / 0\n", "trainset() failed"),
        ("trainset = examples(0, 5)", "trainset = 3", "trainset must be a list"),
        ("trainset = examples(0, 5)", "trains = 3", "--trainset data.jsonl"),
    ],
)
def test_a_target_that_can_not_be_used_is_said_with_its_line(trgrpo: Command, old: str, new: str, said: str) -> None:
    path = Path("my_task.py")
    path.write_text(path.read_text().replace(old, new))
    assert said in trgrpo("compile", "my_task.py", "--offline", code=2).stderr


def test_a_target_of_functions_in_a_package_and_as_a_module(trgrpo: Command) -> None:
    Path("pack").mkdir()
    Path("pack/__init__.py").touch()
    Path("my_task.py").rename("pack/data.py")
    Path("pack/task.py").write_text(
        "import dspy\nfrom pack.data import Route, metric, examples\nprogram = lambda: dspy.Predict(Route)\n"
        "def trainset(): return (e for e in examples(0, 5))\ndef testset(): return examples(5, 7)\n"
    )
    for target in ("pack/task.py", "pack.task"):
        assert json.loads(trgrpo("evaluate", target, "--offline", "--json").stdout)["k"] == 1


def test_models_are_made_of_texts_without_secrets() -> None:
    lm: Any = language_model("openai/x", {"temperature": "0.2", "max_tokens": "123456789", "api_base": "http://h/v1"})
    assert (lm.kwargs["temperature"], lm.kwargs["max_tokens"]) == (0.2, 123456789)
