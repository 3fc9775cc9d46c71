"""Outages are waited out, and a backend gets as many requests as it serves: every attempt is scored."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.lm15 import AuthError, InvalidRequestError, RateLimitError, ServerError, TransportError, UnsupportedModelError
from support.loopback import response, serve
from support.scripted import Call, Triage, exact, examples, learner, scripted_lm
from support.waiting import LONG

from trgrpo_dspy import FatalError, InfrastructureError, evaluate
from trgrpo_dspy.engine import tools
from trgrpo_dspy.engine.calls import limits
from trgrpo_dspy.engine.calls.limits import Limit
from trgrpo_dspy.failures.outcome import Outcome


@pytest.fixture(autouse=True)
def patience(no_patience: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trgrpo_dspy.engine.calls.limits.MOST_PATIENCE", 60.0)
    monkeypatch.setattr("trgrpo_dspy.engine.calls.state.BACKOFF", 0.1)


class Backend:
    """Serves `width` requests at a time; the others wait in line, or are refused."""

    def __init__(
        self, width: int = 100, seconds: float = 0.02, *, timeout: float = 30.0, refuses: bool = False
    ) -> None:
        self.free, self.seconds, self.timeout, self.refuses = threading.Semaphore(width), seconds, timeout, refuses
        self.outage = 0.0
        """Seconds for which the backend is down, from its 20th request on."""
        self.back: Callable[[], bool] = lambda: False
        """Whether the outage is over before its time."""
        self.down_until = 0.0
        self.error: Exception = ServerError("down")

    def __call__(self, call: Call) -> Any:
        if self.outage and call.number >= 20:
            self.down_until = self.down_until or time.monotonic() + self.outage
            if time.monotonic() < self.down_until and not self.back():
                return self.error
        if not self.free.acquire(timeout=0.0001 if self.refuses else self.timeout):
            return RateLimitError("too many") if self.refuses else TransportError("timed out")
        try:
            time.sleep(self.seconds)
        finally:
            self.free.release()
        return learner(call)


def measured(script: Any, count: int, **options: Any) -> Any:
    lm = scripted_lm(script, num_retries=3)
    with dspy.context(lm=lm):
        return evaluate(dspy.Predict(Triage), examples(count), exact, **{"num_threads": 32, **options})


class TestOutages:
    @pytest.mark.parametrize(
        ("error", "threads"),
        [(ServerError("down"), 1), (RateLimitError("busy", retry_after=0.2), 8), (TransportError("reset"), 32)],
    )
    def test_one_is_waited_out_and_told(
        self, error: Exception, threads: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def heard(what: str) -> bool:
            return any(what in message for message in caplog.messages)

        monkeypatch.setattr("trgrpo_dspy.engine.calls.limits.MOST_PATIENCE", 300.0)  # one call alone has a fifth of it
        crowd = "requests at a time"  # what is heard of refusals for too many, where some replies came between
        backend = Backend()
        backend.outage, backend.error = LONG, error  # until it was told: calls that wait in step may do so for seconds
        backend.back = lambda: heard("waiting for it up to 300 s (outage_patience)") or heard(crowd)
        found = measured(backend, 50, num_threads=threads)
        assert found.mean.n == 50 and found.stop_reason == "completed"
        assert heard("answers again") or (isinstance(error, RateLimitError) and heard(crowd))

    def test_the_patience_is_the_users(self) -> None:
        backend = Backend()
        backend.outage = 600.0
        began = time.monotonic()
        with pytest.raises(InfrastructureError, match="more than half"):
            measured(backend, 200, outage_patience=0.5)
        assert time.monotonic() - began < LONG

    def test_what_was_lost_is_made_again_on_resume(self, tmp_path: Path) -> None:
        whole = measured(Backend(), 60)

        def fails(call: Call) -> Any:
            return ServerError("down") if call.number >= 40 else learner(call)

        cut = measured(fails, 60, outage_patience=0, log_dir=tmp_path)
        assert cut.mean.n < 60
        resumed = measured(Backend(), 60, log_dir=tmp_path)
        assert resumed.scores == whole.scores and resumed.mean.n == 60

    def test_one_request_that_always_fails_is_lost_alone(self) -> None:
        def poisoned(call: Call) -> Any:
            return ServerError("poison") if "case 7\n" in call.user else learner(call)

        found = measured(poisoned, 100, num_threads=8)
        assert found.mean.n >= 99 and found.stop_reason == "completed"


class TestHowManyAtATime:
    WIDTHS = pytest.mark.parametrize(
        ("width", "count", "refuses"),
        [(1, 30, True), (2, 50, False), (8, 120, True)],
    )

    @WIDTHS
    def test_every_attempt_is_scored(self, width: int, count: int, refuses: bool) -> None:
        found = measured(Backend(width, 0.05, timeout=0.6, refuses=refuses), count)
        assert found.mean.n == count and found.stop_reason == "completed"

    @WIDTHS
    def test_as_many_are_sent_as_it_serves_and_few_in_vain(
        self, width: int, count: int, refuses: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = Clock()
        monkeypatch.setattr(limits, "time", clock)
        asked = clock.serve(Limit("m", 32, lambda text: None), width, count, refuses)
        assert clock.now < 1.5 * count * Clock.REPLY / width and asked < 3 * count

    def test_the_limit_starts_and_grows_where_the_reply_would_still_be_in_time(self) -> None:
        limit = Limit("m", 32, lambda text: None)
        limit.reply(Caller(), 0.5, 4.0, first=True)
        assert limit.limit == 4.0, "as many as would be answered in time one after the other"
        callers = [Caller() for _ in range(4)]
        assert all(limit.enter(caller, 0.1) for caller in callers)
        assert not limit.enter(Caller(), 0.01)
        for seconds, now in ((2.0, 4.0), (0.5, 5.0)):  # four took four times as long: they queue; they don't
            limit.reply(callers[3], seconds, 4.0, first=False)
            assert limit.limit == now

    def test_it_halves_once_for_requests_sent_before(self) -> None:
        told: list[str] = []
        limit = Limit("m", 32, told.append)
        sent = time.monotonic()
        assert limit.failure(sent, 32, timed_out=True, down=False)
        first = limit.limit
        assert limit.failure(sent, 31, timed_out=True, down=False)
        assert limit.limit == first and len(told) == 1

    def test_a_request_that_nobody_waits_for_takes_no_room(self) -> None:
        limit, hung, waits = Limit("m", 1, lambda text: None), Caller(), Caller()
        assert limit.enter(hung, 0.1)
        assert not limit.enter(waits, 0.01)
        hung.over = True
        assert limit.enter(waits, 0.1)


class Caller:
    over = False


class Clock:
    """A backend as `Backend`, by a clock of its own: what is sent when depends on the limit alone."""

    REPLY, IN_LINE, BACKOFF = 0.05, 0.6, 0.1
    """Seconds that a request takes, waits in line at most, and waits until it is sent again."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events: list[tuple[float, int, str, Caller]] = []
        self.order = itertools.count()

    def monotonic(self) -> float:
        return self.now

    def after(self, seconds: float, what: str, caller: Caller) -> None:
        heapq.heappush(self.events, (self.now + seconds, next(self.order), what, caller))

    def serve(self, limit: Limit, width: int, count: int, refuses: bool) -> int:
        """Serve so many callers, `width` at a time; returns the number of requests."""
        waiting, line, sent = [Caller() for _ in range(count)], [], {}
        asked = done = inside = 0
        while done < count:
            for caller in [one for one in waiting if limit.enter(one, 0)]:
                waiting.remove(caller)
                asked, sent[caller] = asked + 1, self.now
                if inside < width:
                    inside += 1
                    self.after(self.REPLY, "reply", caller)
                else:
                    line.append(caller)
                    self.after(0.0 if refuses else self.IN_LINE, "fails", caller)
            self.now, _, what, caller = heapq.heappop(self.events)
            if what == "again":
                waiting.append(caller)
            elif what == "reply":
                done, inside = done + 1, inside - 1
                limit.reply(caller, self.now - sent[caller], None, first=done == 1)
                limit.leave(caller)
                if line and not refuses:
                    inside += 1
                    self.after(self.REPLY, "reply", line.pop(0))
            elif caller in line:
                line.remove(caller)
                limit.failure(sent[caller], limit.leave(caller), timed_out=not refuses, down=False)
                self.after(self.BACKOFF, "again", caller)
        return asked


