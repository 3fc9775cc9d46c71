"""The text of an entry: one clean line, measured and compared in code, without an LM.

No text can forge a second entry, close the block or open a field.
"""

from __future__ import annotations

import math
import re
import unicodedata

__all__ = ["clean_entry", "count_tokens", "near_duplicate"]


def count_tokens(text: str) -> int:
    """Length in tokens as every limit here counts them: 4 characters each, rounded up."""
    return math.ceil(len(text) / 4)


_FILLERS = frozenset(
    {"a", "an", "the", "this", "that", "these", "those", "then", "please", "is", "are", "be", "it", "its"}
)


def near_duplicate(a: str, b: str) -> bool:
    """Whether two texts say the same words: equal up to case, punctuation and small words.

    Deliberately narrow: 'above $500' and 'below $500' differ in a word, 'a, not b' and 'b, not a' in their order, and
    so in what they say. Closer meanings are the consolidation's business.
    """
    return _content(a) == _content(b)


_SYMBOLS = r"<>=$%+*/&@#^~|-"
_PUNCTUATION = r"""\s_.,;:?!'"`()\[\]{}\\«»¡¿·\u2010-\u2027\u2039-\u205e\u3001-\u3003\u3008-\u301f"""
# What is neither white space nor punctuation is part of a word: letters with their marks, digits, ≤, €.
_PART = f"[^{_PUNCTUATION}{_SYMBOLS}]+"
_WORD = re.compile(rf"!=|[{_SYMBOLS}]|{_PART}(?:[.']{_PART})*")


def _content(text: str) -> list[str]:
    """The words and symbols that carry the meaning, in order."""
    folded = unicodedata.normalize("NFKC", text.replace("\u2019", "'")).casefold()
    words = _WORD.findall(folded)
    return [w for w in words if w not in _FILLERS] or words or [folded]


# Unassigned characters stay: which they are depends on the version of Python.
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co"})
_ROLES = "INST|SYS|S|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS"
_DELIMITERS = (
    (re.compile(r"\[\[\s*#+\s*|(?<![#\s])\s*#+\s*\]\]"), " | "),  # the chat adapter's [[ ## field ## ]]
    (re.compile(rf"\[(/?(?:{_ROLES}))\]", re.IGNORECASE), r"(\1)"),  # role markers of chat templates
    (re.compile(r"-{3,}|`{3,}|#{2,}|={3,}"), "-"),  # our own rules, code fences, headings
    (re.compile(r"^(?:\s*(?:[-*•]|\[?E\d+[\].:)]+|\d+[.)])(?=\s|$))+\s*"), ""),  # a bullet or an id the model repeated
)
_TAG = re.compile(r"<[|\uff5c/!?_A-Za-z][^>]*>")  # XML, <|role|>, <<SYS>>


def clean_entry(text: str) -> str:
    """Make one line of any text: what can close a block, open a field or play a role is neutralised.

    All Unicode white space and line separators collapse to single spaces; control, format and surrogate characters
    go; delimiters of ours, of the adapters and of chat templates are replaced by look-alikes. Idempotent.
    """
    while (cleaned := _clean_once(text)) != text:
        text = cleaned
    return text


def _clean_once(text: str) -> str:
    text = " ".join(text.split())
    if not text.isprintable():
        text = "".join(ch for ch in text if unicodedata.category(ch) not in _INVISIBLE)
    # Only up to the last ">": past it there is no tag, and looking for its end at every "<" would take long.
    head, end, tail = text.rpartition(">")
    text = _TAG.sub(lambda tag: tag.group().replace("<", "\u2039").replace(">", "\u203a"), head + end) + tail
    for pattern, harmless in _DELIMITERS:
        text = pattern.sub(harmless, text)
    return " ".join(text.split())
