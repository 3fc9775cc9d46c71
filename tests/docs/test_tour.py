"""The notebook runs from top to bottom, with the offline model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import ROOT

nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")
nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")

TOUR = ROOT / "examples" / "tour.ipynb"


def output(cell: Any) -> str:
    return "".join(str(out.get("text") or out.get("data", {}).get("text/plain", "")) for out in cell.outputs)


@pytest.mark.filterwarnings("ignore")  # Jupyter and asyncio warn of what is theirs
def test_the_tour_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    book = nbformat.read(TOUR, as_version=4)
    nbclient.NotebookClient(book, timeout=600, startup_timeout=600, kernel_name="python3").execute(cwd=str(tmp_path))
    shown = {cell.id: output(cell) for cell in book.cells if cell.cell_type == "code"}
    said = "\n".join(shown.values())
    for text in (
        "Improved",
        "[E1]",
        "added",
        "The comparison:",
        "(pinned)",
        "mean",
        "'blue'",
        "misc-00001",
        "report.html",
    ):
        assert text in said, text


def test_it_is_kept_without_outputs_and_says_what_model_it_runs_on() -> None:
    text = TOUR.read_text()
    cells = json.loads(text)["cells"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")
    assert "no large language model" in text and len(text) < 20_000
