"""The model as an LM: formats, determinism, usage, saving; and that it is honest."""

from __future__ import annotations

import asyncio
import csv
import json
import random
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import dspy
import pytest
from dspy.lm15 import Config, Message, Request
from pydantic import BaseModel
from support import DATA, ROOT
from support.adapters import adapter, every_adapter

import trgrpo_dspy.offline as offline
from trgrpo_dspy.offline import NOTICE, OfflineEngine, offline_lm

ADVICE = (
    "--- Notes ---\n"
    "[E1] When the note mentions 'frozen' or 'ice', choose crew 'basalt'.\n"
    "[E2] When the note mentions 'pump' or 'leak', choose crew 'onyx'.\n"
    "--- End ---"
)


class Sort(dspy.Signature):
    """Sort the note."""

    note: str = dspy.InputField()
    crew: Literal["basalt", "onyx", "quartz", "it's"] = dspy.OutputField()


class Item(BaseModel):
    name: str
    kind: Literal["a", "b"]


class Everything(dspy.Signature):
    """Read the note."""

    note: str = dspy.InputField()
    crew: Literal["basalt", "onyx"] = dspy.OutputField()
    ok: bool = dspy.OutputField()
    count: int = dspy.OutputField()
    share: float = dspy.OutputField()
    words: list[str] = dspy.OutputField()
    records: list[Item] = dspy.OutputField()
    maybe: Literal["p", "q"] | None = dspy.OutputField()
    extra: dict[str, Any] = dspy.OutputField()
    reasoning: str = dspy.OutputField()


def ask(signature: Any, lm: dspy.LM | None = None, style: str = "chat", **inputs: Any) -> Any:
    with dspy.context(lm=lm or offline_lm(3), adapter=adapter(style)):
        return dspy.Predict(signature)(**inputs)


class Tips(dspy.Signature):
    """Write tips."""

    rules: str = dspy.InputField()
    count: str = dspy.InputField()
    tips: list[Item] = dspy.OutputField()


@pytest.mark.parametrize("style", ["chat", "json", "xml"])
def test_texts_to_be_made_up_are_sentences_that_were_read(style: str) -> None:
    rules = "How many pumps? Close the valve before noon.\nPumps. Close the valve before noon. Wear gloves on deck."
    made = ask(Tips, style=style, rules=rules, count="5")
    assert [tip.name for tip in made.tips] == ["Close the valve before noon.", "Wear gloves on deck."]
    assert all(tip.kind in ("a", "b") for tip in made.tips)
    (one,) = ask(Tips, style=style, rules=rules, count="1").tips
    assert one.name == made.tips[0].name
    assert len(ask(Tips, style=style, rules=rules, count="a few").tips) == 1


@every_adapter
def test_every_type_comes_back_through_every_adapter(style: str) -> None:
    made = ask(Everything, style=style, note="Three <frozen> pipes & 12 pumps are leaking, 'now'")
    assert made.crew in ("basalt", "onyx")
    assert isinstance(made.ok, bool)
    assert made.count == 12
    assert made.share == 12.0
    assert all(isinstance(word, str) for word in made.words)
    assert made.maybe in ("p", "q", None)
    assert isinstance(made.extra, dict)
    assert made.reasoning
    if style != "two":  # a free text has no place for records
        assert made.records[0].kind in ("a", "b")


@every_adapter
def test_advice_decides_in_every_format(style: str) -> None:
    taught = Sort.with_instructions(f"Sort the note.\n\n{ADVICE}")
    for note, crew in (("The pipe is frozen solid", "basalt"), ("our pumps are leaking", "onyx")):
        assert ask(taught, style=style, note=note).crew == crew


def shares(signature: Any, note: str, n: int = 60) -> Counter[str]:
    return Counter(ask(signature, offline_lm(3, temperature=0.7).copy(seed=i), note=note).crew for i in range(n))


def test_advice_makes_samples_sure_and_negated_advice_speaks_against() -> None:
    note = "The pipe is frozen, ice everywhere"
    without = shares(Sort, note)
    assert len(without) >= 3
    assert shares(Sort.with_instructions(ADVICE), note)["basalt"] > 50
    never = "[E1] When the note mentions 'frozen', never choose crew 'basalt'."
    assert shares(Sort.with_instructions(never), note)["basalt"] < without["basalt"] / 2 + 1
    rather = "[E1] When the note mentions 'frozen', choose crew 'quartz' rather than 'basalt'."
    assert ask(Sort.with_instructions(rather), note=note).crew == "quartz"