class TestRefusals:
    def test_a_temperature_that_is_refused_is_left_out(self, caplog: pytest.LogCaptureFixture) -> None:
        def script(call: Call) -> Any:
            if call.temperature is not None:
                return InvalidRequestError("Unsupported value: 'temperature' does not support 0.7 with this model.")
            return learner(call)

        found = measured(script, 20, temperature=0.7)
        assert found.mean.n == 20 and found.outcomes == {"completed": 20}
        assert sum("refuses to be given a temperature" in message for message in caplog.messages) == 1

    @pytest.mark.parametrize("flagged", [9, 0], ids=["later", "before the first reply"])
    def test_one_403_ends_nothing(self, flagged: int) -> None:
        def script(call: Call) -> Any:
            return AuthError("input was flagged", status=403) if call.number == flagged else learner(call)

        found = measured(script, 20, num_threads=1)
        assert found.stop_reason == "completed" and found.outcomes["completed"] == 19

    @pytest.mark.parametrize(
        ("words", "outcome"),
        [("maximum context length is 9 tokens", "context_window"), ("out of memory", "infrastructure")],
    )
    def test_an_error_under_the_status_of_a_success_is_told(self, words: str, outcome: str) -> None:
        body = json.dumps({"object": "error", "message": words, "code": 400})
        with serve(response(body, kind="application/json")) as server:
            address = f"http://127.0.0.1:{server.port}/v1"
            lm = dspy.LM("openai/m", api_base=address, api_key="no", cache=False, num_retries=0)
            with dspy.context(lm=lm):
                if outcome == "context_window":
                    assert evaluate(dspy.Predict(Triage), examples(4), exact).outcomes == {outcome: 4}
                else:
                    with pytest.raises(FatalError, match=words):
                        evaluate(dspy.Predict(Triage), examples(20), exact)

    def test_a_key_that_is_refused_again_and_again_is_believed(self) -> None:
        def script(call: Call) -> Any:
            return learner(call) if call.number < 5 else AuthError("revoked", status=403)

        with pytest.raises(FatalError):
            measured(script, 60, num_threads=1)

    def test_a_model_that_loads_again_is_waited_for(self) -> None:
        def script(call: Call) -> Any:
            loading = 5 <= call.number < 9
            return UnsupportedModelError("model is loading", status=404) if loading else learner(call)

        assert measured(script, 20, num_threads=1).mean.n == 20


