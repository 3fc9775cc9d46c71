"""The paper's experiments: the published figures, the tables, and each command offline, cut off and gone on."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import logging
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dspy
import filelock
import pytest
from support import ROOT
from support.waiting import stops

from programs.experiments import article, models, paper, pictures, records, tables
from programs.experiments.__main__ import main
from programs.experiments.costs import expect, told, total
from programs.experiments.plan import Plan, claimed, keep_plan
from programs.experiments.tasks import DataSet, Task, open_task
from programs.experiments.text import escaped
from trgrpo_dspy import Evaluation, FatalError
from trgrpo_dspy.errors import JournalError
from trgrpo_dspy.evaluation.measurement import summarize_evaluation
from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.meter import Spend
from trgrpo_dspy.meter.estimate import estimate_calls
from trgrpo_dspy.offline.server import OfflineServer
from trgrpo_dspy.program.rollout import Rollout

pytest.importorskip("pydantic_monty", reason="needs the extra: pip install 'trgrpo-dspy[math]'")
TINY = ["--offline", "--k", "1", "--train", "2", "--epochs", "1", "--group-size", "2", "--threads", "4"]
LONGER = [*TINY, "--k", "6", "--mode", "direct"]


COLOUR = re.compile("#[0-9a-f]{6}")


class Terminal(io.StringIO):
    """Somebody types an answer."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[OfflineServer]:
    """The servers that experiments of this test started."""
    servers: list[OfflineServer] = []

    class Kept(OfflineServer):
        def start(self) -> OfflineServer:
            servers.append(self)
            return super().start()

    monkeypatch.setattr(models, "OfflineServer", Kept)
    return servers


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take two seconds a command; tests that look at them draw them."""
    monkeypatch.setattr("programs.experiments.run.draw", lambda out, report: [])


def plan_of(**changes: Any) -> Plan:
    values: dict[str, Any] = {
        "command": "math", "task": "math", "mode": "agent", "model": "m", "reflection_model": None, "judge": None,
        "search": None, "k": 32, "train": 100, "epochs": 3, "group_size": 5, "seed": 0, "max_tokens": 16384,
        "top_p": 0.95, "max_iters": 50, "learnings": 1, "size": None, "family": None,
        "difficulty": None, "test_difficulty": None, "curve": False, "offline": False,
    }  # fmt: skip
    return Plan(**{**values, **changes})


def record(out: Path) -> dict[str, Any]:
    return json.loads((out / "report.json").read_text(encoding="utf-8"))


def journaled(out: Path) -> int:
    """LM calls that the journals hold."""
    found = 0
    for path in out.rglob("journal.sqlite"):
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            for name in ("calls", "other_calls"):
                try:
                    found += db.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0]
                except sqlite3.OperationalError:  # it is being made
                    continue
    return found


# -- what was published ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "percent", "gain"),
    [
        (("math", "direct", "full", "AIME25", "Mean@32"), 54.0, 1.1),
        (("math", "agent", "input", "AIME24", "Mean@32"), 80.0, None),
        (("math", "agent", "full", "AIME25", "Mean@32"), 73.3, 5.4),
        (("math", "agent", "label-free", "AIME24", "Mean@32"), 80.7, 0.7),
        (("web", "agent", "full", "WebWalkerQA", "pass@1"), 67.8, 4.6),
        (("web", "agent", "written", "WebWalkerQA (51)", "pass@3"), 76.5, 2.0),
        (("web", "agent", "written", "WebWalkerQA", "pass@1"), None, None),
    ],
)
def test_the_paper_s_figures(setting: tuple[str, ...], percent: float | None, gain: float | None) -> None:
    assert (paper.published(*setting), paper.gain(*setting)) == (percent, gain)
    assert len(paper.FIGURES) == 2 * 9 + 2 + 2 * 6 and paper.MODEL == "DeepSeek-V3.1-Terminus"


def evaluation(*scores: tuple[float | None, ...], tools: int) -> Evaluation:
    rollouts = [
        tuple(
            Rollout(i, j, Outcome.COMPLETED if s is not None else Outcome.METRIC_ERROR, s, lm_calls=2, tool_calls=tools,
                    prompt_tokens=1000, completion_tokens=50, cost=0.01)
            for j, s in enumerate(attempts)
        )
        for i, attempts in enumerate(scores)
    ]  # fmt: skip
    return summarize_evaluation(rollouts, (Spend("evaluation", "m", calls=8, prompt_tokens=4000, cost=0.04),))


def report_of(plan: Plan, **changes: Any) -> records.Report:
    before = evaluation((1.0, 0.0), (0.0, 0.0), (1.0, None), tools=3)
    after = evaluation((1.0, 1.0), (0.0, 1.0), (1.0, 1.0), tools=2)
    report = records.Report(plan, {"AIME24": "AIME 2024"}, ("Mean@32",), "no sympy", **{"partial": "", **changes})
    report.cells = [records.cell_of("input", "AIME24", before, None), records.cell_of("full", "AIME24", after, before)]
    report.spend = records.spend_of("input", before.spend, "AIME24")
    return report


def cells_of(text: str) -> dict[str, list[str]]:
    """The rows of a Markdown table by their first cell."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return {name: cells for name, *cells in rows if set(name) != {"-"}}


