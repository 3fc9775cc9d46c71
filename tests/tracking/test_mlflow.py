"""A run as MLflow has it: a local SQLite store, read back by MLflow's own client."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path
from typing import Any

import dspy
import pytest
from support.scripted import Triage, examples, scripted_lm, told
from support.tracking import new_store

from trgrpo_dspy import Budget, TrainingFreeGRPO
from trgrpo_dspy.offline import offline_lm
from trgrpo_dspy.program.calling import finished

mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow and what it imports warn of much


def compiled(**options: Any) -> Any:
    settings: dict[str, Any] = {"metric": told, "group_size": 2, "num_epochs": 2, "report_to": "mlflow"}
    optimizer = TrainingFreeGRPO(**settings | options)
    return optimizer.compile(dspy.Predict(Triage), trainset=examples(3), valset=examples(4, start=8))


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("mlflow")
    patch = pytest.MonkeyPatch()
    patch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")  # each wait for its queue takes a second or two
    assert pytestconfig.cache is not None
    mlflow.set_tracking_uri(new_store(folder / "mlflow.db", pytestconfig.cache))
    mlflow.create_experiment("tests", artifact_location=(folder / "artifacts").as_uri())
    yield
    patch.undo()
    mlflow.set_experiment(experiment_id="0")  # the default one, which every store has
    mlflow.set_tracking_uri(None)


@pytest.fixture(autouse=True)
def model() -> Iterator[Any]:
    mlflow.set_experiment("tests")
    lm = scripted_lm()
    with dspy.context(lm=lm):
        yield lm
    while mlflow.active_run():
        mlflow.end_run()


def last_run() -> Any:
    return mlflow.search_runs(experiment_names=["tests"], output_format="list", max_results=1)[0]


def traces(run: Any) -> list[Any]:
    found: list[Any] = mlflow.search_traces(
        locations=[run.info.experiment_id], run_id=run.info.run_id, return_type="list", max_results=1000
    )
    return found


def names(made: list[Any]) -> set[tuple[str, ...]]:
    return {tuple(trace.info.tags[name] for name in ("stage", "step", "example", "attempt")) for trace in made}


def history(run: Any, name: str) -> list[tuple[int, float]]:
    found = mlflow.MlflowClient().get_metric_history(run.info.run_id, name)
    return sorted((at.step, at.value) for at in found)


def artifacts(run: Any, path: str | None = None) -> set[str]:
    return {Path(item.path).name for item in mlflow.MlflowClient().list_artifacts(run.info.run_id, path)}


def test_a_run_is_logged_from_its_parameters_to_its_verdict(tmp_path: Path) -> None:
    program = compiled(log_dir=tmp_path / "run", budget=Budget(max_lm_calls=10_000), objective="x" * 9000)
    run, results = last_run(), program.detailed_results
    assert (run.info.status, run.data.tags["verdict"]) == ("FINISHED", results.verdict.text)
    params = run.data.params
    assert (params["group_size"], params["budget.max_lm_calls"], params["models"]) == ("2", "10000", "scripted/model")
    assert history(run, "validation/score") == [(m.step, pytest.approx(m.mean.value)) for m in results.measured]
    assert history(run, "train/score") == [(s.step, pytest.approx(s.train_mean)) for s in results.steps]
    assert history(run, "train/informative") == [(s.step, pytest.approx(s.informative)) for s in results.steps]
    (calls,) = history(run, "total/calls")
    assert calls[1] == sum(row.calls for row in results.spend)
    assert calls[1] == sum(v for name in ("step/calls", "validation/calls") for _, v in history(run, name))
    assert run.data.metrics["gain"] == pytest.approx(results.verdict.gain)
    assert artifacts(run, "libraries") == {"step_000.md", "step_001.md", "step_002.md"}
    assert {"library.md", "library.json", "program.json", "report.html"} <= artifacts(run)
    again = dspy.Predict(Triage)
    again.load(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="program.json"))
    assert again.signature.instructions == program.signature.instructions
    made = traces(run)
    assert len(made) == results.total_metric_calls
    kinds = Counter((trace.info.tags["stage"], trace.info.tags["step"]) for trace in made)
    measured = [str(measurement.step) for measurement in results.measured]
    assert kinds == {("validation", step): 4 for step in measured} | {("rollout", step): 6 for step in "12"}
    assert len(names(made)) == len(made)
    for trace in made:
        (score,) = trace.info.assessments
        assert f"{score.value:g}" == trace.info.tags["score"] and "case" in trace.data.spans[0].inputs


@pytest.mark.parametrize("way", ["compile", "acompile"])
def test_the_active_run_is_used_and_left_open(way: str) -> None:
    with mlflow.start_run() as run:
        optimizer = TrainingFreeGRPO(metric=told, group_size=2, num_epochs=1, report_to="mlflow")
        finished(getattr(optimizer, way)(dspy.Predict(Triage), trainset=examples(3), valset=examples(4, start=8)))
        assert mlflow.active_run().info.run_id == run.info.run_id
    data = mlflow.get_run(run.info.run_id).data
    assert "gain" in data.metrics and last_run().info.run_id == run.info.run_id


@contextmanager
def autolog(whole: bool = True, patched: bool = True) -> Iterator[None]:
    """MLflow's own logging of DSPy; it patches the optimizers there are when it is called."""
    from mlflow.dspy.callback import MlflowCallback
    from mlflow.utils.autologging_utils import revert_patches

    mlflow.dspy.autolog(log_traces_from_compile=whole, silent=True)
    if not patched:
        revert_patches("dspy")
    try:
        with dspy.context(callbacks=[MlflowCallback()]):
            yield
    finally:
        mlflow.dspy.autolog(disable=True, silent=True)
        revert_patches("dspy")


