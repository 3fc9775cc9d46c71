"""Competition mathematics: which answers are right, from many threads at once; the data sets; the programs."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dspy
import pytest

from programs import hub, math_checker, math_reasoning
from programs.math_checker import Checker, CheckerError, Verdict, final_answer
from trgrpo_dspy import FatalError
from trgrpo_dspy.engine.calls.gate import Calls
from trgrpo_dspy.engine.calls.units import Unit
from trgrpo_dspy.engine.runner import Runner
from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.meter import Stage
from trgrpo_dspy.offline import offline_lm

# Expected answer, what a program answers, whether that is right.
PAIRS = [
    # whole numbers
    ("204", "204", True), ("073", "73", True), ("25", "025", True), ("1000", "1,000", True),
    ("1,000,000", "1000000", True), ("-5", "\u22125", True), ("7", "+7", True), ("18", "$18", True),
    ("\\$18", "18", True), ("3", "3.0", True), ("1000000", "1e6", True), ("10^6", "1000000", True), ("5!", "120", True),
    ("\\binom{5}{2}", "10", True), ("204", "240", False), ("5", "-5", False), ("1000", "100", False),
    ("12", "twelve", False), ("5", "5 or 6", False), ("5", "", False), ("5", "I do not know", False),
    ("5", "{}", False),
    # fractions and decimals
    ("\\frac{3}{4}", "3/4", True), ("\\frac34", "0.75", True), ("\\dfrac{1}{2}", ".5", True), ("1/3", "0.333333", True),
    ("-\\frac{2}{3}", "-2/3", True), ("\\frac{-2}{3}", "-\\frac{2}{3}", True), ("1\\frac{1}{2}", "1.5", True),
    ("1 1/2", "3/2", True), ("-1\\frac{1}{2}", "-3/2", True), ("\\frac{4}{6}", "2/3", True),
    ("0.1", "\\tfrac{1}{10}", True), ("1/3", "0.33", False), ("\\frac{3}{4}", "4/3", False), ("1/2", "1/0", False),
    # radicals and constants
    ("2\\sqrt{3}", "\\sqrt{12}", True), ("2\\sqrt{3}", "sqrt(12)", True), ("2\\sqrt{3}", "2\u221a3", True),
    ("\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt{2}}", True), ("\\sqrt{2}+1", "1+sqrt(2)", True),
    ("\\sqrt[3]{8}", "2", True), ("2\\sqrt{3}", "3.4641016", True), ("2\\pi", "2\u03c0", True),
    ("\\pi/2", "\\frac{\\pi}{2}", True), ("2\\sqrt{3}", "3\\sqrt{2}", False), ("\\pi", "3", False),
    # intervals and sets
    ("[1,2)", "[1, 2)", True), ("(-\\infty,3]", "(-\u221e, 3]", True), ("x>3", "(3,\\infty)", True),
    ("(-\\infty,-1)\\cup(1,\\infty)", "(-\\infty,-1) \u222a (1,\\infty)", True), ("(3,\\infty)", "x > 3", True),
    ("\\{1,2,3\\}", "{3,2,1}", True), ("1,2", "2, 1", True), ("1,2", "1 and 2", True), ("\\emptyset", "\u2205", True),
    ("(1,2)", "\\left(1,\\,2\\right)", True), ("[1,2)", "(1,2)", False), ("(3,\\infty)", "[3,\\infty)", False),
    ("\\{1,2\\}", "\\{1,3\\}", False), ("\\{1,2\\}", "1", False), ("(1,2)", "(2,1)", False), ("3", "$3$ or $4$", False),
    # units and percent
    ("42", "42 cm", True), ("42\\text{ cm}", "42", True), ("42", "42\\text{ cm}^2", True), ("42", "42 cm^2", True),
    ("90^\\circ", "90", True), ("90", "90 degrees", True), ("36", "36 square meters", True),
    ("5\\text{ hours}", "5 hours", True), ("42\\,\\mathrm{m/s}", "42 m/s", True), ("5", "$5$ cm", True),
    ("50\\%", "50%", True), ("50\\%", "0.5", True), ("25\\%", "1/4", True), ("12.5\\%", "12.5 percent", True),
    ("42 cm", "43 cm", False), ("50\\%", "60%", False),
    # in prose
    ("5", "The answer is $\\boxed{5}$.", True), ("\\frac{1}{2}", "So we get \\boxed{\\frac{1}{2}} as claimed.", True),
    ("7", "First \\boxed{3}, then finally \\boxed{7}.", True), ("2^{10}", "\\boxed{1024}", True),
    ("11", "**11**", True), ("16", "Adding up, the total is 16.", True), ("5", "We know 3 + 2 = 5.\nAnswer: 5", True),
    ("11", "\\(11\\)", True), ("11", "$x = 11$", True), ("x=11", "11", True),
    ("\\frac{1}{2}", "$\\frac{1}{2}$ of the total", True), ("5", "\\boxed{6}", False),
    ("16", "Adding 16 and 4, the total is 20.", False), ("7", "\\boxed{7}, no: \\boxed{8}", False),
    # algebra, matrices, words
    ("3+2i", "2i+3", True), ("x^2+2x+1", "(x+1)^2", True), ("6.02\\times 10^{23}", "6.02e23", True),
    ("\\log_2 8", "3", True),
    ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\begin{pmatrix}1 & 2\\\\ 3 & 4\\end{pmatrix}", True),
    ("even", "Even", True), ("\\text{even}", "even", True), ("\\text{odd}", "The answer is odd.", True),
    ("A", "A", True), ("No", "no", True), ("3+2i", "3-2i", False), ("x^2-1", "(x-1)^2", False), ("even", "neve", False),
    ("A", "B", False), ("Yes", "No", False),
]  # fmt: skip
HOSTILE = [
    "9^{9^{9^{9}}}", "\\int_0^{\\infty} \\frac{e^{-x^{x}}\\sin(x^x)}{x^{\\pi}+\\log x} dx",
    "(" * 300, "\ud800", "$" * 500,
]  # fmt: skip
"""Answers whose evaluation or reading would never end, and other ill will."""

EXTRA = "needs the extra: pip install 'trgrpo-dspy[math]'"
needs_math_verify = pytest.mark.skipif(importlib.util.find_spec("math_verify") is None, reason=EXTRA)


def scored(expected: str, answer: Any) -> dspy.Prediction:
    return math_reasoning.metric(dspy.Example(problem="?", answer=expected), dspy.Prediction(answer=answer))


@pytest.fixture(scope="module")
def scores() -> list[dspy.Prediction]:
    """All pairs, scored from 32 threads at once."""
    with ThreadPoolExecutor(32) as threads:
        return list(threads.map(lambda pair: scored(pair[0], pair[1]), PAIRS))


@needs_math_verify
class TestMetric:
    @pytest.mark.parametrize("number", range(len(PAIRS)), ids=[f"{e} ~ {g}"[:60] for e, g, _ in PAIRS])
    def test_pairs_from_32_threads(self, scores: list[dspy.Prediction], number: int) -> None:
        expected, given, right = PAIRS[number]
        assert scores[number].score == float(right), scores[number].feedback
        assert scores[number].feedback.startswith("Right" if right else "Wrong")
        assert expected in scores[number].feedback and final_answer(given)[:20] in scores[number].feedback

    def test_what_would_hang_is_ended_while_others_go_on(self) -> None:
        checker = Checker(workers=2, cpu_seconds=0.5)
        asked = [("3", answer) for answer in HOSTILE] + [("2\\sqrt{3}", f"\\sqrt{{{n}}}") for n in range(23)]
        try:
            with ThreadPoolExecutor(32) as threads:
                verdicts = list(threads.map(lambda pair: checker.check(*pair), asked))
        finally:
            checker.close()
        assert [v.right for v in verdicts] == [False] * len(HOSTILE) + [n == 12 for n in range(23)]
        assert all("limits" in v.problem for v in verdicts[:3])

    def test_feedback(self) -> None:
        assert scored("204", "240").feedback == "Wrong: expected 204, got 240."
        assert scored("1/2", "So \\boxed{0.5}").feedback == "Right: expected 1/2, got 0.5."
        assert scored("204", None).feedback == "Wrong: expected 204, got nothing."
        assert scored("204", "no idea").feedback == (
            "Wrong: expected 204, got no idea (no mathematical expression can be read from it)."
        )
        assert len(scored("204", "word " * 500).feedback) < 350

    def test_a_prediction_without_an_answer(self) -> None:
        prediction = math_reasoning.metric(dspy.Example(problem="?", answer="1"), dspy.Prediction(other="1"))
        assert prediction.score == 0.0

    @pytest.mark.parametrize(
        ("text", "answer"),
        [
            ("42", "42"),
            ("so \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
            ("\\boxed{1} or \\boxed{2}", "2"),
            ("\\boxed{3", "3"),
            ("work\n**Answer:** 7", "7"),
            ("Final answer: 8\nsince 3 + 5", "8"),
            ("Answer:", "Answer:"),
        ],
    )
    def test_where_the_answer_is(self, text: str, answer: str) -> None:
        assert final_answer(text) == answer


class TestBrokenChecker:
    """A checker that fails gives no verdict, which is not a zero."""

    @pytest.fixture
    def worker(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Checker]:
        def install(source: str) -> Checker:
            script = tmp_path / "worker.py"
            script.write_text(source)
            monkeypatch.setattr(math_checker, "_WORKER", script)
            monkeypatch.setattr(math_checker.importlib.util, "find_spec", lambda name: name)
            checker = Checker(workers=1, wall_seconds=1.0)
            monkeypatch.setattr(math_checker, "_checker", lambda pid: checker)
            math_checker._cached_check.cache_clear()
            return checker

        return install

    @pytest.mark.parametrize(
        ("source", "reason"),
        [
            ("raise SystemExit(3)", "code 3"),
            ("import time\ntime.sleep(60)", "no reply in time"),
            ('print(\'{"failure": "ValueError: odd"}\')', "ValueError: odd"),
            ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "code -9"),
            ("input()\nprint('no JSON')", "code 0"),
        ],
    )
    def test_no_verdict(self, worker: Callable[[str], Checker], source: str, reason: str) -> None:
        checker = worker(source)
        prediction = scored("x+1", "1+x")
        checker.close()
        assert prediction.score is None
        assert prediction.feedback.startswith("Not scored: the checker failed") and reason in prediction.feedback

    def test_a_worker_that_used_up_its_time_says_the_answer_is_too_hard(self, worker: Callable[[str], Checker]) -> None:
        checker = worker("import os, signal\ninput()\nos.kill(os.getpid(), signal.SIGXCPU)")
        assert checker.check("x+1", "y") == Verdict(False, "y", "it could not be evaluated within the limits")
        checker.close()

    def test_a_failure_is_not_remembered(self, worker: Callable[[str], Checker]) -> None:
        worker("raise SystemExit(3)").close()
        with pytest.raises(CheckerError):
            math_checker.check("x+1", "1+x")
        checker = worker("input()\nprint('{\"right\": true}')")
        assert math_checker.check("x+1", "1+x") == Verdict(True, "1+x")
        checker.close()

    def test_the_worker_gets_no_secret(self, worker: Callable[[str], Checker], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "hush-hush")
        source = "import json, os\ninput()\nprint(json.dumps({'right': False, 'problem': str(dict(os.environ))}))"
        checker = worker(source)
        assert "hush" not in checker.check("x+1", "y").problem
        checker.close()

    def test_a_missing_package_ends_the_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(math_checker.importlib.util, "find_spec", lambda name: None)
        math_checker._cached_check.cache_clear()
        assert scored("12", "12.0").score == 1.0, "what is decided exactly needs no package"
        with pytest.raises(FatalError, match=r"trgrpo-dspy\[math\]"):
            scored("x+1", "1+x")


HEAD = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
TAIL = '\n\nRemember to put your answer on its own line after "Answer:".'


def dapo_row(problem: str | None, answer: str | None, index: str = "i") -> dict[str, Any]:
    turns = [] if problem is None else [{"content": f"{HEAD}{problem}{TAIL}", "role": "user"}]
    return {
        "data_source": "math_dapo",
        "prompt": turns,
        "ability": "MATH",
        "reward_model": {"ground_truth": answer, "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": index},
    }


def aime_row(number: int, problem: str | None, answer: str | None) -> dict[str, Any]:
    return {"id": number, "problem": problem, "solution": "s", "answer": answer, "url": "u", "year": "2024"}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def pairs(examples: list[dspy.Example]) -> list[tuple[str, str]]:
    assert all(set(e.inputs().keys()) == {"problem"} and set(e.labels().keys()) == {"answer"} for e in examples)
    return [(e.problem, e.answer) for e in examples]


@pytest.fixture(params=[".parquet", ".jsonl"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"data{request.param}"


class TestData:
    def test_dapo(self, file: Path) -> None:
        rows = [dapo_row(f"Problem {n}: find $x$.", str(n)) for n in range(30)] * 3
        rows += [
            dapo_row("Problem 4:  find\n$x$.", "4"),  # the same with other spaces
            dapo_row("A problem with two answers", "1"),
            dapo_row("A problem with two answers", "2"),
            dapo_row(None, "1"),
            dapo_row("No answer", None),
            dapo_row("  ", "1"),
            dapo_row("An empty answer", " "),
            dapo_row("In two turns", "9") | {"prompt": [
                {"content": "Be brief.", "role": "system"},
                {"content": f"{HEAD}In two turns{TAIL}", "role": "user"},
            ]},
            dapo_row("Bare", "8") | {"prompt": [{"content": "Bare problem", "role": "user"}]},
        ]  # fmt: skip
        write(file, rows)
        found = pairs(math_reasoning.dapo(path=file))
        expected = {(f"Problem {n}: find $x$.", str(n)) for n in range(30)} | {
            ("In two turns", "9"),
            ("Bare problem", "8"),
        }
        assert len(found) == len(set(found)) and set(found) == expected
        drawn = pairs(math_reasoning.dapo(10, seed=1, path=file))
        assert len(drawn) == 10 and drawn != pairs(math_reasoning.dapo(10, seed=2, path=file))
        write(file, rows[::-1])
        assert drawn == pairs(math_reasoning.dapo(10, seed=1, path=file)), "the order of the rows changes nothing"

    @pytest.mark.parametrize("year", [2024, 2025])
    def test_aime(self, file: Path, year: int) -> None:
        rows = [aime_row(60, "First", "073"), aime_row(61, "Second", "204"), aime_row(62, None, "1")]
        write(file, [*rows, aime_row(63, "Third", None)])
        assert pairs(math_reasoning.aime(year, path=file)) == [("First", "073"), ("Second", "204")]

    def test_aime_answers_as_numbers(self, file: Path) -> None:
        write(file, [aime_row(1, "First", 0), aime_row(2, "Second", 70)])  # type: ignore[arg-type]
        assert pairs(math_reasoning.aime(2025, path=file)) == [("First", "0"), ("Second", "70")]

    def test_gsm8k(self, file: Path) -> None:
        rows = [
            {"question": "How many?", "answer": "She has 2*3=<<2*3=6>>6.\n#### 6"},
            {"question": "How much?", "answer": "A lot.\n#### 1,250"},
            {"question": "Less than nothing?", "answer": "#### -3"},
            {"question": "Unfinished", "answer": "No answer"},
            {"question": None, "answer": "#### 1"},
        ]
        write(file, rows)
        assert set(pairs(math_reasoning.gsm8k("test", path=file))) == {
            ("How many?", "6"),
            ("How much?", "1250"),
            ("Less than nothing?", "-3"),
        }

    def test_a_folder_of_local_copies(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TRGRPO_DATA", str(tmp_path))
        monkeypatch.setenv("TRGRPO_MATH_DATA", "dapo")
        write(tmp_path / "dapo_math_17k.parquet", [dapo_row(f"Problem {n}", str(n)) for n in range(200)])
        for year in (2024, 2025):
            write(tmp_path / f"aime_{year}.jsonl", [aime_row(n, f"{year}-{n}", str(n)) for n in range(30)])
        train, val = pairs(math_reasoning.trainset()), pairs(math_reasoning.valset())
        assert (len(train), len(val), len({*train, *val})) == (100, 50, 150)
        assert train == pairs(math_reasoning.trainset())
        assert len(math_reasoning.testset()) == 60

    @pytest.mark.parametrize(
        ("load", "columns"),
        [
            (math_reasoning.dapo, "reward_model"),
            (lambda path: math_reasoning.aime(2024, path=path), "problem"),
            (lambda path: math_reasoning.gsm8k(path=path), "####"),
        ],
    )
    def test_other_columns_are_named(self, file: Path, load: Callable[..., Any], columns: str) -> None:
        write(file, [{"text": "a", "label": "b"}])
        with pytest.raises(ValueError, match=r"has not the columns of .*It has \['label', 'text'\]") as caught:
            load(path=file)
        assert columns in str(caught.value)

    def test_bad_paths(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="is no file"):
            math_reasoning.dapo(path=tmp_path / "none.parquet")
        with pytest.raises(ValueError, match=r"must end in one of \.parquet"):
            math_reasoning.dapo(path=tmp_path / "none.xlsx")
        with pytest.raises(ValueError, match="year=2023"):
            math_reasoning.aime(2023)
        with pytest.raises(ValueError, match="holds no problem with an answer"):
            math_reasoning.dapo(path=write(tmp_path / "empty.parquet", [dapo_row("Only a question", None)]))

    @pytest.mark.parametrize(
        ("load", "name"),
        [
            (math_reasoning.dapo, "BytedTsinghua-SIA/DAPO-Math-17k"),
            (lambda: math_reasoning.aime(2024), "HuggingFaceH4/aime_2024"),
            (lambda: math_reasoning.aime(2025), "yentinglin/aime_2025"),
            (lambda: math_reasoning.gsm8k("test"), "openai/gsm8k"),
        ],
    )
    def test_the_hub_out_of_reach(
        self, load: Callable[[], Any], name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        import datasets
        import huggingface_hub

        monkeypatch.delenv("TRGRPO_DATA", raising=False)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(FileNotFoundError, match=name) as caught:
            load()
        assert all(way in str(caught.value) for way in ("Go online", "path=", "TRGRPO_DATA", "TRGRPO_MATH_DATA=sample"))

    def test_rows_of_the_hub(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import datasets

        asked = []

        def load_dataset(*args: Any, **kwargs: Any) -> Any:
            asked.append((*args, kwargs["split"]))
            return datasets.Dataset.from_list([dapo_row("P", "1"), dapo_row("P", "1"), dapo_row("Q", "2")])

        monkeypatch.delenv("TRGRPO_DATA", raising=False)
        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        hub.load_from_hub.cache_clear()
        assert sorted(pairs(math_reasoning.dapo())) == [("P", "1"), ("Q", "2")]
        assert len(math_reasoning.dapo(1)) == 1
        assert asked == [("BytedTsinghua-SIA/DAPO-Math-17k", None, "train")], "the hub is read once"
        hub.load_from_hub.cache_clear()

    def test_the_sample(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TRGRPO_MATH_DATA", "sample")
        sets = [pairs(load()) for load in (math_reasoning.trainset, math_reasoning.valset, math_reasoning.testset)]
        assert [len(s) for s in sets] == [14, 8, 10]
        assert len({problem for s in sets for problem, _ in s}) == 32
        with pytest.raises(ValueError, match="split='dev'"):
            math_reasoning.sample("dev")
        monkeypatch.setenv("TRGRPO_MATH_DATA", "mathematics")
        with pytest.raises(ValueError, match="TRGRPO_MATH_DATA is 'mathematics'"):
            math_reasoning.trainset()


class TestPrograms:
    def test_modes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("TRGRPO_MATH_MODE", raising=False)
        assert isinstance(math_reasoning.program(), dspy.ChainOfThought)
        monkeypatch.setenv("TRGRPO_MATH_MODE", "fast")
        with pytest.raises(ValueError, match="'direct' or 'agent'"):
            math_reasoning.program()

    def test_the_agent_is_chosen_by_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("pydantic_monty", reason=EXTRA)
        monkeypatch.setenv("TRGRPO_MATH_MODE", "agent")
        program = math_reasoning.program()
        assert list(program.tools) == ["run_python", "finish"]
        assert [name for name, _ in program.named_predictors()] == ["react", "extract.predict"]

    def test_an_attempt_of_the_agent(self) -> None:
        pytest.importorskip("pydantic_monty", reason=EXTRA)
        calls = Calls(backoff=0.001)
        program = math_reasoning.agent()
        calls.bind(program)
        example = dspy.Example(problem="What is 128 * 379 + 5?", answer="48517").with_inputs("problem")
        with dspy.context(lm=offline_lm()):
            unit = Unit(Stage.ROLLOUT, 1, ("rollout", 1, 0, 0), resample=True, temperature=0.7)
            rollout = Runner(calls, math_reasoning.metric).attempt(program, example, unit, index=0, attempt=0)
        assert rollout.outcome is Outcome.COMPLETED, rollout.error
        assert rollout.score == 1.0 and rollout.feedback == "Right: expected 48517, got 48517."
        assert rollout.transcript.count("next_tool_name: run_python") == 1
        assert rollout.transcript.count("128 * 379 + 5") == 1
        assert rollout.transcript.count("observation: 48517") == 1, rollout.transcript

    def test_each_attempt_has_a_sandbox_of_its_own(self) -> None:
        pytest.importorskip("pydantic_monty", reason=EXTRA)
        steps = [
            {"next_thought": "t", "next_tool_name": "run_python", "next_tool_args": {"code": "x = 1"}},
            {"next_thought": "t", "next_tool_name": "run_python", "next_tool_args": {"code": "x += 1\nx"}},
            {"next_thought": "t", "next_tool_name": "finish", "next_tool_args": {}},
            {"reasoning": "r", "answer": "2"},
        ]
        program = math_reasoning.agent()
        late = [{**steps[1]}, steps[2], steps[3]]
        with dspy.context(lm=dspy.utils.DummyLM([*steps, *late])):
            first, second = program(problem="p"), program(problem="p")
        assert first.trajectory["observation_1"] == "2"
        assert "NameError" in second.trajectory["observation_0"]


@needs_math_verify
def test_the_sample_s_answers_are_right_by_the_metric() -> None:
    for split in ("train", "val", "test"):
        for example in math_reasoning.sample(split):
            assert scored(example.answer, f"So it is $\\boxed{{{example.answer}}}$.").score == 1.0


def test_checking_is_fast_where_it_is_exact() -> None:
    started = time.process_time()
    for n in range(2000):
        assert scored(str(n), f"\\boxed{{{n}}}").score == 1.0
    assert time.process_time() - started < 4
