"""Attempts on an executor: the same library as in threads, and only the driver decides, journals and writes."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.lm15 import AuthError, Request, Response, ServerError
from support.scripted import Call, ScriptedEngine, Triage, exact, examples, learner, lm_state, program_state, told
from support.waiting import HOURS, LONG, let_run_late, look_often, run_late

from trgrpo_dspy import Budget, FatalError, InfrastructureError, TrainingFreeGRPO, compare, evaluate
from trgrpo_dspy.engine import pool
from trgrpo_dspy.engine.attempts import attempt_task
from trgrpo_dspy.engine.calls import state
from trgrpo_dspy.engine.calls.backends import Backends, Known
from trgrpo_dspy.engine.calls.gate import Gate
from trgrpo_dspy.engine.calls.units import Unit
from trgrpo_dspy.engine.executors import remote
from trgrpo_dspy.engine.executors.packing import unpack
from trgrpo_dspy.engine.executors.remote import RemoteRunner
from trgrpo_dspy.engine.flows import single
from trgrpo_dspy.engine.options import RunOptions
from trgrpo_dspy.engine.session import Session, run_attempt
from trgrpo_dspy.meter import Stage

Models = Callable[..., dspy.LM]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "BACKOFF", 0.005)


class Noted:
    """The scripted model, fit for sending: it keeps nothing but a line a request, in a file."""

    def __init__(self, log: Path, script: Callable[[Call], Any] = learner) -> None:
        self.log, self.script = log, script

    def complete(self, request: Request) -> Response:
        with self.log.open("a") as file:
            file.write("request\n")
        return ScriptedEngine(self.script).complete(request)

    @property
    def requests(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


@pytest.fixture
def model(tmp_path: Path) -> Models:
    """Makes LMs; `lm.engine.requests` counts over all processes."""
    made = []

    def make(script: Callable[[Call], Any] = learner, name: str = "scripted/model", **settings: Any) -> dspy.LM:
        engine = Noted(tmp_path / f"requests-{len(made)}", script)
        made.append(engine)
        return dspy.LM(name, engine=engine, **{"seed": 7, "cache": False, "num_retries": 0, **settings})

    return make


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    """Two worker processes."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["trgrpo_dspy.engine.session", "support.scripted"])
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        yield executor


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


def compile_with(lm: dspy.LM | None, executor: Any, program: dspy.Module | None = None, **options: Any) -> dspy.Module:
    settings = {"metric": told, "num_epochs": 1, "group_size": 3, "num_threads": 4, "executor": executor, **options}
    valset = None if settings["metric"] is None else examples(4, start=8)
    with dspy.context(lm=lm):
        return TrainingFreeGRPO(**settings).compile(
            program or dspy.Predict(Triage), trainset=examples(8), valset=valset
        )


def rollouts(directory: Path) -> list[dict[str, Any]]:
    """The attempts in a journal, without the time they took."""
    with closing(sqlite3.connect(directory / "journal.sqlite")) as database:
        rows = database.execute("SELECT unit, rollout FROM attempts ORDER BY unit").fetchall()
    return [{**json.loads(rollout), "seconds": unit} for unit, rollout in rows]


def told_by(compiled: dspy.Module) -> Any:
    """All that must not depend on where attempts were made."""
    results = compiled.detailed_results
    record = json.loads(results.to_json())
    for changing in ("seconds", "settings", "calls_before"):
        record.pop(changing)
    return str(compiled.experiences), record


