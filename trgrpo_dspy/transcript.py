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
import dataclasses
import enum
import json
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any
from urllib.parse import urlsplit

import dspy
import pydantic
from dspy.adapters.types.document import Document
from dspy.primitives.repl_types import REPLHistory
from dspy.utils.exceptions import AdapterParseError

from .library import count_tokens

__all__ = ["Recorder", "clean", "cut_middle", "render_fields", "render_value"]

_NODES = 20_000  # values visited in one object: ends self-containing and endless ones
_DEPTH = 12
_LONG = 120  # characters from which a value told before is referred to instead of repeated
_LEAST = 16  # tokens below which no single value is shrunk; then the text is cut as a whole

_LINE_ENDS = re.compile(r"\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
# Controls, surrogates and what is invisible or reorders text. Joiners stay: scripts and emoji need them.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_DATA_URI = re.compile(r"data:([\w.+/-]{0,80})(?:;[\w.=+-]{1,60}){0,4};base64,([\w+/=-]+)")
# A space goes into each delimiter; taking characters away instead could join what is left to a new one.
_DELIMITERS = (
    re.compile(r"(\[)(?=\[\s*#)|(#\s*\])(?=\])"),  # the chat adapter's [[ ## field ## ]]
    re.compile(r"(<)(?=<CUSTOM-TYPE-)"),  # what DSPy makes images and files of a request from
    re.compile(r"(<)(?=/?(?:task|attempts?|expected|score|feedback|experiences)\s{0,9}>)", re.IGNORECASE),
    re.compile(r"(<)(?=\|\w{1,40}\|>)|(\[)(?=/?INST\])"),  # roles in chat templates
    re.compile(r"(=)(?==[ \t]{0,9}(?:step|final|failure|tool)\b)", re.IGNORECASE),  # our own headers
)


def clean(text: str) -> str:
    """Make any text safe to quote: one kind of line end, nothing invisible, delimiters broken by a space.

    Idempotent. Base64 data becomes a note of its type and size.
    """
    text = _INVISIBLE.sub("", _LINE_ENDS.sub("\n", text))
    text = _DATA_URI.sub(lambda m: f"<data: {m[1] or 'text/plain'}, {_size(len(m[2]) * 3 // 4)}>", text)
    for pattern in _DELIMITERS:
        text = pattern.sub(r"\g<0> ", text)
    return text


def cut_middle(text: str, max_tokens: int) -> str:
    """The text if it fits, else its beginning and end round a mark that counts what is missing."""
    limit = 4 * max(max_tokens, 0)
    if len(text) <= limit:
        return text
    room = limit - len(_mark(len(text)))
    if room < 0:
        return "[...]"[:limit]
    start, end = room - room // 2, len(text) - room // 2
    return text[:start] + _mark(end - start) + text[end:]


def _mark(characters: int) -> str:
    return f" [... {-(-characters // 4):,} tokens cut ...] "


def render_value(value: object, max_tokens: int = 500) -> str:
    """Any value as bounded, clean text; never raises."""
    return cut_middle(_text(value), max_tokens)


def render_fields(fields: Mapping[str, object], max_tokens: int = 1000) -> str:
    """`name: value` lines within a bound; values of several lines are indented, the largest are cut first."""
    return _fit([("", [(_one_line(name), _text(value)) for name, value in fields.items()])], max_tokens)


def _fit(blocks: Sequence[tuple[str, list[tuple[str, str]]]], max_tokens: int) -> str:
    """Blocks of header and fields as one text: one cap for all values, as high as the bound allows."""

    def assemble(cap: int) -> str:
        parts = []
        for header, fields in blocks:
            lines = [_field(name, cut_middle(text, cap)) for name, text in fields]
            parts.append("\n".join([header, *lines] if header else lines))
        return "\n\n".join(parts)

    low, high = _LEAST, max(max_tokens, _LEAST)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count_tokens(assemble(middle)) <= max_tokens else (low, middle - 1)
    return cut_middle(assemble(low), max_tokens)


def _field(name: str, text: str) -> str:
    # Indented, no line of a value can pass for a field or a header.
    if "\n" in text:
        return f"{name}:\n" + re.sub("^", "  ", text, flags=re.MULTILINE)
    return f"{name}: {text or '(empty)'}"


def _one_line(text: object) -> str:
    return " ".join(cut_middle(_text(text), 50).split())


def _text(value: object) -> str:
    """The whole value as clean text, in compact JSON if it has parts."""
    try:
        if isinstance(value, dspy.History):
            turns = [(f"turn {i}", _turn(m)) for i, m in enumerate(value.messages, 1)]
            return "\n".join(_field(name, text) for name, text in turns)
        plain = _Plain()(value)
        return clean(plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)).rstrip()
    except Exception:
        return _unprintable(value)


