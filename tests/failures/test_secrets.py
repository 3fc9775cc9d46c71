"""Keys, headers, cloud credentials and passwords in addresses: nothing that a run leaves behind tells them."""

from __future__ import annotations

import base64
import itertools
import json
import logging
import sqlite3
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.utils.exceptions import LMAuthError, LMServerError
from support.loopback import Loopback, response, serve
from support.scripted import Triage, exact, examples, learner, scripted_lm, told

from trgrpo_dspy import FatalError, Reflector, TrainingFreeGRPO, evaluate
from trgrpo_dspy.engine.calls import state
from trgrpo_dspy.engine.calls.gate import Gate
from trgrpo_dspy.engine.calls.units import Unit
from trgrpo_dspy.failures.messages import describe
from trgrpo_dspy.failures.redaction import redact
from trgrpo_dspy.failures.secrets import blank, remember
from trgrpo_dspy.meter import Stage

# No pattern would know these: only who was given them can.
KEY = "Zx81QpLm22Vb90moss"
HEADER = "gateway-Hq77Wd31-tern"
OTHER_HEADER = "tenant/Pf05Ks88/reed"
PASSWORD = "hill:Uy64Ng29@fern"
CLOUD = "Wn39/Rt57+Jc16bracken"
PRIVATE = "MIIEvQIBADANBgkqhkiG9w0BAQ"
SESSION = "FwoGZXIvYXdzEGcaDNz"
SECRETS = (
    KEY, HEADER, OTHER_HEADER, PASSWORD, "Uy64Ng29", "hill%3AUy64Ng29%40fern", CLOUD, PRIVATE, SESSION,
    base64.b64encode(f"user:{PASSWORD}".encode()).decode(),
)  # fmt: skip