class TestTables:
    def test_ours_beside_the_paper_s(self) -> None:
        text = tables.scores(report_of(plan_of(k=2)))
        rows = cells_of(text)
        assert rows["program"] == [
            "Mean@2, % [95% interval]", "paper: Mean@32, DeepSeek-V3.1-Terminus", "difference [95% interval]",
            "paper: difference", "Pass@2, %", "tool calls", "tool calls: difference [95% interval]",
            "tokens in + out", "cost, $",
        ]  # fmt: skip
        before, after = rows["input program"], rows["Training-Free GRPO"]
        assert before[0].startswith("50.0 [") and before[1:5] == ["80.0", "-", "-", "50.0"]
        assert before[5:] == ["3.0", "-", "1,000 + 50", "0.0100"]
        assert after[0].startswith("83.3 [") and after[1] == "82.7" and after[2].startswith("+33.3 [")
        assert after[3:6] == ["+2.7", "100.0", "2.0"] and after[6].startswith("-1.0 [-1.")
        assert rows[f"paper only: ReTool ({paper.FINE_TUNED})"][:2] == ["-", "67.0"]
        for note in (
            "a difference of the paper's size (+2.7) could not be seen", "1 attempts have no score", "not reliable",
            "input program: Pass@2 is over the 2 of 3 problems", "The call of `finish` that ends an attempt",
        ):  # fmt: skip
            assert note in text
        assert "Training-Free GRPO: Pass@2 is over" not in text
        assert "finish" not in tables.scores(report_of(plan_of(k=2, mode="direct")))

    @pytest.mark.parametrize(
        ("detectable", "said"),
        [(2.6, "these problems are too few to find any difference"), (0.02, "the paper's size (+2.7) would be seen.")],
    )
    def test_a_gain_that_would_be_seen(self, detectable: float, said: str) -> None:
        report = report_of(plan_of(k=2))
        report.cells[1] = replace(report.cells[1], detectable=detectable)
        assert said in tables.scores(report)

    def test_failures_of_the_program_are_shown_apart(self) -> None:
        report = report_of(plan_of(k=2))
        assert "itself failed" not in tables.scores(report)
        report.cells[1] = replace(report.cells[1], failures=(("parse_error", 2), ("program_error", 1)))
        said = "in 3 attempts the program itself failed, which scores 0 (parse_error 2, program_error 1)."
        assert f"Training-Free GRPO: {said}" in tables.scores(report)
        assert [row.failed for row in article.rows_of(report)[:2]] == [0, 3]

    def test_an_empty_library_is_said(self) -> None:
        for entries in ([], ["[E1] a"]):
            report = report_of(plan_of(), libraries={"full": entries}, warnings={"full": ["No contrast."]})
            assert "```\n\nNo contrast.\n" in tables.markdown(report)
            text = tables.scores(report)
            assert ("Training-Free GRPO: nothing was learned, so its program" in text) == (not entries)

    def test_what_is_not_measured_is_a_dash(self) -> None:
        rows = cells_of(tables.scores(report_of(plan_of(command="ablations"))))
        arms = ["input program", "experiences written directly", "without ground truth", "group size 1"]
        assert list(rows)[1:6] == [*arms, "Training-Free GRPO"]
        written = rows["experiences written directly"]
        assert written[:4] == ["-", "79.8", "-", "-0.2"] and set(written[4:]) == {"-"}
        report, ended = report_of(plan_of()), summarize_evaluation([(), ()], ())
        report.cells = [records.cell_of("input", "AIME24", replace(ended, k=4, stop_reason="interrupted"), None)]
        assert set(cells_of(tables.scores(report))["input program"]) == {"-", "80.0"}

    def test_offline_and_partial_are_said_first(self) -> None:
        point = records.CurvePoint("full", 1, 1, 0.5, 0.25, 0.75, records.Band(2, 1, 3), 0.5, 2, 40)
        learned = {"curve": [point], "expected": "all 10",
                   "libraries": {"full": ["[E1] a"], "written": ["[E1] b"]}}  # fmt: skip
        text = tables.markdown(report_of(plan_of(offline=True), partial="max_cost is reached", **learned))
        assert text.splitlines()[2].startswith("**OFFLINE: these figures come from a built-in character n-gram model")
        assert text.splitlines()[4].startswith("**PARTIAL: max_cost is reached.**")
        for heading in ("AIME 2024", "What it took", "Learning curve", "What was learned: Training-Free GRPO"):
            assert f"## {heading} (n-gram model, no LLM: means nothing)" in text
        assert "The built-in text model can't write experiences" in text
        assert "| in place of AIME24: mean, % " in text and "The estimate, before it began:" in text
        assert "| 50.0 [25.0, 75.0] " in text and "| 2.0 [1.0, 3.0] " in text, "training, with intervals"
        plain = tables.markdown(report_of(plan_of(), **learned))
        assert "| AIME24: mean, % " in plain and "can't write" not in plain
        assert not {"OFFLINE", "PARTIAL", "n-gram"} & set(plain.replace(":", " ").split())

    def test_the_web_task_has_two_measures(self) -> None:
        plan, titles = plan_of(command="web", task="web", k=3), {"WebWalkerQA (51)": "51 questions"}
        text = tables.scores(records.Report(plan, titles, ("pass@1", "pass@3"), "-"))
        rows = cells_of(text)
        assert "pass@1, % [95% interval]" in rows["program"] and "paper: pass@3, " + paper.MODEL in rows["program"]
        assert {"66.7", "74.5"} < {*rows["input program"]} and {"68.6", "78.4"} < {*rows["Training-Free GRPO"]}
        assert {"27.5", "43.1"} < {*rows["paper only: ReAct (QwQ-32B)"]}
        assert "On all of WebWalkerQA the paper has pass@1 63.2, with Training-Free GRPO 67.8." in text
        assert "Tokens and dollars include the judge's." in text