class TestSameAsThreads:
    def test_a_process_pool_gives_the_same(self, model: Models, processes: ProcessPoolExecutor, tmp_path: Path) -> None:
        here, there = model(), model()
        expected = compile_with(here, None, log_dir=tmp_path / "here")
        found = compile_with(there, processes, log_dir=tmp_path / "there")
        assert told_by(found) == told_by(expected)
        assert rollouts(tmp_path / "there") == rollouts(tmp_path / "here")
        assert len(found.experiences) > 0
        assert there.engine.requests == here.engine.requests
        assert found.detailed_results.settings["executor"] == "ProcessPoolExecutor"

    def test_lms_of_program_and_metric_are_metered_too_and_left_unchanged(
        self, model: Models, threads: ThreadPoolExecutor
    ) -> None:
        own, judge, program = model(name="own/model"), model(name="judge/model"), dspy.ChainOfThought(Triage)
        program.predict.lm = own

        def judged(example: dspy.Example, prediction: Any, trace: Any = None) -> float:
            with dspy.context(lm=judge):
                dspy.Predict("queue -> fair")(queue=prediction.queue)
            return exact(example, prediction)

        def compiled(executor: Any) -> dspy.Module:
            return compile_with(None, executor, program, metric=judged, reflection_lm=model())

        before = lm_state(own), lm_state(judge), program_state(program)
        found = told_by(compiled(threads))
        assert (lm_state(own), lm_state(judge), program_state(program)) == before
        assert found == told_by(compiled(None))
        assert {row["model"] for row in found[1]["spend"]} == {"own/model", "judge/model", "scripted/model"}

    def test_without_a_metric(self, model: Models, threads: ThreadPoolExecutor) -> None:
        found = told_by(compile_with(model(), threads, metric=None, compare_fields=["queue"]))
        assert found == told_by(compile_with(model(), None, metric=None, compare_fields=["queue"]))

    def test_the_bound_of_a_transcript_holds_there(self, model: Models, threads: ThreadPoolExecutor) -> None:
        found = []
        for executor in (threads, None):
            options = RunOptions(executor=executor, num_threads=2)
            lm = model(lambda call: {"reasoning": "so " * 900, "queue": "legal"})
            with dspy.context(lm=lm), Session(options, metric=exact, kind="x", transcript_tokens=50) as session:
                program, unit = session.copy(dspy.ChainOfThought(Triage)), Unit(Stage.ROLLOUT)
                task = attempt_task(session.runner, program, examples(1)[0], unit, index=0, attempt=0)
                found += [rollout.transcript for rollout in session.run([single(task)])]
        assert found[0] == found[1] and len(found[0]) <= 200

    def test_an_evaluation_and_a_comparison(self, model: Models, threads: ThreadPoolExecutor) -> None:
        with dspy.context(lm=model()):
            here = evaluate(dspy.Predict(Triage), examples(6), exact, 2)
            away = evaluate(dspy.Predict(Triage), examples(6), exact, 2, executor=threads)
            paired = compare(dspy.Predict(Triage), dspy.Predict(Triage), examples(6), exact, executor=threads)
        assert away.scores == here.scores and away.outcomes == here.outcomes and away.spend == here.spend
        assert paired.ties == 6

    def test_programs_are_told_apart_that_are_equal_to_each_other(
        self, model: Models, threads: ThreadPoolExecutor
    ) -> None:
        @dataclass
        class Equal(dspy.Module):  # as every data class with equality it has no hash
            name: str

            def __post_init__(self) -> None:
                super().__init__()
                self.answer = dspy.Predict(Triage)

            def forward(self, ticket: str) -> Any:
                return self.answer(ticket=ticket)

        class Hashed(Equal):
            def __hash__(self) -> int:
                return 1

        for kind in (Equal, Hashed):
            one, other = kind("it"), kind("it")
            other.answer.signature = Triage.with_instructions("Say what is told.")
            seen = model(lambda call: {"queue": "legal" if "Say what is told." in call.text else "billing"})
            with dspy.context(lm=seen):
                here = compare(one, other, examples(4), exact)
                away = compare(one, other, examples(4), exact, executor=threads)
            assert one == other and (away.difference, away.ties) == (here.difference, here.ties)
            assert here.ties < 4

    def test_the_caller_s_settings_hold_there(self, model: Models, threads: ThreadPoolExecutor) -> None:
        class Reads(dspy.Module):
            def __init__(self) -> None:
                super().__init__()
                self.answer = dspy.Predict(Triage)

            def forward(self, ticket: str) -> Any:
                assert dspy.settings.my_own == ["kept"]
                return self.answer(ticket=ticket)

        def in_json(call: Call) -> Any:
            assert call.kind != "program" or call.style == "json"
            return learner(call)

        with dspy.context(adapter=dspy.JSONAdapter(), my_own=["kept"]):
            compiled = compile_with(model(in_json), threads, Reads())
        assert compiled.detailed_results.steps[0].outcomes == {"completed": 24}


