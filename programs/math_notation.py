r"""How mathematical answers are written: one notation for all, and exact quantities. Nothing is evaluated here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

__all__ = [
    "TEXT", "Quantity", "close", "quantity", "repaired", "rounded_key", "same_quantity", "split_unit", "tidy",
    "units_differ",
]  # fmt: skip

# One notation.

_SIGNS = {
    "\u2212": "-", "\u2013": "-", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u00b0": "^\\circ ",
    "\u00b7": "\\cdot ",
    "\u00bd": "\\frac{1}{2}", "\u00bc": "\\frac{1}{4}", "\u00be": "\\frac{3}{4}", "\u00d7": "\\times ", "\u00f7": "/",
    "\u03c0": "\\pi ", "\u2205": "\\emptyset ", "\u221e": "\\infty ", "\u2229": "\\cap ", "\u222a": "\\cup ",
    "\u2260": "\\ne ", "\u2264": "\\le ", "\u2265": "\\ge ", "\u2208": "\\in ", "\u2248": "\\approx ",
    "\u00b1": "\\pm ",
    "\u2234": "", "\uff1d": "=", "\uff0c": ",", "\uff08": "(", "\uff09": ")", "\uff0d": "-",
    "\u2044": "/", "\u3002": ".",
}  # fmt: skip
_SUPERSCRIPTS = "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"
_CONTROL = (
    ("\x08", "b", r"(?=oxed|egin|inom|eta\b|ar\b|ar\{|f\{|ig)"),
    ("\x0c", "f", r"(?=rac|box|loor|orall)"),
    ("\t", "t", r"(?=ext|imes|frac|heta|an\b|au\b|o\b|riangle|herefore)"),
    ("\r", "r", r"(?=ight|ho\b|angle|ceil|floor)"),
    ("\n", "n", r"(?=eq\b|otin\b|abla\b)"),
    ("\x07", "a", r"(?=pprox|lpha)"),
    ("\x0b", "v", r"(?=arnothing|ec\b|ec\{|ert)"),
)
"""What JSON and Python make of a LaTeX command whose backslash is not doubled."""
TEXT = r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}"


_REWRITES = tuple(
    (re.compile(pattern, re.DOTALL), replacement)
    for pattern, replacement in (
        ("\u221a\\s*(\\d+|[A-Za-z])", r"\\sqrt{\1}"),
        ("\u221a", r"\\sqrt"),
        # Sizes and spaces; "\!" after a comma belongs to the thousands.
        (r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|limits)(?![A-Za-z])\.?", ""),
        (r"(?<=,)\\!\s*|\\!", ""),
        (r"(?<!\\)\\(?:[,;: ]|q?quad(?![A-Za-z]))|~", " "),
        # Fractions and roots without braces.
        (r"\\[dtc]?frac(?![A-Za-z])\s*", r"\\frac"),
        (r"\\frac(\d)\s*(?=[\d{])", r"\\frac{\1}"),
        (r"(\\frac\{[^{}]*\})\s*(\d)", r"\1{\2}"),
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\\sqrt\s*(\d)", r"\\sqrt{\1}"),
        # One name for each thing.
        (r"\\varnothing|\\O(?![A-Za-z])|\\\{\s*\\\}", r"\\emptyset"),
        (r"\\begin\{(?:[bpvBV]?matrix|array)\}(?:\{[clr|]*\})?", r"\\begin{pmatrix}"),
        (r"\\end\{(?:[bpvBV]?matrix|array)\}", r"\\end{pmatrix}"),
        (r"[\[(]\s*(\\begin\{pmatrix\}.*?\\end\{pmatrix\})\s*[\])]", r"\1"),
        (r"(?<=[)\]])\s*U\s*(?=[(\[])", r"\\cup "),
        (r"(?<=\d)\s*\((?!mod|[a-z]\))[A-Za-z][A-Za-z -]*\)(?=\W*\Z)", ""),  # "14 (fourteen)"
        (r"\A\s*=\s*", ""),
        (r"\A(?:negative|minus)\s+(?=\d)", "-"),
        (r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}", r"\\frac{\1}{\2}"),
        (r"\\([%$])", r"\1"),
        (r"\{,\}", ","),
        (r"\\lbrace|\\rbrace", lambda m: "\\{" if m[0] == "\\lbrace" else "\\}"),
        (r"\\([lg])eq(?![A-Za-z])", r"\\\1e"),
        (TEXT, lambda m: m[1] if re.search(r"\d", m[1]) or m[0] in ("\\mathrm{e}", "\\mathrm{i}") else m[0]),
    )
)


def repaired(text: str) -> str:
    """The text with the LaTeX commands that an unescaped backslash turned into control characters, or doubled."""
    if "\x08egin{" in text:  # then a row's end lost one of its two backslashes
        text = re.sub(r"(?<!\\)\\(?=[\s\d(-])", r"\\\\", text)
    for character, letter, command in _CONTROL:
        if character in text:
            text = re.sub(re.escape(character) + command, rf"\\{letter}", text)
    if "\\begin" in text and "\\\\begin" not in text:
        return text  # here "\\" ends a row
    return re.sub(r"\\\\(?=[A-Za-z]{2,})", r"\\", text).replace("\\\\\\\\", "\\\\")


def tidy(text: str) -> str:
    """One notation: LaTeX's without delimiters, spacing, sizes and variants of the same command."""
    text = re.sub("(?<=\\d)m(?=[\u00b2\u00b3])", " m", repaired(text))  # an area; "3m^2" may be a term
    text = "".join(_SIGNS.get(c, chr(ord(c) - 0xFEE0) if "\uff10" <= c <= "\uff5a" else c) for c in text)
    text = re.sub(f"[{_SUPERSCRIPTS}]+", lambda m: f"^{{{''.join(str(_SUPERSCRIPTS.index(c)) for c in m[0])}}}", text)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return " ".join(_without_delimiters(text.strip().rstrip("\\")).split())


