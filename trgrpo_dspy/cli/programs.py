"""The target's program as a file has it: a saved state, or with a library."""

from __future__ import annotations

import json

import dspy

from trgrpo_dspy import attach

from .errors import InputError
from .sources import read_source

__all__ = ["variant"]


def variant(program: dspy.Module, name: str) -> dspy.Module:
    """The target's program as a file has it: a saved program's state, or a library; 'input' is the program itself."""
    if name == "input":
        return program
    source = read_source(name)
    if source.format != "program":
        return attach(program, source.library)
    loaded = program.deepcopy()
    if other := _other_fields(program, source.text):
        raise InputError(f"{name} is a state of another program: {other}")
    try:
        loaded.load(str(source.path))
    except Exception as error:  # DSPy raises anything on a state that is not this program's
        raise InputError(f"{name} is no saved state of this program: {type(error).__name__}: {error}") from error
    return loaded


def _other_fields(program: dspy.Module, state: str) -> str:
    """What tells a saved state from one of this program's: DSPy loads it all the same; empty if nothing does."""
    saved = json.loads(state)
    saved = {"self": saved} if "signature" in saved else saved  # of a program that is itself a predictor
    for name, predictor in program.named_predictors():
        own = [str((field.json_schema_extra or {}).get("prefix")) for field in predictor.signature.fields.values()]
        fields = saved.get(name, {}).get("signature", {}).get("fields")
        if name not in saved:
            return f"it has no predictor {name!r}, only {', '.join(map(repr, saved))}"
        if fields is not None and [field.get("prefix") for field in fields] != own:
            theirs = " ".join(str(field.get("prefix")) for field in fields)
            return f"the fields of {name!r} are {theirs} there and {' '.join(own)} here"
    return ""
