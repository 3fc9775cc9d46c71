"""What docs/comparison.md says of DSPy's optimizers can be found where it points to, in the versions installed here."""

from __future__ import annotations

import re
from pathlib import Path

import dspy
import pytest
from support import ROOT

TEXT = (ROOT / "docs" / "comparison.md").read_text().partition("## Outside DSPy")[0]
POINTERS = [re.sub(r"\s+", " ", p) for p in re.findall(r"^- ([GSM]\d.*?)(?=^- |\Z)", TEXT, re.MULTILINE | re.DOTALL)]
PLACES = [Path(dspy.__file__).parent / "teleprompt", Path(dspy.__file__).parents[1]]


def sources(names: list[str]) -> str:
    return "\n".join(next(p / name for p in PLACES if (p / name).is_file()).read_text() for name in names)


@pytest.mark.parametrize("pointer", POINTERS, ids=lambda text: text[:2])
def test_each_pointer_leads_to_what_it_names(pointer: str) -> None:
    pytest.importorskip("gepa", reason="gepa is not installed")
    marked = re.findall(r"`([^`]+)`", pointer)
    text = sources([mark for mark in marked if mark.endswith(".py")])
    named = [mark for mark in marked if not mark.endswith(".py")] + re.findall(r'"([^"]+?)(?: \.\.\. |")', pointer)
    assert [mark for mark in named if mark not in text] == []


def test_every_mark_of_the_table_has_its_pointer() -> None:
    assert set(re.findall(r"\[([GSM]\d)\]", TEXT)) == {
        mark for pointer in POINTERS for mark in re.findall(r"\b[GSM]\d\b", pointer[:8])
    }
