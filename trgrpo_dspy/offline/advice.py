"""Advice in plain sentences: which words speak for which answer.

"When the note mentions 'a' or 'b', choose crew 'x', not 'y'." has the cues a and b, speaks for x and against y. The
same reader serves instructions written by people, by other models and by this one.

Guarantees: pure functions; a sentence without a recognisable answer is no advice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field as default

from .text import content_words, root

__all__ = ["Advice", "read_advice", "read_sentence", "write_sentence"]

QUOTED = re.compile(
    r"(?<![\w'])'([^'\n]{1,80}(?:'(?=\w)[^'\n]{1,80}){0,2})'(?!\w)|\"([^\"\n]{1,160})\"|`([^`\n]{1,160})`"
    r"|[\u2018\u201c]([^\u2019\u201d\n]{1,160})[\u2019\u201d]"
)
_ID = re.compile(r"^\s*(?:[-*\u2022]\s*)?\[(\w+)(?: \| [^\]]*)?\]\s*")
_VERB = re.compile(
    r"[,:]?\s*\b(?:then\s+)?(?:(?:do not|don't|never)\s+)?"
    r"(?:choose|answer|pick|use|select|classify|label|set|assign|route|send|prefer|reply|return|output|say|"
    r"go (?:for|with)|the (?:right |correct |best )?\w+ is|it is|it's|avoid)\b",
    re.IGNORECASE,
)
_TURN = re.compile(r"\b(?:when|whenever|if|for|where|takes|handles|means|covers|about|concerns)\b", re.IGNORECASE)
_NEGATION = re.compile(
    r"\b(?:not|never|avoid|rather than|instead of|don't|isn't|no longer|nor)\b[^'\"`;]*$", re.IGNORECASE
)
_ASIDE = re.compile(
    r"\s*\([^()]*\)|,?\s*\b(?:although|though|even if|even when|despite)\b.*$", re.IGNORECASE | re.DOTALL
)
_CONDITION = re.compile(r"^\s*(?:when|whenever|if|for|where)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Advice:
    """One clause of advice."""

    cues: tuple[str, ...]
    """Words or phrases that make it apply, most telling first."""
    quoted: bool
    """Whether the cues stood in quotation marks; else they are the content words of the condition."""
    values: tuple[str, ...]
    """Answers it speaks for."""
    against: tuple[str, ...] = ()
    """Answers it speaks against."""
    field: str = ""
    """The output field it names, if any."""
    id: str = ""
    """The id its line begins with, such as `E7`."""
    misleading: dict[str, tuple[str, ...]] = default(default_factory=dict, hash=False)
    """Ids of other entries it says mislead, with the cues that do."""


def read_advice(text: str, values: Sequence[str], fields: Sequence[str] = ()) -> list[Advice]:
    """All advice in a text about the given answers."""
    found = []
    for line in text.split("\n"):
        head = _ID.match(line)
        body = line[head.end() :] if head else line
        for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z\[\"'])", body):
            found += read_sentence(sentence, values, fields, head.group(1) if head else "")
    return found


def read_sentence(sentence: str, values: Sequence[str] = (), fields: Sequence[str] = (), id: str = "") -> list[Advice]:
    """The advice in one sentence, a clause at a time.

    Args:
        sentence: The sentence.
        values: Answers that count; empty counts whatever is quoted in the strategy.
        fields: Names of output fields to recognise.
        id: Kept in the result.
    """
    found = []
    for clause in _clauses(sentence):
        condition, strategy = _halves(clause)
        core = _ASIDE.sub("", strategy)
        named = _named(core, values)
        if values and not named:
            condition, core = clause, clause
            named = _named(core, values)
        good = tuple(dict.fromkeys(v for v, bad in named if not bad))
        bad = tuple(dict.fromkeys(v for v, is_bad in named if is_bad))
        if not good and not bad:
            continue
        quoted = [cue for cue, _ in _quotes(_ASIDE.sub("", condition))]
        skip = {w for text in (*good, *bad, *fields) for w in content_words(text.replace("_", " "))}
        cues = quoted or [w for w in content_words(condition) if w not in skip and root(w) not in _FRAME]
        if cues:
            found.append(
                Advice(
                    tuple(dict.fromkeys(c.casefold() for c in cues)),
                    bool(quoted),
                    good,
                    bad,
                    _field(core, good, fields),
                    id,
                    _misleading(strategy),
                )
            )
    return found


_FRAMING = "answer contain contains input mention mentioned mentioning mentions message question task text"
_FRAME = frozenset(map(root, _FRAMING.split()))
"""Words that introduce a condition and are none."""


def _masked(text: str) -> str:
    """The text with its quoted parts blotted out, at the same length."""
    return QUOTED.sub(lambda m: "\x00" * len(m.group()), text)


def _clauses(sentence: str) -> list[str]:
    """Parts of a sentence at semicolons outside quotation marks and brackets."""
    parts, start = [], 0
    for found in re.finditer(r";(?![^(]*\))", _masked(sentence)):
        parts.append(sentence[start : found.start()])
        start = found.end()
    return [*parts, sentence[start:]]


def _halves(clause: str) -> tuple[str, str]:
    """Condition and strategy of a clause."""
    masked = _masked(clause)
    if _CONDITION.match(masked):
        verbs = [m for m in _VERB.finditer(masked) if m.start() > 5]
        verb = next((m for m in verbs if m.group().startswith((",", ":")) or " then" in m.group()), None)
        if verb:
            return clause[: verb.start()], clause[verb.start() :]
        cut = masked.rfind(",")
        return (clause[:cut], clause[cut:]) if cut > 0 else (clause, clause)
    turn = _TURN.search(masked)
    if turn and turn.start() > 0:
        return clause[turn.start() :], clause[: turn.start()]
    return clause, clause


def _quotes(text: str) -> list[tuple[str, int]]:
    return [(next(g for g in m.groups() if g).strip(" ,."), m.start()) for m in QUOTED.finditer(text)]


def _named(strategy: str, values: Sequence[str]) -> list[tuple[str, bool]]:
    """Answers in a strategy, each with whether it is negated."""
    if not values:
        spots = _quotes(strategy)
    else:
        spots = [(v, m.start()) for v in values for m in _mentions(v, strategy)]
        spots = [
            s
            for s in spots
            if not any(s[0] in o[0] and s[0] != o[0] and o[1] <= s[1] < o[1] + len(o[0]) + 2 for o in spots)
        ]
    return [
        (value, bool(_NEGATION.search(strategy[:at].rstrip("'\"`\u2018\u201c"))))
        for value, at in sorted(spots, key=lambda s: s[1])
    ]


def _mentions(value: str, text: str) -> list[re.Match[str]]:
    if value.casefold() not in text.casefold():
        return []
    return list(re.finditer(rf"(?<![\w-]){re.escape(value)}(?![\w-])", text, re.IGNORECASE))


def _field(strategy: str, good: Sequence[str], fields: Sequence[str]) -> str:
    """The output field a strategy names: a known one, else the word before the quoted answer."""
    for name in fields:
        if (
            re.search(rf"\b{re.escape(name)}\b", strategy, re.IGNORECASE)
            or name.replace("_", " ") in strategy.casefold()
        ):
            return name
    before = re.search(r"\b(\w+)\s*[:=]?\s*['\"`]", strategy) if good and not fields else None
    word = before.group(1).casefold() if before else ""
    return "" if _VERB.fullmatch(word) or word in ("as", "with", "to", "is", "not") else word


def _misleading(strategy: str) -> dict[str, tuple[str, ...]]:
    """'(E3 misleads by 'x', 'y')' names an entry and its misleading cues."""
    found: dict[str, tuple[str, ...]] = {}
    for id, words in re.findall(r"\b(E\d+) misleads(?: by ([^();]*))?", strategy):
        found[id] = tuple(cue.casefold() for cue, _ in _quotes(words))
    return found


def write_sentence(
    subject: str,
    cues: Sequence[str],
    field: str,
    value: str,
    *,
    instead: str = "",
    because: str = "",
    max_words: int = 32,
    max_chars: int = 190,
) -> str:
    """A sentence of advice with as many cues as the bounds allow, most telling first.

    Returns:
        "When the note mentions 'a', 'b' or 'c', choose crew 'x'.", or "" if not one cue fits.
    """
    target = f"{field} '{value}'" if field else f"'{value}'"
    tail = f", choose {target}" + (f", not '{instead}'" if instead else "") + (f" ({because})" if because else "") + "."
    head = f"When the {subject} mentions "
    for count in range(len(cues), 0, -1):
        quoted = [f"'{cue}'" for cue in cues[:count]]
        listed = quoted[0] if count == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"
        sentence = head + listed + tail
        if len(sentence) <= max_chars and len(sentence.split()) <= max_words:
            return sentence
    return ""
