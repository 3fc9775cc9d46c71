"""Whether a mathematical answer is right: exact where that is enough, `math-verify` for the rest.

Guarantees: safe from any number of threads; no check hangs; the answer, which a model wrote, is never evaluated in this
process. Whole numbers, fractions, decimals and equal texts are decided here, exactly. Everything else goes to a few
worker processes (`math_worker.py`) with an empty environment and hard limits on memory and on CPU time, so that a busy
machine makes no answer wrong.

An answer that can't be read, or that takes more than the limits to evaluate, is wrong. What the checker itself could
not do (a worker that died for another reason, twice; a machine that stood still) is no verdict: `CheckerError`.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

__all__ = ["Checker", "CheckerError", "Verdict", "check", "final_answer"]

_MAX_CHARS = 1000
"""Longest answer that is checked: of a longer text the end."""
_CHECKS_PER_WORKER = 2000
"""After so many checks a worker is replaced: sympy's caches grow."""
_WORKER = Path(__file__).with_name("math_worker.py")
_KEPT_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "SYSTEMROOT", "LANG", "LC_ALL")


class CheckerError(Exception):
    """There is no verdict: the checker failed, not the answer."""


@dataclass(frozen=True)
class Verdict:
    """What was found out about an answer."""

    right: bool
    """Whether it equals the expected one."""
    given: str
    """The answer as it was found in the text."""
    problem: str = ""
    """Why it could not be compared; empty if it was."""


def check(expected: str, text: str) -> Verdict:
    """Compare the final answer in a text with the expected answer.

    Raises:
        CheckerError: There is no verdict.
        ModuleNotFoundError: `math-verify` is needed and not installed.
    """
    return _cached_check(str(expected).strip(), str(text).strip())


@functools.lru_cache(maxsize=20_000)
def _cached_check(expected: str, text: str) -> Verdict:
    given = final_answer(text)
    if not given:
        return Verdict(False, "", "there is no answer")
    decided = _decide_exactly(expected, given)
    if decided is not None:
        return Verdict(decided, given)
    return _checker(os.getpid()).check(expected, given)


def final_answer(text: str) -> str:
    r"""The answer in a text: what the last `\boxed{}` holds, else the line after the last "Answer:", else all of it."""
    text = text.strip()
    boxed = _last_boxed(text)
    if boxed is not None:
        return boxed.strip()
    marked = re.split(r"(?i:\banswer\s*:)", text)
    if len(marked) > 1 and (line := marked[-1].strip("* \n").partition("\n")[0].strip("* ")):
        return line[-_MAX_CHARS:]
    return text[-_MAX_CHARS:]


def _last_boxed(text: str) -> str | None:
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    begin, depth = text.index("{", start) + 1, 1
    for i in range(begin, min(len(text), begin + _MAX_CHARS)):
        depth += (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return text[begin:i]
    return text[begin : begin + _MAX_CHARS]


# Exact decisions, in this process.

_UNICODE = {
    0x2212: "-",
    0x2013: "-",
    0x00A0: " ",
    0x2009: " ",
    0x202F: " ",
    0x00B0: "^\\circ ",
    0x00B2: "^2",
    0x00B3: "^3",
    0x00B7: "\\cdot ",
    0x00BD: "\\frac{1}{2}",
    0x00D7: "\\times ",
    0x00F7: "/",
    0x03C0: "\\pi ",
    0x2205: "\\emptyset ",
    0x221E: "\\infty ",
    0x2229: "\\cap ",
    0x222A: "\\cup ",
    0x2260: "\\ne ",
    0x2264: "\\le ",
    0x2265: "\\ge ",
}
"""Signs and how LaTeX writes them."""
_INTEGER = r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)"
_NUMBER = re.compile(rf"({_INTEGER})(\.\d+)?(?:e([-+]?\d{{1,3}}))?|([-+]?)(\.\d+)", re.IGNORECASE)
_FRACTION = re.compile(rf"({_INTEGER})\s*/\s*({_INTEGER})|([-+]?)\\frac\{{?({_INTEGER})\}}?\{{?({_INTEGER})\}}?")
_MIXED = re.compile(r"([-+]?)(\d+)\s*(?:\s(\d+)/(\d+)|\\frac\{(\d+)\}\{(\d+)\})")
_UNIT = (
    r"(?:mm|cm|dm|km|mg|kg|ml|sec|min|hrs?|in|ft|(?:(?:milli|centi|kilo)?(?:met(?:er|re)|gram|lit(?:er|re))|inch|mile|"
    r"second|minute|hour|day|week|month|year|degree|radian|unit|dollar|cent|euro|point|foot|yard|pound)s?|inches|feet)"
)
_MEASURED = re.compile(
    rf"([-+]?[\d.,/]+|[-+]?\\frac\{{\d+\}}\{{\d+\}})"
    rf"(?: ?(?:square |cubic |sq\.? )?{_UNIT}| [mgslh])(?:/{_UNIT}|/[mgslh]| per \w+)?(?:\^\{{?\d\}}?)?"
)


