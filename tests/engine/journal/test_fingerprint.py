"""What a run is: every part that matters is seen and named, what may change is not seen, and no secret is kept."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from enum import Enum
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pytest
from dspy.lm15 import Config, Message, Request
from pydantic import BaseModel
from support.scripted import Triage, exact, examples, scripted_lm, told

from trgrpo_dspy import Budget, ExperienceLibrary, JournalError, Reflector, TrainingFreeGRPO
from trgrpo_dspy.engine.journal.fingerprint import fingerprint
from trgrpo_dspy.engine.journal.journal import Journal
from trgrpo_dspy.engine.journal.plain import plain
from trgrpo_dspy.engine.journal.requests import request_hash

TRAIN, VAL = examples(3), examples(2, start=3)


@dataclass
class Arguments:
    """What a run is started with; a test changes one thing."""

    settings: dict[str, Any]
    student: Callable[[], dspy.Module] = lambda: dspy.Predict(Triage)
    trainset: Any = None
    valset: Any = None
    library: Any = None
    lm: Any = None
    context: Any = None

    def run(self, log_dir: Path) -> dspy.Module:
        lm = self.lm or scripted_lm()
        with dspy.context(lm=lm, **(self.context or {})):
            settings = {"metric": told, "group_size": 2, "num_epochs": 1, "num_threads": 2, **self.settings}
            return TrainingFreeGRPO(log_dir=log_dir, **settings).compile(
                self.student(), trainset=self.trainset or TRAIN, valset=self.valset or VAL, library=self.library
            )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    with dspy.context(adapter=None, callbacks=[]):
        Arguments({}).run(directory)
    return directory


def changed(signature: Any = Triage, *, lm: Any = None, demos: Any = (), **config: Any) -> Callable[[], dspy.Module]:
    def program() -> dspy.Module:
        predict = dspy.Predict(signature, **config)
        predict.lm, predict.demos = lm, list(demos)
        return predict

    return program


class Wrapped(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = dspy.Predict(Triage)

    def forward(self, ticket: str) -> Any:
        return self.inner(ticket=ticket)


class Weather(BaseModel):
    sky: str


class WeatherNow(BaseModel):
    sky: str
    wind: int


WeatherNow.__name__ = WeatherNow.__qualname__ = "Weather"


def own_prompt() -> Reflector:
    reflector = Reflector()
    predictor = reflector.predictors()[0]
    predictor.signature = predictor.signature.with_instructions("Tell it in your own words.")
    return reflector


OTHER: dict[str, tuple[dict[str, Any], str]] = {
    "instruction": (
        {"student": changed(Triage.with_instructions("Say which queue a ticket belongs to, please."))},
        "program self instructions: was 'Say which queue a ticket belongs to.', is 'Say .* belongs to, please.'$",
    ),
    "demo": ({"student": changed(demos=[dspy.Example(queue="billing")])}, "program self demos: was '0', is '1'"),
    "field": (
        {"student": changed(Triage.append("urgency", dspy.OutputField(), type_=str))},
        r"program self fields urgency \(str\) is new; "
        "program self order of fields: was 'ticket, queue', is 'ticket, queue, urgency'$",
    ),
    "field description": (
        {"student": changed(Triage.with_updated_fields("queue", desc="the right one"))},
        "program self fields queue: was .*, is .*the right one",
    ),
    "predictor's temperature": (
        {"student": changed(temperature=0.2)}, r"program self settings temperature \(0.2\) is new$",
    ),
    "predictor's LM": (
        {"student": changed(lm=scripted_lm(temperature=0.3))},
        r"program self LM: was 'the configured LM', is 'scripted/model .*temperature.*0.3",
    ),
    "structure": (
        {"student": Wrapped},
        r"program code test_fingerprint.Wrapped.__init__ is new; .*program modules self: was 'Predict', is 'Wrapped'; "
        r"program modules self.inner \(Predict\) is new; .*program self is gone; program self.inner is new$",
    ),
    "trainset's content": (
        {"trainset": examples(2) + examples(1, start=7)}, r"trainset: 1 of 3 examples differs: \[2\]$",
    ),
    "trainset's inputs": (
        {"trainset": [dspy.Example(**e.toDict()).with_inputs("ticket", "queue") for e in TRAIN]},
        r"trainset: 3 of 3 examples differ: \[0\], \[1\], \[2\]$",
    ),
    "valset": ({"valset": VAL[:1]}, "valset: was 2 examples, is 1, the first 1 the same$"),
    "metric": ({"settings": {"metric": exact}}, "metric function: was 'support.scripted.told', is 'support.scripted.exact'"),  # noqa: E501
    "options": (
        {"settings": {"group_size": 3, "batch_size": 2, "seed": 1, "failure_score": -1.0, "predictors": ["self"]}},
        r"batch_size: was None, is 2; failure_score: was 0.0, is -1.0; group_size: was 2, is 3; .*"
        r"predictors: was None, is \['self'\]; .*seed: was 0, is 1$",
    ),
    "reflector's prompt": (
        {"settings": {"reflector": own_prompt()}},
        r"reflector self\.\w+.* instructions: was .*, is 'Tell it in your own words.'",
    ),
    "library": (
        {"library": ExperienceLibrary.of("When in doubt, ask.")},
        "starting library: was '0 entries', is '1 entries'$",
    ),
    "model": ({"lm": scripted_lm(name="scripted/other")}, r" lm: was 'scripted/model .* is 'scripted/other"),
    "reflection_lm": (
        {"settings": {"reflection_lm": scripted_lm(name="scripted/other")}},
        r"reflection_lm: was .*, is 'scripted/other",
    ),
    "adapter": ({"context": {"adapter": dspy.JSONAdapter()}}, "adapter: was 'ChatAdapter', is 'JSONAdapter'$"),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHER)
def test_another_run_is_refused_with_the_difference_named(finished: Path, what: str) -> None:
    changes, message = OTHER[what]
    arguments = Arguments(**{"settings": {}, **changes})
    arguments.lm = arguments.lm or scripted_lm()
    before = (finished / "results.json").stat().st_mtime_ns
    with pytest.raises(JournalError, match=message) as caught:
        arguments.run(finished)
    assert str(caught.value).startswith(
        f"log_dir={str(finished)!r} holds another run. Pass another directory, or undo: "
    )
    assert "#" not in str(caught.value)
    assert not arguments.lm.engine.calls
    assert (finished / "results.json").stat().st_mtime_ns == before


def test_what_does_not_change_what_is_learned_may_change(finished: Path) -> None:
    Arguments(
        {
            "budget": Budget(max_lm_calls=10**6, max_seconds=3600.0), "num_threads": 16, "rollout_timeout": 300.0,
            "requests_per_minute": 10**6, "reflector": Reflector(),
        },
        student=lambda: dspy.Predict(Triage).deepcopy(),
        trainset=[dspy.Example(**e.toDict()).with_inputs("ticket") for e in TRAIN],
        lm=scripted_lm(num_retries=9),
    ).run(finished)  # fmt: skip


def test_keys_headers_and_addresses_are_not_in_it(tmp_path: Path) -> None:
    def lm(secret: str) -> dspy.LM:
        made = scripted_lm()
        made.kwargs |= {"api_key": secret, "api_base": f"http://{secret}", "extra_headers": {"X": secret}, "timeout": 3}
        return made

    secrets = ("sk-first-secret-1234", "sk-second-secret-1234")
    for secret in secrets:
        Arguments({"metric": functools.partial(told, trace=secret)}).run(tmp_path / secret[3:8])
    same = [
        fingerprint(
            kind="a test", settings={}, programs={"program": changed(lm=lm(secret))()}, data={"trainset": TRAIN},
            metric=told, lms={"lm": lm(secret)}, library=ExperienceLibrary(),
        )
        for secret in secrets
    ]  # fmt: skip
    assert same[0] == same[1]
    assert not any(secret in json.dumps(same) for secret in secrets)
    assert request_hash(lm(secrets[0]), None, [], {}) == request_hash(lm(secrets[1]), None, [], {})
    assert not any(
        secret.encode() in file.read_bytes() for secret in secrets for file in tmp_path.rglob("*") if file.is_file()
    )


def test_secrets_of_tools_and_attributes_are_neither_kept_nor_shown(tmp_path: Path) -> None:
    """A tool's server may want a header, and a secret may be a number."""

    class Member(dspy.Module):
        def __init__(self, secret: int) -> None:
            super().__init__()
            self.access_token, self.password = f"t{secret}", secret
            self.inner = dspy.Predict(Triage, tools=server(secret))

        def forward(self, ticket: str) -> Any:
            return dspy.Prediction(queue="legal")

    def server(secret: int) -> list[dict[str, Any]]:
        return [{"type": "mcp", "headers": {"Authorization": f"Bearer m{secret}"}}]

    one, other = 4711471147, 8150815081
    lms = {secret: scripted_lm(tools=server(secret)) for secret in (one, other)}
    settings = {"reflection_lm": scripted_lm()}
    Arguments(settings, student=lambda: Member(one), lm=lms[one]).run(tmp_path)
    with pytest.raises(JournalError) as caught:
        Arguments(settings, student=lambda: Member(other), lm=lms[other]).run(tmp_path)
    message = str(caught.value)
    for part in (
        ' lm (scripted/model {"seed": 7, "tools": "..."}) was changed;',
        "program self.inner settings tools was changed",
    ):
        assert part in message
    kept = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    for secret in (one, other):
        assert str(secret) not in message and str(secret).encode() not in kept


