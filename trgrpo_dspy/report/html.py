"""The report of a run: one HTML file that needs no network and no other file.

Guarantees:

- Everything shown is data. jinja2 escapes every text; the script that shows groups and differences sets text, never
  markup; data is embedded as JSON in which no character can end the block; and the page's own policy lets no other
  script run and no request leave.
- The file is below 10 MB: long texts are cut in their middles. (About 20,000 attempts have room, however long theirs.)
- It is made from `events.jsonl` alone, at any time: a run that still goes on is shown as far as it is.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
from collections.abc import Callable
from datetime import datetime, timezone
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from trgrpo_dspy.engine.journal.files import write_atomically
from trgrpo_dspy.events import Event, Listener, RunEnded
from trgrpo_dspy.library.entries import as_written
from trgrpo_dspy.library.library import ExperienceLibrary
from trgrpo_dspy.program.instructions import write_block

from . import text
from .charts import curves, gain_bar, plot
from .grid import grids
from .history import RunHistory, read_run
from .payload import payload
from .spending import next_runs, spend_rows

if TYPE_CHECKING:
    from .records import EntryHistory

__all__ = ["render_report", "report_at_end", "write_report"]

logger = logging.getLogger(__name__)

_LARGEST = 9_500_000
"""Bytes of the page at most; what the rest of it leaves is for the texts of attempts."""
_LARGEST_LOG = 500
"""Megabytes of events up to which a run writes its report by itself: reading them takes 3 times as much memory."""


def write_report(log_dir: str | os.PathLike[str], path: str | os.PathLike[str] | None = None) -> Path:
    """Write the report of a run and return its file.

    Args:
        log_dir: The run's directory.
        path: The file to write; None is `report.html` in the run's directory.

    Raises:
        OSError: There is no log of events, or the file can't be written.
        JournalError: The log holds no run yet, or can't be read.
        SchemaVersionError: The log was written by a newer version.
    """
    history = read_run(log_dir)
    file = history.log_dir / "report.html" if path is None else Path(path).expanduser()
    write_atomically(file, render_report(history))
    return file


def report_at_end(log_dir: str | os.PathLike[str]) -> Listener:
    """A listener that writes the report once the run has ended; to be called after the one that keeps the events."""
    directory = Path(log_dir).expanduser().absolute()  # the program may change the working directory

    def write_report_of_run(event: Event) -> None:
        if not isinstance(event, RunEnded):
            return
        megabytes = (directory / "events.jsonl").stat().st_size // 10**6
        if megabytes > _LARGEST_LOG:
            logger.warning("no report was written: the events have %d MB; `trgrpo report` reads them", megabytes)
        else:
            logger.info("report: %s", write_report(directory))

    return write_report_of_run


def render_report(history: RunHistory) -> str:
    """The page."""
    style, script = _asset("style.css"), _asset("script.js")
    ended, templates = history.ended, _environment()
    changed = (history.log_dir / "events.jsonl").stat().st_mtime
    page = templates.get_template("report.html.j2").render(
        run=history,
        style=Markup(style),
        style_hash=_hash(style),
        script_hash=_hash(script),
        written=datetime.fromtimestamp(changed, timezone.utc).strftime("%d %B %Y, %H:%M UTC"),
        headline=_headline(history),
        gain=gain_bar(ended.gain, ended.interval) if ended is not None else None,
        plots=[plot(curve, ended.step if ended is not None else None) for curve in curves(history) if history.steps],
        grids=grids(history),
        entries=_entries(history),
        spending=spend_rows(history),
        next_runs=next_runs(history),
        prompts=_prompts(history),
        links=_links(history),
    )
    data = payload(history, _LARGEST - len(page.encode()))
    return page + templates.get_template("end.html.j2").render(data=data, script=Markup(script))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("trgrpo_dspy.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=text.finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("count", "duration", "first_line", "money", "number", "score", "share", "signed", "visible"):
        environment.filters[name] = getattr(text, name)
    environment.filters["as_written"] = as_written
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":"), "allow_nan": False}
    return environment


def _asset(name: str) -> str:
    return resources.files("trgrpo_dspy.report").joinpath("templates").joinpath(name).read_text(encoding="utf-8")


def _hash(source: str) -> str:
    """What the page's policy knows a script or style by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _headline(history: RunHistory) -> tuple[str, str]:
    """The verdict in a few words, and its tone: 'good', 'flat' or 'none'."""
    ended = history.ended
    if ended is None:
        return "Not finished", "none"
    if history.started.run != "compile":
        return ("Comparison" if history.started.run == "compare" else "Evaluation"), "none"
    if ended.improved is None:
        return "Not measured", "none"
    if ended.improved:
        return "Improved", "good"
    return "No improvement found" if ended.interval is None else "Not distinguishable from noise", "flat"


def _entries(history: RunHistory) -> list[EntryHistory]:
    """Every entry that any library of the run had, in order of its number."""
    ids = {entry.id for library in (*history.libraries.values(), history.library) for entry in library}
    return [history.entry_history(id) for id in sorted(ids, key=lambda id: int(id[1:]))]


def _links(history: RunHistory) -> Callable[[int, int], str]:
    """Gives the address of an example's group: that of a step, else the last before it, else the first; '' for none."""
    steps: dict[int, list[int]] = {}
    for step in history.steps:
        for group in step.groups:
            if group.attempts:
                steps.setdefault(group.example, []).append(step.step)

    def link(step: int, example: int) -> str:
        found = steps.get(example, [])
        before = [one for one in found if one <= step] or found[:1]
        return f"g-{before[-1]}-{example}" if before else ""

    return link


def _prompts(history: RunHistory) -> list[tuple[str, str, str]]:
    """The name of each taught predictor, and its instructions before the run and with the library it returned."""

    def instructions(own: str, library: ExperienceLibrary, predictor: str) -> str:
        return as_written(write_block(own, library.for_predictor(predictor)))

    return [
        (name, instructions(own, history.started.library, name), instructions(own, history.library, name))
        for name, own in history.started.instructions.items()
    ]
