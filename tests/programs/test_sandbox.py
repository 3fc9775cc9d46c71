"""The sandbox: what it computes, what it keeps, and that nothing gets out or goes on for ever."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import dspy
import pytest
from dspy.primitives import CodeInterpreter, CodeInterpreterError, FinalOutput
from dspy.primitives.code_interpreter import CodeExecutionError

from trgrpo_dspy import InfrastructureError

pytest.importorskip("pydantic_monty", reason="needs the extra: pip install 'trgrpo-dspy[math]'")

from programs.python_tool import fresh_sandboxes, python_tool
from programs.sandbox import Limits, MontyInterpreter

AS_BEFORE = "variables are as they were before this call"
ROOMY = Limits(seconds=60, memory_mb=64, output_chars=1000, state_mb=4)
"""The time is by the clock, so a busy machine takes its share of it."""


@pytest.fixture
def sandbox() -> Iterator[MontyInterpreter]:
    with MontyInterpreter(limits=ROOMY) as interpreter:
        yield interpreter


def failure(sandbox: MontyInterpreter, code: str) -> str:
    """What the code's failure says."""
    with pytest.raises((CodeExecutionError, SyntaxError)) as caught:
        sandbox.execute(code)
    return str(caught.value)


class TestResults:
    @pytest.mark.parametrize(
        ("code", "expected"),
        [
            ("print('hi')\n2 ** 10", "hi\n1024"),
            ("x = [1,\n 2]\nx  # a comment", "[1, 2]"),
            ("1, 2", "(1, 2)"),
            ("print('a', 'b', sep='-', end='')", "a-b"),
            ("x = 5", None),
            ("", None),
            ("print('é'); 'ü' * 2", "é\n'üü'"),
            ("import math\nmath.comb(10, 3)", "120"),
            ("from functools import lru_cache\n@lru_cache\ndef f(n): return n if n < 2 else f(n-1) + f(n-2)\nf(90)",
             "2880067194370816120"),
            ("import re\nre.findall('\\d+', 'a1b22')", "['1', '22']"),
            ("from decimal import Decimal\nDecimal(1) / 8", "Decimal('0.125')"),
            ("'surrogate \ud800'", "'surrogate ?'"),
        ],
    )  # fmt: skip
    def test_output_then_the_last_value(self, sandbox: MontyInterpreter, code: str, expected: str | None) -> None:
        assert sandbox.execute(code) == expected

    @pytest.mark.parametrize(
        ("code", "expected"),
        [
            ("1 / 0", "ZeroDivisionError: division by zero (line 1)"),
            ("def f():\n    return {}['a']\n\nprint('before')\nf()", "before\nKeyError: a (line 2)"),
            ("foo", "NameError: name 'foo' is not defined (line 1)"),
            ("import sympy", "ModuleNotFoundError: No module named 'sympy' (line 1)"),
            ("x = (1,", "unexpected EOF while parsing"),
            ("raise ValueError('one\\ntwo')", "ValueError: one two (line 1)"),
        ],
    )
    def test_an_error_is_one_line(self, sandbox: MontyInterpreter, code: str, expected: str) -> None:
        assert failure(sandbox, code) == expected

    def test_long_output_and_long_values_are_cut(self, sandbox: MontyInterpreter) -> None:
        printed = sandbox.execute("for i in range(3000): print(i)")
        assert printed.startswith("0\n1\n") and printed.endswith("2999\n") and len(printed) < 1100
        assert "(output cut)" in printed
        value = sandbox.execute("list(range(10**6))")
        assert value.startswith("[0, 1, 2") and len(value) < 1100 and "(output cut)" in value