class TestArticle:
    def learned(self, **changes: Any) -> records.Report:
        report = report_of(plan_of(k=2, **changes))
        attempts = Spend("rollout", "m", calls=9, prompt_tokens=4_000_000, completion_tokens=300_000, cost=3.0)
        summaries = Spend("summary", "m", calls=1, prompt_tokens=500_000, completion_tokens=50_000, cost=0.25)
        report.spend += records.spend_of("full", (attempts, summaries))
        return report

    def test_learning_beside_the_paper_s(self) -> None:
        text = tables.markdown(self.learned())
        assert "Training-Free GRPO: learning took 4,500,000 input and 350,000 output tokens, $3.25." in text
        assert "38M input and 6.6M output tokens, about $18" in text
        row = next(line for line in text.splitlines() if "learning in all" in line)
        assert [c.strip() for c in row.strip("|").split("|")][2:] == [
            "10", "0", "0", "4,500,000", "350,000", "3.25"
        ]  # fmt: skip
        total = next(line for line in text.splitlines() if line.startswith("| all "))
        assert "3.29" in total, "the evaluation's and the learning's, once each"
        unknown = self.learned()
        unknown.spend += records.spend_of("full", (Spend("comparison", "m", calls=1, cost=None),))
        assert "output tokens, $?." in tables.markdown(unknown)

    def test_csv_holds_every_figure(self) -> None:
        rows = list(csv.DictReader(io.StringIO(article.to_csv(article.rows_of(self.learned())))))
        before, after, tuned = rows[0], rows[1], rows[2]
        assert (before["setting"], before["program"], before["gain"]) == ("agent", "input program", "")
        assert float(after["gain"]) == pytest.approx(100 / 3) and float(after["detectable"]) > 2.7
        assert (after["paper"], after["paper_gain"], after["learning_cost"]) == ("82.7", "2.7", "3.25")
        assert float(after["tool_difference"]) == -1 and float(after["tool_low"]) <= -1 < float(after["tool_high"])
        assert tuned["program"].startswith("paper only: ReTool") and tuned["paper_cost"] == "10000.0"
        assert [after[f"paper_{n}"] for n in ("cost", "prompt_tokens", "completion_tokens")] == [
            "18.0", "38000000.0", "6600000.0"
        ]  # fmt: skip
        shown = " ".join(article.to_markdown(article.rows_of(self.learned())).split())
        assert "| 4.5 + 0.35 | 3.25 | 38 + 6.6, $18 |" in shown
        direct = article.rows_of(report_of(plan_of(mode="direct")))
        assert {row.paper_cost for row in direct} == {None}, "published for the agent alone"

    def test_latex_is_escaped_and_whole(self) -> None:
        report = self.learned(offline=True, mode="direct", model="a_b")
        text = article.to_latex(article.rows_of(report) + article.rows_of(self.learned()))
        assert text.startswith("% OFFLINE: ") and "\\begin{tabular}{lllrrrrrrrr}" in text
        body = text.partition(r"\toprule")[2]
        lines = [line for line in body.splitlines() if line.endswith("\\")]
        assert all(line.replace(r"\&", "").count("&") == 10 for line in lines) and len(lines) == 1 + 2 + 4
        assert body.count(r"\midrule") == 2, "a rule between direct and agent"
        assert not re.search(r"(?<!\\)[%$_#]", body), "nothing of the text is a command"
        assert text.rstrip().endswith(r"\end{tabular}")

    def test_special_characters(self) -> None:
        assert escaped("50% & $2_a #1 {x} ~ ^ \\") == (
            r"50\% \& \$2\_a \#1 \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{}"
        )

    def test_several_learnings(self) -> None:
        report = self.learned(learnings=2)
        assert report.plan.arms == ("input", "full", "full#2")
        assert [report.plan.seed_of(arm) for arm in report.plan.arms] == [0, 0, 1]
        again = evaluation((1.0, 0.0), (0.0, 0.0), (1.0, 1.0), tools=2)
        report.cells.append(records.cell_of("full#2", "AIME24", again, evaluation((1.0, 0.0), (0.0, 0.0), (1.0, None),
                                                                                    tools=3)))  # fmt: skip
        text = tables.markdown(report)
        row = next(line for line in text.partition("## Several learnings")[2].splitlines() if "AIME24" in line)
        assert [c.strip() for c in row.strip("|").split("|")] == [
            "AIME24", "2", "66.7", "23.6", "50.0", "83.3", "+16.7"
        ]  # fmt: skip
        assert "| Training-Free GRPO, learning 2 " in text
        assert "Several learnings" not in tables.markdown(self.learned())

    def test_attempts_of_a_log_that_was_cut_and_gone_on_with(self, tmp_path: Path) -> None:
        def line(stage: str, step: int, example: int, score: Any, tools: int, outcome: str = "completed") -> str:
            rollout = {"example": example, "attempt": 0, "score": score, "tool_calls": tools, "outcome": outcome}
            return json.dumps({"event": "AttemptFinished", "stage": stage, "step": step, "rollout": rollout}) + "\n"

        log = tmp_path / "events.jsonl"
        log.write_text(
            line("rollout", 1, 0, 0.0, 9) + line("validation", 1, 0, 1.0, 99) + '{"event": "Attem\n'
            + line("rollout", 1, 0, 1.0, 2) + line("rollout", 1, 1, 0.0, 4)
            + line("rollout", 1, 2, None, 77, "infrastructure")
        )  # fmt: skip
        step = SimpleNamespace(step=1, epoch=1, train_mean=0.5, informative=0.0, library=(), library_tokens=0)
        (point,) = records.curve_of("full", [step], log)
        assert point.tools is not None and (point.tools.value, point.tools.low) == (3.0, 0.0), (
            "the last telling counts, outages do not"
        )
        assert point.train_low is not None and point.train_low < 0.5 < (point.train_high or 0)
        (gone,) = records.curve_of("full", [step], tmp_path / "no.jsonl")
        assert (gone.train_mean, gone.train_low, gone.tools) == (0.5, None, None)


