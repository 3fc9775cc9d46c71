r"""Where the answer is in what a model wrote.

In this order: after a `</think>`; in the last `<answer>` tag; in `\boxed{}`; after "answer is", "Answer:" (also
in Chinese) or "####"; else all of the text, and of prose what its last sentence with a figure states. What a text
denies ("not 42") is no answer, nor is a figure in a text that says it has none ("I can't solve it").
"""

from __future__ import annotations

import re

from programs.math_notation import quantity, repaired, split_unit, tidy

__all__ = ["final_answer"]

_MAX_CHARS = 1000
"""Longest answer that is checked: of a longer text the end."""
_LONGEST_TEXT = 20_000
"""Of a longer text the end is searched."""
_THOUGHT = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)
_TAGGED = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL | re.IGNORECASE)
_MARKER = re.compile(
    r"(?i:\b(?:answers?|option|choice)\b[\s*_]*(?:(?:is|are|was|must be|should be|would be)\b\s*:?|[:\uff1a=]|\n)"
    r"|####|\u7b54\u6848\s*[\u662f\u4e3a\u70ba:\uff1a])[\s*_]*|^(?:answer)\s+(?=[\\$(])",
    re.MULTILINE | re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"(?i)\b(?:can(?:no|')?t|cannot|can not|could(?:n't| not)|(?:am|was|is)? ?(?:unable|not able) to|impossible to)\s+"
    r"(?:\w+ ){0,2}?(?:solve|determine|find|answer|compute|verify|tell|say|decide|figure|know|calculate|give|provide)"
    r"|\b(?:do(?:n't| not) know|no idea|not sure|unsure|give up)\b"
)
_DENIED = re.compile(
    r"(?:\bnot|n't|\bnever|\bcannot be|\binstead of|\brather than|\u4e0d\u662f)(?:\s+be)?\s*"
    r"(?:\$[^$]*\$|\\\(.*?\\\)|\(?[-+\\\d]\S*|\([A-Z]\)|\w+(?=[.!]?\Z))",
    re.IGNORECASE,
)
_STATED = re.compile(
    r"(?i).*(?:\b(is|are|was|were|be|equals?|equal to|gives?|get|has|have|costs?|it's|to|of)\b|[=:\uff1a])\s*(.*)",
    re.DOTALL,
)
_THE_ANSWER = re.compile(
    r"(?:(?:the|our|my) )?(?:final |correct |right )?(?:answer|result|solution|total)|correct|right", re.I
)
_CLAUSE_END = re.compile(
    r"(?<=[^\s.])[.\u3002](?=\s|\*|\Z)|\n\s*\n|\n(?=\s*[A-Za-z])|\s+(?:I hope|since|because|as desired)\b"
)
_SENTENCE_END = re.compile(r"(?<=[^\s.][.!?\u3002])\s+|\n+")
_FIGURE = re.compile(r"[\d$\\\u221a\u03c0\u00bd]")
_CONDITION = re.compile(
    r"(?<=[\d$)}]),?\s+(?:attained|achieved|reached|occurring|(?:when|where|at|if)\s+\$?[A-Za-z]\s*=).*", re.DOTALL
)
"""What follows the value in "the minimum is 14, attained at x = 2"."""
_BOUND = re.compile(r"(?i)\b(?:at least|at most|(?:more|less|greater|fewer) than|up to|between|within)\s*\$?-?\d")
_CHOICE = re.compile(r"\(?[A-J][).:]\s+\S")
_FIGURE_FIRST = re.compile(
    r"(?:about |approximately |exactly |only )?[-+(\[{]*\s*(?:[\d$\\.\u20ac\u00a3\u221a\u03c0]|[A-Za-z]\s*[=^+*/])"
)
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z']{2,}(?![A-Za-z({])|[\u4e00-\u9fff]")
_NO_PROSE = re.compile(
    r"and|or|the|sqrt|pi|a?(?:sin|cos|tan)h?|log|ln|exp|abs|oo|inf(?:inity)?|mod|factorial|binomial|rational|percent|pct",
    re.IGNORECASE,
)


def final_answer(text: str) -> str:
    """Find the answer in a text; empty if there is none."""
    thoughts = list(_THOUGHT.finditer(text))
    if thoughts:  # what follows the last thought; a thought without an end has nothing after it
        text = text[thoughts[-1].end() :] if thoughts[-1][1] else text[: thoughts[-1].start()]
    text = repaired(text[-_LONGEST_TEXT:]).strip()
    if tagged := _TAGGED.findall(text):
        text = tagged[-1].strip()
    text = re.sub(r"\\f?boxed\s*\{\s*\}", "", text)
    markers = list(_MARKER.finditer(text))
    after = text[markers[-1].end() :] if markers else text
    boxed = _boxed(after)
    if boxed is None and markers and not (after.strip() and _answers(after)):
        boxed = _boxed(text)
    if boxed is not None:
        return boxed
    if markers and after.strip():
        return _clause(after)
    return _whole(text[-_MAX_CHARS:])


