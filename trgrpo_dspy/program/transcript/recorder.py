"""One attempt of a program as a bounded text that a reflection LM reads.

Guarantees:

- A text never exceeds its bound in tokens and is marked where it was cut.
- A value is rendered when the attempt made it, so what a program changes in place later (`dspy.ReActV2`
  appends to its history) does not change what is told.
- Each tool call and each observation is told once, though an agent repeats its whole log in every input.
- What an attempt produced is data: it can't forge a step, open or close a field, or bring in binary content.
- Equal attempts give equal texts: no memory addresses, no random call ids.
- Nothing raises, whatever the program's objects do when they are printed.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import dspy
from dspy.primitives.repl_types import REPLHistory
from dspy.utils.exceptions import AdapterParseError

from trgrpo_dspy.failures.redaction import redact

from .rendering import DEPTH, field_lines, fit_blocks, named_parts, one_line, text_of, turn_text

__all__ = ["Recorder"]

_LONG = 120  # characters from which a value told before is referred to instead of repeated


@dataclass
class _Call:
    """A tool call: as a step names it, until its observation comes in."""

    name: str
    args: str
    observation: str | None = None

    def matches(self, other: _Call) -> bool:
        return self.observation is None and (self.name, self.args) == (other.name, other.args)


@dataclass
class _Step:
    """What one predictor call, or one tool call that no step had announced, adds to the transcript."""

    number: int
    title: str
    strand: object
    """Thread and asyncio task it ran in: what an agent does next is done there."""
    fields: list[tuple[str, str]] = field(default_factory=list)
    calls: list[_Call] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)

    def block(self) -> tuple[str, list[tuple[str, str]]]:
        several = len(self.calls) > 1
        told = [
            (f"observation {i} ({call.name})" if several else "observation", call.observation)
            for i, call in enumerate(self.calls, 1)
            if call.observation is not None
        ]
        return f"=== Step {self.number}: {self.title} ===", [*self.fields, *told]


class Recorder(list[Any]):
    """Stands in as `dspy.settings.trace` during one attempt and remembers it as text.

    Entries stay in the list for programs that read the trace. Several threads may record at once.

    Args:
        names: Names of the program's predictors by `predictor.stage`, which survives copying; others go by
            their signature's name.
        inputs: The example's inputs. The reader has them, so steps do not repeat them.
    """

    def __init__(self, names: Mapping[str, str], inputs: Mapping[str, object]) -> None:
        """Start an attempt."""
        super().__init__()
        self._names = dict(names)
        self._lock = threading.RLock()
        self._steps: list[_Step] = []
        self._aside: list[tuple[object, _Call]] = []
        self._tool_calls = 0
        self._told: dict[str, str] = {}
        self._latest: dict[tuple[object, ...], str] = {}
        self._logs: dict[tuple[object, str], list[str]] = {}
        self._inputs = {name: text_of(value) for name, value in inputs.items()}
        for name, value in inputs.items():
            self._tell(self._inputs[name], f"the task's `{one_line(name)}`")
            if log := _log(name, value):
                self._logs[None, log[0]] = [turn_text(turn) for turn in log[1]]

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies are plain lists: a program may copy the trace, and the copy records nothing."""
        return list, (list(self),)

    @property
    def tool_calls(self) -> int:
        """Tool calls so far; those of tries the program discarded and an agent's own `finish` count."""
        return self._tool_calls

    def append(self, entry: Any) -> None:
        """Record a trace entry (predictor, inputs, prediction)."""
        with self._lock:
            super().append(entry)
            try:
                predictor, inputs, prediction = entry
                stage = str(getattr(predictor, "stage", ""))
                title = one_line(self._names.get(stage) or predictor.signature.__name__)
                inputs, outputs = dict(inputs), _outputs(prediction)
            except Exception:
                return  # no entry of DSPy's: it stays in the list, and there is nothing to tell
            self._record(_Step(len(self._steps) + 1, title, _strand()), stage, inputs, outputs)
            for waiting in [pair for pair in self._aside if pair[0] is entry]:
                self._aside.remove(waiting)
                self._observe(waiting[1])

    def extend(self, entries: Iterable[Any]) -> None:
        """Record several entries, as `dspy.BestOfN` hands over the try it keeps."""
        for entry in list(entries):
            self.append(entry)

    def __iadd__(self, entries: Iterable[Any]) -> Recorder:  # type: ignore[misc]
        """Record several entries."""
        self.extend(entries)
        return self

    def tool_call(
        self, name: str, args: Mapping[str, Any], result: object = None, error: BaseException | None = None
    ) -> None:
        """Record a finished tool call; to be called in the thread or task the tool was called in.

        Where a step has named this very call, only the observation is added, to that step.
        """
        call = _Call(one_line(name), text_of(args or {}), text_of(result) if error is None else _error(error))
        with self._lock:
            self._tool_calls += 1
            trace = dspy.settings.get("trace")
            if isinstance(trace, list) and trace is not self and trace:
                # A try inside the program (BestOfN) has a trace of its own; if kept, its entries get here.
                self._aside.append((trace[-1], call))
            else:
                self._observe(call)

    def text(self, *, prediction: object = None, error: BaseException | None = None, max_tokens: int = 2000) -> str:
        """The transcript: numbered steps, the final outputs that the last step has not told, the failure.

        Args:
            prediction: What the program returned; None if it raised.
            error: What the program raised.
            max_tokens: The bound. The largest values are shortened first, then the middle of the text goes.
        """
        with self._lock:
            blocks = [step.block() for step in self._steps]
            for _, call in self._aside:
                fields = [("args", call.args), ("observation", call.observation or "")]
                blocks.append((f"=== Tool {call.name}, in a try that was discarded ===", fields))
            final = self._final(_outputs(prediction))
        if final:
            blocks.append(("=== Final outputs ===", final))
        if error is not None:
            blocks.append(("=== Failure ===", [("error", _error(error)), *_unparsed(error)]))
        return fit_blocks(blocks or [("(no steps)", [])], max_tokens)

    def _record(self, step: _Step, stage: object, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
        for name, value in inputs.items():
            if text := self._input(step, (step.strand, stage or step.title, name), name, value):
                step.fields.append((f"{one_line(name)} (input)", text))
        for name, value in outputs.items():
            text, label = text_of(value), one_line(name)
            step.outputs[name] = text
            step.fields.append((label, self._tell(text, f"output `{label}` of step {step.number}")))
        step.calls = _announced(outputs)
        self._steps.append(step)

    def _input(self, step: _Step, slot: tuple[object, ...], name: str, value: Any) -> str:
        """An input as its step tells it; empty if the reader has it already."""
        if log := _log(name, value):
            return self._untold(*log, step.strand)
        text = text_of(value)
        before, self._latest[slot] = self._latest.get(slot, ""), text
        if text in (before, self._inputs.get(name)):
            return ""
        same = _shared(before, text)
        if same > max(_LONG, len(before) // 2):
            return f"(begins as in the call before, then:) {text[same:]}"
        return self._tell(text, f"input `{one_line(name)}` of step {step.number}")

    def _untold(self, kind: str, turns: list[dict[str, Any]], strand: object = None) -> str:
        """What a log holds that no step and no earlier state of the log has told; strand None is all."""
        steps = [step for step in self._steps if strand in (step.strand, None)]
        calls = [call for step in steps for call in step.calls]
        waiting = [call for call in calls if call.observation is None]
        if kind == "history":
            _complete(waiting, turns)
            named = {(call.name, call.args) for call in calls}
            turns = [turn for turn in turns if not _is_looped(turn, named)]
        elif calls and not waiting:
            return ""  # a tool loop's log, and all its observations have been told
        texts = [turn_text(turn) for turn in turns]
        scope = (strand, None)
        states = [log for (s, k), log in self._logs.items() if k == kind and (strand is None or s in scope)]
        if strand is not None:
            self._logs[strand, kind] = texts
        if kind == "history":
            told = {text for state in states for text in state}
            fresh = [text for text, turn in zip(texts, turns, strict=True) if not self._all_told(turn)]
            return "\n".join(field_lines("turn", text) for text in fresh if text not in told)
        # Parts of a log may well be equal (two results of 5), so only the beginning two states share is known.
        start = max((_shared(state, texts) for state in states), default=0)
        last = set(steps[-1].outputs.values()) if steps else set()
        later = zip(texts[start:], turns[start:], strict=True)
        return "\n".join(text for text, turn in later if not {text_of(value) for value in turn.values()} <= last)

    def _all_told(self, turn: dict[str, Any]) -> bool:
        return all(text_of(value) in self._told for value in turn.values())

    def _observe(self, call: _Call) -> None:
        strand = _strand()
        waiting = [(step, c) for step in reversed(self._steps) for c in step.calls if c.matches(call)]
        if not waiting:
            step = _Step(len(self._steps) + 1, f"tool {call.name}", strand, [("args", call.args)], [call])
            self._steps.append(step)
            waiting = [(step, call)]
        # Of several steps that wait for this observation: the latest of the same strand, else the latest.
        step, announced = next((pair for pair in waiting if pair[0].strand == strand), waiting[0])
        announced.observation = self._tell(call.observation or "", f"observation of step {step.number}")

    def _tell(self, text: str, where: str) -> str:
        """The text; or, if it is long and stands elsewhere already, where."""
        told = self._told.setdefault(text, where)
        return text if told == where or len(text) <= _LONG else f"({told})"

    def _final(self, outputs: dict[str, Any]) -> list[tuple[str, str]]:
        last = next((step.outputs for step in reversed(self._steps) if step.outputs), {})
        fields = []
        for name, value in outputs.items():
            if log := _log(name, value):
                told = self._untold(*log)
            elif (text := text_of(value)) == last.get(name):
                told = ""
            else:
                where = self._told.get(text) if len(text) > _LONG else None
                told = f"({where})" if where else text or "(empty)"
            fields += [(one_line(name), told)] if told else []
        return fields


def _strand() -> object:
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return threading.get_ident(), id(task)


def _shared(before: Sequence[str], now: Sequence[str]) -> int:
    """Length of the beginning that two texts, or two lists of texts, have in common."""
    if before == now[: len(before)]:
        return len(before)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, now, strict=False)))