class TestPictures:
    @pytest.fixture(autouse=True)
    def needed(self) -> None:
        pytest.importorskip("matplotlib", reason="needs the extra: pip install 'trgrpo-dspy[report]'")

    def learned(self, **changes: Any) -> records.Report:
        report = report_of(plan_of(k=2, **changes))
        report.curve = [records.CurvePoint("full", 1, 1, 0.5, 0.25, 0.75, records.Band(2, 1, 3), 0.5, 2, 40)]
        return report

    def test_svg_and_png_say_what_they_show(self, tmp_path: Path) -> None:
        report = self.learned()
        report.pictures = pictures.draw(tmp_path, report)
        assert report.pictures == list(pictures.PICTURES)
        texts = {name: (tmp_path / f"{name}.svg").read_text(encoding="utf-8") for name in report.pictures}
        assert "AIME24" in texts["learning-curve"] and "training" in texts["learning-curve"]
        assert "tool calls of an attempt" in texts["tool-calls"]
        assert "LM calls of an attempt" in texts["cost"] and "input program" in texts["cost"]
        assert "AIME24: 2 up, 0 down, 1 equal" in texts["flips"]
        assert not any("OFFLINE" in text for text in texts.values())
        for name in report.pictures:
            assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
            assert f"({name}.png)" in tables.markdown(report)
        (tmp_path / "more").mkdir()
        pictures.draw(tmp_path / "more", self.learned(command="ablations"))
        again = (tmp_path / "more" / "learning-curve.svg").read_text(encoding="utf-8")
        assert COLOUR.findall(again) == COLOUR.findall(texts["learning-curve"]), "the same in every report"

    def test_odd_figures(self, tmp_path: Path) -> None:
        report = self.learned()
        report.cells[0] = replace(report.cells[0], mean=None, low=None, high=None, scores=(None,) * 3, cost=None)
        report.cells[1] = replace(report.cells[1], low=None, high=None, cost=0.0, tools=records.Band(None, None, None))
        report.curve[0] = replace(report.curve[0], train_mean=None, train_low=None, train_high=None, tools=None)
        assert len(pictures.draw(tmp_path, report)) == 4
        assert "it costs nothing" in (tmp_path / "cost.svg").read_text(encoding="utf-8")
        assert "0 up, 0 down, 0 equal" in (tmp_path / "flips.svg").read_text(encoding="utf-8")

    def test_many_problems(self, tmp_path: Path) -> None:
        report = self.learned(offline=True, mode="direct")
        report.cells = [
            replace(c, scores=(s,) * 90 + (0.5,) * 10) for c, s in zip(report.cells, (0.0, 1.0), strict=True)
        ]
        assert pictures.draw(tmp_path, report) == ["learning-curve", "cost", "flips"], "no tool calls"
        text = (tmp_path / "flips.svg").read_text()
        assert "OFFLINE: n-gram model" in text
        assert "90 up, 0 down, 10 equal; the 60 that differ most are shown" in text
        empty = replace(self.learned(), cells=[], curve=[])
        assert pictures.draw(tmp_path / "none", empty) == []

    def test_without_matplotlib(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        assert pictures.draw(tmp_path, self.learned()) == [] and not list(tmp_path.iterdir())


# -- what it will take -------------------------------------------------------------------------------------------------


class TestCosts:
    def task(self) -> Task:
        problems = [dspy.Example(problem="p", answer="1").with_inputs("problem")] * 10
        sets = (DataSet("AIME24", "AIME 2024", problems), DataSet("AIME25", "AIME 2025", problems))
        return Task(dspy.Predict("problem -> answer"), lambda e, p: 1.0, problems, sets, ("Mean@32",), "")

    def test_every_part_is_counted(self) -> None:
        plan = plan_of(command="ablations", k=4)
        trial = estimate_calls(
            examples=10, steps=3, epochs=3, group_size=5, val_examples=0, val_repeats=1, calls_per_attempt=2.0
        ).priced(
            [Spend("rollout", "m", calls=8, prompt_tokens=8000, completion_tokens=800, cost=0.8),
             Spend("summary", "m", calls=1, prompt_tokens=500, completion_tokens=100, cost=0.05)], 4,
        )  # fmt: skip
        parts = {part.part: part for part in expect(plan, self.task(), trial)}
        assert next(iter(parts)) == "input program: evaluation" and len(parts) == 9
        assert all(part.calls == 20 * 4 * 2 for name, part in parts.items() if name.endswith("evaluation"))
        assert parts["Training-Free GRPO: learning"].calls == pytest.approx(150 * 2 + 50 + 10 + 10 + 3)
        assert parts["group size 1: learning"].calls == 30 * 2 + 3 * 30 + 3
        assert parts["experiences written directly: learning"].calls == 1
        assert parts["input program: evaluation"].cost == pytest.approx(160 * 0.1)
        whole = total(parts.values())
        assert whole.cost == pytest.approx(sum(part.cost or 0 for part in parts.values()))
        assert f"{whole.cost:.2f}" in told(parts.values())

    def test_a_model_that_never_answered(self) -> None:
        trial = estimate_calls(
            examples=10, steps=3, epochs=3, group_size=5, val_examples=0, val_repeats=1, calls_per_attempt=2.0
        ).priced([Spend("rollout", "m", calls=8, failed=8)], 4)
        with pytest.raises(FatalError, match=r"'nonsense'.*provider/model"):
            expect(plan_of(model="nonsense"), self.task(), trial)


# -- the commands ------------------------------------------------------------------------------------------------------


class TestMath:
    def test_offline_and_again(self, tmp_path: Path, served: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
        for name in (".estimate.json.tmp", ".plan.json.tmp"):  # a run that was killed while it wrote them
            (tmp_path / name).write_text("{")
        arguments = ["math", *TINY, "--mode", "direct", "--out", str(tmp_path)]
        assert main(arguments) == 0
        printed = capsys.readouterr().out
        assert printed.startswith("OFFLINE: these figures come from a built-in character n-gram model")
        assert "they need matplotlib, pip install 'trgrpo-dspy[report]'" in printed
        found, text = record(tmp_path), (tmp_path / "report.md").read_text(encoding="utf-8")
        assert found["partial"] == "" and found["notice"].startswith("OFFLINE") and "## Pictures" not in text
        assert [(c["arm"], c["data_set"], c["k"]) for c in found["cells"]] == [
            ("input", "AIME24", 1), ("input", "AIME25", 1), ("full", "AIME24", 1), ("full", "AIME25", 1),
        ]  # fmt: skip
        assert [p["step"] for p in found["curve"]] == [1]
        assert "10 shipped sample problems, in place of AIME24 (n-gram model, no LLM: means nothing)" in text
        assert all(figure in text for figure in ("| 68.6 ", "72.6", "52.9", "54.0"))
        assert "10 shipped sample problems" in printed and "68.6" in printed
        trial = len(served[0].requests) - sum(row["calls"] for row in found["spend"])
        assert 0 < trial < 20, "every call but the trial's is in the tables"
        assert main(arguments) == 0
        assert served[1].requests == [] and record(tmp_path) == found
        assert "Going on in" not in printed and f"Going on in {tmp_path}: " in capsys.readouterr().out
        assert main([*arguments, "--learnings", "2"]) == 0, "they may grow"
        grown = record(tmp_path)
        assert [c["arm"] for c in grown["cells"]] == ["input", "input", "full", "full", "full#2", "full#2"]
        new = sum(r["calls"] for r in grown["spend"] if r["arm"] == "full#2")
        assert new <= len(served[2].requests) <= new + 20, "only the further learning and a trial are asked for"
        assert (tmp_path / "full-2" / "learning").is_dir() and grown["libraries"].keys() == {"full", "full#2"}

    def test_direct_and_agent_in_one_table(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        both, prices = ["math", *TINY, "--mode", "both", "--out"], ["--price", "openai/offline=1000,1000"]
        assert main([*both, str(tmp_path), *prices, "--max-cost", "1", "--yes"]) == 130
        assert "max-cost 1 is reached" in capsys.readouterr().err, "it is for both together"
        assert not (tmp_path / "agent").exists() and "**PARTIAL" in (tmp_path / "report.md").read_text()
        assert main([*both, str(tmp_path), *prices, "--max-cost", "1000"]) == 0
        printed, text = capsys.readouterr().out, (tmp_path / "report.md").read_text(encoding="utf-8")
        assert "OFFLINE" in text and "PARTIAL" not in text and "[direct](direct/report.md)" in text
        rows = [line for line in printed.splitlines() if line.startswith(("| direct", "| agent"))]
        assert len(rows) == 4 + 8 and "68.6" in rows[0] and "80.0" in rows[4], "direct first, then agent"
        tex = (tmp_path / "table.tex").read_text(encoding="utf-8")
        assert tex.count("\\midrule") == 2 and len((tmp_path / "table.csv").read_text().splitlines()) == 13
        assert main(["math", *TINY, "--out", str(tmp_path)]) == 1
        assert "holds 'agent' and no experiment" in capsys.readouterr().err
        assert main([*both, str(tmp_path / "direct")]) == 1
        assert "holds a single experiment" in capsys.readouterr().err

    def test_other_arguments_on_the_same_directory(self, tmp_path: Path) -> None:
        keep_plan(tmp_path, plan_of(k=2, seed=1))
        with claimed(tmp_path, plan_of(k=3, seed=1, curve=True)):
            keep_plan(tmp_path, plan_of(k=3, seed=1, curve=True))
        with pytest.raises(JournalError) as caught, claimed(tmp_path, plan_of(k=2, mode="direct")):
            pass
        said = str(caught.value)
        for difference in ("k was 3, is 2", "curve was True, is False", "seed was 1, is 0", "mode was 'agent', is"):
            assert difference in said
        assert "epochs" not in said

    def test_the_directory(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "letters").mkdir()
        (tmp_path / "file").write_text("")
        (tmp_path / "letters" / "mine.txt").write_text("")
        for name, why in (("letters", "holds 'mine.txt' and no experiment"), ("file", "can't be used")):
            assert main(["math", *TINY, "--out", str(tmp_path / name)]) == 1
            assert why in capsys.readouterr().err
        assert [path.name for path in (tmp_path / "letters").iterdir()] == ["mine.txt"], "it is left as it was"
        (used := tmp_path / "used").mkdir()
        with filelock.FileLock(used / "experiment.lock"):
            assert main(["math", *TINY, "--out", str(used)]) == 1
        assert "is in use by another process" in capsys.readouterr().err

    def test_a_refusal_and_a_budget(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dear = ["math", *TINY, "--mode", "direct", "--out", str(tmp_path), "--price", "openai/offline=1000,1000"]
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        assert main([*dear, "--max-cost", "2"]) == 2
        said = capsys.readouterr().err
        assert "Not begun: the estimate is $" in said and "above --max-cost 2" in said and "--yes" in said
        (tmp_path / "estimate.json").write_text("[]")  # damaged: made again
        monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
        assert main([*dear, "--max-cost", "2"]) == 2
        assert "Begin anyway? [y/N]" in capsys.readouterr().out
        assert not (tmp_path / "plan.json").exists() and not list(tmp_path.rglob("journal.sqlite"))
        monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
        assert main([*dear, "--max-cost", "0.01"]) == 130
        assert "--max-cost 0.01 is reached" in capsys.readouterr().err
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        assert main([*dear, "--max-cost", "2", "--yes"]) == 130
        said = capsys.readouterr().err
        assert "PARTIAL" in said and "--max-cost 2 is reached" in said
        found = record(tmp_path)
        assert "--max-cost 2 is reached" in found["partial"]
        spent = sum(row["cost"] for row in found["spend"])
        assert 2 <= spent < 3 and "**PARTIAL" in (tmp_path / "report.md").read_text()
        assert main([*dear, "--max-cost", "100"]) == 0
        whole = record(tmp_path)
        assert whole["partial"] == ""
        monkeypatch.setattr("programs.experiments.run.OFFLINE_MODEL", "openai/other")
        assert main(dear[:-2]) == 2 and "is unknown" in capsys.readouterr().err
        assert record(tmp_path) == whole, "a refusal leaves the report as it was"

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--offline", "--k", "0"], "--k 0 must be at least 1"),
            (["--offline", "--group-size", "1"], "for group size 1 run the ablations"),
            (["--offline", "--epochs", "0"], "--epochs 0"),
            (["--offline", "--max-tokens", "0"], "--max-tokens 0 must be at least 1"),
            (["--offline", "--threads", "0"], "--threads 0"),
            (["--offline", "--max-iters", "0"], "--max-iters 0 must be at least 1"),
            (["--offline", "--top-p", "1.5"], "--top-p 1.5 must be above 0 and at most 1"),
            (["--task", "web", "--model", "m", "--size", "0"], "'0' must be a number of questions from 1 on, or 'all'"),
            (["--model", "m", "--size", "51"], "--search and --size are for the web task"),
            (["--task", "web", "--offline", "--size", "all"], "leave --search and --size out"),
            (["--offline", "--max-cost", "-1"], "--max-cost -1.0 must be above 0"),
            (["--offline", "--timeout", "0"], "--timeout 0.0"),
            (["--offline", "--price", "3,4"], "--price '3,4'"),
            (["--offline", "--price", "m=1,nan"], "--price 'm=1,nan'"),
            (["--offline", "--price", "m=3"], "--price 'm=3'"),
            (["--offline", "--model", "m"], "leave --model"),
            (["--model", "m", "--judge", "j"], "--judge, --search and --size are for the web task"),
            (["--task", "web", "--offline", "--search", "ddgs"], "leave --search and --size out"),
            (["--task", "web", "--offline", "--mode", "direct"], "--mode is for the math task"),
            (["--offline", "--out", ""], "argument --out: '' names no directory"),
            ([], "--model is missing"),
            (["gym", "--offline", "--families", ","], "must be names of families"),
            (["gym", "--offline", "--families", "../up"], "must be names of families"),
            (["gym", "--offline", "--size", "all"], "--size all is for WebWalkerQA"),
            (["gym", "--offline", "--difficulty", "3"], "--test-difficulty 3 must be another level"),
        ],
    )
    def test_bad_arguments(self, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            main(arguments if "gym" in arguments else ["ablations", *arguments])
        assert said in capsys.readouterr().err

    def test_a_missing_key_and_a_hub_out_of_reach(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import datasets

        monkeypatch.delenv("DEEPSEEK_API_KEY", raising=False)
        monkeypatch.delenv("TRGRPO_DATA", raising=False)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
        arguments = ["math", "--model", "deepseek/deepseek-chat", "--out", str(tmp_path / "out"), "--train", "2"]
        assert main(arguments) == 1
        said = capsys.readouterr().err
        assert "DAPO-Math-17k can't be loaded" in said and "--offline" in said
        rows = [{"problem": f"{n} + 1?", "answer": str(n + 1)} for n in range(3)]
        turns = [{"prompt": [{"role": "user", "content": r["problem"]}], "reward_model": {"ground_truth": r["answer"]}}
                 for r in rows]  # fmt: skip
        for name, lines in (("dapo_math_17k", turns), ("aime_2024", rows), ("aime_2025", rows)):
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        monkeypatch.setenv("TRGRPO_DATA", str(tmp_path))
        assert main(arguments) == 1
        assert "DEEPSEEK_API_KEY" in capsys.readouterr().err
        assert not (tmp_path / "out" / "plan.json").exists()
        with open_task(plan_of(train=2)) as task:
            assert [s.title for s in task.sets] == ["AIME 2024", "AIME 2025"]


class TestSettings:
    @pytest.mark.parametrize(
        ("model", "settings", "said"),
        [
            ("deepseek/deepseek-chat", {"max_tokens": 8192, "top_p": 0.95}, "(the model's limit; 16,384 were asked"),
            ("openai/gpt-5", {"max_tokens": 16384}, "16,384 tokens, no top_p: the model does not take it"),
            ("openai/my-model", {"max_tokens": 16384, "top_p": 0.95}, "at most 16,384 tokens, top_p 0.95"),
            ("no provider at all", {"max_tokens": 16384, "top_p": 0.95}, "top_p 0.95"),
        ],
    )
    def test_what_a_model_takes(self, model: str, settings: dict[str, Any], said: str) -> None:
        assert models.sampling(plan_of(), model) == settings
        assert said in models.sampling_text(plan_of(), model)

    def test_an_unusual_top_p_reaches_the_lm_and_the_report(self) -> None:
        plan = plan_of(model="openai/my-model", top_p=0.5, max_tokens=99, max_iters=7)
        with models.models(plan) as lms:
            assert (lms.program.kwargs["top_p"], lms.program.kwargs["max_tokens"]) == (0.5, 99)
        text = tables.markdown(report_of(plan))
        assert "openai/my-model: replies of at most 99 tokens, top_p 0.5" in text and "agent: at most 7 steps" in text
        assert "the reference code: replies of at most 16,384 tokens, top_p 0.95" in text

    def test_steps_of_the_agents(self) -> None:
        with open_task(plan_of(offline=True, train=2, max_iters=6)) as task:
            assert task.program.max_iters == 6
        with open_task(plan_of(task="web", offline=True, train=2, max_iters=4)) as task:
            assert task.program.max_iters == 4

    @pytest.mark.parametrize(
        ("size", "name", "title"),
        [(None, "WebWalkerQA", "all 6 questions"), (4, "WebWalkerQA (4)", "4 questions drawn"), (7, "", "has 6")],
    )
    def test_size(self, size: int | None, name: str, title: str, tmp_path: Path,
                  monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
        info = {"difficulty_level": "easy", "hop": "single_source"}
        asked = [{"question": f"q{n}", "answer": "a", "root_url": "u", "info": info} for n in range(6)]
        train = [{"extra_info": {"question": f"t{n}", "answer": ["a"]}} for n in range(3)]
        for file, rows in (("webwalkerqa", asked), ("afm_web_rl", train)):
            (tmp_path / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        monkeypatch.setenv("TRGRPO_DATA", str(tmp_path))
        plan = plan_of(command="web", task="web", search="ddgs", train=2, size=size)
        if not name:
            with pytest.raises(ValueError, match="--size 7: WebWalkerQA has 6"), open_task(plan):
                pass
            return
        with open_task(plan) as task:
            (found,) = task.sets
            assert found.name == name and title in found.title and len(found.examples) == (size or 6)
        report = records.Report(plan, {name: title}, task.measures, "-")
        assert ("| 63.2" in tables.scores(report)) == (size is None), "the paper's figure of the whole data set"

    def test_size_all(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        kept: list[Plan] = []
        monkeypatch.setattr("programs.experiments.__main__.run", lambda plan, *_: kept.append(plan) or report_of(plan))
        for size in (["--size", "all"], [], ["--size", "9"]):
            assert main(["web", "--model", "m", *size]) == 0
        assert [plan.size for plan in kept] == [None, 51, 9]
        assert [plan.max_iters for plan in kept] == [20] * 3
        assert not logging.getLogger("dspy.clients.lm").isEnabledFor(logging.WARNING), "a line for every cut reply"


class TestWeb:
    def test_offline(self, tmp_path: Path, served: list[Any]) -> None:
        for package in ("bm25s", "resiliparse"):
            pytest.importorskip(package, reason="needs the extra: pip install 'trgrpo-dspy[web]'")
        assert main(["web", *TINY, "--k", "2", "--out", str(tmp_path)]) == 0
        found, text = record(tmp_path), (tmp_path / "report.md").read_text(encoding="utf-8")
        assert found["partial"] == "" and [(c["arm"], c["k"]) for c in found["cells"]] == [("input", 2), ("full", 2)]
        assert found["along"] == [] and "With `--curve`" in text
        assert found["cells"][0]["tool_calls"] >= 2, "it searched and visited"
        assert "## 4 questions on a made-up site, in place of WebWalkerQA (51) (n-gram model, no LLM" in text
        assert "Search engine: the made-up site's own" in text and "judge the same" in text
        assert main(["web", *TINY, "--k", "2", "--out", str(tmp_path)]) == 0
        assert served[1].requests == [] and record(tmp_path) == found, "the sites' ports differ, the run is the same"

    def test_the_search_engine_is_part_of_the_plan_and_comes_before_the_data(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("TRGRPO_WEB_SEARCH", raising=False)
        monkeypatch.setattr("programs.web_data.afm", lambda *args: pytest.fail("it was loaded"))
        assert main(["web", "--model", "m", "--search", "no/such", "--out", str(tmp_path / "out")]) == 1
        assert "'no/such'; it must be 'serper', 'ddgs', 'offline' or a folder" in capsys.readouterr().err
        keep_plan(tmp_path, plan_of(command="web", task="web", k=3, group_size=3, search="serper"))
        assert main(["web", "--model", "m", "--out", str(tmp_path)]) == 1
        assert "search was 'serper', is 'ddgs'" in capsys.readouterr().err


class TestGym:
    @pytest.fixture(autouse=True)
    def needed(self) -> None:
        pytest.importorskip("reasoning_gym", reason="needs the extra: pip install 'trgrpo-dspy[reasoning-gym]'")

    def gym(self, **changes: Any) -> Plan:
        values = {"family": "leg_counting", "difficulty": 1, "test_difficulty": 3, "size": 4, "train": 5, **changes}
        return plan_of(command="gym", task="gym", mode="direct", **values)

    def test_families_in_one_table(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        families = ["spell_backward", "leg_counting"]
        arguments = ["gym", *TINY, "--families", ",".join(families), "--size", "3", "--out", str(tmp_path)]
        assert main(arguments) == 0
        rows = [[c.strip() for c in line.strip("| ").split("|")] for line in capsys.readouterr().out.splitlines()]
        rows = [row for row in rows if row[0] in families and len(row) > 2]
        assert [row[0] for row in rows] == [f for f in families for _ in range(4)]
        assert [row[2] for row in rows[:4]] == ["level 1", "level 1", "level 3", "level 3"]
        text = (tmp_path / "leg_counting" / "report.md").read_text(encoding="utf-8")
        assert "leg_counting, level 3: out of distribution, 3 puzzles" in text and "| paper" not in text
        assert "paper" not in (tmp_path / "table.tex").read_text() and "38M" not in (tmp_path / "report.md").read_text()

    def test_no_puzzle_twice_and_another_level(self) -> None:
        with open_task(self.gym()) as task, open_task(self.gym(seed=1)) as other:
            parts = [task.trainset, *(s.examples for s in task.sets)]
            assert [len(part) for part in parts] == [5, 4, 4]
            asked = [puzzle.question for part in parts for puzzle in part]
            assert len(set(asked)) == 13 and asked[0] != other.trainset[0].question
            levels = [json.loads(part[0].dspy_task)["score"][3] for part in parts]
            assert levels == [1, 1, 3] and [s.slug for s in task.sets] == ["level1", "level3"]

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["gym", "--families", "no_such"], "no_such"),
            (["gym", "--families", "leg_counting", "--difficulty", "99"], "difficulty=99 must be from 0"),
            (["gym", "--families", "spell_backward", "--test-difficulty", "4"], "spell_backward"),
            (["math", "--train", "50"], "--train 50: the shipped sample has 14 problems"),
        ],
    )
    def test_what_there_is_not(self, arguments: list[str], said: str, tmp_path: Path,
                               capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
        command, *rest = arguments
        assert main([command, *TINY, *rest, "--out", str(tmp_path / "out")]) == 1
        assert said in capsys.readouterr().err


@pytest.fixture(scope="module")
def ablated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the ablations, all arms small."""
    out = tmp_path_factory.mktemp("ablations")
    small = ["--k", "1", "--train", "4", "--epochs", "2", "--group-size", "3", "--curve"]
    with dspy.context(lm=None, adapter=None, callbacks=[]):
        assert main(["ablations", "--offline", *small, "--mode", "direct", "--out", str(out)]) == 0
    return out


class TestAblations:
    def test_every_arm_is_measured(self, ablated: Path) -> None:
        found = record(ablated)
        assert found["partial"] == ""
        arms = ["input", "full", "written", "label-free", "single"]
        assert list(dict.fromkeys(cell["arm"] for cell in found["cells"])) == arms and len(found["cells"]) == 10
        assert list(found["libraries"]) == arms[1:]

    def test_each_arm_learns_in_its_own_way(self, ablated: Path) -> None:
        found = record(ablated)
        calls = {(row["arm"], row["stage"]): row["calls"] for row in found["spend"]}
        assert calls["written", "proposals"] == 1 and ("written", "rollout") not in calls
        assert calls["single", "rollout"] == calls["single", "summary"] == calls["single", "comparison"] == 8
        assert calls["full", "rollout"] == calls["label-free", "rollout"] == 24
        curve = {point["arm"]: point for point in found["curve"]}
        assert curve["label-free"]["train_mean"] is None and curve["full"]["train_mean"] is not None
        assert curve["single"]["informative"] == 0.0, "one attempt has nothing beside it"
        assert found["libraries"]["written"][0] == "[E1] Solve the mathematical problem.", "no number, no word"
        assert found["libraries"]["single"], "lessons were drawn from single attempts"
        assert len(found["libraries"]["written"]) <= max(1, len(found["libraries"]["full"]))

    def test_the_curve(self, ablated: Path) -> None:
        found, text = record(ablated), (ablated / "report.md").read_text(encoding="utf-8")
        assert [(c["arm"], c["step"], c["data_set"]) for c in found["along"]] == [
            ("full", 1, "AIME24"), ("full", 1, "AIME25"),
        ]  # fmt: skip
        lines = [line.strip("| ").split("|") for line in text.partition("## Learning curve")[2].splitlines()]
        rows = {(row[0].strip(), row[1].strip()): [c.strip() for c in row[2:]] for row in lines if len(row) == 8}
        mean = {(c["arm"], c["step"]): f"{100 * c['mean']:.1f}" for c in found["cells"] + found["along"]
                if c["data_set"] == "AIME24"}  # fmt: skip
        assert rows["input program", "0"][4] == mean["input", None]
        assert rows["Training-Free GRPO", "1"][4] == mean["full", 1]
        assert rows["Training-Free GRPO", "2"][4] == mean["full", None]
        assert rows["group size 1", "1"][4:] == ["-"] * 2
        assert "tool calls" not in text, "the program has no tools"

    def test_programs_are_measured_with_what_they_learned(self, ablated: Path) -> None:
        cells = {cell["arm"]: cell for cell in record(ablated)["cells"] if cell["data_set"] == "AIME24"}
        assert cells["single"]["prompt_tokens"] > cells["input"]["prompt_tokens"]


# -- cut off and gone on -----------------------------------------------------------------------------------------------


HOLDING = """
import asyncio, sys
from programs.experiments import models
from programs.experiments.__main__ import main

class Holding(models.OfflineServer):
    async def _answer(self, *asked):
        if len(self.requests) >= 40:  # those of the trial among them
            await asyncio.sleep(3600)
        return await super()._answer(*asked)

models.OfflineServer = Holding
main(sys.argv[1:])
"""
"""The command, whose model answers some forty requests and no more: it can't end before it is killed."""


def wait_for_calls(out: Path, calls: int) -> None:
    until = time.monotonic() + 600
    while journaled(out) < calls:
        assert time.monotonic() < until
        time.sleep(0.02)


def hold_until_interrupted(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """After so many requests, answer no more until a Ctrl-C has stopped the run."""
    stopped = stops(monkeypatch)

    class Holding(models.OfflineServer):
        async def _answer(self, *asked: Any) -> Any:
            if len(self.requests) >= most:
                await asyncio.to_thread(stopped.wait, 600)
            return await super()._answer(*asked)

    monkeypatch.setattr(models, "OfflineServer", Holding)


def test_killed_and_interrupted_it_goes_on_and_pays_nothing_twice(
    tmp_path: Path, served: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("programs.experiments.run.draw", pictures.draw)
    whole = run_in_process(tmp_path / "whole")
    out = tmp_path / "cut"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, "math", *LONGER, "--out", str(out)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for_calls(out, 20)
    process.kill()
    process.wait()
    killed = journaled(out)
    assert 20 <= killed < sum(row["calls"] for row in whole["spend"])

    def press() -> None:
        wait_for_calls(out, killed + 55)
        os.kill(os.getpid(), signal.SIGINT)

    pressing = threading.Thread(target=press)
    with monkeypatch.context() as patched:
        hold_until_interrupted(patched, most=80)
        pressing.start()
        assert main(["math", *LONGER, "--out", str(out)]) == 130
    pressing.join()
    assert "PARTIAL" in capsys.readouterr().err and "interrupted" in record(out)["partial"]
    assert "**PARTIAL" in (out / "report.md").read_text(encoding="utf-8")
    kept = journaled(out)
    again = run_in_process(out)
    assert again == whole
    for path in (tmp_path / "whole").glob("*.svg"):
        assert path.read_bytes() == (out / path.name).read_bytes(), "the pictures too"
    assert len(served[-1].requests) == sum(row["calls"] for row in whole["spend"]) - kept


def run_in_process(out: Path) -> dict[str, Any]:
    assert main(["math", *LONGER, "--out", str(out)]) == 0
    return record(out)
