"""Competition mathematics: the data sets, the metric's feedback, the programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest

from programs import hub, math_reasoning
from trgrpo_dspy.engine.calls.gate import Gate
from trgrpo_dspy.engine.calls.units import Unit
from trgrpo_dspy.engine.runner import Runner
from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.meter import Stage
from trgrpo_dspy.offline import offline_lm

EXTRA = "needs the extra: pip install 'trgrpo-dspy[math]'"
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


def aime_row(number: int, problem: str | None, answer: str | int | None) -> dict[str, Any]:
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
            dapo_row("A problem with two answers", "1"), dapo_row("A problem with two answers", "2"),
            dapo_row(None, "1"), dapo_row("No answer", None), dapo_row("  ", "1"), dapo_row("An empty answer", " "),
            dapo_row("In two turns", "9") | {"prompt": [
                {"content": "Be brief.", "role": "system"},
                {"content": f"{HEAD}In two turns{TAIL}", "role": "user"},
            ]},
            dapo_row("Bare", "8") | {"prompt": [{"content": "Bare problem", "role": "user"}]},
        ]  # fmt: skip
        found = pairs(math_reasoning.dapo(path=write(file, rows)))
        assert sorted(found) == sorted(
            [(f"Problem {n}: find $x$.", str(n)) for n in range(30)] + [("In two turns", "9"), ("Bare problem", "8")]
        )
        drawn = pairs(math_reasoning.dapo(10, seed=1, path=file))
        assert len(drawn) == 10 and drawn != pairs(math_reasoning.dapo(10, seed=2, path=file))
        write(file, rows[::-1])
        assert drawn == pairs(math_reasoning.dapo(10, seed=1, path=file)), "the order of the rows changes nothing"

    @pytest.mark.parametrize("year", [2024, 2025])
    def test_aime(self, file: Path, year: int) -> None:
        rows = [aime_row(60, "First", "073"), aime_row(61, "Second", "204"), aime_row(62, None, "1")]
        write(file, [*rows, aime_row(63, "Third", None)])
        assert pairs(math_reasoning.aime(year, path=file)) == [("First", "073"), ("Second", "204")]
        write(file, [aime_row(1, "First", 0), aime_row(2, "Second", 70)])
        assert pairs(math_reasoning.aime(year, path=file)) == [("First", "0"), ("Second", "70")]

    def test_gsm8k(self, file: Path) -> None:
        rows = [
            {"question": "How many?", "answer": "She has 2*3=<<2*3=6>>6.\n#### 6"},
            {"question": "How much?", "answer": "A lot.\n#### 1,250"},
            {"question": "Less than nothing?", "answer": "#### -3"},
            {"question": "Unfinished", "answer": "No answer"},
            {"question": None, "answer": "#### 1"},
        ]
        found = pairs(math_reasoning.gsm8k("test", path=write(file, rows)))
        assert sorted(found) == [("How many?", "6"), ("How much?", "1250"), ("Less than nothing?", "-3")]

    def test_a_folder_of_local_copies(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TRGRPO_DATA", str(tmp_path))
        monkeypatch.setenv("TRGRPO_MATH_DATA", "dapo")
        write(tmp_path / "dapo_math_17k.parquet", [dapo_row(f"Problem {n}", str(n)) for n in range(200)])
        for year in (2024, 2025):
            write(tmp_path / f"aime_{year}.jsonl", [aime_row(n, f"{year}-{n}", str(n)) for n in range(30)])
        train, val = pairs(math_reasoning.trainset()), pairs(math_reasoning.valset())
        assert (len(train), len(val), len({*train, *val})) == (100, 50, 150)
        assert train == pairs(math_reasoning.trainset()) and len(math_reasoning.testset()) == 60

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

    def test_bad_arguments(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(FileNotFoundError, match="is no file"):
            math_reasoning.dapo(path=tmp_path / "none.parquet")
        with pytest.raises(ValueError, match=r"must end in one of \.parquet"):
            math_reasoning.dapo(path=tmp_path / "none.xlsx")
        with pytest.raises(ValueError, match="year=2023"):
            math_reasoning.aime(2023)
        with pytest.raises(ValueError, match="holds no problem with an answer"):
            math_reasoning.dapo(path=write(tmp_path / "empty.parquet", [dapo_row("Only a question", None)]))
        with pytest.raises(ValueError, match="split='dev'"):
            math_reasoning.sample("dev")
        monkeypatch.setenv("TRGRPO_MATH_DATA", "mathematics")
        with pytest.raises(ValueError, match="TRGRPO_MATH_DATA is 'mathematics'"):
            math_reasoning.trainset()

    @pytest.mark.parametrize(
        ("load", "name"),
        [
            (math_reasoning.dapo, "BytedTsinghua-SIA/DAPO-Math-17k"),
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

    def test_the_hub_is_read_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import datasets

        asked = []

        def load_dataset(*args: Any, **kwargs: Any) -> Any:
            asked.append((*args, kwargs["split"]))
            return datasets.Dataset.from_list([dapo_row("P", "1"), dapo_row("P", "1"), dapo_row("Q", "2")])

        monkeypatch.delenv("TRGRPO_DATA", raising=False)
        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        hub.load_from_hub.cache_clear()
        assert sorted(pairs(math_reasoning.dapo())) == [("P", "1"), ("Q", "2")] and len(math_reasoning.dapo(1)) == 1
        assert asked == [("BytedTsinghua-SIA/DAPO-Math-17k", None, "train")]
        hub.load_from_hub.cache_clear()

    def test_the_sample(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TRGRPO_MATH_DATA", "sample")
        sets = [pairs(load()) for load in (math_reasoning.trainset, math_reasoning.valset, math_reasoning.testset)]
        assert [len(s) for s in sets] == [14, 8, 10]
        assert len({problem for s in sets for problem, _ in s}) == 32


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
        calls = Gate(backoff=0.001)
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