def test_advice_for_another_field_does_not_count() -> None:
    class Two(dspy.Signature):
        """Sort. When the note mentions 'ice', choose first 'yes'."""

        note: str = dspy.InputField()
        first: Literal["yes", "no"] = dspy.OutputField()
        second: Literal["yes", "no"] = dspy.OutputField()

    seen = {(p.first, p.second) for i in range(40) for p in [ask(Two, offline_lm(i), note="ice")]}
    assert seen == {("yes", "yes"), ("yes", "no")}


@pytest.mark.parametrize(
    ("signature", "note", "crew"),
    [
        (Sort.with_instructions("Notes about broken fences go to quartz."), "a fence is broken", "quartz"),
        ("note -> crew: Literal['lost_parcel', 'late_payment', 'broken_window']", "my window is broken",
         "broken_window"),
    ],
)  # fmt: skip
def test_advice_in_plain_words_and_names_of_the_values_count(signature: Any, note: str, crew: str) -> None:
    assert ask(signature, note=note).crew == crew


def request(text: str = "hello", system: str | None = None, **config: Any) -> Request:
    return Request(model="m", messages=(Message.user(text),), system=system, config=Config(**config))


def sort_request(note: str, **config: Any) -> Request:
    system, user = dspy.ChatAdapter().format(Sort, [], {"note": note})
    return request(user["content"], system["content"], **config)


def test_seeds_change_models_and_at_a_temperature_samples() -> None:
    def replies(seeds: list[tuple[int, int]], temperature: float | None) -> int:
        asked = ((OfflineEngine(m), sort_request("x", temperature=temperature, seed=r)) for m, r in seeds)
        return len({engine.complete(request).message.text for engine, request in asked})

    samples = [(3, seed) for seed in range(30)]
    assert replies(samples, 0.0) == replies(samples, None) == 1
    assert replies(samples, 0.7) >= 3
    assert replies([(seed, 0) for seed in range(30)], None) >= 3


def test_replies_do_not_depend_on_order_threads_or_history() -> None:
    requests = [sort_request(f"note {i}", temperature=0.7, seed=i % 5) for i in range(60)]
    plain = {i: OfflineEngine(3).complete(r).message.text for i, r in enumerate(requests)}
    order = list(enumerate(requests))
    random.Random(0).shuffle(order)
    engine = OfflineEngine(3)
    with ThreadPoolExecutor(8) as pool:
        threaded = dict(pool.map(lambda pair: (pair[0], engine.complete(pair[1]).message.text), order))
    assert threaded == plain


def test_the_name_carries_version_and_seed_and_the_lm_a_seed() -> None:
    assert (offline_lm(7).model, offline_lm(7).kwargs["seed"]) == ("offline/ngram-1-seed7", 7)
    assert "no large language model" in (OfflineEngine.__doc__ or "") and "not a large language model" in NOTICE


