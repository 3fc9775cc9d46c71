"""Groups flow: what came back the same is summarized once, short attempts need no summary, validation runs beside."""

from __future__ import annotations

import time
from typing import Any

import dspy
import pytest
from dspy.lm15 import RateLimitError
from support.scripted import Call, Triage, exact, examples, learner, scripted_lm, told

from benchmarks import tokens
from trgrpo_dspy import Budget, ExperienceLibrary, Reflector, TrainingFreeGRPO
from trgrpo_dspy.engine.calls import state
from trgrpo_dspy.engine.calls.call import current_unit
from trgrpo_dspy.learning.group import RolloutGroup
from trgrpo_dspy.learning.reflector import Comparison
from trgrpo_dspy.program.rollout import Rollout


class Wordy(dspy.Module):
    """Tells at length how it came to some of its answers."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict(Triage)
        self.explain = dspy.Predict("ticket, queue -> reasons")

    def forward(self, ticket: str) -> Any:
        found = self.answer(ticket=ticket)
        if found.queue in ("legal", "billing"):
            self.explain(ticket=ticket, queue=found.queue)
        return found


def wordy(call: Call) -> Any:
    if call.outputs == ["reasons"]:
        return {"reasons": f"{call.input('queue')} because " + "it says so " * 200}
    return learner(call)


class Watching(Reflector):
    """Keeps every group that was compared, with what was told of its attempts."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[RolloutGroup, list[str | None]]] = []

    def __deepcopy__(self, memo: Any) -> Watching:
        return self

    def compare(
        self, group: RolloutGroup, summaries: Any, experiences: ExperienceLibrary, predictors: str = ""
    ) -> Comparison:
        self.seen.append((group, list(summaries)))
        return super().compare(group, summaries, experiences, predictors)


def learn(lm: dspy.LM, program: dspy.Module | None = None, **options: Any) -> tuple[dspy.Module, Watching]:
    watching = Watching()
    given = {"metric": told, "num_epochs": 1, "group_size": 8, "num_threads": 4, "reflector": watching, **options}
    with dspy.context(lm=lm):
        return TrainingFreeGRPO(**given).compile(program or dspy.Predict(Triage), trainset=examples(6)), watching


def what(rollout: Rollout) -> tuple[Any, ...]:
    return rollout.transcript, rollout.score, rollout.feedback


class TestDuplicates:
    def test_are_summarized_once_and_compared_each(self) -> None:
        lm = scripted_lm()
        compiled, watching = learn(lm)
        different = [len({what(r) for r in group.usable}) for group, _ in watching.seen]
        assert lm.engine.kinds()["summary"] == sum(different)
        assert sum(different) < 8 * len(different) > 0, "eight attempts, four queues"
        for call in lm.engine.of("comparison"):
            told_of = call.input("attempts")
            assert all(f"Attempt {number} (" in told_of for number in range(1, 9)) and "Attempt 9 (" not in told_of
            assert told_of.count("Summary: ") == 8
        assert compiled.detailed_results.steps[0].lost == {}

    def test_each_has_the_summary_of_its_like(self) -> None:
        _, watching = learn(scripted_lm())
        for group, summaries in watching.seen:
            for rollout, summary in zip(group.usable, summaries, strict=True):
                assert rollout.answer.removeprefix("queue: ") in str(summary)

    def test_a_lost_summary_is_lost_once_and_all_its_likes_are_told_by_their_transcripts(self) -> None:
        lm = scripted_lm(
            lambda call: "no fields" if call.kind == "summary" and "legal" in call.input("attempt") else learner(call)
        )
        compiled, watching = learn(lm)
        lost = compiled.detailed_results.steps[0].lost["summary: unusable reply"]
        assert lost == sum(any("legal" in r.transcript for r in group.usable) for group, _ in watching.seen)
        for group, summaries in watching.seen:
            assert [s is None for s in summaries] == ["legal" in r.transcript for r in group.usable]


