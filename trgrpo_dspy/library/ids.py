"""The ids of entries: `E1`, `E2`, ...; never reused and never renumbered."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["ID_END", "ID_PATTERN", "number_of", "numbering"]

ID_PATTERN = "E[1-9][0-9]{0,8}"
"""What an id looks like; numbers are below a thousand million, so that no text can make an absurd one."""
ID_END = 10**9


def number_of(id: str) -> int:
    """The number in an id."""
    if not re.fullmatch(ID_PATTERN, id):
        raise ValueError(f"{id[:40]!r} is no experience id; ids are E1, E2, ...")
    return int(id[1:])


def numbering(wanted: Sequence[int]) -> tuple[int, ...]:
    """The wanted numbers; where one is 0, too large or taken, the next that is free after all of them."""
    usable = [number if 0 < number < ID_END // 2 else 0 for number in wanted]
    free, given = max(usable, default=0) + 1, dict[int, None]()
    for number in usable:
        if not number or number in given:
            number, free = free, free + 1
        given[number] = None
    return tuple(given)
