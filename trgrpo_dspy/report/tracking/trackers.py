"""Which trackers there are, and how one is opened around a run (`report_to=`)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trgrpo_dspy.events import Listener
from trgrpo_dspy.library.library import ExperienceLibrary

__all__ = ["carried", "check_report_to", "tracked"]

logger = logging.getLogger(__name__)


def check_report_to(name: str, value: Any) -> None:
    """Refuse an unknown tracker, and one whose extra is not installed: before anything is paid for."""
    if value != "mlflow":
        raise ValueError(f"{name}={value!r} must be 'mlflow'; leave it out to report to no tracker")
    try:
        from mlflow import MlflowClient, start_run  # noqa: F401 (a directory named mlflow, or a part of it, has neither)
    except ImportError as error:
        raise ImportError(f"{name}='mlflow' needs MLflow: pip install 'trgrpo-dspy[mlflow]'") from error


@contextmanager
def tracked(
    report_to: str | None, save_program: Callable[[Path, ExperienceLibrary], object], elsewhere: bool = False
) -> Iterator[tuple[Listener, ...]]:
    """The listeners for `report_to`, open while the run goes on; what they raise never ends it.

    Args:
        report_to: The tracker; None is none.
        save_program: Writes the program with a library into a directory, as `program.json`.
        elsewhere: Whether attempts are made in other processes.
    """
    if report_to is None:
        yield ()
        return
    from .mlflow_run import MLflowTracker
    from .mlflow_traces import attempts_traced

    with attempts_traced(elsewhere) as traces:
        tracker = MLflowTracker(traces, save_program)
        try:
            yield (tracker,)
        finally:
            try:
                tracker.end()
            except (Exception, SystemExit) as error:
                logger.warning("the MLflow run could not be ended: %s: %s", type(error).__name__, error)


@contextmanager
def carried(report_to: str | None) -> Iterator[None]:
    """Let a run that is made in another thread report to what is active in this one."""
    if report_to is None:
        yield
        return
    from .mlflow_run import carried_run

    with carried_run():
        yield
