"""A scripted model for tests: a custom engine whose replies are a function of the request alone, and small programs.

The world: a ticket holds one word, and each word has one right queue (`RIGHT`). The model knows none of them; it
guesses by the request's seed where it samples, else always the same, and follows advice it finds in its instructions.
Asked to reflect, it reads the attempts and says which queue the better ones chose.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import dspy
from dspy.lm15 import Message, Request, Response, Usage

QUEUES = ("access", "billing", "hardware", "legal")
RIGHT = {
    "refund": "billing", "login": "access", "printer": "hardware", "contract": "legal",
    "invoice": "billing", "password": "access", "laptop": "hardware", "privacy": "legal",
}  # fmt: skip
TOKENS = (11, 7)
"""Prompt and completion tokens every reply reports."""


class Triage(dspy.Signature):
    """Say which queue a ticket belongs to."""

    ticket: str = dspy.InputField()
    queue: Literal["access", "billing", "hardware", "legal"] = dspy.OutputField()


class TwoSteps(dspy.Module):
    """Notes, then an answer; and a sub-module."""

    def __init__(self) -> None:
        super().__init__()
        self.notes = dspy.Predict(dspy.Signature("question -> notes", "Take notes."))
        self.answer = dspy.ChainOfThought(dspy.Signature("question, notes -> answer", "Answer\n  from the notes."))

    def forward(self, question: str) -> dspy.Prediction:
        return self.answer(question=question, notes=self.notes(question=question).notes)


def examples(count: int, *, start: int = 0, words: Iterable[str] = RIGHT) -> list[dspy.Example]:
    """Labelled tickets, all different."""
    names = list(words)
    picked = [(i, names[i % len(names)]) for i in range(start, start + count)]
    return [dspy.Example(ticket=f"{word} case {i}", queue=RIGHT[word]).with_inputs("ticket") for i, word in picked]


def exact(example: dspy.Example, prediction: Any, trace: Any = None) -> float:
    """1.0 for the right queue."""
    return float(prediction.queue == example.queue)


def told(example: dspy.Example, prediction: Any, trace: Any = None) -> dspy.Prediction:
    """The same, with feedback."""
    right = prediction.queue == example.queue
    return dspy.Prediction(score=float(right), feedback="right" if right else f"expected {example.queue}")


@dataclass
class Reply:
    """What a script may answer beside a text or fields."""

    text: str
    finish_reason: str = "stop"


@dataclass
class Call:
    """One request as the engine got it."""

    request: Request
    system: str
    messages: list[tuple[str, str]]
    outputs: list[str]
    style: str
    number: int = 0
    """Requests this engine saw before."""
    memory: Counter[str] = field(default_factory=Counter)
    """The engine's own counters, for scripts that fail a few times."""

    @property
    def user(self) -> str:
        return self.messages[-1][1] if self.messages else ""

    @property
    def text(self) -> str:
        return "\n".join([self.system, *(text for _, text in self.messages)])

    @property
    def seed(self) -> int | None:
        return self.request.config.seed

    @property
    def temperature(self) -> float | None:
        return self.request.config.temperature

    @property
    def kind(self) -> str:
        """Which prompt it is: of the program, or one of the reflection steps."""
        for output, kind in (("summary", "summary"), ("comparison", "comparison"), ("decisions", "check")):
            if output in self.outputs:
                return kind
        if "edits" in self.outputs:
            inputs = self.system.replace("`", "")
            known = {"proposals (str)": "consolidation", "problems (str)": "repair", "lessons (str)": "proposals"}
            return next(kind for name, kind in known.items() if name in inputs)
        return "program"

    def input(self, name: str) -> str:
        """An input field's value in the last message."""
        if self.style == "xml":
            found = re.search(rf"<{name}>\n(.*?)\n</{name}>", self.user, re.DOTALL)
        elif self.style == "free":
            found = re.search(rf"(?:\A|\n\n){name}: (.*?)(?=\n\n\w+: |\Z)", self.user, re.DOTALL)
        else:
            found = re.search(
                rf"\[\[ ## {name} ## \]\]\n(.*?)(?=\n\n\[\[ ## |\n\nRespond with |\Z)", self.user, re.DOTALL
            )
        return found.group(1) if found else ""

    def chance(self, *key: object) -> int:
        """A number from the request alone; it varies by seed only where the request samples."""
        seed = self.seed if self.temperature else None
        text = repr((self.system, self.user, seed, key))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def read_call(request: Request) -> Call:
    system = request.system if isinstance(request.system, str) else "".join(p.text for p in request.system or ())
    messages = [(m.role, "".join(getattr(p, "text", "") or "" for p in m.parts)) for m in request.messages]
    head = re.split(r"Your output fields are:|Your outputs must contain:", system)
    outputs = re.findall(r"^\d+\. `(\w+)` \(", head[1].split("\nAll interactions")[0], re.MULTILINE) if head[1:] else []
    style = "free" if "Your outputs must contain:" in system else "chat"
    if "Outputs will be a JSON object" in system:
        style = "json"
    elif outputs and f"<{outputs[0]}>" in system:
        style = "xml"
    return Call(request, system, messages, outputs, style)