GIVEN: dict[str, Any] = {
    "api_key": KEY,
    "headers": {"X-Gateway-Auth": f"Bearer {HEADER}"},
    "extra_headers": {"X-Tenant": OTHER_HEADER},
    "aws_secret_access_key": CLOUD,
    "aws_session_token": SESSION,
    "vertex_credentials": json.dumps({"type": "service_account", "private_key": f"-----BEGIN\n{PRIVATE}\n-----END"}),
    "api_base": "https://user:hill%3AUy64Ng29%40fern@models.example/v1?code=Wn39/Rt57+Jc16bracken",
}


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "BACKOFF", 0.005)


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """All that our loggers say, at every level."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))  # with its traceback, if it has one

    handler, logger = Keep(), logging.getLogger("trgrpo_dspy")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)


REPLY = "\n\n".join(
    f"[[ ## {name} ## ]]\n{value}"
    for name, value in {"queue": "billing", "summary": "s", "comparison": "c", "reasoning": "r", "edits": "[]"}.items()
)


@contextmanager
def gateway(status: int = 500, every: int = 10**9) -> Iterator[Loopback]:
    """Answers, but for each so-manieth request, which it refuses telling all that it was sent."""
    told = json.dumps({"error": {"message": f"refused: {KEY} {HEADER} {OTHER_HEADER}", "type": "x", "code": None}})
    choice = {"index": 0, "message": {"role": "assistant", "content": REPLY}, "finish_reason": "stop"}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    refused = response(told, f"{status} No", "application/json")
    answered = response(json.dumps(body), kind="application/json")
    count = itertools.count(1)
    with serve(lambda *asked: (answered if next(count) % every else refused)(*asked)) as server:
        yield server
        assert all(name in "".join(server.requests) for name in (KEY, HEADER, OTHER_HEADER))


def lm_at(web: Loopback, engine: str, **settings: Any) -> dspy.LM:
    address = f"http://127.0.0.1:{web.port}/v1"
    headers = {"X-Gateway-Auth": f"Bearer {HEADER}", "X-Tenant": OTHER_HEADER}
    given = {"api_key": KEY, "api_base": address, "extra_headers": headers, "num_retries": 1, "seed": 0, **settings}
    return dspy.LM("openai/offline", engine=engine, cache=False, **given)


def compile_with(lm: dspy.BaseLM | None, program: dspy.Module | None = None, **options: Any) -> dspy.Module:
    settings = {"metric": told, "num_epochs": 1, "group_size": 3, "num_threads": 4, **options}
    with dspy.context(lm=lm):
        return TrainingFreeGRPO(**settings).compile(
            program or dspy.Predict(Triage), trainset=examples(6), valset=examples(4, start=6)
        )


def left_in(directory: Path) -> str:
    """All text a directory holds: files as they are, databases decoded as well."""
    found = []
    for path in (p for p in directory.rglob("*") if p.is_file()):
        found.append(path.name + path.read_bytes().decode("utf-8", "replace"))
        if path.suffix == ".sqlite":
            with closing(sqlite3.connect(path)) as db:
                for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type='table'").fetchall():
                    found += [decoded(value) for row in db.execute(f"SELECT * FROM {table}") for value in row]
    return "\n".join(found)


def decoded(value: Any) -> str:
    try:
        return f"{value}\n{json.loads(value)}"  # escapes of JSON undone
    except (TypeError, ValueError):
        return str(value)


def told_by(error: BaseException) -> str:
    """All that an exception tells, with what it came from."""
    found, waiting = ["".join(traceback.format_exception(error))], [error]
    for link in waiting:
        found += [str(link), repr(link), repr(link.args), repr(vars(link)), *getattr(link, "__notes__", [])]
        waiting += [each for each in (link.__cause__, link.__context__) if each is not None and each not in waiting]
    return "\n".join(found)


def told_by_program(program: dspy.Module, directory: Path) -> str:
    """All that a compiled program tells, saved too."""
    path = directory / "saved.json"
    program.save(path)
    results = program.detailed_results
    texts = [results.to_json(), str(results), results.spend_table, repr(results), str(program.experiences)]
    return "\n".join([*texts, path.read_text()])


def assert_untold(*texts: str) -> None:
    for text in texts:
        assert [secret for secret in SECRETS if secret in text] == []


class TestARun:
    @pytest.mark.parametrize("engine", ["auto", "litellm"])
    def test_that_meets_refusals_which_tell_all(
        self, engine: str, tmp_path: Path, logged: list[str], capfd: pytest.CaptureFixture[str]
    ) -> None:
        with gateway(status=500, every=3) as web:
            lm = lm_at(web, engine, num_retries=0)
            compiled = compile_with(lm, log_dir=tmp_path, num_threads=1)  # so that the same requests are refused
        files = left_in(tmp_path)
        assert "refused: " in files  # what was refused is kept, without the secrets
        assert "***" in files
        assert any("lost: LMServerError" in line for line in logged)
        assert compiled.detailed_results.total.failed > 5
        assert_untold(files, *logged, told_by_program(compiled, tmp_path), *capfd.readouterr())

    @pytest.mark.parametrize(
        ("status", "engine"), [(401, "auto"), (401, "litellm"), (404, "auto"), (429, "litellm"), (500, "auto")]
    )
    def test_that_fails(self, status: int, engine: str, tmp_path: Path, logged: list[str]) -> None:
        """A wrong key echoed, and a server that always fails."""
        with gateway(status, every=1) as web:
            lm = lm_at(web, engine)
            with pytest.raises(FatalError) as caught:
                compile_with(lm, log_dir=tmp_path)
        assert caught.value.__cause__ is caught.value.__context__ is None
        assert "***" in str(caught.value)
        assert_untold(told_by(caught.value), left_in(tmp_path), *logged)

    @pytest.mark.parametrize("engine", ["auto", "litellm"])
    def test_with_a_password_in_the_address(self, engine: str, tmp_path: Path, logged: list[str]) -> None:
        """Nobody is there, and the client says where it looked."""
        address = "http://user:hill%3AUy64Ng29%40fern@127.0.0.1:9/v1"
        lm = dspy.LM("openai/offline", engine=engine, api_base=address, api_key=KEY, cache=False, num_retries=0)
        with pytest.raises(FatalError, match="none of 8 requests got a reply") as caught:
            compile_with(lm, log_dir=tmp_path)
        assert_untold(told_by(caught.value), left_in(tmp_path), *logged)

    def test_of_a_predictors_own_lm_with_an_interrupted_worker_that_was_refused(
        self, tmp_path: Path, logged: list[str]
    ) -> None:
        """The program asks again after the refusal: the end of the run is raised in the middle of that error."""

        class Again(dspy.Module):
            def __init__(self) -> None:
                super().__init__()
                self.answer = dspy.Predict(Triage)

            def forward(self, ticket: str) -> Any:
                try:
                    return self.answer(ticket=ticket)
                except Exception:
                    return self.answer(ticket=f"{ticket} again")

        program = Again()
        with gateway(status=401, every=1) as web, pytest.raises(FatalError) as caught:
            program.answer.lm = lm_at(web, "auto")
            compile_with(None, program, log_dir=tmp_path)
        assert_untold(told_by(caught.value), left_in(tmp_path), *logged)

    def test_in_an_evaluation_and_an_estimate(self) -> None:
        with gateway(status=401, every=1) as web, dspy.context(lm=lm_at(web, "auto")):
            with pytest.raises(FatalError) as caught:
                evaluate(dspy.Predict(Triage), examples(3), exact)
            with pytest.raises(FatalError) as other:
                TrainingFreeGRPO(metric=exact).estimate(dspy.Predict(Triage), trainset=examples(3), sample=2)
        assert_untold(told_by(caught.value), told_by(other.value))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # an LM of the old kind takes any setting
class TestEverySetting:
    """An LM that is given all of them, and tells them all in its errors."""

    class Telltale(dspy.BaseLM):
        fails = "some"

        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            text = json.dumps(self.kwargs) + str(self.kwargs) + "\n" + "\n".join(map(str, self.kwargs.values()))
            if self.fails == "all":
                raise LMAuthError(text, model=self.model)
            raise LMServerError(text, model=self.model)

    @pytest.mark.parametrize("reflects", [False, True])
    def test_in_a_fatal_error(self, reflects: bool, tmp_path: Path, logged: list[str]) -> None:
        lm = self.Telltale("some/model", num_retries=0, **GIVEN)
        lm.fails = "all"
        with pytest.raises(FatalError, match="the key was refused") as caught:
            compile_with(scripted_lm() if reflects else lm, reflection_lm=lm, log_dir=tmp_path)
        assert_untold(told_by(caught.value), left_in(tmp_path), *logged)

    def test_in_a_fatal_error_of_a_users_reflector(self, logged: list[str]) -> None:
        """It calls an LM of its own, past everything; what it raises comes to us as it is."""

        class Reflects(Reflector):
            def compare(self, *args: Any, **kwargs: Any) -> Any:
                raise LMAuthError(f"no such key: {KEY}", model="some/model")

        remember(GIVEN)
        with pytest.raises(FatalError, match=r"the key was refused.*no such key: \*\*\*") as caught:
            compile_with(scripted_lm(), reflector=Reflects())
        assert_untold(told_by(caught.value), *logged)

    def test_in_outages(self, tmp_path: Path, logged: list[str]) -> None:
        """The reflection's LM answers nobody, after replies of the program's."""
        lm = self.Telltale("some/model", num_retries=0, **GIVEN)
        ended = ""
        try:
            compiled = compile_with(scripted_lm(), reflection_lm=lm, log_dir=tmp_path)
            ended = told_by_program(compiled, tmp_path)
        except FatalError as error:  # where it was asked often enough
            ended = told_by(error)
        assert "LMServerError" in "\n".join([ended, *logged])
        assert_untold(ended, left_in(tmp_path), *logged)

    def test_in_what_a_program_or_a_tool_makes_of_them(self, tmp_path: Path, logged: list[str]) -> None:
        """Errors of the user's own code, and observations of an agent, in transcripts and prompts of the reflection."""
        remember(GIVEN)
        sent: list[str] = []

        class Careless(dspy.Module):
            def __init__(self) -> None:
                super().__init__()
                self.answer = dspy.Predict(Triage)
                self.tool = dspy.Tool(self.look_up, name="look_up")

            def look_up(self) -> str:
                raise ValueError(f"GET {GIVEN['api_base']} with {GIVEN['headers']} and {KEY}")

            def forward(self, ticket: str) -> Any:
                found = self.answer(ticket=ticket)
                if found.queue == "legal":
                    raise RuntimeError(f"{found.queue}: {GIVEN}")
                try:
                    self.tool()
                except ValueError:
                    return found

        def script(call: Any) -> Any:
            sent.append(call.text)
            return learner(call)

        compiled = compile_with(scripted_lm(script), Careless(), log_dir=tmp_path)
        assert compiled.detailed_results.steps[0].outcomes["program_error"] > 0
        assert "look_up" in left_in(tmp_path)
        assert any("look_up" in text for text in sent)
        assert_untold(left_in(tmp_path), *logged, *sent, told_by_program(compiled, tmp_path))


