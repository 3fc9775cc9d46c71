"""Values as plain data that is the same in every process, and their hashes."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import PurePath
from typing import Any

import dspy
from pydantic import BaseModel

from .differences import HASH_MARK

__all__ = ["digest", "is_of_this_process", "mark", "plain", "without_addresses"]

_PIECE = 2000
"""Bytes hashed at a time: for 2,048 the interpreter lock is given up, and busy threads are slow to return it."""
_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")
_DEEPEST = 60
"""Levels of nesting that are read; some of DSPy's and the user's frames are on the stack already."""
_LARGE = 2**16
"""Bytes of an array above which it is hashed as it stands in memory."""
_RECENT = 86_400.0
"""A time of the last day, in seconds, was taken by this process."""
_UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[14][0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}", re.IGNORECASE)
_SCALARS = (type(None), bool, int, float, str)

Refer = Callable[[Any], Any]
"""Plain data for an object that is no container, or None for the usual."""


def plain(value: Any, refer: Refer = lambda value: None, most: float = float("inf")) -> Any:
    """The value as JSON data that is the same in every process: no memory address, no dictionary order.

    A container that holds itself is cut where it comes again. At most so many containers and objects are read, and
    `refer` is asked first for each object that is no container.
    """
    return _Reader(refer, most).read(value)


def digest(value: Any) -> str:
    """Hash of the value as JSON data; `plain` is asked for what JSON does not know."""
    try:
        text = _encode(value)
    except (TypeError, ValueError, RecursionError):  # names that are no text or can't be sorted; loops; depth
        text = json.dumps(plain(value), sort_keys=True)
    data, hashed = text.encode("ascii"), hashlib.sha256()
    for start in range(0, len(data), _PIECE):
        hashed.update(data[start : start + _PIECE])
    return hashed.hexdigest()[:32]


def mark(value: Any) -> str:
    """The value's hash as it stands in a fingerprint."""
    return HASH_MARK + digest(value)[:16]


def without_addresses(text: str) -> str:
    """The text of a `repr` without memory addresses."""
    return _ADDRESS.sub("", text)


def is_of_this_process(value: Any) -> bool:
    """Whether a value is one that every process makes anew: a time of day, a random id, a temporary folder."""
    if isinstance(value, datetime) and value.year > 1970:
        value = value.timestamp()
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return 0 <= time.time() - value < _RECENT
    if isinstance(value, uuid.UUID):
        return value.version in (1, 4)
    text = str(value) if isinstance(value, (str, PurePath)) else ""
    return text.startswith(tempfile.gettempdir()) or _UUID.fullmatch(text) is not None


class _Reader:
    """Reads one value."""

    def __init__(self, refer: Refer, most: float) -> None:
        self._refer, self._left = refer, most
        self._above: list[int] = []
        """The containers and objects that hold the value being read, outermost first."""

    def read(self, value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if id(value) in self._above:
            return f"the {len(self._above) - self._above.index(id(value))}. above"
        self._left -= 1
        if len(self._above) >= _DEEPEST or self._left < 0:
            return "not read"
        self._above.append(id(value))
        try:
            return self._compound(value)
        finally:
            self._above.pop()

    def _compound(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            if all(type(v) in _SCALARS for v in value.values()) and all(type(k) is str for k in value):
                return dict(sorted(value.items()))
            return {str(k): self.read(v) for k, v in sorted(value.items(), key=lambda pair: str(pair[0]))}
        if isinstance(value, (list, tuple)):
            return list(value) if all(type(v) in _SCALARS for v in value) else [self.read(v) for v in value]
        if isinstance(value, (set, frozenset)):
            items = sorted(value, key=lambda item: without_addresses(repr(item)))
            return sorted((self.read(v) for v in items), key=str)
        found = self._refer(value)
        return self._object(value) if found is None else found

    def _object(self, value: Any) -> Any:
        if isinstance(value, dspy.Example):
            return self.read(dict(value.items()))
        if isinstance(value, BaseModel):
            return self.read(value.model_dump())
        if isinstance(value, type) and issubclass(value, BaseModel):
            return self.read(value.model_json_schema())
        if isinstance(value, bytes):
            return hashlib.sha256(value).hexdigest()
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {f.name: self.read(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, functools.partial):
            return [self.read(value.func), self.read(value.args), self.read(value.keywords)]
        if callable(value):
            return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
        if callable(as_array := getattr(value, "to_numpy", None)):  # tables of data, whose repr is cut short
            return self.read([list(map(str, getattr(value, "columns", ()))), as_array()])
        of_objects = getattr(getattr(value, "dtype", None), "hasobject", False)  # whose bytes are addresses
        large = getattr(value, "nbytes", 0) > _LARGE or not hasattr(value, "tolist")
        if large and not of_objects and callable(as_bytes := getattr(value, "tobytes", None)):  # images too
            return [str(getattr(value, "dtype", "")), hashlib.sha256(as_bytes()).hexdigest()]
        if callable(as_list := getattr(value, "tolist", None)):
            return self.read(as_list())
        return without_addresses(repr(value))


_encode = json.JSONEncoder(sort_keys=True, default=plain).encode
