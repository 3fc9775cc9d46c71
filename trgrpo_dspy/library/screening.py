"""Why an entry must wait for the user: what a tool's result may smuggle into the advice that a program follows.

Guarantees: a pure function of texts; what it finds is quoted in the reason; advice that names tools, warns against
something ('never ask for the password'), or describes such a request ('when users share credentials') passes.

It is a sieve, not a wall: an attack in words of its own passes.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

from .entries import as_written
from .phrases import ADDRESSES, COMMANDS, CREDENTIALS, DESCRIBED, ENCODED, IGNORE, NEGATIONS, PERSONAS, REVEAL, SECRETS

__all__ = ["LONG_RUN", "screen"]

LONG_RUN = 12
"""Words in a row (or pairs of characters, in scripts without spaces) that make a copy of an observation."""

_DESCRIBED, _NEGATION = ("|".join(phrases) for phrases in (DESCRIBED, NEGATIONS))
_EXEMPT = re.compile(
    rf"(?P<described>{_DESCRIBED})|(?:{_NEGATION})\s*(?:(?:ever|to|be|blindly|simply|directly)\s+)?$", re.IGNORECASE
)
_NEGATIONS = re.compile(_NEGATION, re.IGNORECASE)
_KINDS = tuple(
    (reason, exempt, re.compile("|".join(phrases), re.IGNORECASE))
    for reason, exempt, phrases in (
        ("it names an address", False, ADDRESSES),
        ("it holds a command", False, COMMANDS),
        ("it holds a credential", False, CREDENTIALS),
        ("it holds an encoded text", False, ENCODED),
        ("it asks for secrets", True, SECRETS),
        ("it tells to ignore instructions", True, IGNORE),
        ("it asks to reveal the prompt", True, REVEAL),
        ("it changes who the model is", True, PERSONAS),
    )
)
"""How a finding reads, whether a description or a negation before it lets it pass, and what is looked for."""
_LOOKALIKES = str.maketrans("аеорсухіѕјԁһԛԝνοαερτικ", "aeopcyxisjdhqwvoaeptik")
_SPACED_OUT = re.compile(r"\b(?:\w[ .\-_]){4,}\w\b")
_HIDDEN = re.compile("[\u00ad\u061c\u200b-\u200f\u2060-\u206f\ufe00-\ufe0f\ufeff]")


def screen(text: str, observations: Iterable[str] = ()) -> tuple[str, ...]:
    """Why this text must be held back for the user; empty if nothing speaks against it.

    Args:
        text: An entry's text.
        observations: What tools returned in the attempts behind it; long runs of words must not come from there.
    """
    plain = _HIDDEN.sub("", unicodedata.normalize("NFKC", as_written(text)))
    plain = _SPACED_OUT.sub(lambda m: re.sub(r"[ .\-_]", "", m.group()), plain)
    reasons = []
    for reason, exempt, pattern in _KINDS:
        versions = dict.fromkeys((plain, plain.casefold().translate(_LOOKALIKES)))
        found = (hit for version in versions for hit in _hits(pattern, version, exempt=exempt))
        if hit := next(found, None):
            reasons.append(f"{reason}: {hit[:60]!r}")
    if run := _longest_run(plain, observations):
        reasons.append(f"it repeats a tool's result word for word: {run[:60]!r}")
    return tuple(reasons)


def _hits(pattern: re.Pattern[str], text: str, *, exempt: bool) -> Iterator[str]:
    for match in pattern.finditer(text):
        before = re.split(r"[.!?;。]", text[max(match.start() - 80, 0) : match.start()])[-1]
        found = _EXEMPT.search(before) if exempt else None
        # 'Never answer without asking for ...' forbids nothing: two negations ask.
        if not found or (found["described"] is None and len(_NEGATIONS.findall(before)) % 2 == 0):
            yield match.group()


def _longest_run(text: str, observations: Iterable[str]) -> str:
    """The first run of the text, long enough, that an observation holds too."""
    pieces = _pieces(text)
    runs = [run for i in range(len(pieces)) if (run := _cut(pieces[i : i + 2 * LONG_RUN]))]
    searched = (f" {' '.join(_pieces(observation))} " for observation in observations)
    return next((run for held in searched for run in runs if f" {run} " in held), "")


def _cut(pieces: list[str]) -> str:
    """The shortest beginning that is long enough; empty if the whole is not."""
    size = 0.0
    for count, piece in enumerate(pieces, 1):
        size += 0.5 if len(piece) == 1 and ord(piece) >= 0x2E80 else 1
        if size >= LONG_RUN:
            return " ".join(pieces[:count])
    return ""


def _pieces(text: str) -> list[str]:
    """Words in lower case, and each character of the scripts that have no spaces."""
    return re.findall(r"[\u2e80-\ud7ff\uf900-\ufaff]|[^\W\u2e80-\ud7ff\uf900-\ufaff]+", text.casefold())
