"""The short forms of the benchmarks of the client's cost. No times are asserted."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path

import pytest

from benchmarks import flow, memory, overhead, report
from benchmarks.idle import LOOKUPS
from benchmarks.overhead import CASES, Case, Cost, Round


class TestOverhead:
    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_both_sides_make_the_same_calls(self, case: Case, tmp_path: Path) -> None:
        assert {c.name: c.calls for c in CASES} == {"one call": 1, "ReAct": LOOKUPS + 2}
        bare, ours = overhead.bare(case, 10, 2), overhead.ours(case, 10, 2, tmp_path)
        assert bare.calls == ours.calls == 10 * case.calls
        assert bare.cpu > 0 and ours.cpu > 0

    def test_ours_is_the_whole_thing(self, tmp_path: Path) -> None:
        """Journaled, scored, told and within a budget."""
        overhead.ours(CASES[1], 5, 2, tmp_path)
        with sqlite3.connect(tmp_path / "journal.sqlite") as journal:
            rollouts = [row[0] for row in journal.execute("SELECT rollout FROM attempts")]
            (calls,) = journal.execute("SELECT count(*) FROM calls").fetchone()
        journal.close()
        assert len(rollouts) == 5 and calls == 25
        for rollout in rollouts:
            assert '"score": 1.0' in rollout and '"tool_calls": 4' in rollout
            assert "=== Step 1" in rollout and "see the house rules" in rollout

    def test_a_line_says_least_and_median(self) -> None:
        rounds = [Round(Cost(1000, 1.0, 0.5), Cost(1000, 2.0, cpu)) for cpu in (1.0, 1.25, 1.75)]
        assert [r.more for r in rounds] == pytest.approx([0.5, 0.75, 1.25])
        told = " ".join(overhead.line(CASES[0], 8, rounds).split())
        assert told == "one call 8 0.50 / 0.50 1.00 / 1.25 +0.75 (+0.50 to +1.25) 2.50 x 1000 500"

    def test_short_form(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert overhead.main(["--quick"]) == 0
        rows = capsys.readouterr().out.splitlines()[3:]
        found = [re.match(r"(one call|ReAct) +(\d+) .* x +\d+ +\d+$", row) for row in rows]
        assert [m.groups() for m in found if m] == [("one call", "1"), ("one call", "8"), ("ReAct", "8")]


def test_memory_short_form(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """20 calls a side, here in this process; what is counted as journaled is in the journal."""
    assert memory.main(["--measure", "bare", "5", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["calls"] == 5
    monkeypatch.setattr(memory, "in_process", memory.measure)
    assert memory.main(["--quick"]) == 0
    *_, row = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r" +20 x +1 KB +[\d.]+ +[\d.]+ +[+-][\d.]+ +20", row)


class TestFlow:
    STEP = flow.Measured(
        wall=1.0,
        groups=(
            flow.Group((1.0, 3.0), (2.0, 1.0), (1.0,), (1.0,)),
            flow.Group((2.0, 2.0)),
            flow.Group((1.0, 1.0), (4.0, 1.0), (1.0,)),
        ),
        consolidation=0.5,
        cpu=0.0,
        retries=0,
    )

    def test_bounds_on_a_known_step(self) -> None:
        """Worked out by hand."""
        assert self.STEP.calls == 14 and self.STEP.latency == 21.5
        assert flow.least(self.STEP, 32) == 7.5, "the first group's chain, then the plan"
        assert flow.least(self.STEP, 2) == 10.75, "total latency over two places"
        assert flow.replayed(self.STEP, 32) == 7.5
        assert flow.with_barriers(self.STEP, 32) == 3 + 4 + 1 + 1 + 0.5
        # One place: everything after everything else, in whatever order.
        assert flow.replayed(self.STEP, 1) == flow.with_barriers(self.STEP, 1) == 21.5

    def test_the_rule_goes_on_with_a_group_while_others_roll_out(self) -> None:
        assert flow.replayed(self.STEP, 2) < flow.with_barriers(self.STEP, 2)
        for width in (1, 2, 3, 5, 8):
            assert flow.least(self.STEP, width) <= flow.replayed(self.STEP, width)

    def test_short_form(self, capsys: pytest.CaptureFixture[str]) -> None:
        steps = flow.main(["--quick"])
        printed = capsys.readouterr().out
        assert "no LLM" in printed and printed.rstrip().endswith("(with rate limits and server errors)")
        for step in steps:
            assert [len(group.rollout) for group in step.groups] == [5] * 4
            assert all(2 <= len(group.summary) <= 5 and len(group.comparison) == 1 for group in step.groups)
            assert step.wall > flow.least(step) > 0.2, "a chain of four replies of 0.05 s, then the plan"
        assert steps[0].retries == 0 < steps[1].retries


class TestReport:
    def test_long_transcripts_are_cut_and_the_size_is_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(report, "opening", lambda file: 0.5)
        report.learn(tmp_path, 1, examples=16)
        short = report.measure(tmp_path)
        report.lengthen(tmp_path, 200_000)
        long = report.measure(tmp_path)
        attempts = 16 * 5 + 2 * 16
        assert short.attempts == long.attempts == attempts
        assert short.mb < 2 and long.log_mb > 15 and 9 < long.mb < 10
        assert f"{attempts} attempts" in str(long) and "opened in 0.50 s" in str(long)