@pytest.mark.parametrize(("patched", "whole"), [(True, False), (True, True), (False, True)])
def test_it_works_beside_autolog_whichever_comes_first(patched: bool, whole: bool) -> None:
    with autolog(whole, patched):
        results = compiled(num_epochs=1).detailed_results
        run = last_run()
        made = traces(run)
        mlflow.set_experiment("tests")
        dspy.Predict(Triage)(ticket="afterwards")
    attempts = [trace for trace in made if "score" in trace.info.tags]
    assert len(attempts) == results.total_metric_calls
    assert len(names(attempts)) == 14
    rest = [trace for trace in made if "score" not in trace.info.tags]
    assert {trace.info.tags["stage"] for trace in rest} == (
        {"comparison", "consolidation", "check"} if whole else set()
    )
    assert {len(trace.data.spans) > 1 for trace in attempts} == {whole}
    assert all([f"{a.value:g}" for a in trace.info.assessments] == [trace.info.tags["score"]] for trace in attempts)
    after = mlflow.search_traces(locations=[run.info.experiment_id], return_type="list", max_results=1, flush=True)
    assert "afterwards" in str(after[0].data.spans[0].inputs)  # what the run changed about tracing was put back


class Forking(ThreadPoolExecutor):
    """Its workers begin with the settings that the caller has, as forked processes do."""

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        return super().submit(copy_context().run, function, *args, **kwargs)


def test_attempts_made_elsewhere_are_traced_once() -> None:
    """A forked process has autolog's callback too; nobody would hear which traces it made."""
    with autolog(), dspy.context(lm=offline_lm()), Forking(2) as executor:
        results = compiled(num_epochs=1, executor=executor).detailed_results
    made = traces(last_run())
    assert len(made) == results.total_metric_calls and {trace.info.tags["stage"] for trace in made} == {
        "rollout", "validation"
    }  # fmt: skip


def test_a_resumed_run_logs_nothing_twice(tmp_path: Path, model: Any) -> None:
    part = compiled(log_dir=tmp_path, budget=Budget(max_lm_calls=20)).detailed_results
    first = last_run()
    assert part.stop_reason == "max_lm_calls" and first.data.tags["stop_reason"] == "max_lm_calls"
    before = len(traces(first))
    whole = compiled(log_dir=tmp_path, num_epochs=3).detailed_results
    run = last_run()
    assert run.info.run_id == first.info.run_id and run.data.tags["stop_reason"] == "completed"
    assert [step for step, _ in history(run, "train/score")] == [1, 2, 3]
    assert [step for step, _ in history(run, "validation/score")] == [m.step for m in whole.measured]
    assert run.data.metrics["total/calls"] == sum(row.calls for row in whole.spend)
    assert (run.data.params["num_epochs"], run.data.tags["num_epochs"]) == ("2", "3")
    assert 0 < before < len(traces(run)) == whole.total_metric_calls
    calls = len(model.engine.calls)
    assert compiled(log_dir=tmp_path, num_epochs=3).experiences  # it was over: nothing to log
    assert len(model.engine.calls) == calls and len(traces(last_run())) == whole.total_metric_calls


@pytest.mark.parametrize("broken", ["start_run", "log_batch", "start_span_no_context", "end_run"])
def test_a_tracker_that_fails_ends_nothing(
    broken: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise OSError("the tracking server is gone")

    owner = mlflow.MlflowClient if broken.startswith("log_") else mlflow
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(owner, broken, fail)
        program = compiled(num_epochs=1)
    assert program.detailed_results.stop_reason == "completed"
    assert sum("the tracking server is gone" in record.getMessage() for record in caplog.records) == 1


def test_a_server_that_is_gone_is_known_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("trgrpo_dspy.report.tracking.mlflow_run.PATIENCE", 0.2)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    try:
        assert compiled(num_epochs=1).detailed_results.stop_reason == "completed"
    finally:
        mlflow.set_tracking_uri(before)
    assert "http://127.0.0.1:9 did not answer within 0.2 seconds" in caplog.text


def test_hostile_texts_are_stored(model: Any) -> None:
    texts = ["refund \ud83d", "login \x00 <script>alert(1)</script>", "printer " + "x" * 100_000, "contract \u202e"]
    trainset = [dspy.Example(ticket=text, queue="access").with_inputs("ticket") for text in texts]

    def judged(example: Any, prediction: Any, trace: Any = None) -> Any:
        return dspy.Prediction(score=float(prediction.queue == example.queue), feedback="\ud83d\x00" + "f" * 5000)

    optimizer = TrainingFreeGRPO(
        metric=judged, group_size=2, num_epochs=1, report_to="mlflow", objective="\ud83d\x00" * 9
    )
    optimizer.compile(dspy.Predict(Triage), trainset=trainset)
    made = traces(last_run())
    assert len(made) == 8 and not any("\x00" in str(trace.data.spans[0].inputs) for trace in made)
    assert last_run().info.status == "FINISHED"