def _turn(message: Mapping[str, object]) -> str:
    return "\n".join(_field(_one_line(name), _text(value)) for name, value in message.items())


def _unprintable(value: object) -> str:
    return clean(f"<unprintable {type(value).__name__}>")


class _Plain:
    """Turns an object into what JSON knows, visiting a bounded number of parts."""

    def __init__(self) -> None:
        self.left = _NODES

    def __call__(self, value: Any, depth: int = 0) -> Any:
        self.left -= 1
        if self.left < 0 or depth > _DEPTH:
            return "..."
        try:
            for types, convert in _CONVERTERS:
                if isinstance(value, types):
                    return convert(value)
            return self.parts(value, depth + 1)
        except Exception:
            return _unprintable(value)

    def parts(self, value: Any, depth: int) -> Any:
        if (pairs := _pairs(value)) is not None:
            return {_one_line(k): self(v, depth) for k, v in self.some(pairs)}
        if isinstance(value, (list, tuple)):
            return [self(v, depth) for v in self.some(value)]
        if isinstance(value, AbstractSet):
            return sorted((self(v, depth) for v in self.some(value)), key=repr)
        if not any({"__str__", "__repr__"} & vars(base).keys() for base in type(value).__mro__[:-1]):
            return f"<{type(value).__name__}>"
        return re.sub(r" at 0x[0-9a-fA-F]+(?=>)", "", str(value))

    def some(self, items: Iterable[Any]) -> Iterable[Any]:
        for item in items:
            if self.left < 0:
                break
            yield item


def _pairs(value: Any) -> Iterable[tuple[object, Any]] | None:
    """Names and values of what has named parts, else None."""
    if isinstance(value, (Mapping, dspy.Example)):
        return value.items()
    if isinstance(value, pydantic.BaseModel):
        names = (*type(value).model_fields, *(value.model_extra or {}))
        return [(name, getattr(value, name)) for name in names]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
    return None


def _size(count: int) -> str:
    return f"{count / 1024:,.0f} KB" if count >= 1024 else f"{count} bytes"


