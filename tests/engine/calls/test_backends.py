"""The first answer of a backend: who waits for it, and how short."""

from __future__ import annotations

import sys
import threading
import time

import dspy
import pytest
from support.scripted import Triage, exact, examples, scripted_lm
from support.waiting import LONG

from trgrpo_dspy import evaluate
from trgrpo_dspy.engine.calls.backends import Backends


class Caller:
    over = False


def test_all_hear_of_the_first_calls_end_and_of_the_first_answer() -> None:
    backend, first = Backends().of("model"), Caller()
    assert backend.may_go(first) and not backend.may_go(Caller())
    for event in (lambda: backend.done(first), lambda: backend.answer(first, 0.1, None)):
        with backend._changed:  # the event comes once the wait has begun
            threading.Thread(target=event).start()
            assert backend.wait(LONG)
        assert backend.may_go(Caller()) and not backend.wait(0.01)


def test_an_end_just_before_the_wait_is_not_missed() -> None:
    backend, first = Backends().of("model"), Caller()
    assert backend.may_go(first) and not backend.may_go(Caller())
    backend.done(first)
    assert backend.wait(0)


def test_replies_of_dspys_cache_do_not_wait_for_each_other(dspy_cache: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """They prove no key, so they go one by one; but each follows the one before at once."""
    lm = scripted_lm(cache=True)
    with dspy.context(lm=lm):
        evaluate(dspy.Predict(Triage), examples(40), exact, num_threads=8)
        for name, module in list(sys.modules.items()):
            if name.startswith("trgrpo_dspy.engine.calls") and hasattr(module, "POLL"):
                monkeypatch.setattr(module, "POLL", LONG)
        began = time.monotonic()
        found = evaluate(dspy.Predict(Triage), examples(40), exact, num_threads=8)
    assert time.monotonic() - began < LONG
    assert (found.spend[0].cached, len(lm.engine.calls)) == (40, 40)
