"""Writes values in the format the prompt asks for. Guarantees: what an adapter wrote, its parser reads back."""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["write"]


def write(style: str, values: dict[str, Any]) -> str:
    """A reply.

    Args:
        style: `chat`, `json`, `xml`, `lines` or `free`.
        values: Values by output field, in order.
    """
    if style == "json":
        return json.dumps(values, ensure_ascii=False)
    if style == "xml":
        return "\n\n".join(_xml(name, value) for name, value in values.items())
    if style == "lines":
        return "\n\n".join(f"{name}: {_plain(value)}" for name, value in values.items())
    if style == "free":
        return "\n".join(_plain(value) for value in values.values())
    parts = [f"[[ ## {name} ## ]]\n{_unmarked(_plain(value))}" for name, value in values.items()]
    return "\n\n".join([*parts, "[[ ## completed ## ]]"])


def _plain(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _unmarked(text: str) -> str:
    """A text that opens no field of its own."""
    return re.sub(r"^(\s*)\[\[ ## ", r"\1[ [ ## ", text, flags=re.MULTILINE)


def _xml(tag: str, value: Any) -> str:
    if isinstance(value, list):
        return f"<{tag}>{''.join(_xml('item', item) for item in value)}</{tag}>"
    if isinstance(value, dict) and tag != "tool_calls":
        inner = "".join(
            _xml(k, v) if k.isidentifier() else f'<entry key="{_escape(k)}">{_escape(_plain(v))}</entry>'
            for k, v in value.items()
        )
        return f"<{tag}>{inner}</{tag}>"
    return f"<{tag}>{_escape(_plain(value))}</{tag}>"


def _escape(text: str) -> str:
    clean = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]", "", text)
    return clean.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
