"""A run that is cut anywhere and started again is the run that was never cut, and pays for nothing twice."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from pathlib import Path
from typing import Any, ClassVar

import dspy
import pytest
from dspy.lm15 import Config, Message, Request, Response, TextPart, ThinkingPart, ToolCallPart, Usage
from dspy.utils.exceptions import LMAuthError, LMServerError
from support import ROOT
from support.scripted import TOKENS, Call, Triage, answer, exact, examples, learner, scripted_lm, told
from support.waiting import HOURS, LONG, look_often, run_late

from trgrpo_dspy import Budget, FatalError, JournalError, TrainingFreeGRPO, evaluate
from trgrpo_dspy.engine.calls.gate import Gate
from trgrpo_dspy.engine.calls.state import Waiting
from trgrpo_dspy.engine.calls.units import Unit
from trgrpo_dspy.engine.journal.journal import Journal
from trgrpo_dspy.engine.runner import Runner
from trgrpo_dspy.errors import RunStopped
from trgrpo_dspy.meter import Stage

TRAIN, VAL = examples(6), examples(5, start=6)


def compile_with(lm: Any, log_dir: Path | None, program: dspy.Module | None = None, **settings: Any) -> dspy.Module:
    data = {name: settings.pop(name, default) for name, default in (("trainset", TRAIN), ("valset", VAL))}
    settings = {"metric": told, "group_size": 3, "batch_size": 4, "num_epochs": 2, "num_threads": 8, **settings}
    with dspy.context(lm=lm):
        return TrainingFreeGRPO(log_dir=log_dir, **settings).compile(program or dspy.Predict(Triage), **data)


def facts(compiled: dspy.Module) -> Any:
    """All that a run found, but for times and for the arguments that may change."""
    found = json.loads(compiled.detailed_results.to_json())
    for name in ("seconds", "settings", "calls_before"):
        del found[name]
    return found, compiled.experiences.to_json()


def sent(*lms: Any) -> Counter[str]:
    """What the models were asked, and how often."""
    return Counter(repr((c.system, c.messages, c.seed, c.temperature)) for lm in lms for c in lm.engine.calls)


def rows(log_dir: Path, table: str) -> list[list[Any]]:
    with closing(sqlite3.connect(log_dir / "journal.sqlite")) as db:
        return [values for _, *values in db.execute(f"SELECT * FROM {table} ORDER BY 2, 3")]


def failing(kind: str, error: Exception, *, first: int = 0, last: int = 10**6) -> Callable[[Call], Any]:
    """The usual model, which fails at the n-th requests of a kind."""
    lock, seen = threading.Lock(), Counter[str]()

    def script(call: Call) -> Any:
        with lock:
            number = seen[call.kind]
            seen[call.kind] += 1
        return error if call.kind == kind and first <= number <= last else learner(call)

    return script


@pytest.fixture(scope="module")
def whole() -> tuple[Any, Counter[str]]:
    """The facts of the uninterrupted run without a journal, and what it sent."""
    lm = scripted_lm()
    with dspy.context(adapter=None, callbacks=[]):
        return facts(compile_with(lm, None)), sent(lm)


# -- cut and gone on -------------------------------------------------------------------------------------------------


def test_the_journal_changes_nothing(tmp_path: Path, whole: Any) -> None:
    lm = scripted_lm()
    assert facts(compile_with(lm, tmp_path)) == whole[0]
    assert sent(lm) == whole[1]
    kept = rows(tmp_path, "calls")
    assert len(kept) == len(lm.engine.calls) == len({(unit, request) for unit, request, *_ in kept})
    assert {occurrence for _, _, occurrence, *_ in kept} == {0}  # no unit is taken for another
    attempts = sum(step["outcomes"]["completed"] for step in whole[0][0]["steps"])
    measured = sum(step["validation"] is not None for step in whole[0][0]["steps"]) + 1
    assert len(rows(tmp_path, "attempts")) == attempts + measured * len(VAL)


def test_results_are_committed_before_anything_is_asked_that_rests_on_them(tmp_path: Path) -> None:
    found: list[int] = []

    def script(call: Call) -> Any:
        if call.kind == "comparison":
            found.append(len(rows(tmp_path, "attempts")))
        return learner(call)

    compile_with(scripted_lm(script), tmp_path, trainset=TRAIN[:1], valset=None, num_epochs=1, group_size=6)
    assert found and set(found) == {6}


def test_a_finished_run_returns_at_once_and_says_so(
    tmp_path: Path, whole: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "trgrpo_dspy")
    for calls, said in ((20, []), (10**6, ["going on in"])):
        caplog.clear()
        compile_with(scripted_lm(), tmp_path, budget=Budget(max_lm_calls=calls))
        assert [part for part in ("going on in", "was completed before") if part in caplog.text] == said
    lm = scripted_lm(lambda call: LMAuthError("no call is to be made"))
    assert facts(compile_with(lm, tmp_path, num_threads=1)) == whole[0]
    assert not sent(lm) and "was completed before" in caplog.text


class Judge(dspy.Signature):
    """Say which queue a ticket belongs to: the judge's own prompt."""

    ticket: str = dspy.InputField()
    claim: str = dspy.InputField()
    queue: str = dspy.OutputField()


