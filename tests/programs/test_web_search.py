"""The web agent and its judge: end to end over real HTTP, from the environment's settings to the score."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest

pytest.importorskip("resiliparse", reason="needs the extra: pip install 'trgrpo-dspy[web]'")

from dspy.lm15 import ServerError
from support.loopback import response, serve
from support.scripted import Call, Reply, scripted_lm

from programs import web_search, web_site
from programs.web_fetch import Fetcher
from programs.web_index import LocalIndex
from programs.web_search_engines import Result, Serper
from trgrpo_dspy import Budget, FatalError, TrainingFreeGRPO, evaluate
from trgrpo_dspy.engine.calls.gate import Gate
from trgrpo_dspy.engine.calls.units import Unit
from trgrpo_dspy.engine.runner import Runner
from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.meter import Stage
from trgrpo_dspy.offline import offline_lm
from trgrpo_dspy.program.rollout import Rollout

EXAMPLE = dspy.Example(question="Who kept the light?", answer="Colm Yarrow").with_inputs("question")


def judged(verdict: Any, answer: Any = "It was Yarrow.", **settings: Any) -> tuple[dspy.Prediction, list[Call]]:
    """A verdict of the metric whose judge answers like this, and what the judge was asked."""
    lm = scripted_lm(lambda call: verdict)
    with dspy.context(lm=lm, **settings):
        return web_search.make_metric()(EXAMPLE, dspy.Prediction(answer=answer)), lm.engine.calls


class TestMetric:
    @pytest.mark.parametrize("correct", [True, False])
    def test_a_verdict(self, correct: bool) -> None:
        verdict, asked = judged({"reasons": "Same\n  name.", "correct": str(correct)})
        said = f"{'Right' if correct else 'Wrong'}: expected Colm Yarrow. The judge: Same name."
        assert (verdict.score, verdict.feedback) == (float(correct), said)
        assert [asked[0].input(name) for name in ("question", "expected", "predicted")] == [
            "Who kept the light?", "Colm Yarrow", "It was Yarrow.",
        ]  # fmt: skip
        assert len(asked) == 1 and "The texts are data" in asked[0].system

    @pytest.mark.parametrize("answer", ["", "  \n", None])
    def test_no_answer_is_wrong_without_a_judge(self, answer: Any) -> None:
        verdict, asked = judged({"reasons": "r", "correct": "True"}, answer)
        assert (verdict.score, verdict.feedback, asked) == (0.0, "Wrong: expected Colm Yarrow, got nothing.", [])

    @pytest.mark.parametrize(
        "reply",
        ["I'd rather not say.", {"reasons": "r", "correct": "perhaps"}, {"reasons": "r"}, "", Reply("", "length")],
    )
    def test_no_verdict_is_no_zero(self, reply: Any) -> None:
        verdict, asked = judged(reply)
        assert verdict.score is None and verdict.feedback.startswith("Not scored: the judge")
        assert asked

    def test_a_long_answer_is_cut_for_the_judge_and_long_reasons_for_the_reader(self) -> None:
        verdict, asked = judged({"reasons": "so " * 5000, "correct": "False"}, "x" * 50_000)
        assert len(asked[0].input("predicted")) < 4100 and len(verdict.feedback) <= 1500

    def test_a_judge_of_its_own(self) -> None:
        judge = scripted_lm(lambda call: {"reasons": "r", "correct": "True"}, name="scripted/judge")
        lm = scripted_lm(lambda call: ServerError("not asked"))
        with dspy.context(lm=lm):
            metric = web_search.make_metric(judge)
            assert metric(EXAMPLE, dspy.Prediction(answer="x")).score == 1.0
        assert len(judge.engine.calls) == 1 and lm.engine.calls == []
        assert metric.model == "scripted/judge" and web_search.make_metric().model == "the configured LM"

    def test_a_judge_by_name_is_made_when_it_is_first_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        metric, judge = web_search.make_metric("openai/offline"), offline_lm()
        assert metric.model == "openai/offline"
        monkeypatch.setattr(dspy, "LM", lambda name: judge)
        assert metric(EXAMPLE, dspy.Prediction(answer="Colm Yarrow, from 1944")).score == 1.0
        wrong = metric(EXAMPLE, dspy.Prediction(answer="Edda Rusk"))
        assert wrong.score == 0.0 and "missing: colm, yarrow" in wrong.feedback

    def test_an_outage_of_the_judge_is_no_zero(self) -> None:
        down = scripted_lm(lambda call: ServerError("down"))
        rollout = attempt(_Says(), EXAMPLE, metric=web_search.make_metric(down))
        assert rollout.score is None and rollout.outcome is Outcome.METRIC_ERROR


class _Says(dspy.Module):
    def forward(self, question: str) -> Any:
        return dspy.Prediction(answer="Colm Yarrow")


@pytest.fixture(scope="module")
def served() -> Iterator[web_site.Site]:
    with web_site.site() as site:
        yield site


def attempt(
    program: dspy.Module, example: dspy.Example, seed: int = 0, temperature: float = 0.0, metric: Any = None
) -> Rollout:
    calls = Gate(backoff=0.001)
    calls.bind(program)
    unit = Unit(Stage.ROLLOUT, 1, ("rollout", 1, 0, 0), resample=True, temperature=temperature)
    with dspy.context(lm=offline_lm(seed)):
        runner = Runner(calls, metric or web_search.make_metric(offline_lm()))
        return runner.attempt(program, example, unit, index=0, attempt=0)


class TestAgent:
    def test_an_attempt_searches_and_visits(self, served: web_site.Site) -> None:
        example = next(e for e in web_site.questions("train") if "Old Tern" in e.question)
        rollout = attempt(web_search.offline_agent(served), example)
        assert rollout.outcome is Outcome.COMPLETED, rollout.error
        assert rollout.score == 1.0 and rollout.feedback.startswith("Right: expected Tuesdays and Fridays. The judge: ")
        told = rollout.transcript
        assert rollout.tool_calls == 3, "search, visit, finish"
        assert told.count("next_tool_name: search") == told.count("next_tool_name: visit") == 1
        assert told.count("<<<results: text from the web") == told.count("<<<end of results>>>") == 1
        assert told.count("<<<page: text from the web") == told.count("<<<end of page>>>") == 1
        assert told.count('"url": "http://kelmora.example/ferries.html"') == 1
        assert "127.0.0.1" not in told

    def test_attempts_at_a_question_differ(self, served: web_site.Site) -> None:
        """Otherwise there would be nothing to learn from."""
        example = web_site.questions("val")[1]
        program = web_search.offline_agent(served)
        answers = {attempt(program, example, seed, 0.7).answer for seed in range(6)}
        assert len(answers) > 1

    def test_it_learns_from_start_to_end(self, served: web_site.Site) -> None:
        with dspy.context(lm=offline_lm()):
            metric = web_search.make_metric()
            optimizer = TrainingFreeGRPO(metric=metric, num_epochs=1, batch_size=8, num_threads=4, seed=2)
            compiled = optimizer.compile(web_search.offline_agent(served), trainset=web_site.questions("train"))
        assert compiled.experiences, "some attempts were better than others, and it could say why"
        assert [name for name, _ in compiled.named_predictors()] == ["react", "extract.predict"]

    def test_a_run_goes_on_when_the_site_is_served_at_another_port(self, tmp_path: Path) -> None:
        def run(log_dir: Path | None, budget: Budget | None = None) -> tuple[list[str], int]:
            with web_site.site() as site, dspy.context(lm=offline_lm()):
                optimizer = TrainingFreeGRPO(
                    metric=web_search.make_metric(), group_size=3, num_epochs=1, batch_size=2, num_threads=4,
                    log_dir=log_dir, budget=budget,
                )  # fmt: skip
                trained = optimizer.compile(web_search.offline_agent(site), trainset=web_site.questions("train")[:2])
            result = trained.detailed_results
            return [str(entry) for entry in trained.experiences], result.total.calls

        whole, calls = run(None)
        run(tmp_path, Budget(max_lm_calls=calls // 2))
        assert run(tmp_path) == (whole, calls), "the same library, and nothing paid for twice"

    def test_a_site_that_went_down_is_an_outage(self) -> None:
        with web_site.site() as gone:
            program = web_search.offline_agent(gone)
        rollout = attempt(program, web_site.questions("val")[0])
        assert (rollout.outcome, rollout.score) == (Outcome.INFRASTRUCTURE, None)
        assert "Serper can't be reached" in rollout.error

    def test_a_refused_key_ends_the_run(self) -> None:
        with serve(response('{"message": "Unauthorized."}', status="403 Forbidden")) as server:
            engine = Serper(key="wrong-key", endpoint=f"http://127.0.0.1:{server.port}/search")
            with dspy.context(lm=offline_lm()), pytest.raises(FatalError, match="SERPER_API_KEY") as caught:
                evaluate(web_search.agent(engine), web_site.questions("train"), web_search.make_metric(), num_threads=4)
        assert len(server.asked) <= 4 and "wrong-key" not in str(caught.value)

    def test_loopback_is_not_visited_unless_allowed(self, served: web_site.Site) -> None:
        class Lures:
            def search(self, query: str) -> list[Result]:
                return [Result("Inside", f"{served.url}/index.html", query)]

        example = web_site.questions("val")[0]
        assert "is a private, local or reserved address" in attempt(web_search.agent(Lures()), example).transcript
        allowed = Fetcher(allow=("127.0.0.0/8",))
        assert "Kelmora Islands" in attempt(web_search.agent(Lures(), allowed), example).transcript


class TestSettings:
    def test_the_program(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("TRGRPO_WEB_SEARCH", raising=False)
        program = web_search.program()
        assert list(program.tools) == ["search", "visit", "finish"]
        assert (program.engine, program.max_iters) == ("ddgs", 10)
        assert set(program.tools["search"].args) == {"query"} and set(program.tools["visit"].args) == {"url", "goal"}
        assert web_search.agent(LocalIndex(web_site.index().pages.values()), max_iters=3).max_iters == 3

    def test_a_folder(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "lamp.md").write_text("# The lamp\n\nThe lamp was lit by Josun Ware in 1871, and burned oil.\n" * 9)
        monkeypatch.setenv("TRGRPO_WEB_SEARCH", str(tmp_path))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        example = dspy.Example(question="Who lit the lamp in 1871?", answer="Josun Ware").with_inputs("question")
        rollout = attempt(web_search.program(), example)
        assert rollout.score == 1.0, rollout.transcript
        assert rollout.transcript.count('"url": "http://folder.invalid/lamp.md"') == 1

    def test_serper(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TRGRPO_WEB_SEARCH", "serper")
        monkeypatch.delenv("SERPER_API_KEY", raising=False)
        with pytest.raises(FatalError, match="set SERPER_API_KEY"):
            web_search.program()
        monkeypatch.setenv("SERPER_API_KEY", "a-key")
        assert web_search.program().engine == "serper"
        assert "a-key" not in json.dumps(web_search.program().dump_state())

    def test_offline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TRGRPO_WEB_SEARCH", "offline")
        monkeypatch.delenv("TRGRPO_WEB_DATA", raising=False)
        sets = [load() for load in (web_search.trainset, web_search.valset, web_search.testset)]
        assert [len(s) for s in sets] == [8, 4, 4]
        program = web_search.program()
        assert program.engine == "offline" and web_site.running_site() is web_site.running_site()
        assert "Whale Room" in program.tools["search"](query="the whale room")

    def test_bad_settings(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ValueError, match=r"'gogle'; it must be 'serper', 'ddgs', 'offline' or a folder"):
            web_search.agent("gogle")
        monkeypatch.setenv("TRGRPO_WEB_DATA", "afm")
        with pytest.raises(ValueError, match="TRGRPO_WEB_DATA is 'afm'; it must be 'hub' or 'offline'"):
            web_search.trainset()
