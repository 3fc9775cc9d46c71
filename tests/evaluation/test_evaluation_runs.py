"""Evaluations that are long: journaled, capped, interrupted, killed and gone on with."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.lm15 import ServerError
from dspy.utils.exceptions import LMAuthError
from support import ROOT
from support.scripted import QUEUES, RIGHT, Call, Triage, exact, examples, learner, scripted_lm, word_of
from support.waiting import HOURS, LONG, look_often, run_late, stops, until

from benchmarks.kill_campaign import examples as tickets_of
from programs import tickets
from trgrpo_dspy import (
    Budget,
    Evaluation,
    FatalError,
    InfrastructureError,
    JournalError,
    TrainingFreeGRPO,
    compare,
    evaluate,
)  # fmt: skip
from trgrpo_dspy.offline.server import OfflineServer

DEV = examples(10)


def measured(lm: Any, log_dir: Path | None = None, program: dspy.Module | None = None, **settings: Any) -> Evaluation:
    settings = {"devset": DEV, "metric": exact, "k": 3, "num_threads": 4, **settings}
    with dspy.context(lm=lm):
        return evaluate(program or dspy.Predict(Triage), log_dir=log_dir, **settings)


def sampling(script: Any = None, **kwargs: Any) -> Any:
    return scripted_lm(script, **{"temperature": 1.0, **kwargs})


def facts(found: Evaluation) -> Any:
    """All of an evaluation but times and which process paid."""
    data = json.loads(found.to_json())
    del data["calls_before"]
    for attempts in data["rollouts"]:
        for rollout in attempts:
            del rollout["seconds"]
    return data


def sent(*lms: Any) -> Counter[str]:
    return Counter(repr((c.system, c.messages, c.seed, c.temperature)) for lm in lms for c in lm.engine.calls)


# -- early ends ------------------------------------------------------------------------------------------------------


def test_a_budget_leaves_the_examples_that_were_done(caplog: pytest.LogCaptureFixture) -> None:
    lm = sampling()
    found = measured(lm, budget=Budget(max_lm_calls=14), num_threads=1)
    assert found.stop_reason == "max_lm_calls" and found.partial
    assert [len(attempts) for attempts in found.rollouts] == [3] * 4 + [0] * 6
    assert (found.mean.n, found.mean.unscored, found.k) == (4, 6, 3)
    assert sum(found.outcomes.values()) == 12 and found.spend[0].calls == len(lm.engine.calls) == 14
    assert "partial, ended by max_lm_calls: 4 of 10 examples done" in str(found)
    assert "the evaluation ended early (max_lm_calls); with a log_dir= it could go on" in caplog.text
    assert found.scores[:4] == measured(sampling()).scores[:4]
    nothing = measured(sampling(), budget=Budget(max_lm_calls=2))
    assert nothing.score is None and nothing.outcomes == {} and nothing.k == 3
    assert str(nothing).startswith("Mean@3 unscored") and nothing.per_attempt.attempts == 0


def test_ctrl_c_returns_what_was_measured_and_gives_the_signal_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = stops(monkeypatch)

    def script(call: Call) -> Any:
        if call.number == 12:
            os.kill(os.getpid(), signal.SIGINT)
        if call.number >= 12:
            assert stopped.wait(LONG)
        return learner(call)

    handler = signal.getsignal(signal.SIGINT)
    first, second = sampling(script), sampling()
    found = measured(first, tmp_path, num_threads=2)
    assert found.stop_reason == "interrupted" and 0 < found.mean.n < 10
    assert signal.getsignal(signal.SIGINT) is handler
    assert Evaluation.from_json((tmp_path / "results.json").read_text()) == found
    assert facts(measured(second, tmp_path)) == facts(measured(sampling()))
    whole = sampling()
    measured(whole)
    assert sent(first, second) == sent(whole)


def test_a_fatal_error_stays_one_and_loses_nothing(tmp_path: Path) -> None:
    revoked = LMAuthError("revoked", model="scripted/model")
    first = sampling(lambda call: revoked if call.number >= 9 else learner(call))
    second = sampling()
    with pytest.raises(FatalError):
        measured(first, tmp_path, num_threads=1)
    found = measured(second, tmp_path)
    assert len(second.engine.calls) == 30 - 9 and found.scores == measured(sampling()).scores


def test_too_many_outages_are_an_error_and_can_be_gone_on_with(tmp_path: Path) -> None:
    broken = sampling(lambda call: ServerError("500") if call.number > 30 else learner(call))
    settings: dict[str, Any] = {"devset": examples(40), "num_threads": 2}
    with pytest.raises(InfrastructureError, match="given up"):
        measured(broken, tmp_path, **settings)
    again = sampling()
    found = measured(again, tmp_path, **settings)
    assert found.stop_reason == "completed" and len(again.engine.calls) < 120 - 30
    assert found.outcomes == {"completed": 120}, "what an outage took is made again"


def test_an_attempt_that_takes_too_long_is_unscored(monkeypatch: pytest.MonkeyPatch) -> None:
    look_often(monkeypatch)

    def slow(call: Call) -> Any:
        if "refund" in call.user and call.number:
            run_late()
        return learner(call)

    found = measured(sampling(slow), devset=examples(4)[1:] + examples(1), k=1, rollout_timeout=HOURS)
    assert found.outcomes == {"completed": 3, "infrastructure": 1} and found.scores[-1] is None


# -- gone on with ----------------------------------------------------------------------------------------------------


def test_cut_by_a_budget_and_gone_on_with(tmp_path: Path) -> None:
    whole, first, second = sampling(), sampling(), sampling()
    expected = facts(measured(whole))
    part = measured(first, tmp_path, budget=Budget(max_lm_calls=13))
    assert part.partial and len(first.engine.calls) == 13
    found = measured(second, tmp_path, num_threads=2, budget=Budget(max_lm_calls=30), rollout_timeout=60)
    assert facts(found) == expected and found.stop_reason == "completed", "just enough is no early end"
    assert sent(first, second) == sent(whole)
    assert Evaluation.from_json((tmp_path / "results.json").read_text()) == found


def test_a_finished_one_asks_nothing(tmp_path: Path) -> None:
    found = measured(sampling(), tmp_path)
    silent = sampling(lambda call: LMAuthError("no call is to be made"))
    again = measured(silent, tmp_path)
    assert again == found, "times too: they are the attempts' own"
    assert not silent.engine.calls
    assert "30 LM calls (30 of them before, 0 now), 540 tokens" in str(again) and "before" not in str(found)
    assert json.loads((tmp_path / "config.json").read_text())["k"] == 3


def test_k_may_grow_and_not_shrink(tmp_path: Path) -> None:
    whole, first, second = sampling(), sampling(), sampling()
    expected = facts(measured(whole, k=5))
    measured(first, tmp_path, k=2)
    assert facts(measured(second, tmp_path, k=5)) == expected
    assert len(second.engine.calls) == 30 and sent(first, second) == sent(whole)
    with pytest.raises(JournalError, match="k: was 5, is 2"):
        measured(second, tmp_path, k=2)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"program": dspy.ChainOfThought(Triage)}, "program modules self: was 'Predict', is 'ChainOfThought'"),
        ({"devset": examples(10, start=1)}, r"devset: 10 of 10 examples differ: \[0\], \[1\], \[2\] and 7 more"),
        ({"seed": 1}, "seed: was 0, is 1"),
        ({"temperature": 0.3}, "temperature: was None, is 0.3"),
    ],
)
def test_another_evaluation_is_refused_with_the_differences(tmp_path: Path, changes: Any, text: str) -> None:
    measured(sampling(), tmp_path, k=1)
    lm = sampling()
    with pytest.raises(JournalError, match="holds another run.*" + text):
        measured(lm, tmp_path, k=1, **changes)
    assert not lm.engine.calls


def test_other_kinds_of_work_are_refused(tmp_path: Path) -> None:
    lm, one, two = sampling(), dspy.Predict(Triage), dspy.ChainOfThought(Triage)
    optimizer = TrainingFreeGRPO(metric=exact, log_dir=tmp_path / "one")
    with dspy.context(lm=lm):
        evaluate(one, DEV[:2], exact, log_dir=tmp_path / "one")
        compare(one, two, DEV[:2], exact, log_dir=tmp_path / "two")
        calls = len(lm.engine.calls)
        with pytest.raises(JournalError, match=r"made by a comparison, this is an evaluation\. Pass another directory"):
            evaluate(one, DEV[:2], exact, log_dir=tmp_path / "two")
        with pytest.raises(JournalError, match="made by an evaluation, this is a comparison"):
            compare(one, two, DEV[:2], exact, log_dir=tmp_path / "one")
        with pytest.raises(JournalError, match="made by an evaluation, this is an optimizer"):
            optimizer.compile(one, trainset=DEV[:2])
    assert len(lm.engine.calls) == calls


# -- comparison ------------------------------------------------------------------------------------------------------


def advised(call: Call) -> dict[str, Any]:
    """Right where the program reasons, else a guess."""
    word = word_of(call.user)
    guess = QUEUES[call.chance("queue") % len(QUEUES)]
    return {"reasoning": "so", "queue": RIGHT[word] if "reasoning" in call.outputs else guess}


def compared(lm: Any, log_dir: Path | None = None, **settings: Any) -> Any:
    settings = {"k": 2, "num_threads": 4, **settings}
    with dspy.context(lm=lm):
        return compare(dspy.Predict(Triage), dspy.ChainOfThought(Triage), DEV, exact, log_dir=log_dir, **settings)


def test_a_comparison_is_what_two_evaluations_give(tmp_path: Path) -> None:
    lm = sampling(advised)
    found = compared(lm, tmp_path)
    with dspy.context(lm=sampling(advised)):
        one, two = (evaluate(p(Triage), DEV, exact, k=2) for p in (dspy.Predict, dspy.ChainOfThought))
    assert found == two.versus(one) and found.wins > 0 == found.losses
    kept = [Evaluation.from_json((tmp_path / name / "results.json").read_text()) for name in "ab"]
    assert [facts(e) for e in kept] == [facts(one), facts(two)], "spend too: each has its own"
    again = sampling(lambda call: LMAuthError("no call is to be made"))
    assert compared(again, tmp_path) == found and not again.engine.calls


def test_a_comparison_cut_short_is_of_pairs_and_goes_on(tmp_path: Path) -> None:
    whole, first, second = (sampling(advised) for _ in range(3))
    expected = compared(whole)
    part = compared(first, tmp_path, budget=Budget(max_lm_calls=17), num_threads=1)
    assert part.stop_reason == "max_lm_calls" and "partial, ended by max_lm_calls" in str(part)
    assert (part.n, part.unscored) == (4, 6), "4 attempts a pair"
    assert compared(second, tmp_path) == expected
    assert sent(first, second) == sent(whole)


# -- killed ----------------------------------------------------------------------------------------------------------

CHILD = """
import sys, dspy
from benchmarks.kill_campaign import examples
from programs import tickets
from trgrpo_dspy import evaluate

