"""Shared fixtures: no cache, no network, a clean DSPy for every test."""

from __future__ import annotations

import ast
import logging
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

# Before dspy is imported: its cache is on disk and outlives code changes.
os.environ["DSPY_CACHEDIR"] = tempfile.mkdtemp(prefix="trgrpo-dspy-cache-")
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import dspy
import pytest
from support.scripted import scripted_lm

# A shell that starts the tests in the background has them ignore Ctrl-C, and with them every process they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# DSPy parses signatures as it goes. Before Python 3.13 a thread that parses while another one is halfway, as in a
# garbage collection, may get a SystemError ("AST constructor recursion depth mismatch"): an attempt of a run is made
# again then, with more calls than a test counts.
_parse, _parsing = ast.parse, threading.RLock()


def _parse_alone(*args: Any, **kwargs: Any) -> ast.AST:
    with _parsing:
        return _parse(*args, **kwargs)


def _parse_anew() -> None:
    global _parsing
    _parsing = threading.RLock()  # a thread that is not in the child may hold the old one


ast.parse = _parse_alone
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_parse_anew)


def pytest_configure() -> None:
    """Hypothesis without deadlines: a busy machine is no failure. Tests of rare cases ask for more examples."""
    import hypothesis  # here, for the processes that tests start import this file too

    hypothesis.settings.register_profile("here", max_examples=50, deadline=None)
    hypothesis.settings.load_profile("here")


@pytest.fixture(autouse=True)
def clean_dspy() -> Iterator[None]:
    """No caches, and the settings of a fresh process, before and after each test."""
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    levels = {name: logging.getLogger(name).level for name in ("trgrpo_dspy", "dspy", "LiteLLM")}
    with dspy.context(lm=None, adapter=None, callbacks=[], num_threads=4):
        yield
    for name, level in levels.items():  # commands that are tested in this process set their own
        logging.getLogger(name).setLevel(level)


@pytest.fixture(autouse=True)
def no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets are remembered for the life of a process: those of one test are blanked in no other."""
    monkeypatch.setattr("trgrpo_dspy.failures.secrets._known", frozenset())


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """An LM that fails is tried as often as its own retries say; tests of outages ask for patience."""
    monkeypatch.setattr("trgrpo_dspy.engine.calls.limits.MOST_PATIENCE", 0.0)


@pytest.fixture
def lm() -> dspy.LM:
    """A scripted LM in DSPy's settings: `lm.engine.calls` holds what was asked."""
    return scripted_lm()


@pytest.fixture(autouse=True)
def settings_lm(request: pytest.FixtureRequest, clean_dspy: None) -> Iterator[None]:
    """Configure the `lm` fixture where a test asks for it."""
    if "lm" not in request.fixturenames:
        yield
        return
    with dspy.context(lm=request.getfixturevalue("lm")):
        yield


@pytest.fixture
def dspy_cache() -> Iterator[None]:
    """DSPy's cache in memory, empty."""
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)
    yield
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
