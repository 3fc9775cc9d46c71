"""The verbs that run programs: compile, evaluate, compare, resume."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from .arguments import Run, Target, takes
from .console import logged, note, show, show_json
from .directories import run_directory, shortest
from .errors import ExitCode, InputError
from .job import Job, asked, option_texts, read_job
from .sources import write_text

__all__ = ["compare", "compile_", "evaluate", "resume"]

_SAVE = "Where to save the compiled program (.json; plain DSPy loads it)."
_SHOWN = 10
"""Entries that are shown at the end of a run."""
_RUNS = "model max_cost price offline log_dir set_ lm valset inputs columns json "


@takes(_RUNS + "reflection_model auto trainset")
def compile_(
    target: Target, save: Annotated[str, typer.Option(metavar="FILE", help=_SAVE)] = "", **given: Any
) -> ExitCode:
    """Learn experiences for a program.

    The run is kept in runs/NAME-1 (or --log-dir): look at it with show, why and report; go on with resume.

    Example: trgrpo compile my_task.py --model openai/gpt-4o-mini --auto light --max-cost 5 --save compiled.json
    """
    job = asked("compile", target, given, save=_checked_save(save, '"instructions"'))
    return _done(job, given["log_dir"], json=given["json"])


@takes(_RUNS + "on k testset")
def evaluate(
    target: Target,
    program: Annotated[str, typer.Argument(help="A saved program, library or run; else the target's.")] = "",
    save: Annotated[str, typer.Option(metavar="FILE", help="Where to save all attempts (.json).")] = "",
    **given: Any,
) -> ExitCode:
    """Measure a program: its mean score with a 95% interval.

    Example: trgrpo evaluate my_task.py compiled.json --model openai/gpt-4o-mini -k 5
    """
    programs = (program,) if program else ()
    job = asked("evaluate", target, given, programs, _checked_save(save, '"rollouts"'))
    return _done(job, given["log_dir"], json=given["json"])


@takes(_RUNS + "on k testset")
def compare(
    target: Target,
    programs: Annotated[
        list[str], typer.Argument(metavar="[A] B", help="Saved programs, libraries or runs; A is 'input' by default.")
    ],
    **given: Any,
) -> ExitCode:
    """Say whether program B beats program A, with a 95% interval.

    Example: trgrpo compare my_task.py compiled.json --model openai/gpt-4o-mini
    """
    if len(programs) > 2:
        raise InputError(f"compare takes one or two programs, got {len(programs)}")
    return _done(asked("compare", target, given, tuple(programs)), given["log_dir"], json=given["json"])


@takes("max_cost price set_ json")
def resume(run: Run = None, **given: Any) -> ExitCode:
    """Go on with a run that ended early.

    It was interrupted, killed or ended by a budget: nothing paid for is paid again. Caps,
    threads and timeouts may change, num_epochs may grow.

    Example: trgrpo resume runs/my_task-1 --max-cost 10
    """
    from .runs import inside

    directory = run_directory(run, failed=True).absolute()
    job = read_job(directory)
    changed = option_texts(given["set_"], {"budget.max_cost": given["max_cost"]})
    job = replace(job, options={**job.options, **changed}, price=given["price"] or job.price)
    with inside(job.folder):
        return _done(job, str(directory), json=given["json"])


def _done(job: Job, log_dir: str, *, json: bool) -> ExitCode:
    """Do a job and show what came of it."""
    run = Path(log_dir).expanduser() if log_dir else None
    return (_compile if job.verb == "compile" else _measure)(job.with_paths(), run, json=json)


def _compile(job: Job, run: Path | None, *, json: bool) -> ExitCode:
    from trgrpo_dspy.report import read_run

    from .runs import ended_with, run_compile
    from .view import label_offline, run_data, run_view

    with logged() as left_out:
        run = run_compile(job, run, left_out)
    history, run = read_run(run), shortest(run)
    if json:
        show_json({**run_data(history), "run": str(run), "saved": job.save or None})
        label_offline(job.offline, note)
    else:
        show(*run_view(history, most=_SHOWN))
    if job.save:
        note(f"saved: {job.save}")
    code = ended_with(history.ended.stop_reason if history.ended is not None else "unfinished", run)
    if not code:
        program = (job.save and shortest(Path(job.save))) or run / "program.json"
        why = f"trgrpo why {history.library.entries[0].id}, trgrpo edit {program}, " if history.library.entries else ""
        note(f"next: {why}open {run}/report.html; plain DSPy loads {program}")
    return code


def _measure(job: Job, run: Path | None, *, json: bool) -> ExitCode:
    from .runs import ended_with, run_measure
    from .view import label_offline

    with logged():
        found = run_measure(job, run)
    if job.save:
        write_text(Path(job.save), found.to_json())
        note(f"saved: {job.save}")
    if json:
        show_json(_measured(found))
    else:
        show(str(found))
    label_offline(job.offline, note if json else show)
    return ended_with(found.stop_reason, shortest(run) if run is not None else None)


def _measured(found: Any) -> dict[str, Any]:
    """An evaluation or a comparison for a script."""
    from trgrpo_dspy.evaluation.measurement import Evaluation

    if not isinstance(found, Evaluation):
        return dataclasses.asdict(found)
    return {
        "score": found.score,
        "interval": found.mean.interval,
        "k": found.k,
        "stop_reason": found.stop_reason,
        "outcomes": found.outcomes,
        "per_attempt": dataclasses.asdict(found.per_attempt),
        "examples": found.rows(),
    }


def _checked_save(path: str, holds: str) -> str:
    """Refuse a file that could not be written at the end, before anything is paid for."""
    file = Path(path).expanduser()
    if path and not path.endswith(".json"):
        raise InputError(f"--save {path}: the name must end in .json")
    if path and not file.absolute().parent.is_dir():
        raise InputError(f"--save {path}: its directory is not there; make it first")
    if path and file.exists() and holds not in file.read_text(encoding="utf-8", errors="replace"):
        raise InputError(f"--save {path}: this file is there and holds something else; choose another name")
    return path