def write(call: Call, fields: dict[str, Any]) -> str:
    """Fields as the adapter of the call reads them."""
    if call.style == "json":
        return json.dumps(fields)
    texts = {name: v if isinstance(v, str) else json.dumps(v) for name, v in fields.items()}
    if call.style == "xml":
        return "\n".join(f"<{name}>\n{text}\n</{name}>" for name, text in texts.items())
    if call.style == "free":
        return "\n\n".join(f"{name}: {text}" for name, text in texts.items())
    return "\n\n".join(f"[[ ## {name} ## ]]\n{text}" for name, text in texts.items()) + "\n\n[[ ## completed ## ]]"


Script = Callable[[Call], Any]


class ScriptedEngine:
    """Answers by a script: text, a dict of fields, a `Reply`, or an exception to raise. Keeps every call."""

    def __init__(self, script: Script | None = None) -> None:
        self.script = script or learner
        self.calls: list[Call] = []
        self.memory: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __deepcopy__(self, memo: Any) -> ScriptedEngine:
        return self

    def complete(self, request: Request) -> Response:
        call = read_call(request)
        call.memory = self.memory
        with self._lock:
            call.number = len(self.calls)
            self.calls.append(call)
        answer = self.script(call)
        if isinstance(answer, BaseException):
            raise answer
        reply = (
            answer if isinstance(answer, Reply) else Reply(answer if isinstance(answer, str) else write(call, answer))
        )
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant(reply.text),
            finish_reason=reply.finish_reason,
            usage=Usage(input_tokens=TOKENS[0], output_tokens=TOKENS[1]),
        )

    def kinds(self) -> Counter[str]:
        return Counter(call.kind for call in self.calls)

    def of(self, kind: str) -> list[Call]:
        return [call for call in self.calls if call.kind == kind]


class Peak:
    """How many were inside at a time, at most."""

    def __init__(self) -> None:
        self._lock, self._now, self.most = threading.Lock(), 0, 0

    def __enter__(self) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._now -= 1


class AsyncScripted:
    """The same engine for `acall`."""

    def __init__(self, engine: ScriptedEngine) -> None:
        self.engine = engine

    def __deepcopy__(self, memo: Any) -> AsyncScripted:
        return self

    async def complete(self, request: Request) -> Response:
        return self.engine.complete(request)


def scripted_lm(script: Script | None = None, name: str = "scripted/model", **kwargs: Any) -> dspy.LM:
    """A `dspy.LM` with a fresh scripted engine (`lm.engine`); it carries a seed unless `seed=None`."""
    engine = ScriptedEngine(script)
    settings = {"seed": 7, "cache": False, "num_retries": 0, **kwargs}
    return dspy.LM(name, engine=engine, async_engine=AsyncScripted(engine), **settings)


# -- what the model does ---------------------------------------------------------------------------------------------


def learner(call: Call) -> Any:
    """A model that guesses, follows advice, and reflects well."""
    if "1. `text` (str)" in call.system and call.input("text"):
        return extract(call)
    return {
        "program": answer, "summary": summarize, "comparison": compare, "proposals": propose,
        "consolidation": consolidate, "check": check, "repair": lambda call: {"edits": []},
    }[call.kind](call)  # fmt: skip


def advised(system: str, word: str) -> str | None:
    found = re.search(rf"\[E\d+\] When the ticket says '{word}', answer '(\w+)'", system)
    return found.group(1) if found else None


def word_of(text: str) -> str:
    return next((word for word in RIGHT if word in text), "")


def answer(call: Call) -> dict[str, Any]:
    """Follow advice for the ticket's word, else guess."""
    word = word_of(call.user)
    queue = advised(call.system, word) or QUEUES[call.chance("queue") % len(QUEUES)]
    values = {"queue": queue, "reasoning": f"It says {word}."}
    return {name: values.get(name, f"{name} of {word}") for name in call.outputs}


def summarize(call: Call) -> dict[str, Any]:
    return {"summary": "It read the ticket and chose " + ", ".join(re.findall(r"queue: (\w+)", call.input("attempt")))}