def _answers(after: str) -> bool:
    """Whether what follows a marker can be an answer: figures, or a few words."""
    clause = _CLAUSE_END.split(after.strip(), maxsplit=1)[0]
    return bool(_FIGURE.search(clause)) or len(clause.split()) <= 4


def _boxed(text: str) -> str | None:
    r"""What the last `\boxed{}` holds; several with nothing but "and" or a comma between them are a list."""
    found: list[tuple[int, int, str]] = []
    for start in re.finditer(r"\\f?box(?:ed)?\s*(?:\{|(?=\d))", text):
        end, depth = start.end(), 1
        if text[end - 1] != "{":
            digits = re.match(r"\d+", text[end:])
            found.append((start.start(), end, digits[0] if digits else ""))
            continue
        while end < min(len(text), start.end() + _MAX_CHARS) and depth:
            depth += (text[end] == "{") - (text[end] == "}")
            end += 1
        if not found or start.start() >= found[-1][1]:
            found.append((start.start(), end, text[start.end() : end - 1 if not depth else end].strip()))
    if not found:
        return None
    answer = found[-1][2]
    for one, other in zip(found[-2::-1], found[:0:-1], strict=False):
        between = re.sub(r"\\(?:text|mathrm)|\\q?quad|[{}$\s,;()\\]", "", text[one[1] : other[0]])
        if between not in ("", "and", "or"):
            break
        answer = f"{one[2]}, {answer}"
    unit = re.match(r"[$\s\\)\]]*((?:\\?%|percent|pct)\b|\\?%)", text[found[-1][1] :])
    return (answer + ("%" if unit else ""))[-_MAX_CHARS:]


def _clause(after: str) -> str:
    """The answer in what follows a marker: the first clause, without what it denies."""
    after = after.strip().removeprefix(":").strip()
    display = re.match(r"(\$\$|\\\[)(.*?)(\$\$|\\\])", after, re.DOTALL)
    clause = display[2] if display else _CLAUSE_END.split(after, maxsplit=1)[0]
    clause = clause.strip("* \n")[-_MAX_CHARS:]
    return _whole(clause) if clause else ""


def _whole(text: str) -> str:
    """The answer in a text without a marker."""
    text = re.sub(r"^\s*(?:So|Thus|Hence|Therefore|Then|Finally)\b[,:]?\s*(?=\S)", "", text)
    bare, _ = split_unit(re.sub(r"\\(?:begin|end)\{\w+\}", " ", tidy(text)))
    words = [word for word in _WORD.findall(bare) if not _NO_PROSE.fullmatch(word)]
    denied = _DENIED.search(text)
    if _CHOICE.match(bare):
        return text.strip()
    if not denied and not _REFUSAL.search(text) and (len(words) < 2 or quantity(bare) is not None):
        return text.strip()
    return _stated(text)


def _stated(prose: str) -> str:
    """What the last sentence with a figure states, or a short statement in words."""
    if _REFUSAL.search(prose):
        return ""
    denied = bool(_DENIED.search(prose))
    prose = _DENIED.sub(" ", prose)
    sentences = [s.strip(" .!?*\u3002") for s in _SENTENCE_END.split(prose) if s.strip(" .,\n")]
    figures = [sentence for sentence in sentences if _FIGURE.search(sentence)]
    sentence = (figures or sentences or [""])[-1]
    sentence = _CONDITION.sub("", sentence)
    stated = _STATED.match(sentence)
    if not figures:
        return "" if denied else stated[2] if stated and len(stated[2].split()) <= 3 else prose.strip()
    tail = stated[2].strip(" *") if stated else ""
    if tail and _FIGURE_FIRST.match(tail):
        chunk = re.fullmatch(r"(?:\$([^$]+)\$|\\\((.+?)\\\))[\s,]+[A-Za-z ,.]+", tail)
        return (chunk[1] or chunk[2]) if chunk else tail
    if tail and stated and stated[1] in ("is", "are", "was", "were", "be") and not _THE_ANSWER.fullmatch(tail):
        return ""  # "42 is too much"
    if _BOUND.search(sentence):
        return ""
    chunks = re.findall(r"\$[^$]+\$|\\\(.+?\\\)|(?<![\w.])[-+]?\d(?:[\d.,/]*\d)?", sentence)
    return chunks[0] if len(chunks) == 1 else ""
