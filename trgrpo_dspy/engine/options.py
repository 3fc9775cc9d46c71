"""Options, each said once: name, type, check, default, meaning, and whether it decides the result.

An option is a field of a keyword-only dataclass, `name: Annotated[type, check, DECIDES] = default`, with its meaning
as the docstring below. `Options` checks all fields when it is made, `decisive` gives those that enter a run's
fingerprint, and `as_record` gives all of them as plain data. To add an option, add a field and read it where it acts.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_type_hints

import dspy
from dspy.utils.callback import BaseCallback

from trgrpo_dspy.events import Listener
from trgrpo_dspy.meter.meter import Budget

from .executors.threads import Executor

__all__ = [
    "DECIDES", "Check", "Options", "RunOptions", "choice", "instance", "names", "number", "signature_with", "whole",
]  # fmt: skip

Check = Callable[[str, Any], None]
"""Raises `TypeError` or `ValueError`, naming option and value, for a value that can't be used; never sees None."""

DECIDES = "decides"
"""Marks an option that decides the result: it enters the fingerprint, and a journal with another value is refused."""


def whole(least: int | None = None, why: str = "") -> Check:
    """A check for whole numbers, of at least `least` where that is given; `why` ends the message."""

    def check(name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name}={value!r} must be a whole number")
        if least is not None and value < least:
            raise ValueError(f"{name}={value} must be at least {least}{why}")

    return check


def number(above: float | None = None, most: float | None = None, why: str = "") -> Check:
    """A check for finite numbers, above `above` and at most `most` where those are given; `why` ends the message."""

    def check(name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name}={value!r} must be a number")
        if not math.isfinite(value):
            raise ValueError(f"{name}={value} must be finite{why}")
        if (above is not None and value <= above) or (most is not None and value > most):
            bounds = [f"above {above:g}" if above is not None else "", f"at most {most:g}" if most is not None else ""]
            raise ValueError(f"{name}={value} must be {' and '.join(filter(None, bounds))}{why}")

    return check


def choice(*allowed: str) -> Check:
    """A check for one of some texts."""

    def check(name: str, value: Any) -> None:
        if value not in allowed:
            raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, allowed))}")

    return check


def names(name: str, value: Any) -> None:
    """A check for a list of names that is not empty."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise TypeError(f"{name}={value!r} must be a list of names")
    if not value:
        raise ValueError(f"{name}=[] names nothing; pass None for all")


def instance(kind: type, example: str) -> Check:
    """A check for an object of a kind; `example` shows how one is made."""

    def check(name: str, value: Any) -> None:
        if isinstance(value, type) and issubclass(value, kind):
            raise TypeError(f"{name}={value.__name__} is a class; write {name}={example}")
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be a {kind.__name__}, got {type(value).__name__}; write {name}={example}")

    return check


def _path(name: str, value: Any) -> None:
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name}={value!r} must be a path")
    if value == "":
        raise ValueError(f"{name}='' names no directory; leave it out to keep nothing")


def _executor(name: str, value: Any) -> None:
    if not isinstance(value, Executor) or isinstance(value, type):
        raise TypeError(f"{name}={value!r} must have submit(fn, *args) -> Future, e.g. trgrpo_dspy.RayExecutor()")


def _listeners(name: str, value: Any) -> None:
    fine = isinstance(value, Sequence) and all(callable(item) or isinstance(item, BaseCallback) for item in value)
    if isinstance(value, str) or not fine:
        raise TypeError(f"{name}={value!r} must be a list of functions that take an event; see trgrpo_dspy.events")


class Options:
    """Base of the option dataclasses."""

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Check every option by its own rules; a subclass adds what concerns several of them.

        Raises:
            TypeError: An option is of the wrong type.
            ValueError: An option is out of range.
        """
        for name, annotation in _annotations(type(self)).items():
            value = getattr(self, name)
            kind, *extras = get_args(annotation) or (annotation,)
            if value is None and type(None) in get_args(kind):
                continue
            for extra in extras:
                if callable(extra):
                    extra(name, value)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The options, in order."""
        return tuple(_annotations(cls))

    @property
    def decisive(self) -> dict[str, Any]:
        """The options that decide the result, by name."""
        annotations = _annotations(type(self))
        return {name: getattr(self, name) for name, a in annotations.items() if DECIDES in get_args(a)[1:]}

    def as_record(self) -> dict[str, Any]:
        """All options as plain data. Objects are given by name only, so that no key and no address gets in."""
        return {name: _plain(getattr(self, name)) for name in _annotations(type(self))}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (Budget, dict)):
        return {str(key): _plain(item) for key, item in (value if isinstance(value, dict) else vars(value)).items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dspy.BaseLM):
        return str(value.model)
    return str(getattr(value, "__qualname__", type(value).__qualname__))


def _annotations(cls: type) -> dict[str, Any]:
    """The annotation of each option, in order; a dataclass that inherits from `Options` holds nothing else."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


