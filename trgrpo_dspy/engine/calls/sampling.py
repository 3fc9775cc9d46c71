"""What a unit of work changes in a request: rollout id, temperature, seed; and the hash its reply is kept under."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from dspy.lm15 import Request

from trgrpo_dspy.engine.journal.fingerprint import request_hash
from trgrpo_dspy.engine.seeds import derive_seed

from .state import RunState
from .units import Unit

__all__ = ["Outgoing", "prepared", "sampled"]


@dataclass
class Outgoing:
    """What is sent, and where the journal keeps its reply."""

    prompt: Any
    messages: Any
    kwargs: dict[str, Any]
    hash: str = ""
    """Hash of the request; empty where no journal could tell whose reply it was."""
    occurrence: int = 0
    """Which of the unit's equal requests it is."""


def prepared(run: RunState, lm: Any, unit: Unit, given: Outgoing) -> Outgoing:
    """The request as the unit changes it, with its hash where there is a journal."""
    request = Outgoing(given.prompt, given.messages, sampled(run, lm, unit, given.kwargs))
    if isinstance(asked := given.kwargs.get("request", given.prompt), Request):
        request.prompt, request.kwargs = _typed(asked, given.kwargs, request.kwargs)
    if run.journal is not None and unit.key:  # of no known unit: there is no telling whose reply it was
        request.hash = request_hash(lm, request.prompt, request.messages, request.kwargs)
    return request


def sampled(run: RunState, lm: Any, unit: Unit, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The call's keyword arguments with what the unit changes; a predictor's own configuration wins."""
    if not unit.resample or not lm.takes_any:
        return kwargs
    own_rollout = kwargs.get("rollout_id", lm.kwargs.get("rollout_id"))
    rollout_id = derive_seed(run.seed, *unit.key, *([] if own_rollout is None else [own_rollout]))
    changed = {**kwargs, "rollout_id": rollout_id}
    keeps_own = "max_completion_tokens" in lm.kwargs or lm.keeps_temperature
    refused = {name for model, name in run.refused_parameters if model == lm.model}
    if unit.temperature is not None and "temperature" not in kwargs and not keeps_own and "temperature" not in refused:
        changed["temperature"] = unit.temperature
    if "seed" not in kwargs and lm.kwargs.get("seed") is not None and "seed" not in refused:
        changed["seed"] = derive_seed(int(lm.kwargs["seed"]), rollout_id) % 2**31
    return changed


def _typed(request: Request, given: dict[str, Any], changed: dict[str, Any]) -> tuple[Request, dict[str, Any]]:
    """A typed request carries its sampling itself: put in what the unit changes; what it says itself wins."""
    ours = {name: changed[name] for name in ("temperature", "seed") if name in changed and name not in given}
    config = {name: value for name, value in ours.items() if getattr(request.config, name) is None}
    rest = {name: value for name, value in changed.items() if name not in ours and name != "request"}
    return replace(request, config=replace(request.config, **config)), rest
