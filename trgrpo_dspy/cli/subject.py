"""What a job works on: its target with the sets of examples, and its models."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dspy

from trgrpo_dspy.failures.secrets import remember, secrets_of
from trgrpo_dspy.offline import offline_lm

from .data import examples_from
from .errors import InputError
from .job import SETS, Job
from .target import Target, load_target

__all__ = ["Subject", "language_model", "models_of"]


@dataclass(frozen=True)
class Subject:
    """What a job works on."""

    target: Target
    program: dspy.Module
    sets: Mapping[str, list[dspy.Example]]
    """The sets of examples by name; empty where there is none."""

    @classmethod
    def of(cls, job: Job) -> Subject:
        """Load a job's target and data."""
        target = load_target(job.target)
        program = target.program
        sets = {
            name: examples_from(job.data[name], program, job.inputs, job.columns)
            if name in job.data
            else target.examples(name)
            for name in SETS
        }
        return cls(target, program, sets)

    @property
    def valset(self) -> list[dspy.Example] | None:
        """The validation examples to learn with; without a metric nothing is measured."""
        return (self.sets["valset"] or None) if self.target.metric is not None else None

    def examples(self, name: str) -> list[dspy.Example]:
        """The examples of a set that must have some."""
        if not self.sets[name]:
            raise InputError(
                f"{self.target.name} has no examples in {name}; define `{name}`, or pass --{name} data.jsonl"
            )
        return self.sets[name]


@contextmanager
def models_of(job: Job, program: dspy.Module) -> Iterator[dspy.BaseLM | None]:
    """Set the job's LM for what is done inside; gives the LM of the reflection, None where it is the same."""
    if job.offline and (job.model or job.reflection_model):
        raise InputError("--offline is the built-in model: leave it out, or --model")
    lm: Any = dspy.settings.lm
    if job.offline:
        lm = offline_lm(seed=int(job.options.get("seed", "0")))
    elif job.model:
        lm = language_model(job.model, job.lm)
    elif lm is None and not any(p.lm for _, p in program.named_sub_modules(dspy.Predict)):
        raise InputError(
            "no model: pass --model openai/gpt-4o-mini (any LiteLLM string; its key in the environment), or --offline "
            "to try things out without one"
        )
    reflection = language_model(job.reflection_model, job.lm) if job.reflection_model else None
    with dspy.context(lm=lm):
        yield reflection


def language_model(name: str, arguments: Mapping[str, str]) -> dspy.LM:
    """A `dspy.LM` from its model string and arguments given as text; one that holds a secret is refused."""
    found = {key: _value(text) for key, text in arguments.items()}
    if held := [key for key, value in found.items() if secrets_of({key: value})]:
        raise InputError(
            f"--lm {held[0]}=***: a secret on the command line stays in the shell's history; set the provider's "
            "environment variable, such as OPENAI_API_KEY, or configure the LM in TARGET"
        )
    try:
        lm = dspy.LM(name, **found)
    except (ValueError, TypeError) as error:
        raise InputError(f"--model {name}: {error}") from error
    remember(lm.kwargs)
    return lm


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