@dataclass(kw_only=True, eq=False, repr=False)
class RunOptions(Options):
    """What every run of programs may be given, whether it learns or measures."""

    num_threads: Annotated[int | None, whole(1)] = None
    """Attempts and reflection calls in flight at most; None is DSPy's setting. A backend that serves fewer gets fewer.
    DSPy's native client has at most 100 calls of one LM in flight; above that the run gives it as many connections."""
    seed: Annotated[int, whole(), DECIDES] = 0
    """Where all chance comes from."""
    budget: Annotated[Budget | None, instance(Budget, "Budget(max_cost=5.0)")] = None
    """Caps on LM calls, tokens, cost and time; reaching one ends the run with what was found until then."""
    log_dir: Annotated[str | os.PathLike[str] | None, _path] = None
    """Directory of the run's journal: run again with the same arguments, and the run goes on where it ended."""
    failure_score: Annotated[float, number(why=": it counts in every mean"), DECIDES] = 0.0
    """Score of an attempt in which the program itself failed, as in `dspy.Evaluate`."""
    rollout_timeout: Annotated[float | None, number(above=0, why="; leave it out for no limit")] = None
    """Seconds after which an attempt is abandoned and left unscored; None waits."""
    outage_patience: Annotated[float, number(above=-1e-9, why="; 0 waits for nothing beyond an LM's own retries")] = (
        600.0
    )
    """Seconds for which an outage is waited out once a backend has answered; calls that are lost later are made again
    when the run is resumed. LMs with `num_retries=0` are asked once."""
    requests_per_minute: Annotated[float | None, number(above=0, why="; leave it out for no limit")] = None
    """Requests at most, over all threads; None is no limit."""
    executor: Annotated[Executor | None, _executor] = None
    """Where attempts run: a `concurrent.futures` executor, `RayExecutor()`, or anything else with such a `submit`;
    None is threads of this process. Reflection stays here. Caps and journal then count whole attempts: caps are
    overshot by at most the attempts in flight (`num_threads`), and a killed run makes those again when resumed."""
    callbacks: Annotated[Sequence[Listener | BaseCallback], _listeners] = ()
    """Functions that are called with every event of the run (`trgrpo_dspy.events`); one that raises is dropped. DSPy's
    own callbacks may stand among them."""

    def __post_init__(self) -> None:
        """Check every option, and leave in `callbacks` only those that DSPy itself calls around `compile`."""
        super().__post_init__()
        self.listeners: tuple[Listener, ...] = tuple(c for c in self.callbacks if not isinstance(c, BaseCallback))
        self.callbacks = [c for c in self.callbacks if isinstance(c, BaseCallback)]

    def check(self) -> None:
        """Check every option, and that no two contradict each other."""
        super().check()
        if self.executor is not None and self.requests_per_minute is not None:
            raise ValueError(
                f"requests_per_minute={self.requests_per_minute} can't be kept to with executor=: its workers don't "
                "know of each other's requests. Leave one of them out; num_threads= bounds the attempts at a time"
            )

    @property
    def threads(self) -> int:
        """The number of threads asked for, else DSPy's setting."""
        return self.num_threads if self.num_threads is not None else max(1, int(dspy.settings.num_threads or 8))


def signature_with(options: type[Options]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a function that takes `**options` the signature it really has: its own parameters, then the options."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        own = inspect.signature(function)
        parameters = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        added = [
            p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for name, p in inspect.signature(options).parameters.items()
            if name not in own.parameters
        ]
        function.__signature__ = own.replace(parameters=[*parameters, *added])  # type: ignore[attr-defined]
        return function

    return decorate
