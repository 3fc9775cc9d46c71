"""A local MLflow store for tests. MLflow takes many seconds to lay out a new database, so one is kept and copied."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


def new_store(path: Path, cache: pytest.Cache) -> str:
    """The address of an empty store at `path`; the database is copied from the cache once it is there."""
    import mlflow

    kept = cache.mkdir("mlflow") / f"{mlflow.__version__}.db"
    if not kept.exists():
        scratch = kept.with_suffix(f".{os.getpid()}")
        mlflow.MlflowClient(f"sqlite:///{scratch}").search_experiments()
        os.replace(scratch, kept)
    shutil.copy(kept, path)
    return f"sqlite:///{path}"