class Colour(Enum):
    RED = "red"


class Opaque:
    pass


class Spoken:
    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"Spoken({self.text!r}, by {object.__repr__(self)})"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"b": 1, "a": 2}, {"a": 2, "b": 1}, True),
        ({"a", "b", "c"}, {"c", "b", "a"}, True),
        (Opaque(), Opaque(), True),
        (Spoken("a"), Spoken("a"), True),
        (Spoken("a"), Spoken("b"), False),
        (np.arange(5000), np.arange(5000), True),
        (np.arange(5000), np.arange(5000) + (np.arange(5000) == 2500), False),
        (np.float32(0.5), 0.5, True),
        (b"\x00\xff", b"\x00\xfe", False),
        (date(2025, 1, 1), date(2025, 1, 2), False),
        (Colour.RED, Colour.RED, True),
        (True, 1, False),
        (1, 1.0, False),
        (Weather(sky="blue"), Weather(sky="grey"), False),
        (Weather, WeatherNow, False),
        (dspy.Example(a=1), dspy.Example(a=2), False),
        (functools.partial(max, 1), functools.partial(max, 2), False),
        (Message.user("at 0x12 a"), Message.user("at 0x12 b"), False),
        ("\ud800", "\ud801", False),
        (float("nan"), float("nan"), True),
    ],
)
def test_plain_values(one: Any, other: Any, same: bool) -> None:
    assert (json.dumps(plain(one)) == json.dumps(plain(other))) is same


