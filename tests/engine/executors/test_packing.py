"""What is sent to workers: programs whole, secrets by name only, and a clear word about what can't be sent."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path
from typing import Any

import dspy
import pytest
from support.scripted import Triage, examples

from trgrpo_dspy import FatalError, TrainingFreeGRPO
from trgrpo_dspy.engine.calls.gate import Gate
from trgrpo_dspy.engine.executors.packing import pack, unpack
from trgrpo_dspy.engine.session import run_attempt

KEY, OTHER, UNKNOWN = "Kd83WmQ0vv61brake", "Tz20PlN7aa44heron", "Vx61NrJ8cc90pebble"
ADDRESS = f"https://gate:{KEY}@models.example/v1"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("KEY", KEY), ("TOKEN", OTHER), ("URL", ADDRESS)):
        monkeypatch.setenv(f"PACKING_TEST_{name}", value)


def make_lm(**settings: Any) -> dspy.LM:
    return dspy.LM("openai/some-model", cache=False, **settings)


def bound(**settings: Any) -> dspy.Module:
    program = dspy.Predict(Triage)
    program.lm = make_lm()
    vars(program.lm).update(settings)
    return program


def sent(**parts: Any) -> dict[str, Any]:
    """What arrives, after a look at the bytes."""
    data = pack(**parts)
    assert KEY.encode() not in data
    assert OTHER.encode() not in data
    return unpack(data)


class Holds(dspy.Module):
    def __init__(self, thing: Any) -> None:
        super().__init__()
        self.answer = dspy.Predict(Triage)
        self.tools = [{"inner": thing}]


class Engine:
    def __init__(self, api_key: str) -> None:
        self.api_key = api_key

    def complete(self, request: Any) -> Any:
        raise NotImplementedError


class Own(dspy.BaseLM):
    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        raise NotImplementedError

    def __reduce__(self) -> Any:
        return Own, ("made anew",)


class TestKeys:
    def test_a_key_is_sent_by_the_name_of_its_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = pack(program=make_lm(api_key=KEY))
        assert KEY.encode() not in data and b"PACKING_TEST_KEY" in data
        monkeypatch.setenv("PACKING_TEST_KEY", "the worker's own")
        assert unpack(data)["program"].kwargs["api_key"] == "the worker's own"
        monkeypatch.delenv("PACKING_TEST_KEY")
        with pytest.raises(FatalError, match=r"environment variable PACKING_TEST_KEY is not set on worker .+ every"):
            unpack(data)
        assert "variable PACKING_TEST_KEY is not set" in run_attempt(data, b"").fatal

    def test_wherever_an_lm_sits(self) -> None:
        judge = make_lm(api_key=KEY)
        found = sent(
            program=Holds(make_lm(api_key=OTHER)),
            metric=lambda example, prediction: judge,
            settings={"adapter": dspy.TwoStepAdapter(judge)},
        )
        assert found["program"].tools[0]["inner"].kwargs["api_key"] == OTHER
        assert found["metric"](None, None).kwargs["api_key"] == KEY
        assert found["metric"](None, None) is found["settings"]["adapter"].extraction_model, "one LM stays one"

    @pytest.mark.parametrize(
        "settings",
        [
            {"extra_headers": {"X-Auth": f"Bearer {OTHER}"}, "api_base": ADDRESS, "tokens": [KEY, (OTHER,)]},
            {"api_key": "EMPTY", "api_base": "http://127.0.0.1:8000/v1", "temperature": 0.3, "seed": 4},
        ],
        ids=["secrets", "no secrets"],
    )
    def test_settings_arrive_as_they_were(self, settings: dict[str, Any]) -> None:
        assert sent(lm=make_lm(**settings))["lm"].kwargs == {**settings, **make_lm(**settings).kwargs}

    @pytest.mark.parametrize(
        ("settings", "name"),
        [
            ({"api_key": UNKNOWN}, "api_key"),
            ({"extra_headers": {"X-Auth": f"Bearer {UNKNOWN}"}}, "extra_headers X-Auth"),
            ({"api_base": f"https://gate:{UNKNOWN}@models.example/v1"}, "api_base"),
        ],
    )
    def test_a_secret_of_no_variable_is_refused(self, settings: dict[str, Any], name: str) -> None:
        with pytest.raises(ValueError, match=rf"LM 'openai/some-model' has a secret in '{name}'") as caught:
            pack(lm=make_lm(**settings))
        assert "os.environ['ITS_NAME']" in str(caught.value)
        assert UNKNOWN not in "".join(map(str, (caught.value, caught.value.__cause__, caught.value.__context__)))

    def test_a_key_in_plain_sight_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        key = make_lm(api_key=KEY).kwargs["api_key"]

        def search(query: str) -> str:
            """Search."""
            return key + query

        pack(lm=make_lm(api_key=KEY))  # known from here on
        monkeypatch.setenv("SEARCH_API_KEY", "Yp77LsM2dd13sparrow")  # known by its name
        for part, holds in {
            "program": dspy.ReAct("question -> answer", tools=[search]),
            "settings": {"lm": dspy.LM("own/model", engine=Engine("Lm52GvB6ee74thistle"))},
            "metric": dspy.Predict(Triage, api_key=OTHER),
            "example": dspy.Example(question="Who has Yp77LsM2dd13sparrow?"),
        }.items():
            with pytest.raises(ValueError, match=rf"^{part} holds a key or password in plain sight.* from os.environ"):
                pack(**{part: holds, "another": 1})
        assert sent(lm=dspy.LM("own/model", engine=Engine("")))["lm"].engine.api_key == ""


def test_lms_arrive_plain_but_for_one_that_pickles_itself() -> None:
    original = make_lm(num_retries=5)
    original.history.append({"prompt": "an earlier question"})
    observed = Gate().observe(original)
    found = sent(lm=observed)["lm"]
    assert type(found) is dspy.LM
    assert (found.num_retries, found.history, found.callbacks) == (5, [], [])
    assert vars(found).keys() == vars(original).keys()
    assert type(observed) is not dspy.LM  # as it was
    own = sent(lm=Own("own/model"))["lm"]
    assert (type(own), own.model) == (Own, "made anew")


def test_lambdas_and_local_classes_are_sent_whole() -> None:
    class Local:
        value = 3

    found = sent(make=Local, metric=lambda example: Local.value + example)
    assert found["metric"](1) == 4
    assert found["make"].value == 3


class TestWhatCanNotBeSent:
    def test_what_holds_it_is_named(self, tmp_path: Path) -> None:
        class Refuses:
            def __reduce__(self) -> Any:
                raise pickle.PicklingError(f"not with {KEY}")

        lock = threading.Lock()
        pack(lm=make_lm(api_key=KEY))  # known from here on
        with (tmp_path / "open.txt").open("w") as file:
            for part, holds, problem in [
                ("program", Holds(file), r"program\.tools\[0\]\['inner'\] can't be sent .*\(a TextIOWrapper; "),
                ("program", Holds(lock), r"program\.tools\[0\]\['inner'\] can't be sent .*\(a lock; .* forward"),
                ("program", bound(provider=lock), r"program\.lm\.provider can't be sent"),
                ("metric", lambda example, prediction: lock.locked(), "lock in metric can't be sent"),
                ("example", Refuses(), r"example can't be sent .*PicklingError: not with \*\*\*"),
            ]:
                with pytest.raises(ValueError, match=problem):
                    pack(**{part: holds, "another": 1})

    def test_before_anything_is_paid(self, lm: dspy.LM) -> None:
        class Unused:
            def submit(self, fn: Any, /, *args: Any) -> Any:
                raise AssertionError("nothing is sent")

        optimizer = TrainingFreeGRPO(metric=lambda e, p, t=None: 1.0, num_epochs=1, executor=Unused())
        with pytest.raises(ValueError, match=r"settings\['lm'\].* can't be sent"):  # its engine keeps a lock
            optimizer.compile(dspy.Predict(Triage), trainset=examples(2))
        assert lm.engine.calls == []
