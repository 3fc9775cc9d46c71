"""The verbs that run programs: compile, evaluate, compare, resume."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from .arguments import (
    AsJson,
    Auto,
    Columns,
    Inputs,
    LMArguments,
    LogDir,
    MaxCost,
    Model,
    Offline,
    Price,
    ReflectionModel,
    Run,
    Set,
    Target,
    Testset,
    Trainset,
    Valset,
    column_names,
    given,
    names,
    option_texts,
    pairs,
)
from .console import logged, note, show, show_json
from .errors import InputError
from .job import Job, read_job
from .sources import run_directory, shortest, write_text

__all__ = ["register"]

Save = Annotated[
    str, typer.Option(metavar="FILE", help="Where to save the compiled program (.json; plain DSPy loads it).")
]
On = Annotated[
    str, typer.Option("--on", metavar="train|val|test", help="The set to measure on; by default test, else val.")
]
Attempts = Annotated[int, typer.Option("-k", min=1, help="Attempts at each example.")]

_SHOWN = 10
"""Entries that are shown at the end of a run."""


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (compile_, evaluate, compare, resume):
        app.command(verb.__name__.rstrip("_"))(verb)


def compile_(
    target: Target,
    model: Model = "",
    reflection_model: ReflectionModel = "",
    auto: Auto = "",
    max_cost: MaxCost = None,
    price: Price = "",
    offline: Offline = False,
    log_dir: LogDir = "",
    save: Save = "",
    set_: Set = [],  # noqa: B006
    lm: LMArguments = [],  # noqa: B006
    trainset: Trainset = "",
    valset: Valset = "",
    inputs: Inputs = "",
    columns: Columns = "",
    json: AsJson = False,
) -> int:
    """Learn experiences for a program.

    The run is kept in runs/NAME-1 (or --log-dir): look at it with show, why and report; go on with resume.

    Example: trgrpo compile my_task.py --model openai/gpt-4o-mini --auto light --max-cost 5 --save compiled.json
    """
    job = Job(
        "compile",
        target,
        model=model,
        reflection_model=reflection_model,
        lm=pairs(lm, "--lm"),
        offline=offline,
        price=price,
        options=option_texts(set_, auto=auto, budget__max_cost=max_cost),
        data=given(trainset=trainset, valset=valset),
        inputs=names(inputs),
        columns=column_names(columns),
        save=_checked_save(save, '"instructions"'),
    )
    return _compile(job, Path(log_dir).expanduser() if log_dir else None, json=json)


def evaluate(
    target: Target,
    program: Annotated[str, typer.Argument(help="A saved program, library or run; else the target's.")] = "",
    model: Model = "",
    on: On = "",
    k: Attempts = 1,
    max_cost: MaxCost = None,
    price: Price = "",
    offline: Offline = False,
    log_dir: LogDir = "",
    save: Annotated[str, typer.Option(metavar="FILE", help="Where to save all attempts (.json).")] = "",
    set_: Set = [],  # noqa: B006
    lm: LMArguments = [],  # noqa: B006
    testset: Testset = "",
    valset: Valset = "",
    inputs: Inputs = "",
    columns: Columns = "",
    json: AsJson = False,
) -> int:
    """Measure a program: its mean score with a 95% interval.

    Example: trgrpo evaluate my_task.py compiled.json --model openai/gpt-4o-mini -k 5
    """
    job = Job(
        "evaluate",
        target,
        (program,) if program else (),
        model=model,
        lm=pairs(lm, "--lm"),
        offline=offline,
        price=price,
        options=option_texts(set_, k=k if k != 1 else None, budget__max_cost=max_cost),
        data=given(testset=testset, valset=valset),
        inputs=names(inputs),
        columns=column_names(columns),
        on=_set_name(on),
        save=_checked_save(save, '"rollouts"'),
    )
    return _measure(job, Path(log_dir).expanduser() if log_dir else None, json=json)


def compare(
    target: Target,
    programs: Annotated[
        list[str], typer.Argument(metavar="[A] B", help="Saved programs, libraries or runs; A is 'input' by default.")
    ],
    model: Model = "",
    on: On = "",
    k: Attempts = 1,
    max_cost: MaxCost = None,
    price: Price = "",
    offline: Offline = False,
    log_dir: LogDir = "",
    set_: Set = [],  # noqa: B006
    lm: LMArguments = [],  # noqa: B006
    testset: Testset = "",
    valset: Valset = "",
    inputs: Inputs = "",
    columns: Columns = "",
    json: AsJson = False,
) -> int:
    """Say whether program B beats program A, with a 95% interval.

    Example: trgrpo compare my_task.py compiled.json --model openai/gpt-4o-mini
    """
    if len(programs) > 2:
        raise InputError(f"compare takes one or two programs, got {len(programs)}")
    job = Job(
        "compare",
        target,
        tuple(programs),
        model=model,
        lm=pairs(lm, "--lm"),
        offline=offline,
        price=price,
        options=option_texts(set_, k=k if k != 1 else None, budget__max_cost=max_cost),
        data=given(testset=testset, valset=valset),
        inputs=names(inputs),
        columns=column_names(columns),
        on=_set_name(on),
    )
    return _measure(job, Path(log_dir).expanduser() if log_dir else None, json=json)


def resume(
    run: Run = None,
    max_cost: MaxCost = None,
    price: Price = "",
    set_: Set = [],  # noqa: B006
    json: AsJson = False,
) -> int:
    """Go on with a run that ended early.

    It was interrupted, killed or ended by a budget: nothing paid for is paid again. Caps,
    threads and timeouts may change, num_epochs may grow.

    Example: trgrpo resume runs/my_task-1 --max-cost 10
    """
    from .runs import inside

    directory = run_directory(run).absolute()
    job = read_job(directory)
    changed = option_texts(set_, budget__max_cost=max_cost)
    job = replace(job, options={**job.options, **changed}, price=price or job.price)
    with inside(job.folder):
        if job.verb == "compile":
            return _compile(job, directory, json=json)
        return _measure(job, directory, json=json)


def _compile(job: Job, run: Path | None, *, json: bool) -> int:
    from trgrpo_dspy.report import read_run

    from .runs import ended_with, run_compile
    from .view import run_data, run_view

    with logged() as left_out:
        run = run_compile(job.with_paths() if not job.folder else job, run, left_out)
    history = read_run(run)
    run = shortest(run)
    if json:
        show_json({**run_data(history), "run": str(run), "saved": job.save or None})
    else:
        show(*run_view(history, most=_SHOWN))
    if job.save:
        note(f"saved: {job.save}")
    code = ended_with(history.ended.stop_reason if history.ended is not None else "unfinished", run)
    if not code:
        program = (job.save and shortest(Path(job.save))) or run / "program.json"
        learned = history.ended.library.entries if history.ended is not None else ()
        why = f"trgrpo why {learned[0].id}, trgrpo edit {program}, " if learned else ""
        note(f"next: {why}open {run}/report.html; plain DSPy loads {program}")
    return code


def _measure(job: Job, run: Path | None, *, json: bool) -> int:
    from .runs import ended_with, run_measure

    with logged():
        found = run_measure(job.with_paths() if not job.folder else job, run)
    if job.save:
        write_text(Path(job.save), found.to_json())
        note(f"saved: {job.save}")
    if json:
        show_json(_measured(found))
    else:
        show(str(found))
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


def _set_name(on: str) -> str:
    name = on.removesuffix("set")
    if name not in ("", "train", "val", "test"):
        raise InputError(f"--on {on}: train, val or test is wanted")
    return name


def _checked_save(path: str, holds: str) -> str:
    """Refuse a file that could not be written at the end, before anything is paid for."""
    if path and not path.endswith(".json"):
        raise InputError(f"--save {path}: the name must end in .json")
    if path and not Path(path).expanduser().absolute().parent.is_dir():
        raise InputError(f"--save {path}: its directory is not there; make it first")
    file = Path(path).expanduser()
    if path and file.exists() and holds not in file.read_text(encoding="utf-8", errors="replace"):
        raise InputError(f"--save {path}: this file is there and holds something else; choose another name")
    return path
