"""What `doctor` checks, each check a line: ok, warn or FAIL, and what to do."""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from trgrpo_dspy import __version__
from trgrpo_dspy.evaluation.evaluate import evaluate
from trgrpo_dspy.evaluation.examples import warnings_before
from trgrpo_dspy.failures.messages import fatal_message
from trgrpo_dspy.program.carrying import read_library
from trgrpo_dspy.program.instructions import teachable_predictors
from trgrpo_dspy.program.scoring import adapt_metric

from .errors import InputError
from .job import Job
from .problems import problem_of
from .subject import Subject, language_model, models_of

__all__ = ["Check", "checks"]


class Check(NamedTuple):
    """One check."""

    verdict: str
    """'ok', 'warn' or 'FAIL'."""
    what: str
    text: str


def checks(target: str, models: tuple[str, str], lm: Mapping[str, str], *, offline: bool) -> Iterator[Check]:
    """Make all checks that can be made."""
    yield from _versions()
    yield _extras()
    yield _directory()
    keys = sorted(name for name, value in os.environ.items() if name.endswith("_API_KEY") and value)
    yield Check("ok", "keys", f"in the environment: {', '.join(keys) or 'none; a local server may need none'}")
    names = list(dict.fromkeys(filter(None, models)))
    for name in names:
        yield _model(name, lm)
    if not names and not offline:
        yield Check("warn", "models", "none named: --model openai/gpt-4o-mini tries its key and one call")
    if target:
        job = Job("doctor", target, model=models[0], lm=dict(lm), offline=offline)
        yield from _target(job, called=bool(names) or offline)


def _versions() -> Iterator[Check]:
    python = ".".join(map(str, sys.version_info[:3]))
    yield Check("ok", "versions", f"trgrpo-dspy {__version__}, Python {python}")
    found = importlib.metadata.version("dspy")
    if re.match(r"3\.4(\.|$)", found):
        yield Check("ok", "dspy", found)
    else:
        yield Check("FAIL", "dspy", f"{found}; 3.4 is supported: pip install 'dspy>=3.4,<3.5'")


def _extras() -> Check:
    """Which extras are installed, by what the package itself requires."""
    try:
        required = importlib.metadata.requires("trgrpo-dspy") or []
    except importlib.metadata.PackageNotFoundError:
        return Check("warn", "extras", "trgrpo-dspy runs from its source and is not installed: pip install -e .")
    extras: dict[str, list[str]] = {}
    for text in required:
        found = re.match(r"([\w.-]+).*;.*extra == ['\"]([\w-]+)['\"]", text)
        if found and found[2] != "dev":
            extras.setdefault(found[2], []).append(found[1])
    have = [name for name, packages in extras.items() if all(map(_installed, packages))]
    missing = [name for name in extras if name not in have]
    hint = (
        f"; not: {', '.join(missing)} (pip install 'trgrpo-dspy[{missing[0]}]' where one is needed)" if missing else ""
    )
    return Check("ok", "extras", f"installed: {', '.join(have) or 'none'}{hint}")


def _installed(package: str) -> bool:
    try:
        return bool(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return False


def _directory() -> Check:
    try:
        with tempfile.TemporaryFile(dir=Path.cwd()):
            return Check("ok", "directory", "runs can be written to runs/ here")
    except OSError as error:
        return Check("FAIL", "directory", f"{Path.cwd()} can't be written: {error.strerror}; use --log-dir")


def _model(name: str, arguments: Mapping[str, str]) -> Check:
    """One call, not from the cache."""
    try:
        lm = language_model(name, {"cache": "false", "num_retries": "0", **arguments})
        began = time.monotonic()
        lm("Answer with the word OK.")
    except InputError as error:
        return Check("FAIL", name, problem_of(error).text)
    except Exception as error:  # a backend raises anything
        return Check("FAIL", name, fatal_message(error, name))
    used = lm.history[-1] if lm.history else {}
    cost = used.get("cost") if isinstance(used, dict) else getattr(used, "cost", None)
    priced = f"${cost:.6f}" if cost else "price unknown: --max-cost needs --price; or cap --set budget.max_lm_calls"
    return Check("ok" if cost else "warn", name, f"answered in {time.monotonic() - began:.1f} s; {priced}")


def _target(job: Job, *, called: bool) -> Iterator[Check]:
    try:
        subject = Subject.of(job)
        if (metric := subject.target.metric) is not None:
            adapt_metric(metric)
        predictors = ", ".join(teachable_predictors(subject.program))
    except (InputError, ValueError, TypeError) as error:
        yield Check("FAIL", "target", problem_of(error).text)
        return
    carried = len(read_library(subject.program))
    yield Check("ok", "target", f"predictors to teach: {predictors}" + (f"; carries {carried}" if carried else ""))
    yield from _data(subject)
    if called and subject.sets["trainset"]:
        yield _attempt(job, subject)


def _data(subject: Subject) -> Iterator[Check]:
    text = ", ".join(f"{name} {len(examples) or 'none'}" for name, examples in subject.sets.items())
    trainset, valset = subject.sets["trainset"], subject.sets["valset"]
    if not trainset:
        yield Check("FAIL", "data", f"{text}; compile needs a trainset")
        return
    few = len(trainset) < 10
    yield Check("warn" if few else "ok", "data", text + ("; 20 to 200 training examples are usual" if few else ""))
    if not valset and subject.target.metric is not None:
        yield Check("warn", "data", "without a valset nothing is measured, and the last library is returned")
    if blank := [n for n, e in subject.sets.items() if any(not getattr(x, "_input_keys", None) for x in e)]:
        yield Check("FAIL", "data", f"{', '.join(blank)}: examples without inputs; write .with_inputs('question')")
        return
    yield from (Check("warn", "data", warning) for warning in warnings_before(trainset, valset))


def _attempt(job: Job, subject: Subject) -> Check:
    """One attempt at the first training example, scored."""
    metric = subject.target.metric or (lambda example, prediction, trace=None: 1.0)
    try:
        with models_of(job, subject.program):
            found = evaluate(subject.program, subject.sets["trainset"][:1], metric, num_threads=1)
    except Exception as error:  # fatal errors of backends
        return Check("FAIL", "attempt", problem_of(error).text)
    rollout = next(iter(found.rollouts[0]), None)
    if rollout is None or rollout.score is None:
        why = rollout.error if rollout is not None else found.stop_reason
        return Check("FAIL", "attempt", f"could not be scored: {why}")
    by = " by the offline model, no LLM" if job.offline else ""
    said = rollout.error or f"{rollout.lm_calls} LM calls, {rollout.tool_calls} tool calls"
    return Check("warn" if rollout.error else "ok", "attempt", f"score {rollout.score:.3g}{by}; {said}")
