"""The verbs before a run: init, doctor, options, estimate."""

from __future__ import annotations

import dataclasses
import sys
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.padding import Padding
from rich.text import Text

from .arguments import Target, takes
from .console import column_table, logged, note, show, show_json
from .errors import ExitCode, InputError
from .job import asked, pairs
from .sources import write_text

__all__ = ["doctor", "estimate", "init", "options"]


def init(
    file: Annotated[str, typer.Argument(help="The file to write, such as my_task.py.")] = "my_task.py",
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Write a target that runs as it stands.

    Put your own program, metric and examples in place of its own.

    Example: trgrpo init my_task.py
    """
    path = Path(file).expanduser()
    if path.suffix != ".py":
        raise InputError(f"{file}: the name must end in .py")
    if path.stem in {*sys.stdlib_module_names, "dspy", "trgrpo_dspy"}:
        raise InputError(f"{file} would hide the module {path.stem}; choose another name")
    if path.exists() and not force:
        raise InputError(f"{file} is there already; choose another name, or --force")
    template = files("trgrpo_dspy.cli").joinpath("my_task.txt").read_text(encoding="utf-8")
    write_text(path, template.replace("NAME", file))
    note(f"written: {file}. Next: trgrpo compile {file} --offline")


@takes("model reflection_model offline lm json")
def doctor(target: Annotated[str, typer.Argument(help="A target to check too.")] = "", **given: Any) -> ExitCode:
    """Say what would go wrong.

    Versions, extras, keys, one call of each model, the target and its data. A call of a model
    is paid for: a few tokens.

    Example: trgrpo doctor my_task.py --model openai/gpt-4o-mini
    """
    from .checks import checks

    models, lm = (given["model"], given["reflection_model"]), pairs(given["lm"], "--lm")
    with logged():
        found = list(checks(target, models, lm, offline=given["offline"]))
    if given["json"]:
        show_json([check._asdict() for check in found])
    else:
        show(column_table(["", "what", "found"], [[c.verdict, c.what, c.text] for c in found], wide=(2,)))
    return ExitCode.FAILED if any(check.verdict == "FAIL" for check in found) else ExitCode.OK


@takes("model reflection_model auto offline set_ lm trainset valset inputs columns json")
def estimate(
    target: Target,
    sample: Annotated[int, typer.Option(min=0, help="Trial attempts to make (paid for), for tokens and cost.")] = 0,
    **given: Any,
) -> None:
    """Say what compile would take, before it spends anything.

    LM calls by stage; with --sample tokens and cost too.

    Example: trgrpo estimate my_task.py --model openai/gpt-4o-mini --auto light --sample 3
    """
    from .runs import run_estimate
    from .view import label_offline

    given["offline"] = given["offline"] or (not given["model"] and not sample)  # counting calls takes no LM
    with logged():
        found = run_estimate(asked("estimate", target, given), sample)
    if given["json"]:
        show_json({"calls": found.calls, "at_most": found.at_most, "cost": found.cost, **dataclasses.asdict(found)})
    else:
        show(str(found))
        if not sample:
            note("One LM call of each predictor to an attempt is assumed; --sample 3 tries it, for tokens and cost.")
    label_offline(given["offline"] and sample > 0, note if given["json"] else show)


@takes("json")
def options(
    verb: Annotated[str, typer.Argument(metavar="compile|evaluate", help="Whose options.")] = "compile", **given: Any
) -> None:
    """List every option that --set takes.

    Example: trgrpo compile my_task.py --offline --set group_size=8 --set budget.max_tokens=1000000
    """
    from trgrpo_dspy.evaluation.options import EvaluationOptions
    from trgrpo_dspy.learning.options import LearningOptions

    from .settings import texts_of

    kinds = {"compile": LearningOptions, "evaluate": EvaluationOptions, "compare": EvaluationOptions}
    if verb not in kinds:
        raise InputError(f"{verb} has no options of this kind; write compile or evaluate")
    texts = texts_of(kinds[verb])
    if given["json"]:
        show_json([{"name": text.name, "default": text.default, "meaning": text.meaning} for text in texts])
        return
    for text in texts:
        show(f"{text.name}={text.default}", Padding(Text(text.meaning), (0, 0, 1, 4)))