def _decide_exactly(expected: str, given: str) -> bool | None:
    """The verdict where it is certain without algebra, else None."""
    one, other = _plain(expected), _plain(given)
    if one == other:
        return True
    left, right = _number(one), _number(other)
    if left is not None and right is not None:
        if left == right:
            return True
        return False if left.denominator == right.denominator == 1 else None  # 0.333333 may stand for 1/3
    if re.fullmatch(r"(?!pi$)[A-Za-z]{2,}(?: [A-Za-z]+)*", one):  # a word, as 'even': not a product of letters
        return one.casefold() == other.casefold().removeprefix("the answer is ")
    return None


def _tidy(text: str) -> str:
    """A text without what never changes its meaning: delimiters around it, spacing commands, a full stop at the end."""
    text = text.translate(_UNICODE).strip()
    text = re.sub(r"\u221a\s*(\d+|[A-Za-z])", r"\\sqrt{\1}", text).replace("\u221a", "sqrt")
    text = re.sub(r"\\(?:left|right|displaystyle|!)(?![A-Za-z])", "", text)
    text = re.sub(r"(?<!\\)\\[,;: ]", " ", text)
    text = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", text)
    for opening, closing in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**")):
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening + closing):
            text = text[len(opening) : -len(closing)].strip()
    text = re.sub(r"^(?:\\?\$|€|£)(?=\s*[-\d.])", "", text)
    return re.sub(r"\s+", " ", text).strip().removesuffix(".").strip()


def _plain(text: str) -> str:
    """The same without LaTeX's marks of text, and without the unit after a number."""
    text = re.sub(r"\\(?:text|textbf|mathrm|mathbf|mbox)\{([^{}]*)\}", r"\1", _tidy(text)).strip()
    measured = _MEASURED.fullmatch(text)
    return measured[1] if measured else text


def _number(text: str) -> Fraction | None:
    """The number a text is, exactly; None for anything else, percentages among it."""
    if len(text) > 400:
        return None
    if m := _NUMBER.fullmatch(text):
        digits = f"{m[1].replace(',', '')}{m[2] or ''}e{m[3] or 0}" if m[1] else f"{m[4]}0{m[5]}"
        return Fraction(digits)
    if m := _FRACTION.fullmatch(text):
        sign = -1 if m[3] == "-" else 1
        above, below = (int((m[i] or m[j]).replace(",", "")) for i, j in ((1, 4), (2, 5)))
        return Fraction(sign * above, below) if below else None
    if m := _MIXED.fullmatch(text):
        above, below = int(m[3] or m[5]), int(m[4] or m[6])
        value = int(m[2]) + Fraction(above, below) if below else None
        return -value if value is not None and m[1] == "-" else value
    return None


# The rest: worker processes.

_NO_PROSE = frozenset({"and", "or", "sqrt", "pi", "log", "ln"})


def _as_math(text: str) -> str:
    """A text as `math-verify` reads it best: prose as it is, a bare expression between dollar signs."""
    text = _tidy(text)
    delimited = re.search(r"\\boxed|\\\(|\\\[|(?<!\\)\$.*(?<!\\)\$", text, re.DOTALL)
    words = set(re.findall(r"(?<![\\A-Za-z])[a-z]{2,}(?![A-Za-z{(\\])", text)) - _NO_PROSE
    if delimited or len(words) > 1:
        return text
    return "$" + re.sub(r"(?<![\w.])(\d+(?:\.\d+)?)[eE]([-+]?\d+)(?!\w)", r"\1 \\times 10^{\2}", text) + "$"


