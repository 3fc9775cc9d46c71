"""The verbs that look at a run: why, watch, report."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from .arguments import Run, takes
from .console import note, show, show_json
from .directories import is_run, run_directory
from .errors import InputError

__all__ = ["report", "watch", "why"]

_PATIENCE = 30.0
"""Seconds for which a run's first event is waited for."""


@takes("json")
def why(
    entry: Annotated[str, typer.Argument(metavar="id", help="An entry's id, such as E7.")],
    run: Run = None,
    everything: Annotated[bool, typer.Option("--all", help="Show all groups behind it.")] = False,
    **given: Any,
) -> None:
    """Say why an entry exists.

    The attempts, the comparison, the edits and refusals behind it.

    Example: trgrpo why E7 runs/my_task-1
    """
    from trgrpo_dspy.report import read_run

    from .view import entry_data, entry_view

    history = read_run(run_directory(run))
    if history.started.run != "compile":
        raise InputError(f"{history.log_dir} is {history.started.run!r} and has no entries; name a run of compile")
    id = entry.strip("[] ").upper()
    found = history.entry_history(id if id.startswith("E") else f"E{id}")
    if given["json"]:
        show_json(entry_data(found))
    else:
        show(*entry_view(history, found, everything=everything))


def watch(
    run: Run = None,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look once; so does a pipe.")] = False,
) -> None:
    """Watch a run while it goes on.

    To be used in another terminal; Ctrl-C ends the watching, not the run.

    Example: trgrpo watch runs/my_task-1
    """
    from rich.console import Console
    from rich.live import Live

    from trgrpo_dspy.errors import JournalError
    from trgrpo_dspy.report import read_run

    from .view import run_view, watch_view

    once = once or not sys.stdout.isatty()
    until = time.monotonic() + _PATIENCE
    while run is not None and not once and _begins(Path(run).expanduser()) and time.monotonic() < until:
        time.sleep(0.2)
    path = run_directory(run)
    history = read_run(path)
    if once:
        show(watch_view(history))
        return
    try:
        with Live(watch_view(history), console=Console(highlight=False), screen=True, auto_refresh=False) as live:
            while history.ended is None:
                time.sleep(every)
                try:
                    history = read_run(path)
                except JournalError:  # a resumed run begins a new file
                    continue
                live.update(watch_view(history), refresh=True)
    except KeyboardInterrupt:
        note(f"the run goes on; watch it again with: trgrpo watch {path}")
        return
    show(*run_view(history))


def _begins(path: Path) -> bool:
    """Whether a run has a directory and no event yet."""
    return path.is_dir() and not is_run(path)


def report(
    run: Run = None,
    out: Annotated[str, typer.Option("--out", "-o", help="By default RUN/report.html.")] = "",
    figures: Annotated[bool, typer.Option("--figures", help="Write the charts as SVG and PNG too.")] = False,
) -> None:
    """Write the report of a run as one HTML file.

    Example: trgrpo report runs/my_task-1 --figures
    """
    from trgrpo_dspy.report import write_figures, write_report

    path = run_directory(run)
    note(f"written: {write_report(path, Path(out) if out else None)}")
    if figures:
        folder = Path(out).parent / "figures" if out else None
        for file in write_figures(path, folder):
            note(f"written: {file}")