def judged(example: dspy.Example, prediction: Any, trace: Any = None) -> float:
    """Asks an LM twice, with the same request."""
    verdicts = [dspy.Predict(Judge)(ticket=example.ticket, claim=prediction.queue).queue for _ in range(2)]
    return float(prediction.queue == example.queue) + 0.001 * len(set(verdicts))


class Sampled(dspy.Module):
    """Asks the same again and again: `BestOfN`, tasks, and plain repetition."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.triage = how, dspy.Predict(Triage)
        self.best = dspy.BestOfN(dspy.Predict(Triage), N=3, reward_fn=lambda args, pred: 0.0, threshold=1.0)

    def forward(self, ticket: str) -> dspy.Prediction:
        if self.how == "best":
            return self.best(ticket=ticket)
        alone = self.how == "repeated"
        found = [self.triage(ticket=ticket) for _ in range(3)] if alone else asyncio.run(self.gather(ticket))
        return dspy.Prediction(queue=Counter(p.queue for p in found).most_common(1)[0][0])

    async def gather(self, ticket: str) -> list[Any]:
        return await asyncio.gather(*(self.triage.acall(ticket=ticket) for _ in range(3)))


SMALL: dict[str, Any] = {"num_epochs": 1, "trainset": TRAIN[:3], "valset": VAL[:2]}
CUTS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "at once": ((1,), {}),
    "late": ((50,), {"num_threads": 3}),
    "many times": ((7, 9, 25, 31, 52, 56), {"num_threads": 16}),
    "label-free": ((25,), {"metric": None, "valset": None}),
    "best of n": ((11, 31), {**SMALL, "program": Sampled("best")}),
    "tasks": ((11, 31), {**SMALL, "program": Sampled("asyncio")}),
    "judge": ((11, 31), {**SMALL, "metric": judged}),
}


@pytest.mark.parametrize("how", CUTS)
def test_a_run_cut_by_budgets_is_the_whole_one_and_asks_nothing_twice(tmp_path: Path, how: str) -> None:
    """Also where one attempt makes equal requests, of the program or of the metric's judge."""
    caps, settings = CUTS[how]
    whole, lms = scripted_lm(), [scripted_lm() for _ in (*caps, None)]
    expected = facts(compile_with(whole, None, **settings))
    for cap, lm in zip(caps, lms, strict=False):
        stopped = compile_with(lm, tmp_path, budget=Budget(max_lm_calls=cap), **settings).detailed_results
        assert (stopped.stop_reason, stopped.total.calls) == ("max_lm_calls", cap) and sent(*lms).total() == cap
    assert facts(compile_with(lms[-1], tmp_path, **settings)) == expected
    assert sent(*lms) == sent(whole)


