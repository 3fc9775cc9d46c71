r"""Whether two answers agree: as texts, as exact quantities, part by part.

`agree` compares; what it can't decide by exact arithmetic it asks of a function, `same(expected, given)`, which may not
know either (None).

Conventions: a unit may be missing, but never be another one; `50\%` may be written 50, 42 may not be written 42%; a
decimal stands for a number that it can't be equal to (1/3, `2\sqrt{3}`) from five significant digits on; a list in no
brackets has no order; a number with a base is equal to itself alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from itertools import permutations

from programs.math_notation import TEXT, quantity, same_quantity, split_unit, units_differ

__all__ = ["agree"]

Same = Callable[[str, str], "bool | None"]

_BRACKETS = {"(": ")", "[": "]", "\\{": "\\}", "{": "}"}
_ASSIGNED = re.compile(r"^([A-Za-z](?:_\{?\w+\}?)?|[A-Za-z]\([A-Za-z]\))\s*(?:=|\\in\b|:=)\s*(?=\S)")
_INEQUALITY = re.compile(r"[<>]|\\(?:[lg]e|ne)\b")
_BASED = re.compile(r"([\dA-Fa-f]+)_\{?(\d+)\}?")


def agree(expected: str, given: str, same: Same) -> bool | None:
    """Compare two tidy texts; None where it takes a function that knows more."""
    one, other = (_compact(text) for text in (expected, given))
    if one == other:
        return True
    based = [_BASED.fullmatch(text) for text in (one, other)]
    if any(based):
        return all(based) and based[0].groups() == based[1].groups()  # type: ignore[union-attr]
    if (word := _word(expected)) and not quantity(given) and (same_word := _same_word(word, given)) is not None:
        return same_word
    one, other = _without_left_side(expected, given, key=True), _without_left_side(given, expected)
    left, right = quantity(one), quantity(other)
    if left and right:
        return same_quantity(left, right)
    return _agree_by_parts(one, other, same)


def _compact(text: str) -> str:
    """A text as it is compared: a space stays between letters and figures only ("1 1/2" is not 11/2)."""
    text = " ".join(re.sub(TEXT, r"\1", text).split())
    return re.sub(r"(?<!\w) | (?!\w)", "", text).rstrip(".")


def _word(text: str) -> str:
    text = re.sub(TEXT, r"\1", text).strip("() .")
    return text if re.fullmatch(r"[A-Z]|(?!pi$|oo$)[A-Za-z]{2,}(?:[ -][A-Za-z]+)*", text) else ""


def _same_word(expected: str, given: str) -> bool | None:
    """Words are compared as words; the letter of a choice may be followed by what was chosen."""
    given = re.sub(r"(?i)^(?:option|choice|answer)\s+", "", re.sub(TEXT, r"\1", given).strip("*. "))
    if re.sub(r"\W+", " ", given).strip().casefold() == expected.casefold():
        return True
    if len(expected) > 1:
        return False
    choice = re.match(r"\(?([A-Z])(?:[).:\]]|\s*$)(?!.*\b(?:or|and)\b)", given)
    return choice[1] == expected if choice else None


def _without_left_side(text: str, other: str, *, key: bool = False) -> str:
    """The right side of `x = 5`, `f(x) = 5`, `7 + 9 = 16`, where the other text is no equation or has the same left.

    In the key to an answer the left side is a name: `x + y = 3` is an equation there.
    """
    if len(_split(text)) > 1:
        return text
    here, there = _ASSIGNED.match(text), _ASSIGNED.match(other)
    if here and there:
        right = text[here.end() :]
        of_function = any("(" in name or name == "y" for name in (here[1], there[1])) and not quantity(right)
        return right if here[1] == there[1] or of_function else text
    if "=" in other or _INEQUALITY.search(text):
        return text
    text = text.split("\\approx")[0].strip() or text
    first, *rest = _split_at("=", text)
    if here and len(rest) < 2:
        return text[here.end() :]
    equation = _is_to_be_solved(first) or (key and not first.startswith("(") and re.search(r"[-+*/^]", first))
    return rest[-1] if rest and not equation else text


def _is_to_be_solved(left: str) -> bool:
    """Whether a left side is a term in one unknown (`2x = 42`, not `a + b = 42`): its right side is no answer."""
    letters = re.findall(r"[A-Za-z]", re.sub(r"[A-Za-z]+\(|\\[A-Za-z]+|_\{?\w+\}?|[A-Za-z]{2,}", "", left))
    return len(set(letters)) == 1 and not re.fullmatch(r"[A-Za-z](?:_\{?\w+\}?|\(.*\))?", left)


def _parts(text: str) -> tuple[str, list[str]]:
    """The brackets around a text and its parts: `("(", ["1", "2"])`; without brackets and commas one part."""
    if quantity(text):  # "1,000" is no list
        return "", [text]
    if m := re.fullmatch(r"\\begin\{pmatrix\}(.*)\\end\{pmatrix\}", text, re.DOTALL):
        rows = [row.strip() for row in re.split(r"\\\\", m[1]) if row.strip()]
        return "matrix", ["[" + ", ".join(cell.strip() for cell in row.split("&")) + "]" for row in rows]
    for opening, closing in _BRACKETS.items():
        inside = text[len(opening) : -len(closing)]
        if text.startswith(opening) and text.endswith(closing) and _balanced(inside):
            parts = _split(inside)
            if len(parts) > 1 or opening in ("[", "\\{", "{"):
                return ("{" if opening == "\\{" else opening), parts
        elif text.startswith(opening) and text[-1:] in ")]" and _balanced(text[1:-1]) and len(_split(text[1:-1])) == 2:
            return opening + text[-1], _split(text[1:-1])
    return "", _split(text)


def _balanced(text: str) -> bool:
    depth = 0
    for sign in re.sub(r"\\[{}]", lambda m: m[0][1], text):
        depth += (sign in "([{") - (sign in ")]}")
        if depth < 0:
            return False
    return depth == 0


def _split_at(separator: str, text: str) -> list[str]:
    """The parts of a text between separators that stand outside all brackets; empty ones are left out."""
    parts, depth = [""], 0
    for sign in text:
        depth += (sign in "([{") - (sign in ")]}")
        if sign == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    return [part.strip() for part in parts if part.strip()] or [text]


def _split(text: str) -> list[str]:
    r"""The parts of a list: between commas, "and" and "or"; `a \pm b` is two."""
    parts = _split_at(",", re.sub(r",?\s*\\text\s*\{\s*,?\s*(?:and|or)\s*\}|,?\s+(?:and|or)\s+|;", ",", text))
    if len(parts) == 1 and parts[0].count("\\pm") == 1:
        parts = [parts[0].replace("\\pm", sign).removeprefix("+").strip() for sign in "+-"]
    if len(parts) > 1 and (first := _ASSIGNED.match(parts[0])) and "=" not in "".join(parts[1:]):
        parts[0] = parts[0][first.end() :]
    return parts


def _agree_by_parts(expected: str, given: str, same: Same) -> bool | None:
    (kind, left), (other, right) = _parts(expected), _parts(given)
    if kind == other == "" and len(left) == len(right) == 1:
        (one, unit), (two, other_unit) = split_unit(left[0]), split_unit(right[0])
        return False if units_differ(unit, other_unit) else same(one, two)
    if kind == "matrix" and other in ("[", "{"):  # Python's notation of it
        other = kind
    bare_list = (kind == "" and len(left) > 1) or (other == "" and len(right) > 1 and kind in ("(", "{"))
    if kind != other and not bare_list:
        # An interval may be written as an inequality.
        return same(expected, given) if not (kind and other) and len(left) < 3 > len(right) else False
    if len(left) != len(right):
        # "x < 1 or x > 2" for a union
        return same(expected, given) if kind == other == "" and _INEQUALITY.search(expected + given) else False
    ordered = kind not in ("", "{") or other == "(" or any("=" in part for part in left)
    return (_agree_in_order if ordered else _agree_in_any_order)(left, right, same)


def _agree_in_order(left: list[str], right: list[str], same: Same) -> bool | None:
    verdicts = [agree(one, other, same) for one, other in zip(left, right, strict=True)]
    return False if False in verdicts else None if None in verdicts else True


def _agree_in_any_order(left: list[str], right: list[str], same: Same) -> bool | None:
    if len(left) > 6:  # sorted by what they are, as trying all orders takes too long
        return _agree_in_order(sorted(left, key=_rank), sorted(right, key=_rank), same)
    verdicts = {(i, j): agree(a, b, same) for i, a in enumerate(left) for j, b in enumerate(right)}
    possible = False
    for order in permutations(range(len(right))):
        row = [verdicts[pair] for pair in enumerate(order)]
        if all(row):
            return True
        possible = possible or False not in row
    return None if possible else False


def _rank(text: str) -> tuple[Fraction, str]:
    found = quantity(text)
    return (found.value if found else Fraction(0), "" if found else text)
