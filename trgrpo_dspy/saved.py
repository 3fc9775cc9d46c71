"""Records that are kept as JSON: plain data with a version. No dspy, no LM; loading executes nothing."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import TypeAdapter

from .errors import SchemaVersionError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Saved"]


class Saved:
    """What a frozen dataclass with a `schema_version` that has a default needs to round-trip through JSON."""

    saved_as: ClassVar[str]
    """What its kind is called in errors."""
    schema_version: int
    """Version of the record; the class's own is the newest that is read."""

    def to_json(self) -> str:
        """Serialise; `from_json` is the inverse."""
        return self._adapter().dump_json(self, indent=2).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Load what `to_json` wrote.

        Raises:
            SchemaVersionError: The text was written by a newer version.
            ValueError: The text is no such record.
        """
        version = _FIELDS.validate_json(text).get("schema_version")
        if isinstance(version, int) and version > cls.schema_version:
            raise SchemaVersionError(
                f"{cls.saved_as} of schema {version}; this version reads up to {cls.schema_version}: "
                "upgrade trgrpo-dspy"
            )
        return cls._adapter().validate_json(text)

    @classmethod
    @functools.cache
    def _adapter(cls) -> TypeAdapter[Any]:
        return TypeAdapter(cls)


_FIELDS: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])