def _without_delimiters(text: str) -> str:
    for _ in range(3):  # "**$5$.**" has three layers
        text = text.strip().strip('*`"').strip().removesuffix(".").removesuffix(",").strip()
        for opening, closing in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
            inside = text[len(opening) : -len(closing)]
            if text.startswith(opening) and text.endswith(closing) and inside.strip() and opening not in inside:
                text = inside
    if text.count("$") != 1:
        return text.replace("$", " ")
    return re.sub(r"(?<=\d)\s*\$$", " USD", re.sub(r"^\$\s*(?=[\d.-])", "USD ", text))


# Quantities.

_UNITS = (
    "mm|millimet(?:er|re)s?", "cm|centimet(?:er|re)s?", "dm", "km|kilomet(?:er|re)s?", "m|met(?:er|re)s?", "mg",
    "kg|kilograms?", "g|grams?", "ml", "l|L|lit(?:er|re)s?", "s|sec|seconds?", "min|minutes?", "h|hrs?|hours?", "days?",
    "weeks?", "months?", "years?", "in|inch|inches", "ft|foot|feet", "yards?", "miles?", "pounds?|lbs?", "units?",
    r"degrees?|\^\{?\\circ\}?", "radians?", r"USD|dollars?", "cents?|\u00a2", "euros?|\u20ac", "mph|miles per hour",
    "points?", "times",
)  # fmt: skip
_KNOWN = re.compile("|".join(f"({unit})" for unit in _UNITS))
_ANY_UNIT = f"(?:{'|'.join(_UNITS)})"
_KNOWN_UNIT = rf"(?:sq(?:uare|\.)? ?|cubic )?{_ANY_UNIT}(?: ?(?:/|per) ?{_ANY_UNIT})?(?:\s*\^\s*\{{?[23]\}}?)?"
_NO_UNIT = re.compile(
    r"\b(?:and|or|not|nor|but|if|to|than|plus|minus|over|mod|pi|sqrt|root|factorial|squared|cubed|log|ln|sin|cos|tan|"
    r"hundred|thousand|million|billion|trillion|dozen|percent|pct|oo|inf|is|are|e|i|x|y|n)\b",
    re.IGNORECASE,
)
_MAX_UNIT_WORDS = 12
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_INTEGER = r"(?:\d{1,3}(?:,\d{3}(?!\d))+|\d{1,3}(?: \d{3}(?!\d))+|\d+)"
_NUMBER = re.compile(
    rf"([-+]?)\s*(?P<whole>{_INTEGER})?(?P<decimals>\.\d*)?(?P<repeating>\\(?:overline|bar|dot)\s*\{{\d+\}})?"
    r"(?:\s*(?:\\times|\\cdot|\*|x)\s*10\s*(?:\^|\*\*)\s*[{(]?(?P<power>[-+]?\d{1,3})[})]?"
    r"|[eE](?P<exponent>[-+]?\d{1,3}))?"
)
_FRACTION = re.compile(
    rf"([-+]?)\s*(?:({_INTEGER})\s*/\s*(-?{_INTEGER})|\\frac\{{\s*(-?{_INTEGER})\s*\}}\{{\s*(-?{_INTEGER})\s*\}})"
)
_MIXED = re.compile(r"([-+]?)(\d+)\s*(?:\s(\d+)/(\d+)|\\frac\{(\d+)\}\{(\d+)\})")


