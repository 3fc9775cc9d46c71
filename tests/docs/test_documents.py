"""Every Python block of README and docs runs, in order, in one namespace a page, with the offline model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import dspy
import pytest
from support import ROOT
from support.tracking import new_store
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

from trgrpo_dspy.offline import offline_lm

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
READER = Sybil(parsers=[PythonCodeBlockParser()], patterns=["*.md"], path=str(ROOT))
NEEDS = {"tracking.md": ("mlflow", "inspect_ai", "opentelemetry.sdk")}
"""Packages of extras that a page is about."""


class Route(dspy.Signature):
    """Route a note to a crew."""

    note: str = dspy.InputField()
    crew: Literal["red", "green"] = dspy.OutputField()


def metric(example: Any, prediction: Any, trace: Any = None) -> Any:
    return dspy.Prediction(score=float(prediction.crew == example.crew), feedback=f"it is {example.crew}")


def task() -> dict[str, Any]:
    """What the pages take from 'Your own program'."""
    words = {"red": ["pipe", "water", "leak", "pump"], "green": ["lamp", "fuse", "socket", "dark"]}
    data = [
        dspy.Example(note=f"{word} in room {room}", crew=crew).with_inputs("note")
        for crew, own in words.items()
        for word in own
        for room in range(3)
    ]
    sets = {"trainset": data[::3], "valset": data[1::3], "testset": data[2::3]}
    return {"program": dspy.Predict(Route), "metric": metric, "__name__": "documents", **sets}


@pytest.fixture
def anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty directory, the offline model, and no real cluster: Ray has tests of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
    monkeypatch.setattr("trgrpo_dspy.RayExecutor", lambda **_: ThreadPoolExecutor(4))
    with dspy.context(lm=offline_lm()):
        yield
    dspy.configure(lm=None)
    if "mlflow" in sys.modules:
        sys.modules["mlflow"].set_tracking_uri(None)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.filterwarnings("ignore")  # other packages warn of what is theirs
@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in page.read_text()], ids=name_of)
def test_every_block_of_a_page_runs(page: Path, anywhere: None, pytestconfig: pytest.Config) -> None:
    for package in NEEDS.get(page.name, ()):
        pytest.importorskip(package, reason=f"the extra for {package} is not installed")
    if "mlflow.db" in page.read_text() and (cache := getattr(pytestconfig, "cache", None)) is not None:
        new_store(Path("mlflow.db"), cache)
    document = READER.parse(page)
    blocks = list(document.examples())
    assert len(blocks) == page.read_text().count("```python\n")
    document.namespace.update(task())
    for block in blocks:
        block.evaluate()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, heading = target.partition("#")
        if "://" in target or heading.startswith("trgrpo_dspy"):
            continue
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{target} leads nowhere"
        if heading:
            headings = re.findall(r"^#+ (.+)$", found.read_text(), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}, target


def test_the_site_builds(tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings", reason="the extra docs is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "reference" / "optimizer" / "index.html").read_text()
    assert "rollout_temperature" in page and "Temperature of the attempts" in page