class TestBlanking:
    @pytest.mark.parametrize("secret", [secret for secret in SECRETS if secret != "Uy64Ng29"])
    def test_what_was_given(self, secret: str) -> None:
        remember(GIVEN)
        assert blank(f"before {secret} after") == "before *** after"
        assert secret not in redact(f"x={secret}")
        assert secret not in describe(ValueError(f"not found: {secret}\n{secret}"))

    def test_words_are_no_secrets(self) -> None:
        """What a local server takes for a key, a model, a number, a plain address."""
        remember(
            {"api_key": "EMPTY", "model": "openai/gpt-4o-mini", "temperature": 0.7, "stop": ["[[ ## completed ## ]]"],
             "api_base": "http://localhost:8000/v1", "max_tokens": 1000, "organization": None}
        )  # fmt: skip
        text = "EMPTY openai/gpt-4o-mini 0.7 [[ ## completed ## ]] http://localhost:8000/v1 1000 None"
        assert blank(text) == text

    def test_a_key_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SOMEBODYS_API_KEY", "Bk42Tv95ling")
        remember({})
        assert blank("401: Bk42Tv95ling is no key of ours") == "401: *** is no key of ours"

    def test_every_lm_a_run_meets_is_taken_in(self) -> None:
        class Chooses(dspy.Module):
            def __init__(self) -> None:
                super().__init__()
                self.answer = dspy.Predict(Triage)

            def forward(self, ticket: str) -> Any:
                other = scripted_lm()
                other.kwargs["api_key"] = "Gd13Xs86heath"
                with dspy.context(lm=other):
                    return self.answer(ticket=ticket)

        compile_with(scripted_lm(), Chooses())
        assert blank("Gd13Xs86heath") == "***"

    def test_a_key_of_a_predictors_own_too(self) -> None:
        lm = scripted_lm()
        with Gate().context(Unit(Stage.ROLLOUT), lm=lm), pytest.raises(Exception, match="api_key"):
            dspy.Predict(Triage, api_key="Vf28Lc60marsh")(ticket="refund")  # a custom engine takes none
        assert blank("Vf28Lc60marsh") == "***"

    def test_nonsense_does_no_harm(self) -> None:
        remember(
            {"api_base": "http://[broken", "vertex_credentials": "{not json", "api_key": b"\xff\xfe", "headers": 3}
        )
        remember({"credentials": [{"token": None}, ("a", 1)], "api_key": lambda: "later"})
