"""One attempt of a program as a bounded text that a reflection LM reads.

Guarantees:

- A text never exceeds its bound in tokens and is marked where it was cut.
- A value is rendered when the attempt made it, so what a program changes in place later (`dspy.ReActV2`
  appends to its history) does not change the text.
- Each tool call and each observation stands in it once, though an agent repeats its whole log in every input.
- What an attempt produced is data: it can't forge a step, open or close a field, or bring in binary content.
- Equal attempts give equal texts, also where the program does several things at a time: no memory addresses, no random
  call ids, no order of arrival.
- Nothing raises, whatever the program's objects do when they are printed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from contextvars import copy_context
from typing import Any

import dspy
from dspy.utils.exceptions import AdapterParseError

from trgrpo_dspy.failures.errors import came_from
from trgrpo_dspy.failures.messages import describe

from .events import Branch, Call, Prediction, ToolUse
from .rendering import clean, cut_middle, fit_blocks, one_line, text_of
from .telling import Telling
from .values import announced, outputs_of, value_of

__all__ = ["Recorder"]

_ERROR = 2000
"""Characters of an exception that are read."""
_OBSERVATION = 20
"""Tokens that one observation has at least where many share the bound."""
_BRANCH = "trgrpo_dspy_branch"
"""The DSPy setting that says below which call this is; DSPy hands settings on to tasks and to threads of its own."""


class Recorder(list[Any]):
    """Stands in as `dspy.settings.trace` during one attempt and remembers it as text.

    Entries stay in the list for programs that read the trace. Several threads may record at once.
    """

    def __init__(self, names: Mapping[str, str], inputs: Mapping[str, object]) -> None:
        """Start an attempt.

        Args:
            names: Names of the program's predictors by `predictor.stage`; others go by their signature's name.
            inputs: The example's inputs. The reader has them, so steps do not repeat them.
        """
        super().__init__()
        self._names = dict(names)
        self._lock = threading.RLock()
        self._root = Branch()
        self._open: dict[str, AbstractContextManager[None]] = {}
        self._tool_calls = 0
        self._told: Telling | None = None
        self._inputs = {name: value_of(name, value) for name, value in inputs.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies are plain lists: a program may copy the trace, and the copy records nothing."""
        return list, (list(self),)

    @property
    def tool_calls(self) -> int:
        """Tool calls so far; those of tries the program discarded and an agent's own `finish` count."""
        return self._tool_calls

    def enter(self, call_id: str) -> None:
        """A module or tool is called: what is recorded from now on, here and in what this starts, is caused by it."""
        with self._lock:
            branch = Branch(self._branch())
        self._open[call_id] = context = dspy.context(**{_BRANCH: (self, branch)})
        context.__enter__()

    def leave(self, call_id: str) -> None:
        """The call has ended."""
        if (context := self._open.pop(call_id, None)) is not None:
            with suppress(ValueError):  # an abandoned coroutine is closed in another context
                context.__exit__(None, None, None)

    def append(self, entry: Any) -> None:
        """Record a trace entry (predictor, inputs, prediction)."""
        with self._lock:
            super().append(entry)
            try:
                predictor, inputs, prediction = entry
                stage = str(getattr(predictor, "stage", ""))
                title = one_line(self._names.get(stage) or predictor.signature.__name__)
                shown = {name: value_of(name, value) for name, value in dict(inputs).items()}
                outputs, calls = outputs_of(prediction), announced(prediction)
            except Exception:
                return  # no entry of DSPy's: it stays in the list, and there is nothing to tell
            branch = self._branch()
            branch.add(Prediction(stage, title, shown, outputs, calls, entry, branch.strands))

    def extend(self, entries: Iterable[Any]) -> None:
        """Record several entries, as `dspy.BestOfN` hands over the try it keeps."""
        for entry in list(entries):
            self.append(entry)

    def __iadd__(self, entries: Iterable[Any]) -> Recorder:  # type: ignore[misc]
        """Record several entries."""
        self.extend(entries)
        return self

    def tool_call(
        self, name: str, args: Mapping[str, Any], result: object = None, error: BaseException | None = None
    ) -> None:
        """Record a finished tool call; to be called in the thread or task the tool was called in.

        Where a step has named this very call, only the observation is added, to that step.
        """
        call = Call(one_line(name), text_of(args or {}))
        observation = text_of(result) if error is None else _error(error)
        trace = dspy.settings.get("trace")
        # A try inside the program (BestOfN) has a trace of its own; if kept, its entries get here.
        after = trace[-1] if isinstance(trace, list) and trace is not self and trace else None
        with self._lock:
            self._tool_calls += 1
            branch = self._branch()
            branch.add(ToolUse(call, observation, after, branch.strands))

    def text(self, *, prediction: object = None, error: BaseException | None = None, max_tokens: int = 2000) -> str:
        """The transcript: numbered steps, the final outputs that the last step has not shown, the failure.

        Beyond the bound the largest values are shortened first, then the middle of the text goes.
        """
        for call_id in list(self._open):  # calls that never ended: their settings are gone already
            copy_context().run(self.leave, call_id)
        with self._lock:
            self._told = told = Telling(self._root.events(), self._inputs)
            blocks = told.blocks(outputs_of(prediction))
        if error is not None:
            blocks.append(("=== Failure ===", [("error", _error(error)), *_unparsed(error)]))
        return fit_blocks(blocks or [("(no steps)", [])], max_tokens)

    def observed(self, max_tokens: int = 200) -> str:
        """What tools returned and what predictors were given beyond the task, a line each; call `text` first.

        The lines share the bound evenly.
        """
        found = self._told.observations() if self._told is not None else []
        share = max(_OBSERVATION, max_tokens // max(1, len(found)))
        return cut_middle("\n".join(f"{source} {_flat(text, share)}" for source, text in found), max_tokens)

    def _branch(self) -> Branch:
        """The call below which this is."""
        owner, branch = dspy.settings.get(_BRANCH) or (None, None)
        return (branch if owner is self and branch is not None else self._root).here()


def _flat(text: str, max_tokens: int) -> str:
    """The text in one line, within a bound."""
    return " ".join(cut_middle(text, max_tokens).split())


def _error(error: BaseException) -> str:
    """What an exception says in one line, which never is a traceback or a prompt."""
    return clean(describe(error, _ERROR))


def _unparsed(error: BaseException) -> list[tuple[str, str]]:
    """The reply that stopped the program: a predictor that fails leaves no trace entry."""
    reply = next((link.lm_response for link in came_from(error) if isinstance(link, AdapterParseError)), None)
    return [] if reply is None else [("reply that could not be parsed", text_of(reply))]