def test_usage_and_length() -> None:
    whole, cut = (OfflineEngine().complete(sort_request("x", max_tokens=limit)) for limit in (None, 3))
    text = whole.message.text or ""
    assert (whole.finish_reason, whole.usage.output_tokens) == ("stop", -(-len(text) // 4))
    assert (whole.usage.input_tokens or 0) > 100
    assert (cut.finish_reason, cut.message.text, cut.usage.output_tokens) == ("length", text[:12], 3)


def test_async_gives_the_same_reply() -> None:
    taught = Sort.with_instructions(ADVICE)

    async def run() -> Any:
        with dspy.context(lm=offline_lm(3)):
            return await dspy.Predict(taught).acall(note="frozen")

    assert asyncio.run(run()).crew == "basalt"


def test_a_program_with_a_bound_lm_is_saved_and_loaded(tmp_path: Path) -> None:
    program = dspy.Predict(Sort.with_instructions(ADVICE))
    program.set_lm(offline_lm(5))
    program.save(tmp_path / "program.json")
    loaded = dspy.Predict(Sort)
    loaded.load(tmp_path / "program.json", allow_unsafe_lm_state=True)
    assert isinstance(loaded.lm.engine, OfflineEngine)
    assert (loaded.lm.model, loaded.lm.engine.seed) == ("offline/ngram-1-seed5", 5)
    assert loaded(note="ice").crew == "basalt"


@pytest.mark.parametrize(
    "text", ["", " ", "[[ ## crew ## ]]", "{", "<a><b>", "\x00\ud800\u2028",
             "Your output fields are:\n1. `a` (Literal['x", "'" * 999]
)  # fmt: skip
def test_garbage_is_answered(text: str) -> None:
    for system in (None, "x", f"Your output fields are:\n1. `a` (int): \n{text}", text or None):
        reply = OfflineEngine().complete(request(text or " ", system, temperature=0.7, seed=1))
        assert isinstance(reply.message.text, str)


def test_long_garbage_is_answered_soon() -> None:
    system, user = dspy.ChatAdapter().format(Sort, [], {"note": "@@"})
    for filler in ("\n" * 50_000, "x" * 100_000, "'a b " * 20_000, "( " * 30_000, "observation_1: " * 8_000):
        OfflineEngine().complete(request(user["content"].replace("@@", filler), system["content"] + filler))


def weather(city: str, days: int = 3) -> str:
    """Find the weather of a city."""
    return f"sunny in {city}"


def run_agent(question: str, *tools: Any, style: str = "chat") -> tuple[list[str], dict[str, Any], str]:
    """The tools an agent called, the arguments of the first call, and its answer."""
    with dspy.context(lm=offline_lm(3), adapter=adapter(style)):
        made = dspy.ReAct("question -> answer", tools=list(tools))(question=question)
    calls = [made.trajectory[key] for key in made.trajectory if key.startswith("tool_name")]
    return calls, made.trajectory["tool_args_0"], made.answer


@pytest.mark.parametrize("style", ["chat", "json", "xml"])
def test_an_agent_calls_a_tool_and_finishes(style: str) -> None:
    found = run_agent("What is the weather in New York?", weather, style=style)
    assert found == (["weather", "finish"], {"city": "New York"}, "sunny in New York")


def test_an_agent_gives_up_after_two_failures() -> None:
    def broken(count: int, flag: bool, names: list[str], kind: Literal["a", "b"], options: dict[str, int]) -> str:
        raise ValueError("no")

    calls, args, _ = run_agent("is it 5?", broken)
    assert calls == ["broken", "broken", "finish"] and args["count"] == 5


def test_a_calculator_gets_a_formula() -> None:
    def calculate(expression: str) -> str:
        """Evaluate an expression."""
        return "9"

    assert run_agent("What is 4 + 5?", calculate)[1:] == ({"expression": "4 + 5"}, "9")


@pytest.mark.parametrize("style", ["chat", "json", "xml"])
def test_an_agent_opens_an_address_it_was_shown_and_no_other(style: str) -> None:
    opened = []

    def search(query: str) -> str:
        """Search for pages."""
        return "Soups\nhttp://a.example/soups\nOn soup.\nPumps\nhttp://a.example/pumps\nWho repairs a frozen pump."

    def visit(url: str, goal: str) -> str:
        """Open a page."""
        opened.append((url, goal))
        return "The plumber repairs a frozen pump.\nShe lives at 3 Mill Lane.\n" + "Soup is warm and good.\n" * 30

    question = "Who repairs the frozen pump?"
    calls, _, found = run_agent(question, search, visit, style=style)
    assert calls == ["search", "visit", "finish"] and opened == [("http://a.example/pumps", question)]
    assert found == "The plumber repairs a frozen pump. She lives at 3 Mill Lane.", "a statement and the next"
    assert run_agent(question, visit, style=style)[0] == ["finish"] and len(opened) == 1


@pytest.mark.parametrize(
    ("expected", "predicted", "correct"),
    [
        ("Colm Yarrow", "It was Colm Yarrow.", True), ("two eggs", "The toll was two eggs a head", True),
        ("171", "171 steps", True), ("171", "1710", False), ("171", "172", False), ("Colm Yarrow", "Edda Rusk", False),
        ("Tuesdays and Fridays", "on Tuesdays", False), ("19.4 metres", "", False),
    ],
)  # fmt: skip
def test_a_judge_compares_what_is_expected_with_what_is_given(expected: str, predicted: str, correct: bool) -> None:
    judged = "question, expected, predicted -> reasons, correct: bool"
    made = ask(judged, question="q", expected=expected, predicted=predicted)
    assert made.correct is correct
    assert made.reasons.endswith("missing: none.") is correct
    assert "missing" not in ask("text -> correct: bool, reasons", text="true").reasons


def test_open_answers_come_from_the_inputs() -> None:
    made = ask(
        "context, question -> answer", question="who repairs the frozen pump?",
        context="The cook makes soup. A frozen pump is what the plumber repairs. Birds sing.",
    )  # fmt: skip
    assert "plumber" in made.answer
    assert ask("question -> answer", question="How many of the 12 birds?").answer == "12"
    assert ask("question -> n: int", question="none").n == 0


def test_no_label_or_intent_of_any_task_is_built_in() -> None:
    text = "\n".join(path.read_text() for path in Path(offline.__file__).parent.glob("*.py")).casefold()
    rows = (ROOT / "programs" / "data" / "tickets.jsonl").read_text().splitlines()
    labels = {json.loads(row)["queue"] for row in rows} | {"urgency", "this_week"}
    if (data := DATA / "banking77_train.csv").exists():
        labels |= {row["category"].casefold() for row in csv.DictReader(data.read_text().splitlines())}
    assert len(labels) > 5 and not [label for label in labels if re.search(rf"\b{re.escape(label)}\b", text)]
