"""Values as bounded text that is safe to quote in a prompt.

Guarantees: bounded and marked where cut; no binary content, no memory address; nothing forges a delimiter of ours, of
an adapter or of a chat template; nothing raises, whatever an object does when it is printed.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any
from urllib.parse import urlsplit

import dspy
import pydantic
from dspy.adapters.types.document import Document

from trgrpo_dspy.library.entries import count_tokens

__all__ = [
    "clean", "cut_middle", "field_lines", "fit_blocks", "named_parts", "one_line", "render_fields", "text_of",
    "turn_text",
]  # fmt: skip

_NODES = 20_000  # values visited in one object: ends self-containing and endless ones
_DEPTH = 12
_LEAST = 16  # tokens below which no single value is shrunk; then the text is cut as a whole

_LINE_ENDS = re.compile(r"\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
# Controls, surrogates and what is invisible or reorders text. Joiners stay: scripts and emoji need them.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_DATA_URI = re.compile(r"data:([\w.+/-]{0,80})(?:;[\w.=+-]{1,60}){0,4};base64,([\w+/=-]+)")
# A space goes into each delimiter; taking characters away instead could join what is left to a new one.
# Before each pattern, texts one of which is in all that it matches: most values have none of them.
_DELIMITERS = (
    (("[[", "]]"), re.compile(r"(\[)(?=\[\s*#)|(#\s*\])(?=\])")),  # the chat adapter's [[ ## field ## ]]
    (("<<",), re.compile(r"(<)(?=<CUSTOM-TYPE-)")),  # what DSPy makes images and files of a request from
    (("<",), re.compile(r"(<)(?=/?(?:task|attempts?|expected|score|feedback|experiences)\s{0,9}>)", re.IGNORECASE)),
    (("<|", "INST]"), re.compile(r"(<)(?=\|\w{1,40}\|>)|(\[)(?=/?INST\])")),  # roles in chat templates
    (("==",), re.compile(r"(=)(?==[ \t]{0,9}(?:step|final|failure|tool)\b)", re.IGNORECASE)),  # our own headers
)
_ANY_DELIMITER = re.compile("|".join(re.escape(part) for needed, _ in _DELIMITERS for part in needed))
"""A look for all of these texts at once."""


def clean(text: str) -> str:
    """Make any text safe to quote: one kind of line end, nothing invisible, delimiters broken by a space.

    Idempotent. Base64 data becomes a note of its type and size.
    """
    if not text.replace("\n", "").replace("\t", "").isprintable():  # what is printable holds none of these
        text = _INVISIBLE.sub("", _LINE_ENDS.sub("\n", text))
    if "data:" in text:
        text = _DATA_URI.sub(lambda m: f"<data: {m[1] or 'text/plain'}, {_size(len(m[2]) * 3 // 4)}>", text)
    if _ANY_DELIMITER.search(text):
        for _, pattern in _DELIMITERS:
            text = pattern.sub(r"\g<0> ", text)
    return text


def cut_middle(text: str, max_tokens: int) -> str:
    """The text if it fits, else its beginning and end round a mark that counts what is missing."""
    if count_tokens(text) <= max(max_tokens, 0):
        return text
    # Bytes of UTF-8 are what count_tokens counts; a character that is cut in two goes.
    raw, limit = text.encode(errors="replace"), 4 * max(max_tokens, 0)
    room = limit - len(_mark(len(raw)))
    if room < 0:
        return "[...]"[:limit]
    start, end = room - room // 2, len(raw) - room // 2
    return raw[:start].decode(errors="ignore") + _mark(end - start) + raw[end:].decode(errors="ignore")


def _mark(size: int) -> str:
    return f" [... {-(-size // 4):,} tokens cut ...] "


def render_fields(fields: Mapping[str, object], max_tokens: int = 1000) -> str:
    """`name: value` lines within a bound; values of several lines are indented, the largest are cut first."""
    return fit_blocks([("", [(one_line(name), text_of(value)) for name, value in fields.items()])], max_tokens)


def fit_blocks(blocks: Sequence[tuple[str, list[tuple[str, str]]]], max_tokens: int) -> str:
    """Blocks of header and fields as one text: one cap for all values, as high as the bound allows."""

    def assemble(cap: int) -> str:
        parts = []
        for header, fields in blocks:
            lines = [field_lines(name, cut_middle(text, cap)) for name, text in fields]
            parts.append("\n".join([header, *lines] if header else lines))
        return "\n\n".join(parts)

    caps = range(_LEAST, max(max_tokens, _LEAST) + 1)
    if count_tokens(whole := assemble(caps[-1])) <= max_tokens:
        return whole
    fitting = bisect_right(caps, max_tokens, key=lambda cap: count_tokens(assemble(cap)))
    return cut_middle(assemble(caps[max(fitting - 1, 0)]), max_tokens)


def field_lines(name: str, text: str) -> str:
    """A field as text; indented, no line of a value can pass for a field or a header."""
    if "\n" in text:
        return f"{name}:\n" + re.sub("^", "  ", text, flags=re.MULTILINE)
    return f"{name}: {text or '(empty)'}"


def one_line(text: object) -> str:
    """The value as one line of at most 50 tokens."""
    if type(text) is str and len(text) <= 200 and text.isascii() and text.isidentifier():
        return text  # a field's name
    return " ".join(cut_middle(text_of(text), 50).split())


def text_of(value: object) -> str:
    """The whole value as clean text, in compact JSON if it has parts."""
    if type(value) is str:
        return clean(value).rstrip()
    try:
        if isinstance(value, dspy.History):
            turns = [(f"turn {i}", turn_text(m)) for i, m in enumerate(value.messages, 1)]
            return "\n".join(field_lines(name, text) for name, text in turns)
        plain = _Plain()(value)
        return clean(plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)).rstrip()
    except Exception:
        return _unprintable(value)


def turn_text(message: Mapping[str, object]) -> str:
    """One turn of a history."""
    return "\n".join(field_lines(one_line(name), text_of(value)) for name, value in message.items())


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
        if (pairs := named_parts(value)) is not None:
            return {one_line(k): self(v, depth) for k, v in self.some(pairs)}
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


def named_parts(value: Any) -> Iterable[tuple[object, Any]] | None:
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
    lines = [f"{call.name}({text_of(call.args)})" for call in value.tool_calls]
    return "\n".join([*lines, *(f"{result.name} -> {text_of(result.value)}" for result in results)])


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