class TestProtocol:
    def test_variables_tools_and_submit(self) -> None:
        with MontyInterpreter({"double": lambda n: 2 * n}, limits=ROOMY) as sandbox:
            assert sandbox.execute("double(n=x) + 1", {"x": 20}) == "41"
            assert sandbox.execute("SUBMIT(double(x))\nprint('never')") == FinalOutput({"output": 40})
        with MontyInterpreter(output_fields=[{"name": "a"}, {"name": "b"}], limits=ROOMY) as sandbox:
            assert sandbox.execute("SUBMIT(1, b=[2])") == FinalOutput({"a": 1, "b": [2]})
            assert failure(sandbox, "SUBMIT(1)") == "TypeError: SUBMIT takes a, b"

    def test_a_tool_that_fails_is_an_error_in_the_code(self) -> None:
        def broken() -> None:
            raise ValueError("no luck")

        with MontyInterpreter({"broken": broken}, limits=ROOMY) as sandbox:
            assert failure(sandbox, "broken()") == "ValueError: no luck (line 1)"
            assert sandbox.execute("try:\n    broken()\nexcept ValueError as e:\n    print(e)") == "no luck\n"

    def test_after_shutdown_it_refuses(self, sandbox: MontyInterpreter) -> None:
        assert isinstance(sandbox, CodeInterpreter)
        sandbox.start()
        sandbox.shutdown()
        with pytest.raises(CodeInterpreterError, match="shut down"):
            sandbox.execute("1")

    @pytest.mark.filterwarnings("ignore:ProgramOfThought is deprecated")
    def test_dspy_creates_it_by_its_factory(self) -> None:
        code = "```python\nSUBMIT({'answer': 6 * 7})\n```"
        lm = dspy.utils.DummyLM([{"reasoning": "r", "generated_code": code}, {"reasoning": "r", "answer": "42"}])
        with dspy.context(lm=lm, interpreter_factory=MontyInterpreter):
            assert dspy.ProgramOfThought("question -> answer")(question="6 * 7?").answer == "42"

    @pytest.mark.parametrize("field", ["seconds", "memory_mb", "output_chars", "state_mb", "recursion", "code_chars"])
    def test_a_limit_must_be_above_zero(self, field: str) -> None:
        with pytest.raises(ValueError, match=field):
            Limits(**{field: 0})


class TestEscapes:
    @pytest.mark.parametrize(
        "code",
        [
            "open('/etc/passwd').read()",
            "open('out.txt', 'w').write('x')",
            "import pathlib\npathlib.Path('/etc/passwd').read_text()",
            "import os\nos.listdir('/')",
            "import os\nos.mkdir('/tmp/made-in-the-sandbox')",
            *(f"import {name}" for name in ("socket", "ssl", "http.client", "urllib.request", "subprocess", "ctypes")),
            *(f"import {name}" for name in ("multiprocessing", "threading", "asyncio.streams")),
            "import os\nos.system('true')",
            "import os\nos.fork()",
            "__import__('os').system('true')",
            "().__class__.__bases__[0].__subclasses__()",
            "(lambda: 0).__globals__",
            "eval(\"__import__('os')\")",
        ],
    )
    def test_no_files_no_network_no_process_and_no_way_around(self, sandbox: MontyInterpreter, code: str) -> None:
        kinds = ("Permission", "FileNotFound", "OSError", "Attribute", "ModuleNotFound", "Import", "NotImpl", "Name")
        assert failure(sandbox, code).startswith(kinds)
        assert not os.path.exists("/tmp/made-in-the-sandbox") and not os.path.exists("out.txt")

    def test_no_environment(self, sandbox: MontyInterpreter, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SANDBOX_TEST_SECRET", "hush-hush")
        code = """import os, sys
for ask in (lambda: os.environ, lambda: os.getenv("SANDBOX_TEST_SECRET"), lambda: sys.argv):
    try:
        print(ask())
    except Exception as error:
        print(error)"""
        shown = str(sandbox.execute(code))
        assert "hush-hush" not in shown and "pytest" not in shown

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            ("x = 2\nwhile True: pass", f"TimeoutError: the code ran for more than 0.5 seconds; {AS_BEFORE}"),
            ("x = 2\nwhile True:\n    try:\n        while True: pass\n    except BaseException: pass", "TimeoutError"),
            ("x = int('9' * 4000) ** 8000 % 7", "TimeoutError"),  # one operation, which ends with its worker
            ("x = 2\nwhile True: print('y' * 100)", "y" * 100),
        ],
    )
    def test_the_time_ends_the_code_and_changes_nothing(
        self, sandbox: MontyInterpreter, code: str, message: str
    ) -> None:
        sandbox.execute("x = 1")
        sandbox.limits = replace(ROOMY, seconds=2.0 if "print" in code else 0.5)
        said = failure(sandbox, code)
        assert said.startswith(message) and len(said) < 1200
        sandbox.limits = ROOMY
        assert sandbox.execute("x") == "1"

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            ("x = 'a' * 10**12", f"MemoryError: the code needed more than 64 MB; {AS_BEFORE}"),
            ("x = []\nwhile True: x.append('y' * 1000)", "MemoryError: the code needed more than 64 MB"),
            ("x = 9 ** 9 ** 9", "MemoryError"),
            ("x = [0] * 10**6\nx = [x] * 10**7", "MemoryError"),
            ("print('made')\nx = [0] * (15 * 10**5)", "made\nMemoryError: the variables take more than 4 MB"),
            ("def f(n): return f(n + 1)\nf(0)", "RecursionError: maximum recursion depth"),
            ("1\n" * 20_000, "ValueError: the code has more than 20000 characters"),
        ],
    )
    def test_a_limit_ends_the_code_and_changes_nothing(
        self, sandbox: MontyInterpreter, code: str, message: str
    ) -> None:
        sandbox.execute("x = 1")
        said = failure(sandbox, code)
        assert said.startswith(message) and len(said) < 1200
        assert sandbox.execute("x") == "1"

    @pytest.mark.parametrize(
        "code", ["(" * 5000 + ")" * 5000, "x" + ".a" * 9000, "-" * 9000 + "1", "+".join(["1"] * 9000), "lambda:" * 2000]
    )
    def test_source_that_would_overflow_a_parser(self, sandbox: MontyInterpreter, code: str) -> None:
        assert "deeply nested" in failure(sandbox, code)


