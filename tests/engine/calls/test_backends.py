"""The first answer of a backend: who waits for it, and how short."""

from __future__ import annotations

import sys
import threading
import time

import dspy
import pytest
from support.scripted import Triage, exact, examples, scripted_lm

from trgrpo_dspy import evaluate
from trgrpo_dspy.engine.calls.backends import Backends


class Caller:
    over = False


def test_the_next_call_hears_of_the_end_of_the_first() -> None:
    backend, first, second = Backends().of("model"), Caller(), Caller()
    assert backend.may_go(first)
    assert not backend.may_go(second)
    threading.Timer(0.1, backend.done, [first]).start()
    began = time.monotonic()
    assert backend.wait(20)
    assert time.monotonic() - began < 10
    assert backend.may_go(second)
    assert not backend.wait(0.01)


def test_all_hear_of_the_first_answer() -> None:
    backend, heard = Backends().of("model"), []
    threads = [threading.Thread(target=lambda: heard.append(backend.wait(20))) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    backend.answer(Caller(), 0.1, None)
    for thread in threads:
        thread.join(10)
    assert heard == [True] * 3


def test_replies_of_dspys_cache_do_not_wait_for_each_other(dspy_cache: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """They prove no key, so they go one by one; but each follows the one before at once."""
    lm = scripted_lm(cache=True)
    with dspy.context(lm=lm):
        evaluate(dspy.Predict(Triage), examples(40), exact, num_threads=8)
        for name, module in list(sys.modules.items()):
            if name.startswith("trgrpo_dspy.engine.calls") and hasattr(module, "POLL"):
                monkeypatch.setattr(module, "POLL", 3.0)
        began = time.monotonic()
        found = evaluate(dspy.Predict(Triage), examples(40), exact, num_threads=8)
    assert time.monotonic() - began < 3
    assert (found.spend[0].cached, len(lm.engine.calls)) == (40, 40)
