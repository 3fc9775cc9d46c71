r"""Which answers are right: pairs by published formats, and what a checker must survive.

`math_pairs.jsonl`: formats and figures of the test cases of public graders (math-verify and its issues, Qwen2.5-Math,
NeMo-Skills, MATH's and its descendants), of the issue, and attacks on the checker. `math_pairs_heldout.jsonl` was
written before the checker was read, and judged once before anything was mended by it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dspy
import pytest
from support.waiting import hold_replies

from programs import math_checker, math_reasoning
from programs.math_answers import final_answer
from programs.math_checker import CheckerError, Verdict, check
from programs.workers import WorkerError, Workers
from trgrpo_dspy import FatalError

needs_math_verify = pytest.mark.usefixtures("_math_verify")


@pytest.fixture
def _math_verify() -> None:
    pytest.importorskip("math_verify", reason="needs the extra: pip install 'trgrpo-dspy[math]'")


@pytest.fixture(autouse=True)
def _nothing_remembered() -> Iterator[None]:
    math_checker._cached_check.cache_clear()
    yield
    math_checker._cached_check.cache_clear()


def scored(expected: str, answer: Any) -> dspy.Prediction:
    return math_reasoning.metric(dspy.Example(problem="?", answer=expected), dspy.Prediction(answer=answer))


@needs_math_verify
@pytest.mark.parametrize("file", ["math_pairs", "math_pairs_heldout"])
def test_pairs_from_32_threads(file: str) -> None:
    lines = Path(__file__).with_name(f"{file}.jsonl").read_text(encoding="utf-8").splitlines()
    pairs = [json.loads(line) for line in lines]
    assert min(sum(p["right"] for p in pairs), sum(not p["right"] for p in pairs)) >= (150 if len(pairs) > 100 else 50)
    with ThreadPoolExecutor(32) as threads:
        predictions = list(threads.map(lambda pair: scored(pair["expected"], pair["answer"]), pairs))
    wrong = [f"{r.score}: {p}: {r.feedback}" for p, r in zip(pairs, predictions, strict=True) if r.score != p["right"]]
    assert not wrong, "\n".join(wrong)


@needs_math_verify
def test_the_sample_s_answers_are_right() -> None:
    for split in ("train", "val", "test"):
        for example in math_reasoning.sample(split):
            assert scored(example.answer, f"So it is $\\boxed{{{example.answer}}}$.").score == 1.0


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("42", "42"),
        ("so \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("First \\boxed{1}, then \\boxed{2}", "2"),
        ("\\boxed{1} or \\boxed{2}", "1, 2"),  # two answers are not one
        ("\\boxed{3", "3"),
        ("\\boxed 5", "5"),
        ("work\n**Answer:** 7", "7"),
        ("Final answer: 8\nsince 3 + 5", "8"),
        ("**Final Answer**\n\n42", "42"),
        ("\\boxed{7}? No. The final answer is 9.", "9"),
        ("The answer is $\\boxed{5}$, as asked.", "5"),
        ("<think>\\boxed{1}</think> so \\boxed{2}", "2"),
        ("<think>\\boxed{1}", ""),
        ("<answer> 6 </answer>", "6"),
        ("The total is 16.", "16"),
        ("The answer is not 5.", ""),
        ("Not 112 but 113.", "113"),
        ("I cannot determine it; 5 is a guess.", ""),
        ("\x08oxed{\x0crac{1}{2}}", "\\frac{1}{2}"),
    ],
)
def test_where_the_answer_is(text: str, answer: str) -> None:
    assert final_answer(text) == answer


@needs_math_verify
@pytest.mark.parametrize(
    "answer",
    [
        r"\boxed{42}", r"\dfrac{1}{2}", r"15\text{ cm}", r"\left(1,2\right)", r"3 \times \theta", r"x \neq 3", r"50\%",
        r"\begin{pmatrix}1\\2\end{pmatrix}", r"\binom{5}{2}", r"\{1,2\}", r"\varnothing", r"\rho^2", r"2\sqrt{3}",
    ],
)  # fmt: skip
def test_latex_in_json_with_single_backslashes(answer: str) -> None:
    parsed = dspy.JSONAdapter().parse(math_reasoning.MathProblem, f'{{"answer": "{answer}"}}')
    assert scored(answer, parsed["answer"]).score == 1.0, parsed


@needs_math_verify
def test_feedback() -> None:
    assert scored("204", "240").feedback == "Wrong: expected 204, got 240."
    assert scored("1/2", "So \\boxed{0.5}").feedback == "Right: expected 1/2, got 0.5."
    assert scored("204", None).feedback == "Wrong: expected 204, got nothing."
    assert scored("204", "no idea").feedback == "Wrong: expected 204, got no idea (it states no answer)."
    assert scored("x+1", "x+").feedback == (
        "Wrong: expected x+1, got x+ (no mathematical expression can be read from it)."
    )
    assert len(scored("204", "word " * 500).feedback) < 350
    assert math_reasoning.metric(dspy.Example(answer="1"), dspy.Prediction(other="1")).score == 0.0


ENDLESS = ["9^{9^{9^{9}}}", "factorial(10**8)", "\\int_0^{\\infty} \\frac{e^{-x^{x}}\\sin(x^x)}{x^{\\pi}+\\log x} dx"]
UNREADABLE = ["(" * 300, "[" * 400 + "]" * 400, "\ud800", "$" * 500, "{" * 500, "1e999", "9" * 1000, "\\frac" * 90]
LONG = ["<think>" * 9000, "\\boxed{" * 9000, "answer is " * 9000, "not " * 9000, "1," * 9000, "$1$ " * 9000]


@needs_math_verify
def test_what_would_never_end_is_wrong_while_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers("programs.math_algebra", count=2, cpu_seconds=0.5, patience=1200)
    monkeypatch.setattr(math_checker, "shared", lambda module: workers)
    reached = hold_replies(monkeypatch, workers, waiting=7 * len(ENDLESS))
    asked = [("x+1", text) for text in [*ENDLESS * 8, *UNREADABLE, *LONG]]
    asked += [("2\\sqrt{3}", f"\\sqrt{{{n}}}") for n in range(20)]
    with ThreadPoolExecutor(32) as threads:
        verdicts = list(threads.map(lambda pair: check(*pair), asked))
    workers.close()
    assert [v.right for v in verdicts] == [False] * (len(asked) - 20) + [n == 12 for n in range(20)]
    assert all("limits" in v.problem for v in verdicts[: len(ENDLESS) * 8])
    assert len(reached) == len(set(reached)) < len(asked) - 7 * len(ENDLESS), "identical checks are made once"


class TestNoVerdict:
    """A checker that fails gives no verdict, which is not a zero, and is not remembered."""

    def answering(self, monkeypatch: pytest.MonkeyPatch, reply: Any) -> None:
        class Stub:
            def ask(self, question: dict[str, Any]) -> Any:
                if isinstance(reply, Exception):
                    raise reply
                return reply

        monkeypatch.setattr(math_checker, "shared", lambda module: Stub())
        monkeypatch.setattr(math_checker.importlib.util, "find_spec", lambda name: name)

    def test_a_failure(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answering(monkeypatch, WorkerError("its process ended with code 3"))
        prediction = scored("x+1", "1+x")
        assert prediction.score is None
        assert prediction.feedback == "Not scored: the checker failed: its process ended with code 3."
        with pytest.raises(CheckerError):
            check("x+1", "1+x")
        self.answering(monkeypatch, {"right": True})
        assert check("x+1", "1+x") == Verdict(True, "1+x")

    def test_a_missing_package_ends_the_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(math_checker.importlib.util, "find_spec", lambda name: None)
        assert scored("12", "12.0").score == 1.0, "what is decided exactly needs no package"
        with pytest.raises(FatalError, match=r"trgrpo-dspy\[math\]"):
            scored("x+1", "1+x")


def test_checking_is_fast_where_it_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math_checker, "shared", lambda module: pytest.fail("no worker is needed"))
    steps = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal steps
        steps += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        right = [scored(str(n), f"\\boxed{{{n}}}").score for n in range(200)]
    finally:
        sys.setprofile(before)
    assert right == [1.0] * 200
    assert steps < 200 * 2000, "calls of functions; some 400 a check, a fraction of a millisecond"
