"""Progress bars in a terminal."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm

from trgrpo_dspy.meter import Stage

__all__ = ["Bars"]


class Bars:
    """A progress bar per stage, in a terminal; nothing elsewhere."""

    def __init__(self, shown: bool = True) -> None:
        """Show none yet; none at all unless `shown`."""
        self._shown = shown
        self._bars: dict[Stage, tqdm[Any]] = {}

    def close(self) -> None:
        """Take the bars away; the next work starts new ones."""
        for bar in self._bars.values():
            bar.close()
        self._bars.clear()

    def expect(self, stage: Stage) -> None:
        """One more task of a stage is to come."""
        if stage not in self._bars:
            # disable=None: only where standard error is a terminal
            disable = None if self._shown else True
            self._bars[stage] = tqdm(total=0, desc=stage.value, disable=disable, leave=False, dynamic_ncols=True)
        bar = self._bars[stage]
        bar.total = (bar.total or 0) + 1
        bar.refresh() if not bar.disable else None

    def advance(self, stage: Stage) -> None:
        """One of them has ended."""
        if stage in self._bars:
            self._bars[stage].update()
