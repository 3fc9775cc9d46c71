"""What MLflow's client leaves open: whether the server answers, and which run is active for work in another thread.

Its client tries a server that is gone for four minutes, call by call. Its active run is each thread's own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from typing import Any
from unittest.mock import patch

import mlflow

__all__ = ["active_run", "carried_run", "check_server", "impatient"]

PATIENCE = 20.0
"""Seconds in which a server has to answer before a run is reported to it."""
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
_CARRIED: ContextVar[Any] = ContextVar("trgrpo_mlflow_run", default=None)
"""The MLflow run that was active where the work was handed to another thread."""


@contextmanager
def carried_run() -> Iterator[None]:
    """Let work that is handed to another thread within use the MLflow run that is active here."""
    token = _CARRIED.set(mlflow.active_run())
    try:
        yield
    finally:
        _CARRIED.reset(token)


def active_run() -> Any:
    """The active MLflow run of this thread, else of the one that handed the work on; None if there is none."""
    return mlflow.active_run() or _CARRIED.get()


def check_server() -> None:
    """Ask the tracking server anything; a `TimeoutError` if it does not answer within `PATIENCE` seconds."""
    uri = mlflow.get_tracking_uri()
    if not uri.startswith("http"):  # a database or a directory is there or raises at once
        return
    answered = threading.Event()

    def ask() -> None:
        with suppress(Exception):  # the client has tried for minutes; nobody waits for this any more
            mlflow.search_experiments(max_results=1)
            answered.set()

    threading.Thread(target=ask, name="mlflow-server", daemon=True).start()
    if not answered.wait(PATIENCE):
        raise TimeoutError(f"the tracking server at {uri} did not answer within {PATIENCE:g} seconds")


def impatient() -> AbstractContextManager[Any]:
    """Let MLflow's client try once, for a few seconds: for the last word to a server that seems gone."""
    return patch.dict(os.environ, _IMPATIENT)
