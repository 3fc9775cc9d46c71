"""Where runs are kept: their directories, and the newest of them."""

from __future__ import annotations

from pathlib import Path

from .console import note
from .errors import ExitCode, InputError, exit_code

__all__ = ["RUNS", "is_run", "run_directory", "shortest"]

RUNS = Path("runs")
"""Where runs are kept that are given no directory."""


def run_directory(name: str | None, *, failed: bool = False) -> Path:
    """The directory of a run; None is the newest in `runs/`, but for one that failed with nothing to show.

    Args:
        name: The directory, or its `events.jsonl`.
        failed: Whether the newest may be one that failed: to go on with it.
    """
    if name is None:
        return _newest(failed=failed)
    path = Path(name).expanduser()
    if not path.exists():
        example = next(iter(_by_age()), "runs/my_task-1")
        raise InputError(f"{name} is not there; name a run's directory, such as {example}")
    if path.is_file() and path.name == "events.jsonl":
        path = path.parent
    if not is_run(path):
        raise InputError(f"{name} is no run's directory: it has no events.jsonl")
    return path


def _newest(*, failed: bool) -> Path:
    runs = _by_age()
    if not runs:
        raise InputError("there is no run in runs/; name a run's directory (its log_dir)")
    found = next((run for run in runs if failed or not _has_failed(run)), runs[0])
    if found != runs[0]:
        note(f"{found} is taken; {runs[0]} is newer and failed: name it to look at it")
    return found


def _has_failed(run: Path) -> bool:
    """Whether a run is over and failed before it had learned or measured anything, by its own files.

    A run that goes on, or was killed, holds its `run.pid`; a run that an error ended has no last event.
    """
    from trgrpo_dspy.engine.journal.eventlog import read_events
    from trgrpo_dspy.errors import JournalError, SchemaVersionError

    if (run / "run.pid").exists() or any(run.glob("libraries/step_*.json")):
        return False
    try:
        ended = [event for event in read_events(run / "events.jsonl") if event["event"] == "RunEnded"]
    except (JournalError, SchemaVersionError, OSError):
        return False
    return not ended or exit_code(str(ended[-1].get("stop_reason"))) is ExitCode.FAILED


def _by_age() -> list[Path]:
    """The runs in `runs/`, the one that wrote last first."""
    found = [path for path in RUNS.glob("*") if is_run(path)]
    return sorted(found, key=lambda path: (path / "events.jsonl").stat().st_mtime, reverse=True)


def shortest(path: Path) -> Path:
    """The path as it is shortest to type."""
    try:
        return path.absolute().relative_to(Path.cwd())
    except ValueError:
        return path


def is_run(path: Path) -> bool:
    """Whether this is the directory of a run."""
    return (path / "events.jsonl").is_file()
