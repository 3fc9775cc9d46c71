"""Records that are kept as JSON: plain data with a version. No dspy, no LM; loading executes nothing."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import TypeAdapter, ValidationError

from trgrpo_dspy.errors import SchemaVersionError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Saved"]


class Saved:
    """What a frozen dataclass with a `schema_version` that has a default needs to round-trip through JSON."""

    saved_as: ClassVar[str]
    """What its kind is called in errors."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Fields that a text must have although they have a default."""
    schema_version: int
    """Version of the record; the class's own is the newest that is read."""

    def to_json(self) -> str:
        """Serialise; `from_json` is the inverse."""
        return self._adapter().dump_json(self, indent=2).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Load what `to_json` wrote, also with an earlier version; what is loaded has the class's own.

        Raises:
            SchemaVersionError: The text was written by a newer version.
            ValueError: The text is no such record; the message says where.
        """
        try:
            fields = _FIELDS.validate_json(text)
            version = fields.get("schema_version")
            if isinstance(version, int) and version > cls.schema_version:
                raise SchemaVersionError(
                    f"{cls.saved_as} of schema {version}; this version reads up to {cls.schema_version}: "
                    "upgrade trgrpo-dspy"
                )
            if missing := [name for name in cls.needs if name not in fields]:
                raise ValueError(f"this is no {cls.saved_as}: it has no {missing[0]!r}")
            found: Any = cls._adapter().validate_json(text)
            return found if version == cls.schema_version else replace(found, schema_version=cls.schema_version)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            at = ".".join(map(str, first["loc"])) or "the text"
            raise ValueError(f"this is no {cls.saved_as}: {at}: {first['msg']}") from error

    @classmethod
    @functools.cache
    def _adapter(cls) -> TypeAdapter[Any]:
        return TypeAdapter(cls)


_FIELDS: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])
