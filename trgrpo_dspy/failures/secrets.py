"""The secrets of the LMs in use: keys, headers, cloud credentials, passwords in addresses.

`failures.redact` knows a key by its looks; this knows the ones a run was given, whatever they look like. What is
remembered is remembered for the life of the process, since what one run logs may quote what another was given; it
never leaves memory.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

__all__ = ["blank", "holds_secret", "names_secret", "remember", "secrets_of"]

_NAMED = re.compile(r"(?i)key|token|secret|passw|auth|cred|cookie|session|signature|header|query")
_SHORTEST = 8
"""Shorter values are no secrets but words, such as the 'EMPTY' that local servers take for a key."""
_SHORTEST_PASSWORD = 4
_ARMOUR = re.compile(r"[A-Z ]*-----[A-Z0-9 ]*(?:-----)?")
"""The first and last lines of a private key, and their words, are no secrets: every key has them."""
_known: frozenset[str] = frozenset()


def remember(settings: Mapping[str, Any]) -> None:
    """Take in an LM's keyword arguments, and the API keys in the environment that stand in for them."""
    global _known
    found = secrets_of(settings)
    found |= {value for name, value in os.environ.items() if name.endswith("_API_KEY") and len(value) >= _SHORTEST}
    _known |= found | {quote(secret, safe="") for secret in found}


def secrets_of(settings: Mapping[str, Any]) -> frozenset[str]:
    """The secrets in settings, by their names and by what they look like."""
    return frozenset(secret for name, value in settings.items() for secret in _secrets(name, value))


def names_secret(name: str) -> bool:
    """Whether what goes by this name is likely to be one."""
    return _NAMED.search(name) is not None


def holds_secret(data: bytes) -> bool:
    """Whether a known secret occurs in data, as it is; the shortest are words that may occur in anything."""
    return any(secret.encode("utf-8", "surrogatepass") in data for secret in _known if len(secret) >= _SHORTEST)


def blank(text: str, more: Iterable[tuple[int, int]] = ()) -> str:
    """The text with every secret, and what else is named by its bounds, replaced by '***'."""
    spans = [*more, *(found.span() for secret in _known for found in re.finditer(re.escape(secret), text))]
    at, parts = 0, list[str]()
    for start, end in sorted(spans):
        if start > at or not parts:
            parts += [text[at:start], "***"]
        at = max(at, end)
    return "".join([*parts, text[at:]])


def _secrets(name: str, value: Any) -> Iterator[str]:
    """The secrets in a setting; `name` is its name with those of what holds it."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _secrets(f"{name} {key}", item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _secrets(name, item)
    elif isinstance(value, str) and "://" in value:
        yield from _in_address(value)
    elif isinstance(value, str) and _NAMED.search(name):
        yield from _in_text(name, value)


def _in_text(name: str, value: str) -> Iterator[str]:
    if value.lstrip().startswith("{"):  # credentials as a JSON text
        with suppress(ValueError):
            yield from _secrets(name, json.loads(value))
    parts = [value, *value.splitlines(), *value.split()]  # lines of a private key, what follows 'Bearer'
    yield from (part for part in parts if len(part) >= _SHORTEST and not _ARMOUR.fullmatch(part))


def _in_address(value: str) -> Iterator[str]:
    try:
        address = urlsplit(value)
        user, password = address.username or "", address.password or ""
    except ValueError:
        return
    user, password = unquote(user), unquote(password)
    if password:
        yield base64.b64encode(f"{user}:{password}".encode()).decode()
        yield f"{user}:{password}"
    if len(user) >= _SHORTEST:  # a token may stand there; a shorter name is a word, such as 'user'
        yield user
    if len(password) >= _SHORTEST_PASSWORD:
        yield password
    yield from (part for _, part in parse_qsl(address.query) if len(part) >= _SHORTEST)
