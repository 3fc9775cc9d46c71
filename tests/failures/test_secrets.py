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
FIELDS = {"queue": "billing", "summary": "s", "comparison": "c", "reasoning": "r", "edits": "[]"}
REPLY = "\n\n".join(f"[[ ## {name} ## ]]\n{value}" for name, value in FIELDS.items())


@pytest.fixture(autouse=True)
def everything_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(state, "BACKOFF", 0.005)
    caplog.set_level(logging.DEBUG, "trgrpo_dspy")


@contextmanager
def gateway(status: int = 500, every: int = 1) -> Iterator[Loopback]:
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


def lm_at(web: Loopback, engine: str = "auto", **settings: Any) -> dspy.LM:
    headers = {"X-Gateway-Auth": f"Bearer {HEADER}", "X-Tenant": OTHER_HEADER}
    given = {"api_base": f"http://127.0.0.1:{web.port}/v1", "extra_headers": headers, "num_retries": 1, **settings}
    return dspy.LM("openai/offline", engine=engine, cache=False, api_key=KEY, seed=0, **given)


def compile_with(lm: dspy.BaseLM | None, program: dspy.Module | None = None, **options: Any) -> dspy.Module:
    settings = {"metric": told, "num_epochs": 1, "group_size": 3, "num_threads": 4, **options}
    sets = {"trainset": examples(6), "valset": examples(4, start=6)}
    with dspy.context(lm=lm):
        return TrainingFreeGRPO(**settings).compile(program or dspy.Predict(Triage), **sets)


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