@pytest.mark.parametrize("caught", [False, True])
def test_requests_that_an_attempt_leaves_behind_are_kept(
    tmp_path: Path, caught: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dspy.Parallel` raises what one of its threads meets and goes on without the others."""
    both, ended, left = threading.Barrier(2), threading.Event(), threading.Event()
    for_requests = Waiting.for_requests

    def say_and_wait(waiting: Waiting, unit: Unit) -> None:
        left.set()
        for_requests(waiting, unit)

    monkeypatch.setattr(Waiting, "for_requests", say_and_wait)

    class Pair(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.triage = dspy.Predict(Triage)

        def forward(self, ticket: str) -> Any:
            self.triage(ticket="first of all")
            threads = [ThreadPoolExecutor(1) for _ in range(2)]
            context = [copy_context() for _ in threads]
            found = [
                pool.submit(own.run, lambda word=word: self.triage(ticket=f"{word} {ticket}"))
                for pool, own, word in zip(threads, context, ("quick", "slow"), strict=True)
            ]
            try:
                found[0].result()
                return self.triage(ticket="last of all")
            except RunStopped:
                ended.set()
                if not caught:
                    raise
            return dspy.Prediction(queue="legal")

    def script(call: Call) -> Any:
        if ("quick" in call.text or "slow" in call.text) and not ended.is_set():
            both.wait(LONG)
        if "slow" in call.text:
            left.wait(LONG)
        return {"queue": "legal"}

    def measured(lm: Any, budget: Budget | None = None) -> Any:
        with dspy.context(lm=lm):
            return evaluate(Pair(), examples(1), exact, num_threads=4, log_dir=tmp_path, budget=budget)

    lm = scripted_lm(script)
    first = measured(lm, Budget(max_tokens=2 * sum(TOKENS)))
    assert (first.stop_reason, len(lm.engine.calls)) == ("max_tokens", 3)
    assert measured(lm).stop_reason == "completed"
    assert len(lm.engine.calls) == len(sent(lm)) == 4


@pytest.mark.parametrize(
    ("error", "at"),
    [(LMAuthError("bad key", model="scripted/model"), 0), (KeyboardInterrupt(), 17), (LMAuthError("bad key"), 50)],
)
def test_cut_by_an_exception(tmp_path: Path, whole: Any, error: BaseException, at: int) -> None:
    first = scripted_lm(lambda call: error if call.number == at else learner(call))
    with pytest.raises((FatalError, KeyboardInterrupt)):
        compile_with(first, tmp_path)
    second = scripted_lm()
    found, experiences = facts(compile_with(second, tmp_path))
    assert experiences == whole[0][1]
    assert sent(first, second).total() == whole[1].total() + 1
    assert sum(row.pop("failed") for row in found["spend"]) == 1  # the failed call counts, and costs nothing
    assert found["verdict"] == whole[0][0]["verdict"]


def test_num_epochs_may_grow_and_not_shrink(tmp_path: Path, whole: Any) -> None:
    first, second, third = scripted_lm(), scripted_lm(), scripted_lm()
    one = compile_with(first, tmp_path, num_epochs=1)
    assert facts(compile_with(second, tmp_path, num_epochs=2))[1] == whole[0][1]
    assert sent(first, second) == whole[1]
    with pytest.raises(JournalError, match="num_epochs: was 2, is 1"):
        compile_with(third, tmp_path, num_epochs=1)
    assert not sent(third)
    assert len(one.detailed_results.steps) == 2
    assert facts(compile_with(third, tmp_path, num_epochs=2))[0]["steps"] == whole[0][0]["steps"]


# -- outages ---------------------------------------------------------------------------------------------------------


def unspent(facts: Any) -> Any:
    """The facts without what was spent: failed calls are counted."""
    found, library = facts
    bare = {name: value for name, value in found.items() if name not in ("spend", "steps")}
    return bare, [{n: v for n, v in step.items() if n != "spend"} for step in found["steps"]], library


@pytest.mark.parametrize("kind", ["program", "consolidation"])
def test_what_an_outage_took_is_made_again_on_resume(tmp_path: Path, whole: Any, kind: str) -> None:
    """Also what followed from it: attempts with another library are no attempts with this one."""
    first = scripted_lm(failing(kind, LMServerError("overloaded"), first=9 if kind == "program" else 0, last=11))
    broken = facts(compile_with(first, tmp_path, num_threads=1))
    assert unspent(broken) != unspent(whole[0])
    second, third = scripted_lm(), scripted_lm()
    assert unspent(facts(compile_with(second, tmp_path))) == unspent(whole[0])
    assert sent(second)
    assert unspent(facts(compile_with(third, tmp_path))) == unspent(whole[0])
    assert not sent(third)


def test_a_backend_that_never_answered_leaves_no_results(tmp_path: Path, whole: Any) -> None:
    dead, alive = scripted_lm(lambda call: LMServerError("down")), scripted_lm()
    with pytest.raises(FatalError, match="none of 8 requests"):
        compile_with(dead, tmp_path)
    assert not rows(tmp_path, "attempts")
    assert unspent(facts(compile_with(alive, tmp_path))) == unspent(whole[0])
    assert sent(alive) == whole[1]


@pytest.mark.parametrize(("error", "most"), [(LMAuthError("revoked"), 1), (LMServerError("down"), 8)])
def test_replies_of_the_journal_do_not_prove_the_backend(tmp_path: Path, error: Exception, most: int) -> None:
    compile_with(scripted_lm(), tmp_path, budget=Budget(max_lm_calls=30))
    broken = scripted_lm(lambda call: error)
    with pytest.raises(FatalError):
        compile_with(broken, tmp_path, num_threads=16)
    assert sent(broken).total() <= most


def test_an_attempt_that_took_too_long_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(call: Call) -> Any:
        if call.kind == "program" and "refund case 0" in call.user and call.temperature == 0.7:
            run_late()
        return learner(call)

    settings = {"trainset": TRAIN[:3], "valset": None, "num_epochs": 1, "batch_size": 3}
    look_often(monkeypatch)
    one = compile_with(scripted_lm(slow), tmp_path, rollout_timeout=HOURS, **settings)
    assert one.detailed_results.steps[0].outcomes["infrastructure"] == 3
    two = compile_with(scripted_lm(), tmp_path, rollout_timeout=60, **settings)
    assert two.detailed_results.steps[0].outcomes == {"completed": 9}


def test_an_attempt_that_finished_while_it_was_given_up_counts(tmp_path: Path) -> None:
    """The journal decides: the run and its resumption must not see different results."""
    with Journal(tmp_path) as journal:
        runner = Runner(Gate(journal=journal), exact)
        unit = Unit(Stage.ROLLOUT, 1, ("rollout", 1, 0, 0))
        with dspy.context(lm=scripted_lm()):
            done = runner.attempt(dspy.Predict(Triage), TRAIN[0], unit, index=0, attempt=0)
        assert runner.abandon(unit, index=0, attempt=0, seconds=1.0) == done
        late = Unit(Stage.ROLLOUT, 1, ("rollout", 1, 0, 1))
        given_up = runner.abandon(late, index=0, attempt=1, seconds=1.0)
        assert journal.finish(late.id, done) == given_up


# -- programs and metrics of many kinds ------------------------------------------------------------------------------


def test_a_program_whose_threads_carry_no_settings_gets_no_reply_of_another_attempt(tmp_path: Path) -> None:
    numbers = iter(range(10**6))

    class Threaded(dspy.Module):
        def __init__(self, lm: Any) -> None:
            super().__init__()
            self.triage = dspy.Predict(Triage)
            self.triage.lm = lm

        def forward(self, ticket: str) -> Any:
            with ThreadPoolExecutor(1) as pool:  # a thread of its own: no settings, so no unit of work
                return pool.submit(self.triage, ticket=ticket).result()

    lm = scripted_lm(lambda call: answer(call) | {"queue": "legal" if next(numbers) % 2 else "access"})
    with dspy.context(lm=None):
        compiled = TrainingFreeGRPO(
            metric=exact, group_size=4, num_epochs=1, num_threads=1, log_dir=tmp_path, reflection_lm=scripted_lm()
        ).compile(Threaded(lm), trainset=examples(2, words=["contract"]))
    assert compiled.detailed_results.steps[0].train_mean == 0.5
    assert compiled.detailed_results.steps[0].informative == 1.0
    assert len(lm.engine.calls) == 8


class RichEngine:
    """Replies with everything a reply may hold."""

    def __init__(self) -> None:
        self.calls = 0

    def complete(self, request: Request) -> Response:
        self.calls += 1
        parts = [
            ThinkingPart(text="let me think"),
            TextPart(text="[[ ## queue ## ]]\nlegal\n\nlone \ud800 surrogate, \x00 and \u2028"),
            ToolCallPart(id="call-1", name="look", input={"where": [1, {"deep": None}]}),
        ]
        return Response(
            id="r1", model=request.model, message=Message.assistant(parts), finish_reason="tool_call",
            usage=Usage(input_tokens=5, output_tokens=3), provider_data={"raw": {"nested": [1.5, "x"]}},
        )  # fmt: skip


class Asks(dspy.Module):
    """Keeps what an LM replies."""

    replies: ClassVar[list[Any]] = []

    def __init__(self, typed: bool) -> None:
        super().__init__()
        self.typed, self.triage = typed, dspy.Predict(Triage)

    def forward(self, ticket: str) -> Any:
        lm, text = dspy.settings.lm, "what now?"
        request = Request(model=lm.model, messages=(Message.user(text),), config=Config(max_tokens=50))
        self.replies.append(lm(request) if self.typed else lm(messages=[{"role": "user", "content": text}]))
        return self.triage(ticket=ticket)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # OpenAI-style messages, which leave DSPy in 3.5
@pytest.mark.parametrize("typed", [False, True])
def test_replies_come_back_as_they_were(tmp_path: Path, typed: bool) -> None:
    engine = RichEngine()
    lm = dspy.LM("rich/model", engine=engine, cache=False, num_retries=0, seed=3)
    settings = {"trainset": TRAIN[:1], "valset": None, "num_epochs": 1, "group_size": 2, "num_threads": 1}
    Asks.replies.clear()
    for calls in (1, 2):
        compile_with(lm, tmp_path, Asks(typed), budget=Budget(max_lm_calls=calls), **settings)
    live, replayed = Asks.replies[:2]
    assert engine.calls == 2
    assert replayed == live and type(replayed) is type(live)
    if typed:
        assert replayed.provider_data == {"raw": {"nested": [1.5, "x"]}}
    else:
        assert replayed[0]["tool_calls"][0].function.name == "look"
        assert replayed[0]["reasoning_content"] == "let me think"


def test_replies_that_are_no_plain_data_are_counted_and_asked_for_again(tmp_path: Path, whole: Any) -> None:
    class Odd(dspy.LM):
        def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
            return [{"text": text, "raw": object()} for text in super().__call__(prompt, messages=messages, **kwargs)]

    first, second = (Odd("odd/model", engine=scripted_lm().engine, cache=False, num_retries=0, seed=7) for _ in "12")
    compile_with(first, tmp_path, budget=Budget(max_lm_calls=40))
    found, experiences = facts(compile_with(second, tmp_path))
    assert experiences == whole[0][1]
    assert sum(row["calls"] for row in found["spend"]) == sent(first, second).total()


def test_a_program_that_counts_its_tokens_sees_them_when_resumed(tmp_path: Path) -> None:
    def frugal(example: dspy.Example, prediction: Any, trace: Any = None) -> float:
        usage = prediction.get_lm_usage()
        return sum(u["prompt_tokens"] + u["completion_tokens"] for u in usage.values())

    program = Sampled("repeated")
    settings = {"metric": frugal, "num_epochs": 1, "trainset": TRAIN[:1], "valset": VAL[:1], "num_threads": 1}
    with dspy.context(track_usage=True):
        compile_with(scripted_lm(), tmp_path, program, budget=Budget(max_lm_calls=2), **settings)
        compiled = compile_with(scripted_lm(), tmp_path, program, **settings)
    assert compiled.detailed_results.baseline.scores == (3.0 * sum(TOKENS),)


def test_cached_replies_stay_cached_in_the_spend(tmp_path: Path, dspy_cache: None) -> None:
    settings = {"trainset": TRAIN[:3], "num_epochs": 1}
    compile_with(scripted_lm(cache=True), tmp_path / "warm", **settings)
    lm = scripted_lm(cache=True)
    compile_with(lm, tmp_path / "run", budget=Budget(max_lm_calls=1), **settings)
    total = compile_with(lm, tmp_path / "run", **settings).detailed_results.total
    assert (sent(lm).total(), total.calls - total.cached, total.prompt_tokens) == (0, 0, 0)
    shutil.rmtree(tmp_path / "run")
    whole = compile_with(lm, tmp_path / "run", **settings).detailed_results
    assert whole.total == total


def test_a_metric_that_met_an_outage_pays_its_judge_once(tmp_path: Path) -> None:
    state = {"failed": False}

    def flaky(example: dspy.Example, prediction: Any, trace: Any = None) -> float:
        dspy.Predict(Judge)(ticket=example.ticket, claim=prediction.queue)
        if not state["failed"]:
            state["failed"] = True
            raise ConnectionError("the metric's own service")
        return float(prediction.queue == example.queue)

    lm, steady = scripted_lm(), scripted_lm()
    settings = {"metric": flaky, "trainset": TRAIN[:1], "valset": VAL[:1], "num_epochs": 1, "num_threads": 1}
    compiled = compile_with(lm, tmp_path, **settings)
    assert compiled.detailed_results.total.calls == sent(lm).total()
    assert facts(compiled) == facts(compile_with(steady, None, **settings))
    assert sent(lm) == sent(steady)


# -- tools -----------------------------------------------------------------------------------------------------------


class Agent(dspy.Module):
    """A ReAct agent whose tool is counted."""

    def __init__(self, stamp: Callable[[], str] = lambda: "") -> None:
        super().__init__()
        self.uses: list[str] = []
        self.stamp = stamp

        def look_up(word: str) -> str:
            """Look a word up in the house rules."""
            self.uses.append(word)
            return f"{word} is in the rules{stamp()}"

        self.react = dspy.ReAct(Triage, tools=[look_up], max_iters=2)

    def forward(self, ticket: str) -> Any:
        return self.react(ticket=ticket)

    def __deepcopy__(self, memo: Any) -> Agent:
        copied = Agent(self.stamp)
        copied.react, copied.uses = self.react.deepcopy(), self.uses
        return copied


def agent_script(call: Call) -> Any:
    if "next_tool_name" not in call.outputs:
        return learner(call)
    looked = "in the rules" in call.user
    word = call.user.split()[3] if len(call.user.split()) > 3 else "x"
    return {
        "next_thought": f"thought {call.chance('thought') % 100}",
        "next_tool_name": "finish" if looked else "look_up",
        "next_tool_args": {} if looked else {"word": word},
    }


AGENT: dict[str, Any] = {"trainset": TRAIN[:3], "valset": VAL[:2], "num_epochs": 1, "num_threads": 4}


def test_an_agents_calls_are_replayed_and_only_unfinished_attempts_use_tools_again(tmp_path: Path) -> None:
    whole, agent = scripted_lm(agent_script), Agent()
    expected = facts(compile_with(whole, None, agent, **AGENT))
    uses = len(agent.uses)
    lms, agent, caps = [], Agent(), (2, 9, 25, 10**6)
    for cap in caps:
        lms.append(scripted_lm(agent_script))
        found = compile_with(lms[-1], tmp_path, agent, budget=Budget(max_lm_calls=cap), **AGENT)
    assert facts(found) == expected
    assert sent(*lms) == sent(whole)
    assert uses < len(agent.uses) <= uses + AGENT["num_threads"] * (len(caps) - 1)


def test_a_reply_whose_request_no_longer_matches_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tool tells another thing the second time: what followed from the first is asked for anew."""
    settings = {**AGENT, "num_threads": 1, "valset": VAL[:1]}
    for marks in ((" (v1)", " (v2)"), (" (v2)", " (v2)")):
        shutil.rmtree(tmp_path, ignore_errors=True)
        monkeypatch.setenv("MARK", marks[0])  # what only running shows is in no fingerprint
        agent = Agent(lambda: os.environ["MARK"])
        first, second = scripted_lm(agent_script), scripted_lm(agent_script)
        compile_with(first, tmp_path, agent, budget=Budget(max_lm_calls=2), **settings)
        monkeypatch.setenv("MARK", marks[1])
        compile_with(second, tmp_path, agent, budget=Budget(max_lm_calls=4), **settings)
        after_tool = [c for c in second.engine.calls if "in the rules" in c.user]
        assert all("(v2)" in call.user for call in after_tool)
        # one reply is left of two: the request before the tool; the one after it, only if it is the same
        same = marks[0] == marks[1]
        assert sent(second).total() == 2
        assert ("next_thought" in second.engine.calls[0].outputs) is not same


# -- killed ----------------------------------------------------------------------------------------------------------


def test_killed_three_times(tmp_path: Path) -> None:
    """The short form of the kill campaign: real processes, real HTTP, SIGKILL."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.kill_campaign", "--quick"], cwd=ROOT, capture_output=True, text=True,
        timeout=5 * LONG, env={**os.environ, "PYTHONPATH": str(ROOT), "DSPY_CACHEDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASS  requests repeated whose reply had been committed: 0" in done.stdout
    assert "PASS  kills 3 of 3" in done.stdout
