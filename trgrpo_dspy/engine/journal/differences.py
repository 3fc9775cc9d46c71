"""The differences between two runs, in words by which a person can undo them.

A fingerprint (`fingerprint.py`) describes a run as plain data: mappings, lists, numbers and texts. A hash stands for
what can't be shown: alone, after a text, or one for each example of a list.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

__all__ = ["HASH_MARK", "differences"]

HASH_MARK = "#"
"""What a hash begins with."""
_HASH = re.compile(rf"\s*{HASH_MARK}[0-9a-f]{{8,}}$")
_SHOWN = 60
"""Characters of a value that are shown."""
_BEFORE = 20
"""Those of them before the first difference, where a value is longer."""
_EXAMPLES = 3
"""Examples that are named."""
_ABSENT = object()


def differences(was: Mapping[str, Any], now: Mapping[str, Any], may_grow: Collection[str] = ()) -> list[str]:
    """Name each difference in a line. A number in `may_grow` that has grown is no difference.

    Hashes of code are not comparable between versions of Python: then only the versions are named.
    """
    other_python = was.get("python") != now.get("python")

    def excused(name: str, a: Any, b: Any) -> bool:
        grew = name in may_grow and isinstance(a, int) and isinstance(b, int) and b > a
        return grew or (other_python and " code " in name)

    return [_described(*found) for found in _differing(was, now) if not excused(*found)]


def _differing(was: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The entries that differ, each with its path; a mapping that only one side has is one entry."""
    for name in sorted({*was, *now}):
        before, after = was.get(name, _ABSENT), now.get(name, _ABSENT)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from _differing(before, after, f"{prefix}{name} ")
        elif before != after:
            yield prefix + name, before, after


def _described(name: str, was: Any, now: Any) -> str:
    if was is _ABSENT or now is _ABSENT:
        value, what = (now, "is new") if was is _ABSENT else (was, "is gone")
        text = "" if isinstance(value, (Mapping, list)) else _shown(str(_readable(value)))
        return f"{name} ({text}) {what}" if text else f"{name} {what}"
    if _is_examples(was) and _is_examples(now):
        return f"{name}: {_describe_examples(was, now)}"
    before, after = _readable(was), _readable(now)
    if before == after:
        return f"{name} ({before}) was changed" if before else f"{name} was changed"
    before, after = repr(before), repr(after)
    common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False)))
    start = max(0, common - _BEFORE)
    return f"{name}: was {_shown(before, start)}, is {_shown(after, start)}"


def _readable(value: Any) -> Any:
    """A value without its hash."""
    return _HASH.sub("", value) if isinstance(value, str) else value


def _shown(text: str, start: int = 0) -> str:
    """A text, cut to what a message shows; a cut one begins at `start`."""
    if len(text) <= _SHOWN:
        return text
    cut = text[start : start + _SHOWN]
    return f"{'…' if start else ''}{cut}{'…' if start + _SHOWN < len(text) else ''}"


def _is_examples(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) and item.startswith(HASH_MARK) for item in value)


def _describe_examples(was: Sequence[str], now: Sequence[str]) -> str:
    if len(was) != len(now):
        common = min(len(was), len(now))
        same = f", the first {common} the same" if common and was[:common] == now[:common] else ""
        return f"was {len(was)} example{'s' * (len(was) != 1)}, is {len(now)}{same}"
    if sorted(was) == sorted(now):
        return "the same examples in another order"
    named = [f"[{index}]" for index, (one, other) in enumerate(zip(was, now, strict=True)) if one != other]
    more = f" and {len(named) - _EXAMPLES} more" if len(named) > _EXAMPLES else ""
    differ = "differ" if len(named) > 1 else "differs"
    return f"{len(named)} of {len(was)} examples {differ}: {', '.join(named[:_EXAMPLES])}{more}"