def _outputs(prediction: Any) -> dict[str, Any]:
    if prediction is None:
        return {}
    try:
        pairs = named_parts(prediction)
        return {"value": prediction} if pairs is None else {str(name): value for name, value in pairs}
    except Exception:
        return {"value": prediction}


def _announced(outputs: dict[str, Any]) -> list[_Call]:
    """The tool calls that a step's outputs name."""
    if "next_tool_name" in outputs:  # dspy.ReAct
        return [_Call(one_line(outputs["next_tool_name"]), text_of(outputs.get("next_tool_args") or {}))]
    return [_Call(call.name, call.args) for call in _batch(outputs)]


def _batch(fields: dict[str, Any]) -> list[_Call]:
    """The calls in fields of type `dspy.ToolCalls`."""
    batches = [value for value in fields.values() if isinstance(value, dspy.ToolCalls)]
    return [_Call(one_line(call.name), text_of(call.args or {})) for batch in batches for call in batch.tool_calls]


def _is_looped(turn: dict[str, Any], named: set[tuple[str, str]]) -> bool:
    """Whether a turn of a history is one of a tool loop whose steps have named its calls."""
    calls = {(call.name, call.args) for call in _batch(turn)}
    return bool(calls) and calls <= named


def _complete(waiting: list[_Call], turns: list[dict[str, Any]]) -> None:
    """Fill in observations that only a history tells: an agent answers by itself for a tool it does not have."""
    batches = [v for turn in turns for v in turn.values() if isinstance(v, dspy.ToolCalls)] if waiting else []
    for batch in batches:
        results = batch.tool_call_results.tool_call_results if batch.tool_call_results else []
        for call, result in zip(_batch({"": batch}), results, strict=False):
            if found := next((c for c in waiting if c.matches(call)), None):
                found.observation = text_of(result.value)