class TestJournalAndBudget:
    def test_finished_attempts_are_not_made_again_whoever_made_them(
        self, model: Models, threads: ThreadPoolExecutor, tmp_path: Path
    ) -> None:
        whole, parts = model(), [model(), model(), model()]
        expected = compile_with(whole, None, num_epochs=3)
        compile_with(parts[0], None, log_dir=tmp_path)
        compile_with(parts[1], threads, log_dir=tmp_path, num_epochs=2)
        found = compile_with(parts[2], threads, log_dir=tmp_path, num_epochs=3)
        assert told_by(found) == told_by(expected)  # spend too: what was paid before counts
        assert sum(lm.engine.requests for lm in parts) == whole.engine.requests

    def test_caps_count_whole_attempts(self, model: Models, threads: ThreadPoolExecutor) -> None:
        class Twice(dspy.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.second = dspy.Predict(Triage), dspy.Predict(Triage)

            def forward(self, ticket: str) -> Any:
                self.first(ticket=f"{ticket}, read once")
                return self.second(ticket=ticket)

        lm = model()
        compiled = compile_with(lm, threads, Twice(), budget=Budget(max_lm_calls=15))
        assert compiled.detailed_results.stop_reason == "max_lm_calls"
        assert 15 <= lm.engine.requests <= 15 + 4 - 1  # one of each attempt in flight was reserved
        assert sum(row.calls for row in compiled.detailed_results.spend) == lm.engine.requests

    def test_prices_are_the_drivers(self, model: Models, threads: ThreadPoolExecutor) -> None:
        budget = Budget(max_cost=100.0, prices={"scripted/model": (1.0, 1.0)})
        spend = compile_with(model(), threads, budget=budget).detailed_results.spend
        assert all(row.cost == pytest.approx(row.calls * 18e-6) for row in spend)

    def test_an_unknown_price_ends_a_run_with_max_cost(self, model: Models, threads: ThreadPoolExecutor) -> None:
        lm = model()
        with pytest.raises(FatalError, match=r"max_cost is set, but the price of LM 'scripted/model' is unknown"):
            compile_with(lm, threads, budget=Budget(max_cost=1.0))
        assert lm.engine.requests == 1

    def test_what_is_queued_when_the_run_ends_is_taken_back(self, model: Models) -> None:
        made: list[Future[Any]] = []

        def never(number: int, job: bytes) -> Future[Any]:
            made.append(Future())
            return made[-1]

        compiled = compile_with(model(), Sends(None, never), budget=Budget(max_seconds=0.2))
        assert compiled.detailed_results.stop_reason == "max_seconds"
        assert [future.cancelled() for future in made] == [True]


class TestFailures:
    def test_a_wrong_key_costs_one_attempt(self, model: Models, threads: ThreadPoolExecutor) -> None:
        lm = model(refuse)
        with pytest.raises(FatalError, match=r"LM 'scripted/model': the key was refused"):
            compile_with(lm, threads)
        assert lm.engine.requests == 1

    @pytest.mark.parametrize("retries", [0, 3])
    def test_a_backend_that_never_answers_costs_a_handful(
        self, retries: int, model: Models, threads: ThreadPoolExecutor
    ) -> None:
        lm = model(fail, num_retries=retries)
        with pytest.raises(FatalError, match=r"none of 8 requests got a reply"):
            compile_with(lm, threads)
        assert lm.engine.requests == 8

    def test_a_backend_that_stops_answering_ends_the_run(
        self, model: Models, threads: ThreadPoolExecutor, tmp_path: Path
    ) -> None:
        lm = model(GoesDown(tmp_path / "down", after=20))
        compiled = compile_with(lm, threads, group_size=12)
        assert compiled.detailed_results.stop_reason == "error_rate"

    def test_a_lost_worker_changes_nothing(self, model: Models, threads: ThreadPoolExecutor) -> None:
        lost: list[bytes] = []
        found = compile_with(model(), Sends(threads, losing(lost)))
        assert len(lost) > 5
        assert told_by(found) == told_by(compile_with(model(), None))

    def test_an_attempt_that_loses_every_worker_is_unscored(self, model: Models, threads: ThreadPoolExecutor) -> None:
        compiled = compile_with(model(), Sends(threads, losing([], times=3, after=6)))
        results = compiled.detailed_results
        assert results.steps[0].outcomes["infrastructure"] > 0
        assert "lost with 3 workers: InfrastructureError: node gone" in " ".join(results.warnings)

    def test_an_executor_that_is_broken_ends_the_run(self, model: Models, tmp_path: Path) -> None:
        lm = model()
        with (
            ProcessPoolExecutor(1, mp_context=get_context("forkserver")) as executor,
            pytest.raises(FatalError, match=r"executor=ProcessPoolExecutor is broken .* RayExecutor goes on") as caught,
        ):
            compile_with(lm, executor, batch_size=4, metric=Deadly(tmp_path / "scored", after=4 + 12 + 4))
        assert isinstance(caught.value.program, dspy.Predict)  # a step was completed

    def test_a_cluster_that_is_gone_ends_the_run(
        self, model: Models, threads: ThreadPoolExecutor, tmp_path: Path
    ) -> None:
        """What was lost is made again: the resumed result is the uninterrupted one."""
        expected = compile_with(model(), None, group_size=12)
        nobody = ConnectionError("nobody there")
        executor = Sends(threads, lambda number, job: nobody if number >= 50 else None)
        gone = compile_with(model(), executor, group_size=12, log_dir=tmp_path)
        assert gone.detailed_results.stop_reason == "error_rate"
        assert not [rollout for rollout in rollouts(tmp_path) if rollout["outcome"] == "infrastructure"]
        resumed = compile_with(model(), threads, group_size=12, log_dir=tmp_path)
        assert resumed.detailed_results.stop_reason == expected.detailed_results.stop_reason == "completed"
        assert resumed.experiences == expected.experiences

    def test_an_executor_that_gives_something_else_is_named(self, model: Models) -> None:
        other: Future[Any] = Future()
        other.set_result("done")
        with pytest.raises(FatalError, match=r"executor=Sends could not run an attempt: TypeError: submit.*, gave a "):
            compile_with(model(), Sends(None, lambda number, job: other))

    def test_ctrl_c_on_a_worker_ends_the_run(self, model: Models, threads: ThreadPoolExecutor) -> None:
        def interrupted(example: dspy.Example, prediction: Any, trace: Any = None) -> float:
            raise KeyboardInterrupt

        compiled = compile_with(model(), threads, metric=interrupted)
        assert compiled.detailed_results.stop_reason == "interrupted"

    def test_what_a_worker_can_t_load_is_named(self) -> None:
        report = run_attempt(b"no pickle", b"")
        assert "can't load the program: UnpicklingError" in report.fatal
        assert "Install what it needs on every node" in report.fatal


class TestTimeouts:
    def test_the_worker_gives_up_as_a_thread_does(
        self, model: Models, processes: ProcessPoolExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        look_often(monkeypatch)
        found = [
            compile_with(model(), executor, Hangs(), rollout_timeout=HOURS, num_threads=3, log_dir=tmp_path / name)
            for executor, name in ((LookOften(processes), "there"), (None, "here"))
        ]
        assert rollouts(tmp_path / "there") == rollouts(tmp_path / "here")
        outcomes = [compiled.detailed_results.steps[0].outcomes for compiled in found]
        assert outcomes[0] == outcomes[1] == {"completed": 21, "infrastructure": 3}
        assert found[0].experiences == found[1].experiences

    def test_a_worker_that_says_nothing_is_given_up_and_cancelled(
        self, model: Models, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stuck, result = Stuck(), RemoteRunner._result

        def instead(number: int, job: bytes) -> Future[Any] | None:
            sent = unpack(job)
            which = sent["unit"]["stage"], sent["attempt"]["index"], sent["attempt"]["attempt"]
            return stuck if which == (Stage.ROLLOUT, 5, 1) else None

        def late(runner: RemoteRunner, future: Future[Any], unit: Unit) -> Any:
            if future is stuck:
                let_run_late(unit)
            return result(runner, future, unit)

        look_often(monkeypatch)
        monkeypatch.setattr(RemoteRunner, "_result", late)
        compiled = compile_with(model(), Sends(threads, instead), rollout_timeout=HOURS)
        assert compiled.detailed_results.steps[0].outcomes == {"completed": 23, "infrastructure": 1}
        assert stuck.cancel_asked.wait(LONG)

    @pytest.mark.parametrize(("running", "counted"), [(False, True), (True, False)])
    def test_time_in_the_executor_s_queue_is_not_the_attempt_s(self, running: bool, counted: bool) -> None:
        runner, unit, done = RemoteRunner(object(), run_attempt, Gate(), None), Unit(Stage.ROLLOUT), remote.Report()

        class Looked(Future[Any]):
            """Ends when it is looked at for the third time."""

            looks = 0

            def running(self) -> bool:
                self.looks += 1
                if self.looks == 3:
                    self.set_result(done)
                return running

        assert runner._result(Looked(), unit) is done
        assert unit.account.clock.held == counted * 3 * remote._LOOK


class TestArguments:
    @pytest.mark.parametrize("executor", [object(), ThreadPoolExecutor, "ray"])
    def test_what_has_no_submit_is_refused(self, executor: Any) -> None:
        with pytest.raises(TypeError, match=r"executor=.* must have submit"):
            TrainingFreeGRPO(metric=exact, executor=executor)

    def test_a_rate_is_refused(self, threads: ThreadPoolExecutor) -> None:
        with pytest.raises(ValueError, match=r"requests_per_minute=60 can't be kept to with executor="):
            TrainingFreeGRPO(metric=exact, executor=threads, requests_per_minute=60)


class Caller:
    over = False


def test_what_two_workers_saw_adds_up() -> None:
    def fail(backends: Backends) -> None:
        backends.of("silent").failure(ServerError("down"), Caller(), timed_out=False, crowded=False, sent=0.0, among=1)

    driver = Backends()
    for _ in range(3):
        fail(driver)
    before = driver.known
    for _ in range(2):  # two attempts at a time, each with two more failures
        worker = Backends(known=before)
        fail(worker)
        fail(worker)
        assert not driver.learn(worker.known, before)
    assert driver.known.failed == (("silent", 7),) and not driver.of("silent").hopeless
    fail(driver)
    assert driver.of("silent").hopeless
    driver.learn(Known(frozenset({"silent"})), driver.known)
    assert not driver.any_unanswered


# -- what goes wrong; at the top of the module, so that worker processes find it ---------------------------------------


def refuse(call: Call) -> Any:
    return AuthError("wrong key")


def fail(call: Call) -> Any:
    return ServerError("down")


@dataclass
class Counted:
    """Counts its calls over all processes."""

    log: Path
    after: int

    def over(self) -> bool:
        with self.log.open("a") as file:
            file.write("called\n")
        return len(self.log.read_text().splitlines()) > self.after


class GoesDown(Counted):
    """A backend that is gone for good after some calls."""

    def __call__(self, call: Call) -> Any:
        return fail(call) if self.over() else learner(call)


class Deadly(Counted):
    """A metric whose process dies after some calls."""

    def __call__(self, example: dspy.Example, prediction: Any, trace: Any = None) -> float:
        if self.over():
            os.kill(os.getpid(), signal.SIGKILL)
        return exact(example, prediction)


class Hangs(dspy.Module):
    """Hangs at one ticket until it is given up."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict(Triage)

    def forward(self, ticket: str) -> Any:
        found = self.answer(ticket=ticket)
        if ticket.endswith("case 5"):
            run_late()
        return found


@dataclass
class LookOften:
    """Has worker processes look often at whose time is over."""

    executor: ProcessPoolExecutor

    def submit(self, fn: Any, /, *args: Any) -> Future[Any]:
        return self.executor.submit(looking_often, fn, *args)


def looking_often(fn: Callable[..., Any], *args: Any) -> Any:
    pool._LOOK = 0.05
    return fn(*args)


class Sends:
    """Sends tasks on, but for those that `instead` has an error or a future for, by number and job."""

    def __init__(self, executor: ThreadPoolExecutor | None, instead: Callable[[int, bytes], Any]) -> None:
        self.executor, self.instead, self.sent, self.lock = executor, instead, 0, threading.Lock()

    def submit(self, fn: Any, /, *args: Any) -> Future[Any]:
        with self.lock:
            instead = self.instead(self.sent, args[-1])
            self.sent += 1
        if isinstance(instead, Exception):
            raise instead
        return instead or self.executor.submit(fn, *args)


def losing(lost: list[bytes], times: int = 2, after: int = 0) -> Callable[[int, bytes], Any]:
    """Loses the first workers of every second attempt."""
    seen: dict[bytes, int] = {}

    def instead(number: int, job: bytes) -> Future[Any] | None:
        if job not in seen:
            seen[job] = len(seen)
        if seen[job] < after or seen[job] % 2 == 0 or lost.count(job) == times:
            return None
        lost.append(job)
        future: Future[Any] = Future()
        future.set_exception(InfrastructureError("node gone"))
        return future

    return instead


class Stuck(Future[Any]):
    """The future of a worker that says nothing any more."""

    def __init__(self) -> None:
        super().__init__()
        self.cancel_asked = threading.Event()
        self.set_running_or_notify_cancel()

    def cancel(self) -> bool:
        self.cancel_asked.set()
        return False