lm = dspy.LM("openai/offline", api_base=sys.argv[1], api_key="offline", cache=False, seed=0, num_retries=0)
with dspy.context(lm=lm):
    evaluate(tickets.program(), examples("val", 8), tickets.metric, k=3, num_threads=4, log_dir=sys.argv[2])
"""


class Holding(OfflineServer):
    """Holds the replies from the ninth on until it is killed who asked; the others are in its journal by then."""

    def __init__(self, **faults: Any) -> None:
        super().__init__(**faults)
        self.arrived, self.killed = 0, threading.Event()

    async def _answer(self, *asked: Any) -> Any:
        self.arrived += 1
        if self.arrived > 8 and not self.killed.is_set():
            await asyncio.sleep(600)  # cancelled with its connection
        return await super()._answer(*asked)


def test_killed_and_gone_on_with_nothing_is_paid_twice(tmp_path: Path) -> None:
    """A real process, real HTTP, SIGKILL; the requests are counted where they arrive."""
    devset = tickets_of("val", 8)
    settings: dict[str, Any] = {"devset": devset, "metric": tickets.metric, "num_threads": 4}
    with Holding() as server:
        child = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(CHILD), server.url, str(tmp_path / "run")], cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "DSPY_CACHEDIR": str(tmp_path / "cache")},
        )  # fmt: skip
        assert until(lambda: server.arrived == 8 + 4 or child.poll() is not None)
        child.kill()
        assert child.wait() == -signal.SIGKILL
        server.killed.set()
        assert until(lambda: len(server.requests) == 8 + 4)
        with closing(sqlite3.connect(tmp_path / "run/journal.sqlite")) as db:
            (committed,) = db.execute("SELECT count(*) FROM calls").fetchone()
        assert committed == 8
        keyed = server.lm(num_retries=0, api_key="sk-very-secret-key")
        found = measured(keyed, tmp_path / "run", tickets.program(), **settings)
        assert len(server.requests) - (8 + 4) == 24 - committed
        assert found.stop_reason == "completed" and found.spend[0].calls == 24
        assert facts(found) == facts(measured(server.lm(num_retries=0), None, tickets.program(), **settings))
    for path in (tmp_path / "run").rglob("*"):
        assert path.is_dir() or b"sk-very-secret-key" not in path.read_bytes(), path