def test_a_request_is_known_by_all_that_decides_its_reply() -> None:
    lm = scripted_lm()
    base: dict[str, Any] = {"prompt": None, "messages": [{"role": "user", "content": "a"}], "kwargs": {"seed": 1}}

    def hashed(lm: Any = lm, **changes: Any) -> str:
        return request_hash(lm, *{**base, **changes}.values())

    others = [
        hashed(messages=[{"role": "user", "content": "b"}]), hashed(prompt="a", messages=None),
        hashed(kwargs={"seed": 2}),
        hashed(kwargs={"seed": 1, "temperature": 0.1}), hashed(kwargs={"seed": 1, "rollout_id": 3}), hashed(kwargs={}),
        hashed(kwargs={"seed": 1, "tools": [{"name": "x"}]}), hashed(kwargs={"seed": 1, "response_format": Weather}),
        hashed(kwargs={"seed": 1, "extra_body": {"top_k": 3}}), hashed(scripted_lm(name="scripted/b")),
        hashed(scripted_lm(top_p=0.5)), hashed(kwargs={"seed": 1, "response_format": WeatherNow}),
    ]  # fmt: skip
    typed = [Request(model="m", messages=(Message.user(t),), config=Config(seed=s)) for t in "ab" for s in (1, 2)]
    hashes = [hashed(), *others, *(hashed(prompt=request, messages=None) for request in typed)]
    assert len(set(hashes)) == len(hashes)
    assert hashed(kwargs={"seed": 1, "cache": False, "api_key": "k", "timeout": 3, "headers": {"a": "b"}}) == hashed()
    assert hashed(scripted_lm(num_retries=7)) == hashed()


def test_the_fingerprint_is_plain_text_people_can_read(finished: Path) -> None:
    with Journal(finished) as journal:
        found = journal.get("fingerprint")
    assert found["lm"] == 'scripted/model {"seed": 7}' and found["trainset"][0].startswith("#")
    assert found["metric"]["function"] == "support.scripted.told"
    assert found["metric"]["code"]["support.scripted.told"].startswith("#")
    assert found["program"]["self"]["instructions"] == "Say which queue a ticket belongs to."
    assert found["program"]["self"]["LM"] == "the configured LM"