class TestTool:
    def test_what_a_model_sees_of_it(self) -> None:
        tool = dspy.Tool(python_tool())
        assert tool.name == "run_python" and set(tool.args) == {"code"}
        assert "sympy" in tool.desc and "last expression" in tool.desc
        assert tool(code="```python\n6 * 7\n```") == "42"

    @pytest.mark.parametrize(
        ("code", "expected"),
        [
            ("1 / 0", "ZeroDivisionError: division by zero (line 1)"),
            ("x = (", "SyntaxError: unexpected EOF while parsing"),
            ("x = 1", "(no output: print a value, or end with an expression)"),
            ("SUBMIT(3)", "{'output': 3}"),
        ],
    )
    def test_every_outcome_is_an_observation(self, code: str, expected: str) -> None:
        assert python_tool(limits=ROOMY)(code) == expected

    def test_state_is_kept_within_an_attempt_and_never_between(self) -> None:
        run, other = python_tool(limits=ROOMY), python_tool(limits=ROOMY)
        for attempt in range(2):
            with fresh_sandboxes():
                assert "NameError" in run("x"), f"attempt {attempt} saw what another left behind"
                run(f"x = {attempt}\ndef f(): return x + 1")
                assert run("f()") == str(attempt + 1)
                assert "NameError" in other("x"), "two tools share no sandbox"
        run("x = 1")
        assert "NameError" in run("x"), "outside an attempt every call has a fresh sandbox"
        with fresh_sandboxes():
            run("x = 1")
            with fresh_sandboxes():
                assert "NameError" in run("x"), "an attempt within an attempt"
            assert run("x") == "1"

    def test_128_attempts_at_once_mix_nothing(self) -> None:
        run, barrier = python_tool(), threading.Barrier(128)

        def attempt(number: int) -> list[str]:
            with fresh_sandboxes():
                barrier.wait()
                return [run(f"x = {number}\nprint('start', x)")] + [
                    run(f"x += 1000\nprint('step', {step}, x)\nx") for step in range(3)
                ]

        with ThreadPoolExecutor(128) as pool:
            told = list(pool.map(attempt, range(128)))
        for n, seen in enumerate(told):
            assert seen == [f"start {n}"] + [f"step {s} {n + 1000 * (s + 1)}\n{n + 1000 * (s + 1)}" for s in range(3)]

    def test_the_same_code_tells_the_same(self) -> None:
        run = python_tool(limits=ROOMY)
        code = "import random, time, datetime\nrandom.random(), time.time(), datetime.datetime.now()"
        assert run(code) == run(code)

    def test_another_interpreter(self) -> None:
        class Echo:
            tools: dict[str, Any] = {}  # noqa: RUF012
            ended = 0

            def start(self) -> None: ...

            def execute(self, code: str, variables: dict[str, Any] | None = None) -> Any:
                if code == "down":
                    raise CodeInterpreterError("the process is gone")
                if code == "bad":
                    raise CodeExecutionError("Traceback (most recent call last):\n  File x\nValueError: bad")
                return f"ran {code}"

            def shutdown(self) -> None:
                Echo.ended += 1

        run = python_tool(Echo)
        assert run("1") == "ran 1" and run("bad") == "ValueError: bad" and Echo.ended == 2
        with pytest.raises(InfrastructureError, match="the process is gone"):
            run("down")
        with dspy.context(interpreter_factory=Echo):
            assert python_tool("dspy")("2") == "ran 2"

    def test_bad_arguments_and_a_missing_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ValueError, match="interpreter='docker'"):
            python_tool("docker")
        with pytest.raises(ValueError, match="limits="):
            python_tool("dspy", limits=ROOMY)
        monkeypatch.setitem(__import__("sys").modules, "pydantic_monty", None)
        with pytest.raises(ImportError, match=r"trgrpo-dspy\[math\]"):
            python_tool()
