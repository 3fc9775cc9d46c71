"""What is sent to workers: programs whole, secrets by name only, and a clear word about what can't be sent."""

from __future__ import annotations

import os
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

KEY, OTHER = "Kd83WmQ0vv61brake", "Tz20PlN7aa44heron"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACKING_TEST_KEY", KEY)
    monkeypatch.setenv("PACKING_TEST_TOKEN", OTHER)


def lm(**settings: Any) -> dspy.LM:
    return dspy.LM("openai/some-model", cache=False, **settings)


def sent(**parts: Any) -> dict[str, Any]:
    """What arrives, after a look at the bytes."""
    data = pack(**parts)
    assert KEY.encode() not in data
    assert OTHER.encode() not in data
    return unpack(data)


class TestKeys:
    def test_a_key_is_sent_by_the_name_of_its_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = pack(lm=lm(api_key=KEY))
        assert KEY.encode() not in data
        assert b"PACKING_TEST_KEY" in data
        monkeypatch.setenv("PACKING_TEST_KEY", "the worker's own")
        assert unpack(data)["lm"].kwargs["api_key"] == "the worker's own"

    def test_wherever_an_lm_sits(self) -> None:
        judge = lm(api_key=KEY)
        found = sent(
            program=Judged(), metric=lambda example, prediction: judge, settings={"adapter": dspy.TwoStepAdapter(judge)}
        )
        lms = [
            found["program"].answer.lm,
            found["program"].others["strong"][0],
            found["metric"](None, None),
            found["settings"]["adapter"].extraction_model,
        ]
        assert [each.kwargs["api_key"] for each in lms] == [KEY, OTHER, KEY, KEY]
        assert lms[2] is lms[3]  # one LM stays one

    def test_headers_and_addresses_too(self) -> None:
        address = f"https://gate:{KEY}@models.example/v1"
        os.environ["PACKING_TEST_URL"] = address
        try:
            given = {"extra_headers": {"X-Auth": f"Bearer {OTHER}"}, "api_base": address, "tokens": [KEY, (OTHER,)]}
            assert sent(lm=lm(**given))["lm"].kwargs == lm(**given).kwargs
        finally:
            del os.environ["PACKING_TEST_URL"]

    def test_what_is_no_secret_is_sent_as_it_is(self) -> None:
        found = sent(lm=lm(api_key="EMPTY", api_base="http://127.0.0.1:8000/v1", temperature=0.3, seed=4))["lm"]
        assert found.kwargs == {
            "api_key": "EMPTY", "api_base": "http://127.0.0.1:8000/v1", "temperature": 0.3, "seed": 4,
            "max_tokens": None,
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("settings", "name"),
        [
            ({"api_key": "Vx61NrJ8cc90pebble"}, "api_key"),
            ({"extra_headers": {"X-Auth": "Bearer Vx61NrJ8cc90pebble"}}, "extra_headers X-Auth"),
            ({"api_base": "https://gate:Vx61NrJ8cc90pebble@models.example/v1"}, "api_base"),
        ],
    )
    def test_a_secret_of_no_variable_is_refused(self, settings: dict[str, Any], name: str) -> None:
        with pytest.raises(ValueError, match=rf"LM 'openai/some-model' has a secret in '{name}'") as caught:
            pack(lm=lm(**settings))
        assert "os.environ['ITS_NAME']" in str(caught.value)
        assert "pebble" not in "".join(map(str, (caught.value, caught.value.__cause__, caught.value.__context__)))

    def test_a_variable_that_is_missing_on_the_worker_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = pack(program=lm(api_key=KEY))
        monkeypatch.delenv("PACKING_TEST_KEY")
        with pytest.raises(FatalError, match=r"environment variable PACKING_TEST_KEY is not set on worker .+ every"):
            unpack(data)
        assert "variable PACKING_TEST_KEY is not set" in run_attempt("a digest", data, b"").fatal

    def test_a_key_in_a_tool_is_refused(self) -> None:
        key = lm(api_key=KEY).kwargs["api_key"]

        def search(query: str) -> str:
            """Search."""
            return key + query

        pack(lm=lm(api_key=KEY))  # known from here on
        with pytest.raises(
            ValueError, match=r"^program holds a key or password in plain sight.* Read it from os.environ"
        ):
            pack(program=dspy.ReAct("question -> answer", tools=[search]), metric=None)

    def test_a_custom_engine_s_own_key_is_refused(self) -> None:
        engine = Engine("Lm52GvB6ee74thistle")
        with pytest.raises(ValueError, match=r"^settings holds a key .* inside the tool, the engine or forward"):
            pack(settings={"lm": dspy.LM("own/model", engine=engine)})
        assert sent(lm=dspy.LM("own/model", engine=Engine("")))["lm"].engine.api_key == ""

    def test_a_predictor_s_own_key_is_refused(self) -> None:
        program = dspy.Predict(Triage, api_key=OTHER)
        with pytest.raises(ValueError, match=r"^program holds a key"):
            pack(program=program)

    def test_keys_of_the_environment_are_known(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SEARCH_API_KEY", "Yp77LsM2dd13sparrow")
        with pytest.raises(ValueError, match=r"^example holds a key"):
            pack(lm=lm(), example=dspy.Example(question="Who has Yp77LsM2dd13sparrow?"))


class TestLMs:
    def test_they_arrive_plain(self) -> None:
        original = lm(num_retries=5)
        original.history.append({"prompt": "an earlier question"})
        observed = Gate().observe(original)
        found = sent(lm=observed)["lm"]
        assert type(found) is dspy.LM
        assert (found.num_retries, found.history, found.callbacks) == (5, [], [])
        assert vars(found).keys() == vars(original).keys()
        assert type(observed) is not dspy.LM  # as it was

    def test_one_that_pickles_itself_is_let(self) -> None:
        found = sent(lm=Own("own/model"))["lm"]
        assert (type(found), found.model) == (Own, "made anew")


class Judged(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict(Triage)
        self.answer.lm = lm(api_key=KEY)
        self.others = {"strong": [lm(api_key=OTHER)]}


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


class Holds(dspy.Module):
    def __init__(self, thing: Any) -> None:
        super().__init__()
        self.answer = dspy.Predict(Triage)
        self.tools = [{"inner": thing}]


class TestWhatCanNotBeSent:
    def test_an_attribute_is_named(self, tmp_path: Path) -> None:
        with (
            (tmp_path / "open.txt").open("w") as file,
            pytest.raises(ValueError, match=r"program\.tools\[0\]\['inner'\] can't be sent .*\(a TextIOWrapper; "),
        ):
            pack(program=Holds(file))
        with pytest.raises(ValueError, match=r"program\.tools\[0\]\['inner'\] can't be sent .*\(a lock; .* forward"):
            pack(program=Holds(threading.Lock()))

    def test_a_closure_is_named(self) -> None:
        guard = threading.Lock()
        with pytest.raises(ValueError, match=r"guard in metric can't be sent"):
            pack(program=Holds(1), metric=lambda example, prediction: guard.locked())

    def test_an_lm_s_client_is_named(self) -> None:
        bound = dspy.Predict(Triage)
        bound.lm = lm()
        bound.lm.provider = threading.Lock()
        with pytest.raises(ValueError, match=r"program\.lm\.provider can't be sent"):
            pack(program=bound)

    def test_an_object_s_own_refusal_is_told(self) -> None:
        class Refuses:
            def __reduce__(self) -> Any:
                raise pickle.PicklingError(f"not with {KEY}")

        pack(lm=lm(api_key=KEY))
        with pytest.raises(ValueError, match=r"example can't be sent .*PicklingError: not with \*\*\*"):
            pack(example=Refuses())

    def test_before_anything_is_paid(self, lm: dspy.LM) -> None:
        class Unused:
            def submit(self, fn: Any, /, *args: Any) -> Any:
                raise AssertionError("nothing is sent")

        optimizer = TrainingFreeGRPO(metric=lambda e, p, t=None: 1.0, num_epochs=1, executor=Unused())
        with pytest.raises(ValueError, match=r"settings\['lm'\].* can't be sent"):  # its engine keeps a lock
            optimizer.compile(dspy.Predict(Triage), trainset=examples(2))
        assert lm.engine.calls == []


def test_lambdas_and_local_classes_are_sent_whole() -> None:
    class Local:
        value = 3

    found = sent(make=Local, metric=lambda example: Local.value + example)
    assert found["metric"](1) == 4
    assert found["make"].value == 3