class TestAuto:
    def test_only_what_is_too_long_to_be_read_whole_is_summarized(self) -> None:
        lm = scripted_lm(wordy)
        _, watching = learn(lm, Wordy(), summarize="auto")
        long = [{what(r) for r in group.usable if len(r.transcript) > 4 * 400} for group, _ in watching.seen]
        assert lm.engine.kinds()["summary"] == sum(map(len, long)) > 0
        for group, summaries in watching.seen:
            assert [s is None for s in summaries] == [len(r.transcript) <= 4 * 400 for r in group.usable]
        mixed = [call.input("attempts") for call in lm.engine.of("comparison")]
        assert any("Summary: " in text and "Transcript:" in text for text in mixed)
        assert all("tokens cut" not in text for text in mixed), "what is not summarized is read whole"

    def test_always_is_the_default(self) -> None:
        lm = scripted_lm(wordy)
        _, watching = learn(lm, Wordy())
        assert all(None not in summaries for _, summaries in watching.seen)

    @pytest.mark.parametrize("summarize", ["always", "auto"])
    def test_threads_and_outages_change_nothing(self, summarize: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(state, "BACKOFF", 0.001)

        def flaky(call: Call) -> Any:
            key = repr((call.text, call.seed))
            call.memory[key] += 1
            fails = len(key) % 5 == 0 and call.memory[key] == 1
            return RateLimitError("busy", retry_after=0.001) if fails else wordy(call)

        found = []
        for threads, script in ((1, wordy), (16, wordy), (16, flaky)):
            compiled, _ = learn(scripted_lm(script, num_retries=2), Wordy(), summarize=summarize, num_threads=threads)
            results = compiled.detailed_results
            found.append((compiled.experiences, [(s.train_mean, s.outcomes, s.edits, s.lost) for s in results.steps]))
        assert len(found[0][0]) > 0
        assert found[0] == found[1] == found[2]


class TestValidationBesideTheNextStep:
    def order(self, threads: int, budget: Budget | None = None) -> list[tuple[str, int]]:
        """Stage and step of every call, in the order in which they were made."""
        made: list[tuple[str, int]] = []

        def script(call: Call) -> Any:
            unit = current_unit()
            made.append((unit.stage.value, unit.step))
            time.sleep(0.002)
            return learner(call)

        optimizer = TrainingFreeGRPO(metric=exact, num_epochs=2, group_size=4, num_threads=threads, budget=budget)
        with dspy.context(lm=scripted_lm(script)):
            compiled = optimizer.compile(dspy.Predict(Triage), trainset=examples(8), valset=examples(12, start=8))
        assert [step.validation is not None for step in compiled.detailed_results.steps] == [True, True]
        return made

    def test_fills_the_places_that_the_next_step_leaves_free(self) -> None:
        made = self.order(threads=8)
        validation = [i for i, call in enumerate(made) if call == ("validation", 1)]
        learning = [i for i, (stage, step) in enumerate(made) if step == 2 and stage != "validation"]
        assert len(validation) == 12
        assert min(learning) < max(validation) and min(validation) < max(learning)

    def test_the_longer_chains_go_first(self) -> None:
        made = self.order(threads=1)
        assert made.index(("validation", 1)) > made.index(("rollout", 2))

    def test_where_a_cap_may_end_the_run_it_goes_first(self) -> None:
        made = self.order(threads=1, budget=Budget(max_lm_calls=10_000))
        last = max(i for i, call in enumerate(made) if call == ("validation", 1))
        assert last < made.index(("rollout", 2))


class TestTheBenchmarkOfTokens:
    def test_it_runs(self, capsys: Any) -> None:
        assert tokens.main(["--quick"]) == 0
        out = capsys.readouterr().out
        assert "not a large language model" in out and out.count("shared prefix") in (2, 3)
        tables = {name: out.split(f"\n{name}: ")[1].splitlines() for name in ("tickets", "agent")}
        calls = {
            name: [float(line.split()[1]) for line in table if line.split()[:1] == ["summary"]]
            for name, table in tables.items()
        }
        always, merged, auto, auto_merged = calls["tickets"][:4]
        assert always >= merged > auto == auto_merged == 0, "tickets are short enough to be read whole"
        always, merged, auto, auto_merged = calls["agent"][:4]
        assert always == auto >= merged == auto_merged > 0, "an agent's attempts are not"

    def test_what_is_shared(self) -> None:
        seen = tokens.Seen()
        seen.prompts[1, "summary"] += ["abcd", "abxy", "abcz"]
        seen.prompts[2, "summary"] += ["abcd"]
        assert seen.shared("summary") == ((2 + 2) / 16, (2 + 3) / 16)
        assert seen.of("summary") == (2.0, 2.0, 0.0)
        assert seen.shared("comparison") == (0.0, 0.0)
