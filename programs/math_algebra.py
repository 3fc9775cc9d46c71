r"""Whether two expressions are equal, by `math-verify`'s parser and sympy; runs in the worker processes alone.

`math-verify` reads LaTeX, and only all of it: what it can't read is unread, and none of its parts is compared. What it
would drop without a word (an index of a number, a prime, a colon) is kept from it. Python's notation is read by its
syntax tree. Its comparison rounds to six decimals, so that all small numbers are equal to it; here numbers are compared
relative to their size, and functions at a few points, and it decides on the rest: sums, integrals, systems.
"""

from __future__ import annotations

import ast
import functools
import logging
import re
from fractions import Fraction
from typing import Any

import math_verify
import sympy

from programs.math_notation import close, quantity, rounded_key, tidy
from programs.math_structure import agree

__all__ = ["answer"]

logging.getLogger("math_verify").setLevel(logging.ERROR)
_DROPPED = re.compile(r"\d_|'|:|\\[lcd]?dots|(?<![_\d])\d+ \d|\.\.\.|\\forall|\\exists|[\u0100-\uffff]")
"""What the parser leaves out, or takes for something else."""
_POINTS = tuple(sympy.Rational(*p) for p in ((7, 5), (23, 9), (31, 40), (-17, 12), (-29, 11)))
_DIGITS = 50
_ALIKE = sympy.Float("1e-40")
"""Relative difference of what is equal but for the last digits."""


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Compare `{"expected", "given"}`."""
    expected, given = tidy(question["expected"]), tidy(question["given"])
    unread: list[str] = []

    def same(one: str, other: str) -> bool:
        left, right = read(one), read(other)
        unread.extend(name for name, found in (("expected", left), ("given", right)) if found is None)
        return left is not None and right is not None and _same(left, right, one, other)

    if agree(expected, given, same):
        return {"right": True}
    if "expected" in unread:
        return {"right": False, "problem": "the expected answer is no mathematical expression, and the texts differ"}
    return {"right": False, **({"problem": "no mathematical expression can be read from it"} if unread else {})}


# Reading.


@functools.lru_cache(maxsize=256)
def read(text: str) -> Any:
    """The expression a tidy text is, or None."""
    if (number := quantity(text)) and not number.unit:
        return sympy.Rational(number.value.numerator, number.value.denominator * (100 if number.percent else 1))
    if re.search(r"\\|\{", text) is None:
        try:
            return _of_python(ast.parse(text.replace("^", "**"), mode="eval").body)
        except (SyntaxError, ValueError, TypeError, KeyError, AttributeError):
            pass  # LaTeX needs no backslash: 2x + 1
    cases = re.split(r"\s*(?:\\text\s*\{\s*or\s*\}| or )\s*", text)
    if len(cases) > 1:
        relations = [read(case) for case in cases]
        return sympy.Union(*map(_solutions, relations)) if all(hasattr(r, "as_set") for r in relations) else None
    if _DROPPED.search(text) or not text or len(re.findall(r"(?<![\\A-Za-z{])[A-Za-z]{3,}", text)) > 1:
        return None
    text = re.sub(r"(?<![\\A-Za-z])(sqrt|pi|ln|log|sin|cos|tan|exp|infty)(?![A-Za-z])", r"\\\1", text)
    text = re.sub(r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}", text).replace("**", "^").replace("*", "\\cdot ")
    text = re.sub(r"\^\(([^()]*)\)", r"^{\1}", text)
    if re.search(r"\\(?:sin|cos|tan|cot|sec|csc)", text):
        text = re.sub(r"(\d+(?:\.\d+)?)\s*\^\s*\{?\s*\\circ\s*\}?", r"(\1 \\pi / 180)", text)
    text = re.sub(r"(?<![\w.])(\d+(?:\.\d+)?)[eE]([-+]?\d+)(?!\w)", r"\1 \\times 10^{\2}", text)
    config = [math_verify.LatexExtractionConfig()]
    found = math_verify.parse(f"$${text}$$", config, fallback_mode="no_fallback", parsing_timeout=None)
    return _plain(found[0]) if found and not isinstance(found[0], str) else None


def _plain(found: Any) -> Any:
    """The expression with exact decimals, with the imaginary unit for `i`, and of `x in S` the set."""
    if isinstance(found, sympy.Eq) and isinstance(found.rhs, sympy.Set):
        found = found.rhs
    if not hasattr(found, "replace") or not hasattr(found, "free_symbols"):
        return found
    imaginary = [s for s in found.free_symbols if getattr(s, "name", "") == "i"]
    found = found.subs(dict.fromkeys(imaginary, sympy.I)) if imaginary else found
    return found.replace(lambda e: isinstance(e, sympy.Float), lambda e: sympy.Rational(str(e)))


_NAMES = {"pi": sympy.pi, "e": sympy.E, "E": sympy.E, "i": sympy.I, "I": sympy.I, "oo": sympy.oo, "inf": sympy.oo}
_FUNCTIONS = {
    function.__name__: function for function in (
        sympy.sqrt, sympy.cbrt, sympy.exp, sympy.log, sympy.sin, sympy.cos, sympy.tan, sympy.cot, sympy.sec, sympy.csc,
        sympy.asin, sympy.acos, sympy.atan, sympy.sinh, sympy.cosh, sympy.tanh, sympy.factorial, sympy.binomial,
        sympy.gcd, sympy.lcm, sympy.Abs, sympy.floor, sympy.Rational, sympy.Integer,
    )
}  # fmt: skip
_FUNCTIONS |= {"ln": sympy.log, "abs": sympy.Abs, "ceil": sympy.ceiling, "Fraction": sympy.Rational}
_OPERATORS: dict[type, Any] = {
    ast.Add: lambda a, b: a + b, ast.Sub: lambda a, b: a - b, ast.Mult: lambda a, b: a * b, ast.Div: lambda a, b: a / b,
    ast.Pow: lambda a, b: sympy.Pow(a, b), ast.Mod: lambda a, b: sympy.Mod(a, b), ast.FloorDiv: lambda a, b: a // b,
}  # fmt: skip


def _of_python(node: ast.expr) -> Any:
    """A sympy expression of a Python expression: numbers, names, arithmetic and known functions."""
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return sympy.Rational(str(number))
        case ast.Name(id=name) if name in _NAMES or len(name) == 1:
            return _NAMES.get(name) or sympy.Symbol(name.lower(), real=True)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            return -_of_python(operand) if isinstance(sign, ast.USub) else _of_python(operand)
        case ast.BinOp(left=left, op=operator, right=right):
            return _OPERATORS[type(operator)](_of_python(left), _of_python(right))
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(value=ast.Name(), attr=name), args=arguments, keywords=[]):
            return _FUNCTIONS[name](*map(_of_python, arguments))
        case ast.Attribute(value=ast.Name(id="math" | "sympy" | "np"), attr=name):
            return _NAMES[name]
    raise ValueError("no arithmetic")


# Comparing.


_Relation = (sympy.core.relational.Relational, sympy.logic.boolalg.BooleanFunction)


def _same(one: Any, other: Any, expected: str, given: str) -> bool:
    sets = [isinstance(e, sympy.Set) for e in (one, other)]
    relations = [isinstance(e, _Relation) for e in (one, other)]
    if all(relations):
        # Not two equations: (x + 2)^7 = 0 has the solutions of (x + 2)^2 = 0.
        by_solutions = one.free_symbols == other.free_symbols and not isinstance(other, sympy.Eq)
        return (by_solutions and _same_set(one, other)) or _same_relation(one, other)
    if any(sets):
        return _same_set(one, other)
    if any(relations):
        return False
    if all(isinstance(e, sympy.Expr) for e in (one, other)):
        return _same_expression(one, other, expected, given)
    return _by_math_verify(one, other)


def _by_math_verify(one: Any, other: Any) -> bool:
    return bool(math_verify.verify(one, other, timeout_seconds=None, allow_set_relation_comp=True))


def _same_expression(one: Any, other: Any, expected: str = "", given: str = "") -> bool:
    one, other = _renamed(one), _renamed(other)
    if one == other:
        return True
    symbols = sorted(one.free_symbols | other.free_symbols, key=str)
    if symbols:
        verdict = _same_at_points(one, other, symbols)
        return _by_math_verify(one, other) if verdict is None else verdict
    gap = _relative_gap(one, other)
    return gap is not None and (gap < _ALIKE or _rounded(one, other, expected, given))


def _renamed(expression: Any) -> Any:
    """The expression with symbols that assume nothing, so that both notations have the same ones."""
    return expression.subs(
        {s: sympy.Symbol(s.name.lower()) for s in expression.free_symbols if isinstance(s, sympy.Symbol)}
    )


def _value(expression: Any) -> Any:
    try:
        value = sympy.N(expression, _DIGITS)
        return value if value.is_number and value.is_finite and not value.has(sympy.nan, sympy.zoo) else None
    except (TypeError, ValueError, ArithmeticError, AttributeError):
        return None


def _relative_gap(one: Any, other: Any) -> Any:
    one, other = one.doit(), other.doit()
    if one.is_Rational and other.is_Rational:
        return sympy.Float(int(one != other))  # exactly, however large
    left, right = _value(one), _value(other)
    if left is None or right is None:
        return None
    size = max(abs(left), abs(right))
    if size == 0:
        return sympy.Float(0)
    if size < sympy.Float("1e-30") and (left == 0 or right == 0):
        # Cancellation leaves a rest, so that 0 is a question for algebra.
        return sympy.Float(0) if sympy.simplify(one - other) == 0 else sympy.Float(1)
    return abs(left - right) / size


def _rounded(one: Any, other: Any, expected: str, given: str) -> bool:
    """Whether one of two numbers is a decimal that stands for the other, which is irrational."""
    for text, exact, stands_for in ((given, one, close), (expected, other, rounded_key)):
        decimal, value = quantity(text), _value(exact)
        if decimal and value is not None and value.is_real and not exact.is_rational:
            return stands_for(Fraction(str(value)), decimal)
    return False


def _same_at_points(one: Any, other: Any, symbols: list[Any]) -> bool | None:
    """Compare functions at a few points; where a variable is negative only if both are real there (1/sqrt(n))."""
    compared = 0
    for first in _POINTS:
        point = {symbol: first * sympy.Rational(5 + i, 5) for i, symbol in enumerate(symbols)}
        left, right = _value(one.subs(point).doit()), _value(other.subs(point).doit())
        if left is None or right is None or (first < 0 and not (left.is_real and right.is_real)):
            continue
        compared += 1
        if abs(left - right) > _ALIKE * max(abs(left), abs(right), sympy.Rational(1, 1000)):
            return False
    return True if compared >= 2 else None


def _same_set(one: Any, other: Any) -> bool:
    try:
        left, right = (e if isinstance(e, sympy.Set) else _solutions(e) for e in (one, other))
        if isinstance(left, sympy.Interval) and isinstance(right, sympy.Interval):
            ends = ((left.start, right.start), (left.end, right.end))
            open_alike = (left.left_open, left.right_open) == (right.left_open, right.right_open)
            return bool(open_alike) and all(a == b or _same_expression(a, b) for a, b in ends)
        if left.is_empty and not isinstance(one, sympy.Set):
            return False  # x^2 = -1 and x^2 = -4 have the same solutions
        return bool(left == right or left.symmetric_difference(right).is_empty)
    except (NotImplementedError, TypeError, ValueError, AttributeError):
        return False


def _solutions(relation: Any) -> Any:
    (symbol,) = relation.free_symbols  # or ValueError
    real = sympy.Symbol("x", real=True)
    return relation.subs(symbol, real).as_set()


def _same_relation(one: Any, other: Any) -> bool:
    """Whether two equations or inequalities are the same up to a factor."""
    if not all(isinstance(e, sympy.core.relational.Relational) for e in (one, other)):
        return _by_math_verify(one, other)
    if _sort(one) != _sort(other):
        return False
    left, right = (_renamed(e.gts - e.lts if hasattr(e, "gts") else e.lhs - e.rhs) for e in (one, other))
    symbols = sorted(left.free_symbols | right.free_symbols, key=str)
    factor = _value((left / right).subs({symbol: _POINTS[0] + i for i, symbol in enumerate(symbols)}))
    if factor is None or factor == 0 or (_sort(one) in (">", ">=") and not factor > 0):
        return False
    return _same_at_points(left, right * factor, symbols) is True


def _sort(relation: Any) -> str:
    return str(relation.rel_op).replace("<", ">")
