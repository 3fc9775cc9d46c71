"""What records share that are kept as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from trgrpo_dspy import SchemaVersionError
from trgrpo_dspy.library.saved import Saved


@dataclass(frozen=True)
class Note(Saved):
    saved_as = "note"
    words: tuple[str, ...]
    schema_version: int = 3


@dataclass(frozen=True)
class Other(Saved):
    saved_as = "other"
    count: int
    schema_version: int = 1


def test_every_kind_is_read_as_itself() -> None:
    for found in (Note(("a", "\u00e9")), Other(7)):
        assert type(found).from_json(found.to_json()) == found
    with pytest.raises(ValueError):
        Note.from_json(Other(7).to_json())
    assert Note.from_json('{"words": []}') == Note(())


def test_a_newer_version_is_told_from_junk() -> None:
    with pytest.raises(SchemaVersionError, match="note of schema 4; this version reads up to 3: upgrade"):
        Note.from_json(json.dumps({"words": "something else by then", "schema_version": 4}))
    assert Note.from_json('{"words": [], "schema_version": 2}') == Note(()), "what is read is of this version"