class Checker:
    """A few worker processes that run `math-verify`; thread-safe."""

    def __init__(self, *, workers: int | None = None, cpu_seconds: float = 3.0, wall_seconds: float = 60.0) -> None:
        """Prepare; workers start when they are needed.

        Args:
            workers: How many at most; by default as many as there are processors, and no more than 4.
            cpu_seconds: CPU time for one check; an answer that takes more is wrong.
            wall_seconds: Time for one check, its wait for a free worker excluded; without a reply there is no verdict.
        """
        self._free = threading.Semaphore(workers or min(4, os.cpu_count() or 1))
        self._idle: list[_Worker] = []
        self._lock = threading.Lock()
        self.cpu_seconds, self.wall_seconds = cpu_seconds, wall_seconds

    def check(self, expected: str, given: str) -> Verdict:
        """Compare two answers.

        Raises:
            CheckerError: There is no verdict.
            ModuleNotFoundError: `math-verify` is not installed.
        """
        if importlib.util.find_spec("math_verify") is None:
            raise ModuleNotFoundError("The math metric needs math-verify: pip install 'trgrpo-dspy[math]'")
        request = {"expected": _as_math(expected), "given": _as_math(given), "cpu_seconds": self.cpu_seconds}
        try:
            with self._free:
                reply = self._ask(request)
        except OSError as error:
            raise CheckerError(f"the checker failed: its process can't be started ({error})") from error
        if "failure" in reply:
            raise CheckerError(f"the checker failed: {reply['failure']}")
        return Verdict(bool(reply["right"]), given, str(reply.get("problem", "")))

    def close(self) -> None:
        """End the workers."""
        with self._lock:
            workers, self._idle = self._idle, []
        for worker in workers:
            worker.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Ask a worker, and a fresh one if it dies; one that used up its CPU time has answered by that."""
        failure = ""
        for _ in range(2):
            worker = self._take()
            reply = None
            try:
                reply = worker.ask(request, self.wall_seconds)
            finally:
                code = self._give_back(worker, reply)
            if reply is not None:
                return reply
            if code == -getattr(signal, "SIGXCPU", 0):
                return {"right": False, "problem": "it could not be evaluated within the limits"}
            failure = "there was no reply in time" if worker.late else f"its process ended with code {code}"
        return {"failure": failure}

    def _take(self) -> _Worker:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return _Worker()

    def _give_back(self, worker: _Worker, reply: dict[str, Any] | None) -> int:
        """Keep a worker for the next check, or end one that died or had better be replaced."""
        if reply is None or "leaving" in reply or worker.asked >= _CHECKS_PER_WORKER:
            return worker.close()
        with self._lock:
            self._idle.append(worker)
        return 0


class _Worker:
    """One worker process, asked one thing at a time."""

    def __init__(self) -> None:
        environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-B", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            encoding="utf-8",
        )
        self.asked = 0
        self.late = False

    def ask(self, request: dict[str, Any], wall_seconds: float) -> dict[str, Any] | None:
        """The reply; None if the process died or was ended because none came in time."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self.asked += 1
        timer = threading.Timer(wall_seconds, self._give_up)
        timer.daemon = True
        timer.start()
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            return dict(json.loads(self._process.stdout.readline()))
        except (OSError, ValueError):
            return None
        finally:
            timer.cancel()

    def _give_up(self) -> None:
        self.late = True
        self._process.kill()

    def close(self) -> int:
        """End the process and return its exit code."""
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError, ValueError):
                stream.close()  # type: ignore[union-attr]
        try:
            return self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


@functools.cache
def _checker(pid: int) -> Checker:
    """The checker of this process; a forked child gets its own."""
    checker = Checker()
    atexit.register(lambda: checker.close() if os.getpid() == pid else None)
    return checker
