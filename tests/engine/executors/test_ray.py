"""Attempts on a real Ray cluster of two nodes on this machine: one cluster for all tests, the short benchmark last."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import dspy
import pytest
from support import ROOT
from support.scripted import examples
from support.waiting import LONG, until

from benchmarks import ray_cluster
from trgrpo_dspy import FatalError, InfrastructureError, RayExecutor, TrainingFreeGRPO
from trgrpo_dspy.engine.executors.ray_executor import _Task

ray = pytest.importorskip("ray", reason="Ray has no wheel for this platform")
pytestmark = pytest.mark.filterwarnings(
    # What Ray starts and opens for a cluster is closed by its own atexit and finalizers, later than pytest looks.
    "ignore:subprocess .* is still running:ResourceWarning",
    "ignore:unclosed:ResourceWarning",
    "ignore::FutureWarning:ray",
    "ignore::DeprecationWarning:ray",
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        here = ROOT / "tests" / "engine" / "executors"
        patch.setenv(
            "PYTHONPATH", os.pathsep.join([str(here), str(ROOT / "tests")])
        )  # where workers find these modules
        with ray_cluster.two_nodes() as nodes:
            yield nodes


@pytest.fixture(scope="module")
def executor(cluster: Any) -> Iterator[RayExecutor]:
    with RayExecutor(cluster.address) as made:
        yield made
    assert not ray.is_initialized()  # it shuts down what it started


def die() -> None:
    os._exit(1)


def touch_and_sleep(path: Path) -> None:
    path.touch()
    time.sleep(120)  # a cancellation that Ray loses on a busy machine only delays the next test


def wait_for(path: Path, future: Any) -> None:
    assert until(lambda: future.done() or (path.exists() and future.running()))
    assert not future.done(), future.exception()


def test_it_says_so_where_no_node_can_run_an_attempt(
    executor: RayExecutor, cluster: Any, caplog: pytest.LogCaptureFixture
) -> None:
    RayExecutor(cluster.address, num_cpus=1).close()
    assert not caplog.messages
    RayExecutor(cluster.address, num_cpus=64, resources={"browser": 1}).close()
    assert "no node of the Ray cluster has {'CPU': 64, 'GPU': 0, 'browser': 1}" in caplog.messages[-1]


@pytest.fixture(params=["near", "distant"])
def either(request: pytest.FixtureRequest, executor: RayExecutor) -> Iterator[RayExecutor]:
    """Over Ray Client there is no word of a task's beginning."""
    if request.param == "near":
        yield executor
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray.util.client.ray, "is_connected", lambda: True)
        distant = RayExecutor()
    with distant:
        yield distant


def test_a_task_runs_in_another_process_gives_what_it_returns_or_raises_or_is_lost(either: RayExecutor) -> None:
    assert either.submit(os.getpid).result(LONG) != os.getpid()
    assert either.submit(divmod, 7, 2).result(LONG) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        either.submit(divmod, 7, 0).result(LONG)
    with pytest.raises(InfrastructureError, match=r"a Ray worker was lost: \w+"):
        either.submit(die).result(LONG)


def test_a_running_task_is_cancelled_with_its_process(either: RayExecutor, tmp_path: Path) -> None:
    future = either.submit(touch_and_sleep, tmp_path / "began")
    wait_for(tmp_path / "began", future)
    assert future.cancel()
    assert isinstance(future.exception(LONG), CancelledError)
    assert not future.cancel()  # it is over


def test_a_large_argument_is_stored_once(executor: RayExecutor) -> None:
    large = b"x" * 1_000_000
    found = [executor.submit(len, large) for _ in range(3)]
    assert [future.result(LONG) for future in found] == [1_000_000] * 3
    assert executor._put.cache_info()[:2] == (2, 1)  # hits, misses
    for number in range(6):
        executor._by_reference(bytes([number]) * 100_000)
    assert executor._put.cache_info().currsize == 4  # old ones are let go


def test_a_cancelled_task_that_ends_in_time_is_cancelled() -> None:
    class Ray:
        get, cancel = staticmethod(lambda ref: ref), staticmethod(lambda ref, force: None)

    def running() -> Iterator[Any]:
        yield None  # it has begun
        assert task.cancel()
        yield None  # what it returned, or what Ray gives in its place

    task = _Task(Ray(), running(), tells=True)
    task.watch()
    assert isinstance(task.exception(0), CancelledError)


def test_a_queued_task_is_not_running_and_never_begins(executor: RayExecutor, tmp_path: Path) -> None:
    busy = [executor.submit(touch_and_sleep, tmp_path / f"busy-{i}") for i in range(ray_cluster.NODES)]
    for i in range(ray_cluster.NODES):
        wait_for(tmp_path / f"busy-{i}", busy[i])
    queued = executor.submit(touch_and_sleep, tmp_path / "queued")
    time.sleep(0.2)
    assert not queued.running()
    assert queued.cancel()
    assert queued.cancelled()
    for future in busy:
        future.cancel()
        assert isinstance(future.exception(LONG), CancelledError)
    assert not (tmp_path / "queued").exists()


def test_one_that_is_closed_ends_its_tasks_and_leaves_a_ray_that_was_running(
    executor: RayExecutor, tmp_path: Path
) -> None:
    with RayExecutor(num_cpus=0.5, resources={}) as second:
        future = second.submit(touch_and_sleep, tmp_path / "began")
        wait_for(tmp_path / "began", future)
    assert future.done() and ray.is_initialized()
    second.close()  # again, which does nothing
    with (
        dspy.context(lm=ray_cluster.offline_lm()),
        pytest.raises(
            FatalError, match=r"executor=RayExecutor could not run an attempt: RuntimeError: this RayExecutor is closed"
        ),
    ):
        TrainingFreeGRPO(metric=lambda e, p, t=None: 1.0, executor=second).compile(
            dspy.Predict("ticket -> queue"), trainset=examples(2)
        )


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'trgrpo-dspy\[ray\]'"):
        RayExecutor()


def test_a_cluster_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**settings: Any) -> None:
        assert settings["address"] == "auto"
        raise ConnectionError("Could not find any running Ray instance.\nMore advice.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ConnectionError, match=r"RayExecutor\(address='auto'\) can't reach the cluster: .* `ray start"):
        RayExecutor("auto")


def test_the_short_benchmark(cluster: Any, executor: RayExecutor, capsys: pytest.CaptureFixture[str]) -> None:
    """Same library, scores and spend as threads, with a worker and with a node killed half way; asserted in there."""
    ray_cluster.measure(cluster, executor, 20, 0.01, 1, 6)
    shown = capsys.readouterr().out
    assert "a worker killed" in shown
    assert "a node killed half way" in shown
    assert threading.active_count() < 60
