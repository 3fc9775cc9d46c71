"""The shapes that replies may take, and how they are read.

Replies are lists of flat, all-string records. Outward that is a strict schema that every structured-output backend
takes; inward the lists are forgiving: whatever shape a reply has, its good items survive its bad ones.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar

import json_repair
from pydantic import BaseModel, ConfigDict, RootModel, model_validator

__all__ = [
    "DecisionReplies",
    "DispositionReplies",
    "EditReplies",
    "EditReply",
    "LessonReplies",
]


def _make_strict(schema: dict[str, Any]) -> None:
    """Ask for every field and give no default: providers of structured outputs refuse schemas that have one."""
    schema["required"] = list(schema["properties"])
    for field in schema["properties"].values():
        field.pop("default", None)


_SYNONYMS = {"proposals": "sources", "entries": "entry", "experience": "entry"}
"""Names that models write for a field."""


class _Reply(BaseModel):
    """One item of a reply: strings only, each with a default; anything that is no record becomes an empty one."""

    model_config = ConfigDict(extra="ignore", json_schema_extra=_make_strict)
    main_field: ClassVar[str] = "text"
    """The field a bare string fills."""

    @model_validator(mode="before")
    @classmethod
    def _forgive(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {cls.main_field: value}
        if isinstance(value, BaseModel):
            value = value.model_dump()
        if not isinstance(value, dict):
            return {}
        return {_SYNONYMS.get(k := str(key).strip().lower(), k): _as_text(v) for key, v in value.items()}


class LessonReply(_Reply):
    """One lesson drawn from a group."""

    text: str = ""
    predictors: str = ""


class EditReply(_Reply):
    """One edit of the library."""

    main_field: ClassVar[str] = "none"  # a bare string is no edit: an operation is never guessed from prose

    operation: str = ""
    id: str = ""
    text: str = ""
    predictors: str = ""
    sources: str = ""


class DispositionReply(_Reply):
    """Where one proposal went."""

    main_field: ClassVar[str] = "outcome"

    proposal: str = ""
    outcome: str = ""


class DecisionReply(_Reply):
    """What one entry decides for one example."""

    main_field: ClassVar[str] = "none"  # a bare string names no example

    example: str = ""
    entry: str = ""
    decision: str = ""


class _Replies(RootModel[list[Any]]):
    """A list of records, read forgivingly."""

    kind: ClassVar[type[_Reply]]

    @model_validator(mode="before")
    @classmethod
    def _forgive(cls, value: Any) -> Any:
        return _as_items(value, cls.kind)


class LessonReplies(_Replies):
    """A list of lessons."""

    kind = LessonReply
    root: list[LessonReply]


class EditReplies(_Replies):
    """A list of edits."""

    kind = EditReply
    root: list[EditReply]


class DispositionReplies(_Replies):
    """A list of dispositions."""

    kind = DispositionReply
    root: list[DispositionReply]


class DecisionReplies(_Replies):
    """A list of decisions."""

    kind = DecisionReply
    root: list[DecisionReply]


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return ", ".join(_as_text(v) for v in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _as_items(value: Any, kind: type[_Reply]) -> list[Any]:
    """The items of a reply: a list, one record, what wraps either, or a text that holds any of these."""
    if isinstance(value, str):
        value = json_repair.loads(value)
    return _flatten(value.root if isinstance(value, RootModel) else value, kind)


def _flatten(value: Any, kind: type[_Reply]) -> list[Any]:
    if isinstance(value, dict):
        inside = [v for v in value.values() if isinstance(v, (dict, list, tuple))]
        if not inside or any(str(key).strip().lower() in kind.model_fields for key in value):
            return [value]
        return [item for v in inside for item in _flatten(v, kind)]
    items: list[Any] = []
    for v in value if isinstance(value, (list, tuple)) else ():
        if isinstance(v, (list, tuple)):
            # JSON repair makes a list of words of half a record.
            items += [item for item in _flatten(v, kind) if not isinstance(item, str)]
        else:
            items += _flatten(v, kind) if isinstance(v, dict) else [v]
    return items