class TestTools:
    def agent(self, tool: Any) -> dspy.Module:
        class Agent(dspy.Module):
            def __init__(self) -> None:
                super().__init__()
                self.answer, self.tool = dspy.Predict(Triage), dspy.Tool(tool)

            def forward(self, ticket: str) -> Any:
                with contextlib.suppress(KeyError):
                    self.tool(query=ticket)
                return self.answer(ticket=ticket)

        return Agent()

    def test_one_that_always_raises_is_told_and_ends_the_run(self, caplog: pytest.LogCaptureFixture) -> None:
        def look_up(query: str) -> str:
            raise KeyError("no such rule")

        lm = scripted_lm()
        with dspy.context(lm=lm):
            found = evaluate(self.agent(look_up), examples(200), exact, num_threads=4)
        messages = "\n".join(caplog.messages)
        assert "tool 'look_up' failed in 10 of 10 calls; the last error was KeyError: 'no such rule'" in messages
        assert found.stop_reason == "unscored" and len(lm.engine.calls) <= tools._END_FROM + 4
        assert "ended early: tool 'look_up' failed in 30 of 30 calls" in messages and found.mean.n > 20
        assert "no attempt could be scored" not in messages + str(found)

    def test_one_that_fails_now_and_then_is_no_matter(self, caplog: pytest.LogCaptureFixture) -> None:
        def look_up(query: str) -> str:
            if "refund" in query:
                raise KeyError("no such rule")
            return "found"

        with dspy.context(lm=scripted_lm()):
            found = evaluate(self.agent(look_up), examples(80), exact, num_threads=4)
        assert found.stop_reason == "completed" and "look_up" not in "\n".join(caplog.messages)
        assert found.outcomes == {Outcome.COMPLETED.value: 80}