def _log(name: str, value: Any) -> tuple[str, list[dict[str, Any]]] | None:
    """Kind and parts of a value in which a program keeps what has happened so far; None for other values."""
    try:
        if isinstance(value, dspy.History):
            return "history", [dict(message) for message in value.messages]
        if isinstance(value, REPLHistory):
            return "trajectory", [{k: v} for entry in value.entries for k, v in entry.model_dump().items()]
        if name != "trajectory":
            return None
        if isinstance(value, str):  # as dspy.ReAct writes it, with an adapter's field headers
            parts = re.split(r"^\[\[ ## (\w+) ## \]\]$", value, flags=re.MULTILINE)
            if parts[0].strip():
                return "trajectory", [{"part": part} for part in re.split(r"\n{2,}", value)]
            value = dict(zip(parts[1::2], map(str.strip, parts[2::2]), strict=True))
        items = [value] if isinstance(value, Mapping) else value
        return "trajectory", [{str(k): v} for item in items for k, v in item.items()]
    except Exception:
        return None


def _error(error: BaseException) -> str:
    """Type of an exception and the last line of its message, which never is a traceback or a prompt."""
    lines = [line for line in redact(text_of(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip()}" if lines else type(error).__name__


def _unparsed(error: BaseException) -> list[tuple[str, str]]:
    """The reply that stopped the program: a predictor that fails leaves no trace entry."""
    cause: BaseException | None = error
    for _ in range(DEPTH):
        if cause is None or isinstance(cause, AdapterParseError):
            break
        cause = cause.__cause__ or cause.__context__
    reply = getattr(cause, "lm_response", None)
    return [] if reply is None else [("reply that could not be parsed", text_of(reply))]
