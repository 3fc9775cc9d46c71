"""LM replies as plain data and back: what the journal keeps.

DSPy's typed replies are frozen records. Each is written as its fields with the name of its class, and read back from
the classes that `dspy.lm15` exports, so nothing but records is ever made from a journal.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from dspy import lm15
from dspy.lm15 import Response
from pydantic import BaseModel

__all__ = ["decode_reply", "encode_reply"]

_KIND = "lm15"


def encode_reply(reply: Any) -> dict[str, Any] | None:
    """A reply as plain data; None for none."""
    if reply is None:
        return None
    return {"response": _record(reply)} if isinstance(reply, Response) else {"outputs": _plain(reply)}


def decode_reply(data: dict[str, Any]) -> Any:
    """What `encode_reply` took apart: a typed response, or a list of texts and records."""
    return _restored(data["response"]) if "response" in data else _outputs(data["outputs"])


def _record(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [f for f in dataclasses.fields(value) if f.init]
        own = {f.name: item for f in fields if not _same(item := getattr(value, f.name), f.default)}
        return {_KIND: type(value).__name__, **{name: _record(item) for name, item in own.items()}}
    if isinstance(value, tuple):
        return [_record(item) for item in value]
    if isinstance(value, bytes):
        return {_KIND: "bytes", "value": base64.b64encode(value).decode()}
    return {_KIND: "json", "value": _plain(value)} if isinstance(value, (Mapping, list)) else value


def _same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and bool(value == default)


def _restored(data: Any) -> Any:
    """A value of a record's field; every mapping in it names its kind, and every sequence is a tuple."""
    if isinstance(data, list):
        return tuple(_restored(item) for item in data)
    if not isinstance(data, dict):
        return data
    kind = data[_KIND]
    if kind in ("json", "bytes"):
        return data["value"] if kind == "json" else base64.b64decode(data["value"])
    if kind not in lm15.__all__ or not dataclasses.is_dataclass(getattr(lm15, kind)):
        raise ValueError(f"a reply in the journal holds an unknown record {kind!r}")
    make: Callable[..., Any] = getattr(lm15, kind)
    return make(**{name: _restored(value) for name, value in data.items() if name != _KIND})


def _plain(value: Any) -> Any:
    """Fields of an SDK's objects as mappings, sequences as lists."""
    if isinstance(value, BaseModel):
        value = dict(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


class _Fields(dict[str, Any]):
    """A record of a reply in DSPy's older form, whose fields are read by key and by attribute."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def _outputs(data: Any) -> Any:
    if isinstance(data, dict):
        return _Fields({key: _outputs(item) for key, item in data.items()})
    return [_outputs(item) for item in data] if isinstance(data, list) else data
