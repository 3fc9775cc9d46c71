"""When two answers are the same, where no metric says so."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["normalised"]

_PROSE = re.compile(r"[^\W\d_]+(?:[ ,'\u2019-]+[^\W\d_]+)*")
"""Words alone. In numbers, units, formulas and code a letter's case and every sign may carry the meaning."""


def normalised(text: str) -> str:
    """An answer as it is compared: equal for answers that differ only in spaces, a full stop or the case of words.

    What differs otherwise stays different: `5` and `5!`, `10 Mg` and `10 mg`, x² and x2, code indented in another way.
    """
    lines = [line.rstrip() for line in unicodedata.normalize("NFC", text).splitlines()]
    text = "\n".join(lines).strip("\n")
    if "\n" in text:
        return text
    text = " ".join(text.split())
    if len(text) > 1 and text.endswith(".") and text[-2].isalnum():
        text = text[:-1]
    return text.casefold() if _PROSE.fullmatch(text) else text