@dataclass(frozen=True)
class Quantity:
    """A number as it is written."""

    value: Fraction
    """Its value; of a percentage the number before the sign."""
    step: Fraction | None = None
    """One unit of the last digit of a decimal; None for what is no decimal."""
    digits: int = 0
    """Significant digits of a decimal."""
    percent: bool = False
    unit: str = ""


def quantity(text: str) -> Quantity | None:
    """The number a tidy text is, with its unit; None for anything else."""
    if len(text) > 400:
        return None
    text = re.sub(
        r"^(?:(?:about|approximately|exactly|only|just|roughly)\s+|\\approx\s*)", "", text, flags=re.IGNORECASE
    )
    text, unit = split_unit(text)
    percent = re.fullmatch(r"(.*?)\s*(?:%|percent(?:age)?|pct)", text)
    text = percent[1].strip() if percent else text
    scale = 0
    if scaled := re.fullmatch(rf"(.*\d) ({'|'.join(_SCALES)})s?", text, re.IGNORECASE):
        text, scale = scaled[1], _SCALES[scaled[2].lower()]
    text = text[1:-1].strip() if re.fullmatch(r"\([^()]*\)|\{[^{}]*\}", text) and "," not in text else text
    found = _number(text) or _fraction(text)
    if found is None:
        return None
    return Quantity(found.value * 10**scale, found.step, found.digits, bool(percent), unit)


def _number(text: str) -> Quantity | None:
    m = _NUMBER.fullmatch(text)
    if not m or not (m["whole"] or (m["decimals"] or ".") != "."):
        return None
    whole, decimals = re.sub("[, ]", "", m["whole"] or "0"), (m["decimals"] or ".")[1:]
    repeating = re.sub(r"\D", "", m["repeating"] or "")
    value = Fraction(int(whole + decimals), 10 ** len(decimals))
    power = int(m["power"] or m["exponent"] or 0)
    if repeating:
        value += Fraction(int(repeating), (10 ** len(repeating) - 1) * 10 ** len(decimals))
    value *= Fraction(10) ** power * (-1 if m[1] == "-" else 1)
    if repeating or not (decimals or power):
        return Quantity(value)
    return Quantity(value, Fraction(10) ** (power - len(decimals)), len((whole + decimals).lstrip("0")))