# -- a run -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["auto", "litellm"])
def test_a_run_that_meets_refusals_which_tell_all(
    engine: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with gateway(every=3) as web:
        lm = lm_at(web, engine, num_retries=0)
        compiled = compile_with(lm, log_dir=tmp_path, num_threads=1)  # so that the same requests are refused
    files = left_in(tmp_path)
    assert "refused: " in files and "***" in files, "what was refused is kept, without the secrets"
    assert "lost: LMServerError" in caplog.text and compiled.detailed_results.total.failed > 5
    assert_untold(files, caplog.text, told_by_program(compiled, tmp_path), *capfd.readouterr())


@pytest.mark.parametrize(
    ("status", "engine"), [(401, "auto"), (401, "litellm"), (404, "auto"), (429, "litellm"), (500, "auto")]
)
def test_a_run_that_fails(status: int, engine: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A wrong key echoed, and a server that always fails."""
    with gateway(status) as web, pytest.raises(FatalError, match=r"\*\*\*") as caught:
        compile_with(lm_at(web, engine), log_dir=tmp_path)
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert_untold(told_by(caught.value), left_in(tmp_path), caplog.text)


@pytest.mark.parametrize("engine", ["auto", "litellm"])
def test_a_password_in_the_address(engine: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody is there, and the client says where it looked."""
    address = "http://user:hill%3AUy64Ng29%40fern@127.0.0.1:9/v1"
    lm = dspy.LM("openai/offline", engine=engine, api_base=address, api_key=KEY, cache=False, num_retries=0)
    with pytest.raises(FatalError, match="none of 8 requests got a reply") as caught:
        compile_with(lm, log_dir=tmp_path)
    assert_untold(told_by(caught.value), left_in(tmp_path), caplog.text)


class Again(dspy.Module):
    """Asks again after a refusal: the end of the run is raised in the middle of that error."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict(Triage)

    def forward(self, ticket: str) -> Any:
        try:
            return self.answer(ticket=ticket)
        except Exception:
            return self.answer(ticket=f"{ticket} again")


def test_a_predictors_own_lm_and_a_worker_that_is_interrupted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    program = Again()
    with gateway(401) as web, pytest.raises(FatalError) as caught:
        program.answer.lm = lm_at(web)
        compile_with(None, program, log_dir=tmp_path)
    assert_untold(told_by(caught.value), left_in(tmp_path), caplog.text)


def test_an_evaluation_and_an_estimate() -> None:
    with gateway(401) as web, dspy.context(lm=lm_at(web)):
        with pytest.raises(FatalError) as caught:
            evaluate(dspy.Predict(Triage), examples(3), exact)
        with pytest.raises(FatalError) as other:
            TrainingFreeGRPO(metric=exact).estimate(dspy.Predict(Triage), trainset=examples(3), sample=2)
    assert_untold(told_by(caught.value), told_by(other.value))


class Telltale(dspy.BaseLM):
    """Is given every setting, and tells them all in its errors."""

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        text = json.dumps(self.kwargs) + str(self.kwargs) + "\n" + "\n".join(map(str, self.kwargs.values()))
        raise {"some/key": LMAuthError, "some/outage": LMServerError}[self.model](text, model=self.model)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # an LM of the old kind takes any setting
@pytest.mark.parametrize(("fault", "reflects"), [("key", False), ("key", True), ("outage", True)])
def test_every_setting_in_an_error(
    fault: str, reflects: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A refused key of the program's LM or the reflection's, and a reflection that answers nobody."""
    lm, ended = Telltale(f"some/{fault}", num_retries=0, **GIVEN), ""
    try:
        compiled = compile_with(scripted_lm() if reflects else lm, reflection_lm=lm, log_dir=tmp_path)
        ended = told_by_program(compiled, tmp_path)
    except FatalError as error:  # of an outage: where it was asked often enough
        ended = told_by(error)
    assert ("the key was refused" if fault == "key" else "LMServerError") in ended + caplog.text
    assert_untold(ended, left_in(tmp_path), caplog.text)


def test_a_fatal_error_of_a_users_reflector(caplog: pytest.LogCaptureFixture) -> None:
    """It calls an LM of its own, past everything; what it raises comes to us as it is."""

    class Reflects(Reflector):
        def compare(self, *args: Any, **kwargs: Any) -> Any:
            raise LMAuthError(f"no such key: {KEY}", model="some/model")

    remember(GIVEN)
    with pytest.raises(FatalError, match=r"the key was refused.*no such key: \*\*\*") as caught:
        compile_with(scripted_lm(), reflector=Reflects())
    assert_untold(told_by(caught.value), caplog.text)


class Careless(dspy.Module):
    """A program and its tool that tell what they know."""

    def __init__(self) -> None:
        super().__init__()
        self.answer, self.tool = dspy.Predict(Triage), dspy.Tool(self.look_up, name="look_up")

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


def test_what_a_program_or_a_tool_makes_of_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Errors of the user's own code, and observations of an agent, in transcripts and prompts of the reflection."""
    remember(GIVEN)
    lm = scripted_lm(learner)
    compiled = compile_with(lm, Careless(), log_dir=tmp_path)
    assert compiled.detailed_results.steps[0].outcomes["program_error"] > 0
    files, sent = left_in(tmp_path), "\n".join(call.text for call in lm.engine.calls)
    assert "look_up" in files and "look_up" in sent
    assert_untold(files, caplog.text, sent, told_by_program(compiled, tmp_path))


# -- blanking ----------------------------------------------------------------------------------------------------------


def test_what_was_given_is_blanked() -> None:
    remember(GIVEN)
    for secret in set(SECRETS) - {"Uy64Ng29"}:
        assert blank(f"before {secret} after") == "before *** after"
        assert secret not in redact(f"x={secret}")
        assert secret not in describe(ValueError(f"not found: {secret}\n{secret}"))


def test_words_are_no_secrets_and_nonsense_does_no_harm() -> None:
    """What a local server takes for a key, a model, a number, a plain address."""
    remember(
        {"api_key": "EMPTY", "model": "openai/gpt-4o-mini", "temperature": 0.7, "stop": ["[[ ## completed ## ]]"],
         "api_base": "http://localhost:8000/v1", "max_tokens": 1000, "organization": None}
    )  # fmt: skip
    remember({"api_base": "http://[broken", "vertex_credentials": "{not json", "api_key": b"\xff\xfe", "headers": 3})
    remember({"credentials": [{"token": None}, ("a", 1)], "api_key": lambda: "later"})
    remember({"api_base": "https://user:Wj72Kd31@models.example/v1"})
    text = "EMPTY openai/gpt-4o-mini 0.7 [[ ## completed ## ]] http://localhost:8000/v1 1000 None user@host: ready"
    assert blank(text) == text
    remember({"api_base": "https://Wt55Gp90:x@models.example/v1"})
    assert blank("a token may stand where a user does: Wt55Gp90") == "a token may stand where a user does: ***"


def test_keys_of_the_environment_of_every_lm_a_run_meets_and_of_a_predictors_own_are_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Chooses(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.answer = dspy.Predict(Triage)

        def forward(self, ticket: str) -> Any:
            other = scripted_lm()
            other.kwargs["api_key"] = "Gd13Xs86heath"
            with dspy.context(lm=other):
                return self.answer(ticket=ticket)

    monkeypatch.setenv("SOMEBODYS_API_KEY", "Bk42Tv95ling")
    remember({})
    compile_with(scripted_lm(), Chooses())
    with Gate().context(Unit(Stage.ROLLOUT), lm=scripted_lm()), pytest.raises(Exception, match="api_key"):
        dspy.Predict(Triage, api_key="Vf28Lc60marsh")(ticket="refund")  # a custom engine takes none
    for key in ("Bk42Tv95ling", "Gd13Xs86heath", "Vf28Lc60marsh"):
        assert blank(f"401: {key} is no key of ours") == "401: *** is no key of ours"
