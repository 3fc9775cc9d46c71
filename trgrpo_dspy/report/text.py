"""How values become text in the report: everything shown is data, and what is invisible is made visible.

Escaping is jinja2's business (and the script's, which only ever sets text). What is decided here: a control character,
a bidirectional override or another invisible character shows as its code and can't change how the page reads.
"""

from __future__ import annotations

import re
from typing import Any

from markupsafe import Markup

__all__ = ["count", "duration", "finalize", "first_line", "money", "number", "score", "share", "signed", "visible"]

_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f"
    "\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff]"
)
"""Controls, separators, what reorders text or has no width. Joiners stay: Persian, Hindi and emoji need them."""
_MISSING = "–"  # noqa: RUF001 (a dash is what tables show for nothing)


def visible(text: str) -> str:
    """The text with every invisible character shown as its code."""
    return text if text.isprintable() else _INVISIBLE.sub(_shown, text.replace("\r\n", "\n"))


def _shown(found: re.Match[str]) -> str:
    return f"\u27e8U+{ord(found.group()):04X}\u27e9"


def finalize(value: Any) -> Any:
    """What a template prints of a value: nothing for None, markup as it is, else the value with nothing invisible."""
    return "" if value is None else value if isinstance(value, (Markup, int, float)) else visible(str(value))


def first_line(text: str, longest: int = 120) -> str:
    """The text in one line, cut at its end."""
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def score(value: float | None) -> str:
    """A score with three digits: '0.742', '73.1', '1.2e+06'; a dash for none."""
    if value is None:
        return _MISSING
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}"


def signed(value: float | None) -> str:
    """A gain, with its sign."""
    text = score(value)
    return f"+{text}" if value is not None and value >= 0 else text.replace("-", "\N{MINUS SIGN}")


def count(value: float | None) -> str:
    """A whole number with thousands parted; a dash for none."""
    return _MISSING if value is None else f"{value:,.0f}"


def number(value: float | None) -> str:
    """A quantity for reading: '0.4', '12', '1.9 M'; a dash for none."""
    if value is None:
        return _MISSING
    for unit, least, size in (("M", 1e6, 1e6), ("k", 1e4, 1e3)):
        if abs(value) >= least:
            return f"{value / size:.1f} {unit}"
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.1f}"


def money(value: float | None) -> str:
    """US dollars; a dash where a price is not known, which is not zero."""
    if value is None:
        return _MISSING
    return f"${value:,.2f}" if value >= 0.01 or value == 0 else "< $0.01"


def share(value: float | None) -> str:
    """A fraction as percent; a dash for none."""
    return _MISSING if value is None else f"{100 * value:.0f}%"


def duration(seconds: float) -> str:
    """Wall time: '4.2 s', '3 min 20 s', '2 h 5 min'."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