def _fraction(text: str) -> Quantity | None:
    if m := _FRACTION.fullmatch(text):
        above, below = (int(re.sub("[, ]", "", m[i] or m[j])) for i, j in ((2, 4), (3, 5)))
        return Quantity(Fraction(-above if m[1] == "-" else above, below)) if below else None
    if m := _MIXED.fullmatch(text):
        above, below = int(m[3] or m[5]), int(m[4] or m[6])
        if not above < below:
            return None
        value = int(m[2]) + Fraction(above, below)
        return Quantity(-value if m[1] == "-" else value)
    return None


def split_unit(text: str) -> tuple[str, str]:
    """A tidy text without the unit before or after it, and the unit: what is known as one, or words after a number."""
    if m := re.fullmatch(r"(USD|\u20ac|\u00a3)\s*(.+?)(?: [A-Za-z ]+)?", text):
        return m[2].strip(), m[1].replace("\u00a3", "")
    if m := re.fullmatch(rf"(.*[\d}})a-zA-Z])\s*{TEXT}(?:\s*\^\s*\{{?[23]\}}?)?", text):
        if not _NO_UNIT.search(m[2]) and not _NUMBER.fullmatch(m[2].strip() or "x"):
            return m[1].strip(), m[2].strip() or "units"
        text = f"{m[1]} {m[2].strip()}"
    known = re.fullmatch(rf"(.*(?:[\d}})]|\\pi))(\s?)({_KNOWN_UNIT})", text)
    if (
        known
        and not re.search(r"\\(?:sin|cos|tan|cot|sec|csc)", text)
        and (known[2] or not re.match(r"[A-Za-z](?![A-Za-z])", known[3]))
    ):  # "3s" is a term
        return known[1].strip(), known[3]
    counted = re.fullmatch(r"([-+\d.,/ ]*\d|[-+]?\\frac\{\d+\}\{\d+\})[ -]([A-Za-z][A-Za-z' -]+)[.,]?", text)
    if counted and not _NO_UNIT.search(counted[2]) and len(counted[2].split()) <= _MAX_UNIT_WORDS:
        return counted[1].strip(), counted[2]
    return text, ""


def units_differ(one: str, other: str) -> bool:
    """Whether two units are both known, and not the same."""
    kinds = {_kind(one), _kind(other)} - {None}
    return len(kinds) == 2


def _kind(unit: str) -> int | None:
    unit = re.sub(r"^(?:sq\w*\.?|cubic) ?", "", unit)
    known = _KNOWN.fullmatch(unit) or _KNOWN.fullmatch(re.split(r"[ /^]", unit)[0])
    return known.lastindex if known else None


def close(value: Fraction, decimal: Quantity) -> bool:
    """Whether a decimal stands for a value it isn't equal to: five digits of it, or a computer's rounding of it."""
    if decimal.step is None:
        return False
    gap = abs(value - decimal.value)
    if decimal.digits >= 15 and gap <= abs(value) * Fraction(1, 10**14):
        return True
    terminating = value.denominator == 1 or (value / decimal.step).denominator == 1
    cut = abs(decimal.value) < abs(value) and gap < decimal.step
    return not terminating and decimal.digits >= 5 and (cut or gap * 2 <= decimal.step)


def rounded_key(value: Fraction, decimal: Quantity) -> bool:
    """Whether a value rounds to the decimal of an answer key: 100/3 to 33.3."""
    return bool(decimal.step and decimal.digits >= 3 and abs(value - decimal.value) * 2 <= decimal.step)


def same_quantity(expected: Quantity, given: Quantity) -> bool:
    """Whether a quantity is the expected one; a decimal may be rounded, a percent sign and a unit may be missing."""
    if units_differ(expected.unit, given.unit) or (expected.percent and _kind(given.unit) is not None):
        return False
    hundredth = Fraction(1, 100)
    if expected.percent and not given.percent and given.value in (expected.value, expected.value * hundredth):
        return True
    one, other = (q.value * hundredth if q.percent else q.value for q in (expected, given))
    if one == other or close(one, given):
        return True
    return not given.step and rounded_key(other, expected)
