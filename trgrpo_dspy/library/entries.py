"""The text of an entry: one line, as it was written, measured and compared in code, without an LM.

Guarantees:

- Markup, code, indices and brackets stay as written; only line separators collapse.
- What a prompt would take for structure (the end of our block, a field of an adapter, a role of a chat template) gets
  one invisible `MARK` inside. `as_written` is the exact inverse.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable

__all__ = [
    "MARK", "as_written", "clean_entry", "count_tokens", "count_words", "guard_fields", "near_duplicate",
    "without_label",
]  # fmt: skip


def count_tokens(text: str) -> int:
    """Length in tokens as every limit here counts them: 4 bytes of UTF-8 each, rounded up.

    Tokenizers merge bytes, so bytes follow the script: 4 English, 2 Cyrillic or Arabic, 1.3 Chinese, Japanese, Korean
    or Thai characters make a token. OpenAI's o200k has 5.2, 3 to 3.8, and 1.3 to 2.6.
    """
    return math.ceil((len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))) / 4)


# Scripts that put no spaces between words, and Korean, whose spaces part phrases: about 2 characters are a word.
_DENSE = re.compile(
    "[\u1100-\u11ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u318f\u31a0-\u31ff\u3400-\u9fff\ua960-\ua97f\uac00-\ud7ff"
    "\uf900-\ufaff\uff66-\uffdc\U0001b000-\U0001b16f\U00020000-\U0003ffff]"
)
# Thai, Lao, Burmese and Khmer letters with their vowel signs: about 4 are a word.
_JOINED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\ua9e0-\ua9ff\uaa60-\uaa7f]")
_DENSE_PUNCTUATION = re.compile("[\u3000-\u3004\u3008-\u3020\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]")


def count_words(text: str) -> int:
    """Length in words as every limit here counts them, whatever the script."""
    if text.isascii():
        return len(text.split())
    text, dense = _DENSE.subn(" ", text)
    text, joined = _JOINED.subn(" ", text)
    return len(_DENSE_PUNCTUATION.sub(" ", text).split()) + math.ceil(dense / 2) + math.ceil(joined / 4)


_FILLERS = {"a", "an", "the", "this", "that", "these", "those", "then", "please", "is", "are", "be", "it", "its"}


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
    folded = unicodedata.normalize("NFKC", as_written(text).replace("\u2019", "'")).casefold()
    words = _WORD.findall(folded)
    return [w for w in words if w not in _FILLERS] or words or [folded]


MARK = "\u2060"
"""WORD JOINER: without width and without meaning; no tokenizer's special token and no parser's delimiter holds one."""

# Controls, surrogates, and what is invisible or reorders text; unassigned characters stay, since which they are
# depends on the version of Python. The tags of a flag of England, Scotland or Wales stay with it.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u180e\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
    "|(\U0001f3f4[\U000e0061-\U000e007a]{1,6}\U000e007f)|[\U000e0000-\U000e007f]"
)
# Joiners and direction marks belong to scripts and emoji: after plain ASCII, and in long rows, they only hide things.
# The same holds for the second of two variation selectors.
_STRAY = re.compile(
    "(?:(?<![^\x00-\x7f])|(?<=[\u061c\u200b-\u200f]{2}))[\u061c\u200b-\u200f]+"
    "|(?<=[\ufe00-\ufe0f\U000e0100-\U000e01ef])[\ufe00-\ufe0f\U000e0100-\U000e01ef]+"
)
_LABEL = re.compile(r"(?:\[\s{0,9}E\d{1,9}\s{0,9}(?:\|[^\[\]]{0,200})?\]\s*)+")

_ROLE_TAGS = (
    "bos|eos|pad|unk|sop|eop|start_of_turn|end_of_turn|extra_id_[0-9]+|system|developer|user|human|assistant|"
    "tool_calls?|tool_responses?|tool_results?|function_calls?|function_results?"
)
_STRUCTURE = re.compile(
    # Our own block, also with other rules round it: the last sign of the rule gets the mark.
    r"(?i:(?<=--)-(?=\s{0,9}experiences\b)|[-=#_~*\u2013\u2014](?=\s{0,9}end\s{1,9}of\s{1,9}experiences\b))"
    r"|\[(?=\[\s{0,9}##)"  # the chat adapter's [[ ## field ## ]]
    r"|<(?=<CUSTOM-TYPE-)"  # what DSPy makes images and files of a request from
    r"|<(?=[|\uff5c][^<>|\uff5c\s]{1,60}[|\uff5c]>)|\[(?=\|[a-z_]{1,40}\|\])"  # <|im_start|>, [|system|]
    rf"|<(?=/?(?:s|(?i:{_ROLE_TAGS}))>)|<(?=</?SYS>>)"  # not <S>, which is code
    r"|\[(?=/?(?:INST|SYS|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|[gs]MASK)\])"
)


def clean_entry(text: str) -> str:
    """Make one line of any text, as it was written, that no prompt takes for structure. Idempotent.

    Line separators collapse to single spaces, tabs become spaces (DSPy's instructions have none), invisible characters
    that no script needs go, and so do ids at the beginning, which the line of an entry has already. What would close
    our block, open a field or play a role gets a `MARK` after its first character.
    """
    text = as_written(text)
    while (cleaned := _one_line(text)) != text:
        text = cleaned
    return _STRUCTURE.sub(rf"\g<0>{MARK}", text)


def as_written(text: str) -> str:
    """The text without the marks that `clean_entry` and `guard_fields` put in."""
    return text.replace(MARK, "")


def guard_fields(text: str, names: Iterable[str]) -> str:
    """Keep tags of these names, a signature's fields, from being taken for fields by the XML adapter.

    `clean_entry` undoes it; tags of other names are advice and stay as they are.
    """
    tags = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    return re.sub(rf"<(?=/?\s{{0,9}}(?:{tags})[\s/>])", rf"\g<0>{MARK}", text) if tags else text


def _one_line(text: str) -> str:
    text = _INVISIBLE.sub(r"\1", text)
    if not text.isascii():
        text = _STRAY.sub("", text)
    text = " ".join(filter(None, (line.strip() for line in text.splitlines())))
    return _LABEL.sub("", text.translate(_SPACED), count=1) if text.startswith("[") else text.translate(_SPACED)


_SPACED = {9: " ", 0x1F: " "}
_WRITTEN_LABEL = re.compile(r"(?:\s*(?:[-*•]|E\d{1,9}[.:)]|\[\s{0,9}E\d{1,9}\s{0,9}\][.:)]?)(?=\s|$))+\s*")


def without_label(text: str) -> str:
    """What a model wrote, without the bullet or the id it put before it."""
    found = _WRITTEN_LABEL.match(text)
    return text[found.end() :] if found else text
