"""From what an attempt did to numbered steps that tell each thing once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from .events import Call, Log, Prediction, ToolUse, Turn, Value
from .rendering import field_lines, one_line

__all__ = ["Block", "Telling"]

_LONG = 120  # characters from which a value shown before is referred to instead of repeated
Block = tuple[str, list[tuple[str, str]]]
"""A header and named texts."""


@dataclass
class _Call:
    """A tool call as a step names it, until its observation comes in."""

    call: Call
    observation: str | None = None
    """What it returned."""
    shown: str = ""
    """The same as the step shows it: a long text that stands elsewhere already is referred to."""


@dataclass
class _Step:
    """What one predictor call, or one tool call that no step had announced, adds to the transcript."""

    number: int
    title: str
    strand: object
    fields: list[tuple[str, str]] = field(default_factory=list)
    calls: list[_Call] = field(default_factory=list)
    given: list[tuple[str, str]] = field(default_factory=list)
    """Inputs whose texts neither the task nor an earlier step holds, each with its name."""
    outputs: dict[str, str] = field(default_factory=dict)

    def block(self) -> Block:
        several = len(self.calls) > 1
        observed = [
            (f"observation {i} ({call.call.name})" if several else "observation", call.shown)
            for i, call in enumerate(self.calls, 1)
            if call.observation is not None
        ]
        return f"=== Step {self.number}: {self.title} ===", [*self.fields, *observed]


class Telling:
    """Turns events into steps, one after the other."""

    def __init__(self, events: Iterable[Prediction | ToolUse], inputs: Mapping[str, Value]) -> None:
        """Tell what happened to a reader who has the task's inputs."""
        self._inputs = {name: value.text for name, value in inputs.items()}
        self._steps: list[_Step] = []
        self._aside: list[ToolUse] = []
        self._where: dict[str, str] = {}
        """Texts that were written, and where."""
        self._latest: dict[tuple[object, ...], str] = {}
        self._logs: dict[tuple[object, str], list[str]] = {}
        for name, value in inputs.items():
            if value.log:
                self._logs[None, value.log.kind] = [turn.text for turn in value.log.turns]
            else:
                self._write(value.text, f"the task's `{one_line(name)}`")
        for event in events:
            self._add(event)

    def _add(self, event: Prediction | ToolUse) -> None:
        if isinstance(event, Prediction):
            self._predict(event)
            for waiting in [use for use in self._aside if use.after is event.entry]:
                self._aside.remove(waiting)
                self._observe(waiting)
        elif event.after is not None:
            self._aside.append(event)  # if the program keeps that try, its entries follow
        else:
            self._observe(event)

    def blocks(self, outputs: Mapping[str, Value]) -> list[Block]:
        """The steps as blocks; outputs that the last step shows are not repeated."""
        blocks = [step.block() for step in self._steps]
        for use in self._aside:
            fields = [("args", use.call.args), ("observation", use.observation)]
            blocks.append((f"=== Tool {use.call.name}, in a try that was discarded ===", fields))
        if final := self._final(outputs):
            blocks.append(("=== Final outputs ===", final))
        return blocks

    def observations(self) -> list[tuple[str, str]]:
        """What tools returned, and what predictors were given that neither the task nor an earlier step holds.

        Each with its source: 'look_up(args) ->' or the name of the input. In order; what a tool returned to the same
        call again stands once. The calls with which DSPy's agents end are left out, since they hold the answer.
        """
        found = []
        for step in self._steps:
            found += step.given
            for call in step.calls:
                name, args = call.call.name, call.call.args
                if call.observation is not None and name != "finish" and call.observation != args:
                    found.append((f"{one_line(name)}({one_line(args)}) ->", call.observation))
        return list(dict.fromkeys(found))

    def _predict(self, event: Prediction) -> None:
        step = _Step(len(self._steps) + 1, event.title, event.strands[0])
        for name, value in event.inputs.items():
            new = value.text not in self._where  # neither the task nor a step before holds it
            if text := self._input(step, (step.strand, event.stage or step.title, name), name, value):
                step.fields.append((f"{one_line(name)} (input)", text))
                if new and not value.log and not value.is_tools:
                    step.given.append((f"{one_line(name)}:", text))
        for name, value in event.outputs.items():
            label = one_line(name)
            text = step.outputs[name] = _whole(value)
            step.fields.append((label, self._write(text, f"output `{label}` of step {step.number}")))
        step.calls = [_Call(call) for call in event.announced]
        self._steps.append(step)

    def _input(self, step: _Step, slot: tuple[object, ...], name: str, value: Value) -> str:
        """An input as its step tells it; empty if the reader has it already."""
        if value.log:
            return self._news(value.log, step.strand)
        text = value.text
        before, self._latest[slot] = self._latest.get(slot, ""), text
        if text in (before, self._inputs.get(name)):
            return ""
        same = _shared(before, text)
        if same > max(_LONG, len(before) // 2):
            return f"(begins as in the call before, then:) {text[same:]}"
        return self._write(text, f"input `{one_line(name)}` of step {step.number}")

    def _news(self, log: Log, strand: object = None) -> str:
        """What a log holds that is in no step and no earlier state of the log; strand None is all."""
        steps = [step for step in self._steps if strand in (step.strand, None)]
        calls = [call for step in steps for call in step.calls]
        waiting = [call for call in calls if call.observation is None]
        turns: Sequence[Turn] = log.turns
        if log.kind == "history":
            _complete(waiting, turns)
            named = {call.call for call in calls}
            turns = [turn for turn in turns if not (turn.calls and named.issuperset(turn.calls))]
        elif calls and not waiting:
            return ""  # a tool loop's log, and all its observations were shown
        texts = [turn.text for turn in turns]
        scope = (strand, None)
        states = [state for (s, k), state in self._logs.items() if k == log.kind and (strand is None or s in scope)]
        if strand is not None:
            self._logs[strand, log.kind] = texts
        if log.kind == "history":
            known = {text for state in states for text in state}
            fresh = [turn.text for turn in turns if not all(part in self._where for part in turn.parts)]
            return "\n".join(field_lines("turn", text) for text in fresh if text not in known)
        # Parts of a log may well be equal (two results of 5), so only the beginning two states share is known.
        start = max((_shared(state, texts) for state in states), default=0)
        last = set(steps[-1].outputs.values()) if steps else set()
        return "\n".join(turn.text for turn in turns[start:] if not set(turn.parts) <= last)

    def _observe(self, use: ToolUse) -> None:
        waiting = [
            (step, call)
            for step in reversed(self._steps)
            for call in step.calls
            if call.observation is None and call.call == use.call
        ]
        if not waiting:
            call = _Call(use.call)
            fields = [("args", use.call.args)]
            step = _Step(len(self._steps) + 1, f"tool {use.call.name}", use.strands[0], fields, [call])
            self._steps.append(step)
            waiting = [(step, call)]
        # Of several steps that wait for this observation: the latest of the nearest strand, else the latest.
        near = [pair for strand in use.strands for pair in waiting if pair[0].strand == strand]
        step, call = (near or waiting)[0]
        call.observation = use.observation
        call.shown = self._write(use.observation, f"observation of step {step.number}")

    def _write(self, text: str, where: str) -> str:
        """The text; or, if it is long and stands elsewhere already, where."""
        first = self._where.setdefault(text, where)
        return text if first == where or len(text) <= _LONG else f"({first})"

    def _final(self, outputs: Mapping[str, Value]) -> list[tuple[str, str]]:
        last = next((step.outputs for step in reversed(self._steps) if step.outputs), {})
        fields = []
        for name, value in outputs.items():
            if value.log:
                text = self._news(value.log)
            elif value.text == last.get(name):
                text = ""
            else:
                where = self._where.get(value.text) if len(value.text) > _LONG else None
                text = f"({where})" if where else value.text or "(empty)"
            fields += [(one_line(name), text)] if text else []
        return fields


def _whole(value: Value) -> str:
    return "\n".join(turn.text for turn in value.log.turns) if value.log else value.text


def _shared(before: Sequence[str], now: Sequence[str]) -> int:
    """Length of the beginning that two texts, or two lists of texts, have in common."""
    if before == now[: len(before)]:
        return len(before)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, now, strict=False)))


def _complete(waiting: list[_Call], turns: Iterable[Turn]) -> None:
    """Fill in observations that only a history tells: an agent answers by itself for a tool it does not have."""
    for turn in turns if waiting else ():
        for call, result in zip(turn.calls, turn.results, strict=False):
            if found := next((c for c in waiting if c.observation is None and c.call == call), None):
                found.observation = found.shown = result