def _media(kind: str, source: str, *about: str | None) -> str:
    """A description of binary content or of its address; an address loses what may be secret."""
    if source.startswith("data:"):
        head, _, data = source.partition(",")
        about = (*about, head[5:].split(";")[0], _size(len(data) * 3 // 4))
    elif re.match(r"\w+://", source):
        url = urlsplit(source)
        host = url.netloc.rpartition("@")[2]
        about = (*about, f"{url.scheme}://{host}{url.path}"[:300] + ("?..." if url.query else ""))
    elif source:
        about = (*about, _size(len(source) * 3 // 4))
    return f"<{kind}: {', '.join(filter(None, about))}>"


def _document(value: Any) -> str:
    if value.media_type == "application/pdf":
        return _media("document", value.data, value.title, value.media_type)
    return f"{value.title}: {value.data}" if value.title else str(value.data)


def _calls(value: dspy.ToolCalls) -> str:
    # Without the calls' ids: they are random, and equal attempts must give equal texts.
    results = value.tool_call_results.tool_call_results if value.tool_call_results else []
    lines = [f"{call.name}({_text(call.args)})" for call in value.tool_calls]
    return "\n".join([*lines, *(f"{result.name} -> {_text(result.value)}" for result in results)])


_CONVERTERS: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    (enum.Enum, lambda v: v.value if isinstance(v.value, (str, int, float)) else v.name),
    (str, str.__str__),
    ((bool, float, type(None)), lambda v: v if v is None or isinstance(v, bool) else float(v)),
    (int, lambda v: int(v) if int(v).bit_length() < 10_000 else f"<int: {int(v).bit_length()} bits>"),
    ((bytes, bytearray, memoryview), lambda v: f"<bytes: {_size(len(v))}>"),
    (dspy.Image, lambda v: _media("image", v.url)),
    (dspy.Audio, lambda v: _media("audio", v.data, v.audio_format)),
    (dspy.File, lambda v: _media("file", v.file_data or "", v.filename, v.file_id)),
    (Document, _document),
    (dspy.Tool, lambda v: str(v.name)),
    (dspy.ToolCalls, _calls),
    (dspy.Reasoning, lambda v: v.content),
    (dspy.Code, lambda v: v.code),
    (type, lambda v: f"<{v.__name__}>"),
)


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
        self._inputs = {name: _text(value) for name, value in inputs.items()}
        for name, value in inputs.items():
            self._tell(self._inputs[name], f"the task's `{_one_line(name)}`")
            if log := _log(name, value):
                self._logs[None, log[0]] = [_turn(turn) for turn in log[1]]

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
                title = _one_line(self._names.get(stage) or predictor.signature.__name__)
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
        call = _Call(_one_line(name), _text(args or {}), _text(result) if error is None else _error(error))
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
        return _fit(blocks or [("(no steps)", [])], max_tokens)

    def _record(self, step: _Step, stage: object, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
        for name, value in inputs.items():
            if text := self._input(step, (step.strand, stage or step.title, name), name, value):
                step.fields.append((f"{_one_line(name)} (input)", text))
        for name, value in outputs.items():
            text, label = _text(value), _one_line(name)
            step.outputs[name] = text
            step.fields.append((label, self._tell(text, f"output `{label}` of step {step.number}")))
        step.calls = _announced(outputs)
        self._steps.append(step)

    def _input(self, step: _Step, slot: tuple[object, ...], name: str, value: Any) -> str:
        """An input as its step tells it; empty if the reader has it already."""
        if log := _log(name, value):
            return self._untold(*log, step.strand)
        text = _text(value)
        before, self._latest[slot] = self._latest.get(slot, ""), text
        if text in (before, self._inputs.get(name)):
            return ""
        same = _shared(before, text)
        if same > max(_LONG, len(before) // 2):
            return f"(begins as in the call before, then:) {text[same:]}"
        return self._tell(text, f"input `{_one_line(name)}` of step {step.number}")

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
        texts = [_turn(turn) for turn in turns]
        scope = (strand, None)
        states = [log for (s, k), log in self._logs.items() if k == kind and (strand is None or s in scope)]
        if strand is not None:
            self._logs[strand, kind] = texts
        if kind == "history":
            told = {text for state in states for text in state}
            fresh = [text for text, turn in zip(texts, turns, strict=True) if not self._all_told(turn)]
            return "\n".join(_field("turn", text) for text in fresh if text not in told)
        # Parts of a log may well be equal (two results of 5), so only the beginning two states share is known.
        start = max((_shared(state, texts) for state in states), default=0)
        last = set(steps[-1].outputs.values()) if steps else set()
        later = zip(texts[start:], turns[start:], strict=True)
        return "\n".join(text for text, turn in later if not {_text(value) for value in turn.values()} <= last)

    def _all_told(self, turn: dict[str, Any]) -> bool:
        return all(_text(value) in self._told for value in turn.values())

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
            elif (text := _text(value)) == last.get(name):
                told = ""
            else:
                where = self._told.get(text) if len(text) > _LONG else None
                told = f"({where})" if where else text or "(empty)"
            fields += [(_one_line(name), told)] if told else []
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
        pairs = _pairs(prediction)
        return {"value": prediction} if pairs is None else {str(name): value for name, value in pairs}
    except Exception:
        return {"value": prediction}


def _announced(outputs: dict[str, Any]) -> list[_Call]:
    """The tool calls that a step's outputs name."""
    if "next_tool_name" in outputs:  # dspy.ReAct
        return [_Call(_one_line(outputs["next_tool_name"]), _text(outputs.get("next_tool_args") or {}))]
    return [_Call(call.name, call.args) for call in _batch(outputs)]


def _batch(fields: dict[str, Any]) -> list[_Call]:
    """The calls in fields of type `dspy.ToolCalls`."""
    batches = [value for value in fields.values() if isinstance(value, dspy.ToolCalls)]
    return [_Call(_one_line(call.name), _text(call.args or {})) for batch in batches for call in batch.tool_calls]


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
                found.observation = _text(result.value)


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
    lines = [line for line in _text(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip()}" if lines else type(error).__name__


def _unparsed(error: BaseException) -> list[tuple[str, str]]:
    """The reply that stopped the program: a predictor that fails leaves no trace entry."""
    cause: BaseException | None = error
    for _ in range(_DEPTH):
        if cause is None or isinstance(cause, AdapterParseError):
            break
        cause = cause.__cause__ or cause.__context__
    reply = getattr(cause, "lm_response", None)
    return [] if reply is None else [("reply that could not be parsed", _text(reply))]
