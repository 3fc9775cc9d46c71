"""Programs, metrics and settings as bytes for another process, without the secrets of their LMs.

Guarantees:

- An LM's key, header or password is sent as the *name* of the environment variable that holds it, and looked up where
  the bytes are opened. One that is in no variable is refused before anything is sent.
- The bytes are searched for every secret that is known (those of the LMs, and what the environment holds under names
  that end in `_API_KEY`); finding one, wherever it sits, refuses them too.
- LMs are sent as the user made them: no history, no callbacks, no gate of this run.

What is importable is sent by name and must be installed where it is opened; what is defined in a script or notebook,
and lambdas, are sent whole (`cloudpickle`). The bytes are code: only open what this process or its driver packed.
"""

from __future__ import annotations

import copyreg
import inspect
import io
import os
import pickle
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cloudpickle
import dspy

from trgrpo_dspy.engine.calls.observed import unobserved
from trgrpo_dspy.errors import FatalError
from trgrpo_dspy.failures.messages import describe
from trgrpo_dspy.failures.secrets import holds_secret, names_secret, remember, secrets_of

__all__ = ["pack", "unpack"]

_SHORTEST = 8
"""Characters from which the value of a variable is looked for within a longer text."""
_DEEPEST = 6
"""Attributes within attributes that are looked through for what can't be packed."""


def pack(**parts: Any) -> bytes:
    """The parts, by name, as bytes.

    Raises:
        ValueError: Something can't be pickled, or a secret is in no environment variable; the message names what and
            where it sits, never the secret.
    """
    for part in parts.values():
        if isinstance(part, dspy.Module):  # a predictor may bring a key of its own
            for _, predictor in part.named_sub_modules(dspy.Predict):
                remember(predictor.config)
    try:
        data = _dumps(parts)
    except _SecretError as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # whatever an object's own code for pickling raises; its text may quote anything
        where, reason = _culprit(parts, error)
        raise ValueError(
            f"{where} can't be sent to another process ({reason}). Make it inside forward or the tool that needs it, "
            "or give its class a __getstate__ that leaves it out"
        ) from None
    if holds_secret(data):
        where = next((name for name, part in parts.items() if holds_secret(_dumps(part))), "together they")
        raise ValueError(
            f"{where.replace('_', ' ')} holds a key or password in plain sight, and such are sent to workers only by "
            "the name of an environment variable. Read it from os.environ where it is used, inside the tool, the "
            "engine or forward"
        )
    return data


def unpack(data: bytes) -> dict[str, Any]:
    """What was packed.

    Raises:
        FatalError: An environment variable that an LM's key is to come from is not set here.
        Exception: Whatever importing and making its objects may raise.
    """
    parts: dict[str, Any] = pickle.loads(data)  # our own driver's
    return parts


class _SecretError(Exception):
    """A secret that can't be sent; the message does not tell it."""


@dataclass(frozen=True)
class _Lookup:
    """A setting of an LM that is unpickled as a text with values of the worker's environment variables in it."""

    model: str
    parts: tuple[str, ...]
    """Texts and names of variables in turn; the first and the last are texts."""

    def __reduce__(self) -> Any:
        return _looked_up, (self.model, self.parts)


def _looked_up(model: str, parts: tuple[str, ...]) -> str:
    for name in parts[1::2]:
        if name not in os.environ:
            raise FatalError(
                f"LM {model!r}: the environment variable {name} is not set on worker {socket.gethostname()}. "
                "Set it on every node before its workers start (for Ray: before `ray start`)"
            )
    return "".join(os.environ[part] if i % 2 else part for i, part in enumerate(parts))


class _Pickler(cloudpickle.Pickler):
    """Sends LMs plain, and their secrets by name."""

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, dspy.BaseLM):
            return super().reducer_override(obj)
        plain = unobserved(obj)
        own = {name: [] if name in ("history", "callbacks") else value for name, value in vars(plain).items()}
        remember(own)
        for engine in (own.get("_engine_spec"), own.get("_async_engine_spec")):
            remember(getattr(engine, "__dict__", {}))  # a custom engine is sent as it is
        reduced = plain.__reduce_ex__(pickle.DEFAULT_PROTOCOL)
        if isinstance(reduced, str) or len(reduced) < 3 or not isinstance(reduced[2], dict):
            return reduced  # a pickling of its own: what it tells is looked for in the bytes
        state = {name: _hidden(name, own.get(name, value), obj.model) for name, value in reduced[2].items()}
        make = _new if reduced[0] is copyreg.__newobj__ else reduced[0]  # type: ignore[attr-defined]
        return make, reduced[1], state, *reduced[3:]


def _new(cls: type, *arguments: Any) -> Any:
    """An empty LM; pickle's own way refuses a class that is not the object's."""
    return cls.__new__(cls, *arguments)


def _dumps(value: Any) -> bytes:
    with io.BytesIO() as file:
        _Pickler(file).dump(value)
        return file.getvalue()


def _hidden(name: str, value: Any, model: str) -> Any:
    """A setting of an LM with the secrets in it by name."""
    if type(value) is dict:
        return {key: _hidden(f"{name} {key}", item, model) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_hidden(name, item, model) for item in value)
    return _by_name(name, value, model) if isinstance(value, str) and secrets_of({name: value}) else value


def _by_name(name: str, value: str, model: str) -> _Lookup:
    """A text that holds a secret, with the environment variables it can be made of."""
    held = {
        found: variable
        for variable, found in sorted(os.environ.items(), key=lambda item: (names_secret(item[0]), item[0]))
        if found == value or (len(found) >= _SHORTEST and found in value and names_secret(variable))
    }
    found = re.split(f"({'|'.join(map(re.escape, sorted(held, key=len, reverse=True)))})", value) if held else [value]
    if any(secrets_of({name: text}) for text in found[::2]):
        setting = name.removeprefix("kwargs ")
        raise _SecretError(
            f"LM {model!r} has a secret in {setting!r} that is in no environment variable, and secrets are sent to "
            f"workers only by the name of one. Put the whole value into a variable, here and on every worker, and pass "
            f"os.environ['ITS_NAME'] to dspy.LM(...) for {setting!r}; or leave it out if the provider's own variable "
            "(such as OPENAI_API_KEY) holds it"
        )
    return _Lookup(model, tuple(held[text] if i % 2 else text for i, text in enumerate(found)))


def _culprit(value: Any, error: Exception, where: str = "", depth: int = 0) -> tuple[str, str]:
    """The innermost attribute that can't be pickled, and what it is."""
    for name, item in _named_parts(value, where) if depth < _DEEPEST else ():
        try:
            _dumps(item)
        except Exception as inner:  # as above
            return _culprit(item, inner, name, depth + 1)
    return where or "the program", f"a {type(value).__name__}; {describe(error)}"


def _named_parts(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield (f"{where}[{key!r}]" if where else str(key)), item
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield f"{where}[{index}]", item
    else:
        for name, item in getattr(value, "__dict__", {}).items():
            if not isinstance(value, dspy.BaseLM) or name not in ("_engine_lock", "_engine_store", "_gate"):
                yield f"{where}.{name}", item
        if inspect.isfunction(value):
            for name, item in inspect.getclosurevars(value).nonlocals.items():
                yield f"{name} in {where}", item