def compare(call: Call) -> dict[str, Any]:
    """A lesson a group: the best-scored answer, the expected one where all fell short, else the most frequent."""
    if "lessons" in call.outputs:
        lesson = lesson_of(call.input("task"), call.input("attempts"))
        return {"comparison": f"The better ones: {lesson}", "lessons": [{"text": lesson}] if lesson else []}
    known, edits = call.input("experiences"), []
    for number, text in re.findall(r"^Example (\d+)\n(.*?)(?=^Example \d+\n|\Z)", call.input("groups"), re.M | re.S):
        if lesson := lesson_of(text, text):
            edits.append({**_edit(lesson, known), "sources": number})
    return {"comparison": "The better ones followed the rule.", "edits": edits}


def lesson_of(task: str, attempts: str) -> str:
    word = word_of(task)
    found = re.findall(
        r"Attempt \d+ \((?:score ([-\d.e+]+), )?\w+\)\nAnswer:[\s\S]*?queue: (\w+)(?:[\s\S]*?again: (\d+))?", attempts
    )
    scored = [(float(score), queue) for score, queue, _ in found if score]
    counted = Counter({queue: 0 for _, queue, _ in found})
    for _, queue, more in found:
        counted[queue] += 1 + int(more or 0)
    best = max(scored)[1] if scored else counted.most_common(1)[0][0] if found else ""
    if scored and max(scored)[0] <= 0:
        expected = re.search(r"Expected: queue: (\w+)", attempts)
        best = expected.group(1) if expected else ""
    return f"When the ticket says '{word}', answer '{best}'." if best and word else ""


def check(call: Call) -> dict[str, Any]:
    """Apply the entries to the letter."""
    rules = re.findall(r"\[(E\d+)[^\]]*\] When the ticket says '(\w+)', answer '(\w+)'", call.input("experiences"))
    found = []
    for number, text in re.findall(r"^Example (\d+)\n(.*?)(?=^Example \d+\n|\Z)", call.input("examples"), re.M | re.S):
        found += [{"example": number, "entry": id, "decision": q} for id, word, q in rules if word in text]
    return {"decisions": found}


def propose(call: Call) -> dict[str, Any]:
    known = call.input("experiences")
    lessons = re.findall(r"^\d+\. (.+?)(?: \(for: (.*)\))?$", call.input("lessons"), re.MULTILINE)
    return {"edits": [_edit(text, known, names) for text, names in lessons]}


def _edit(text: str, known: str, names: str = "") -> dict[str, str]:
    word = re.search(r"says '(\w+)'", text)
    old = re.search(rf"\[(E\d+)[^\]]*\] (When the ticket says '{word.group(1)}'.*)", known) if word else None
    if old is None:
        return {"operation": "ADD", "text": text, "predictors": names}
    if old.group(2) == text:
        return {"operation": "KEEP", "id": old.group(1)}
    return {"operation": "MODIFY", "id": old.group(1), "text": text, "predictors": names}


def consolidate(call: Call) -> dict[str, Any]:
    plan: dict[str, dict[str, str]] = {}
    for number, head, text, names in re.findall(
        r"^P(\d+)\. (\w+(?: E\d+)?)(?:: (.*?))?(?: \(for: (.*?)\))?(?: \(from: .*\))?$",
        call.input("proposals"), re.MULTILINE,
    ):  # fmt: skip
        operation, _, id = head.partition(" ")
        item = plan.setdefault(text or head, {"operation": operation, "id": id, "text": text, "predictors": names})
        item["sources"] = f"{item['sources']}, P{number}" if "sources" in item else f"P{number}"
    found: dict[str, Any] = {"reasoning": "As proposed.", "edits": list(plan.values()), "dispositions": []}
    return {name: value for name, value in found.items() if name in call.outputs}


def extract(call: Call) -> dict[str, Any]:
    """The second call of the two-step adapter: read named values out of a text."""
    text = call.input("text")
    names = "|".join(call.outputs)
    values: dict[str, Any] = {}
    for name in call.outputs:
        found = re.search(rf"^{name}: (.*?)(?=\n\n(?:{names}): |\Z)", text, re.MULTILINE | re.DOTALL)
        values[name] = found.group(1).strip() if found else ""
    return values


# -- looking at what was handed in -----------------------------------------------------------------------------------


def program_state(program: dspy.Module) -> dict[str, Any]:
    """All that an optimizer might change in a program, comparable with ==."""
    return {
        name: (
            p.signature.instructions,
            list(p.signature.fields),
            [repr(demo) for demo in p.demos],
            dict(p.config),
            id(p.lm),
            list(p.traces),
            list(p.train),
            len(p.history),
        )
        for name, p in program.named_sub_modules(dspy.Predict)
    } | {"attributes": sorted(vars(program)), "compiled": program._compiled, "history": len(program.history)}


def lm_state(lm: dspy.LM) -> tuple[Any, ...]:
    """All that a run might change in an LM."""
    return type(lm), dict(lm.kwargs), len(lm.history), lm.num_retries, list(lm.callbacks), lm.cache, sorted(vars(lm))
