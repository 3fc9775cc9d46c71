"""What a run makes of a bad backend: checked call by call against the server's own log.

    python -m benchmarks.fault_campaign
    python -m benchmarks.fault_campaign --quick

The offline model's server fails 20% of its requests (rate limits, server errors, hangs beyond the client's timeout,
connections reset), answers 10% with garbage and cuts 10% of its replies; the agent's tool loses its connection in 5% of
its calls and ReAct tells nobody. Both of DSPy's clients are used, by a one-call program and by a ReAct agent. Checked,
for each run:

- it completes, and its verdict says which stages were cut by length;
- calls, retries, tokens and cut replies add up to what the server saw;
- no attempt that met an outage is scored, and every mean is that of the scored attempts alone;
- no word of an outage reaches a reflection prompt, and every lesson comes from a group with a contrast;
- no reply that was cut becomes a lesson.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import dspy
from dspy.clients._litellm import get_litellm
from dspy.utils.callback import BaseCallback

from benchmarks.shared import command_line, quiet
from programs import tickets
from trgrpo_dspy import DetailedResults, TrainingFreeGRPO
from trgrpo_dspy.engine.calls import state
from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.learning.group import RolloutGroup, mean
from trgrpo_dspy.offline.server import OfflineServer, ServedRequest
from trgrpo_dspy.program.rollout import Rollout

REFLECTION = ("summary", "comparison", "proposals", "consolidation", "check", "repair")
SCORED = ("completed", "program_error", "parse_error", "context_window")
TOOL_OUTAGE = "the rule book cannot be reached"
# What an outage would leave in a text that is made of it.
SIGNS = (
    TOOL_OUTAGE, "ConnectionError", "RateLimit", "LMServerError", "LMTransportError", "LMTimeoutError", "timed out",
    "Rate limit reached", "had an error while processing", "Connection reset", "Connection error",
)  # fmt: skip


@dataclass
class Observed:
    """What was seen from outside while a run went on."""

    prompts: dict[str, list[str]] = field(default_factory=dict)
    """Texts sent, by stage."""
    tool_calls: int = 0
    tool_outages: int = 0
    run_again: set[str] = field(default_factory=set)
    """Attempts whose tool met an outage: they are run again from the start."""
    lock: threading.Lock = field(default_factory=threading.Lock)


class Watch(BaseCallback):
    """Keeps every prompt with the stage it was sent for."""

    def __init__(self, seen: Observed) -> None:
        self.seen = seen

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Keep a prompt."""
        stage = dspy.settings.get("trgrpo_dspy_unit").stage.value
        with self.seen.lock:
            self.seen.prompts.setdefault(stage, []).append(str(inputs.get("messages") or inputs.get("prompt")))


@dataclass(frozen=True)
class Scenario:
    """One run."""

    engine: str
    program: str
    """'predict' or 'agent'."""
    examples: int = 16
    valset: int = 16
    threads: int = 16
    seed: int = 0
    tool_outages: int = 5
    """Percent of tool calls that lose their connection."""
    truncate_rate: float = 0.1
    """Share of replies that are cut."""
    timeout: float = 1.0
    """Seconds the client waits: what takes longer is a hang."""


@dataclass
class Finding:
    """What came of it."""

    scenario: Scenario
    results: DetailedResults
    requests: list[ServedRequest]
    seen: Observed
    problems: list[str]
    seconds: float

    def __str__(self) -> str:
        total, s = self.results.total, self.scenario
        faults = Counter(r.fault for r in self.requests if r.fault)
        outcomes: Counter[str] = Counter()
        for step in self.results.steps:
            outcomes.update(step.outcomes)
        for measured in self.results.measured:
            outcomes.update(measured.outcomes)
        lost: Counter[str] = Counter()
        for step in self.results.steps:
            lost.update(step.lost)
        return "\n".join(
            [
                f"{s.program}, engine={s.engine!r}, seed {s.seed}: {self.seconds:.0f} s, "
                f"{'as promised' if not self.problems else 'NOT as promised'}",
                f"  server: {len(self.requests)} requests; {_listed(faults)}; tool: {self.seen.tool_outages} of "
                f"{self.seen.tool_calls} calls lost",
                f"  run:    {total.calls} calls, {total.retries} retries, {total.failed} lost, {total.truncated} cut",
                f"  attempts: {_listed(outcomes)}",
                f"  reflection replies lost: {_listed(lost) or 'none'}",
                f"  verdict: {self.results.verdict.text}",
                *(f"  PROBLEM: {problem}" for problem in self.problems),
            ]
        )


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def build(scenario: Scenario, seen: Observed) -> dspy.Module:
    """The program, one call or an agent whose tool fails at random."""
    if scenario.program == "predict":
        return tickets.program()
    tries: Counter[str] = Counter()

    def look_up(question: str) -> str:
        """Look up a house rule in the rule book."""
        with seen.lock:
            seen.tool_calls += 1
            tries[question] += 1
            number = int.from_bytes(blake2b(f"{question} {tries[question]}".encode(), digest_size=4).digest(), "big")
        if number % 100 < scenario.tool_outages:
            with seen.lock:
                seen.tool_outages += 1
                seen.run_again.add(dspy.settings.get("trgrpo_dspy_unit").id)
            raise ConnectionError(TOOL_OUTAGE)
        return f"The rule book says nothing of that kind on page {number % 50}."

    return dspy.ReAct(tickets.TriageTicket, tools=[look_up], max_iters=3)


def run(scenario: Scenario, log_dir: Path) -> Finding:
    """Compile on a bad backend, then check what came of it."""
    seen = Observed()
    server = OfflineServer(
        error_rate=0.2, garbage_rate=0.1, truncate_rate=scenario.truncate_rate, errors=("429", "500", "hang", "reset"),
        hang_seconds=30, retry_after=0.05, seed=scenario.seed,
    )  # fmt: skip
    backoff, state.BACKOFF = state.BACKOFF, 0.02  # a campaign has no time for a provider's sake
    began = time.monotonic()
    try:
        with server:
            lm = server.lm(scenario.engine, timeout=scenario.timeout, num_retries=2)
            optimizer = TrainingFreeGRPO(
                metric=tickets.metric,
                num_epochs=2,
                group_size=4,
                num_threads=scenario.threads,
                log_dir=log_dir,
                learn_from="contrast",
                evidence=False,
            )
            with dspy.context(lm=lm, callbacks=[Watch(seen)], adapter=None):
                compiled = optimizer.compile(
                    build(scenario, seen),
                    trainset=tickets.trainset()[: scenario.examples],
                    valset=tickets.valset()[: scenario.valset],
                )
            results: DetailedResults = compiled.detailed_results
        lm.close()
    finally:
        state.BACKOFF = backoff
    requests = server.requests  # complete: the server has stopped
    problems = [problem for check in CHECKS for problem in check(results, requests, seen, Kept.read(log_dir))]
    return Finding(scenario, results, requests, seen, problems, time.monotonic() - began)


@dataclass(frozen=True)
class Kept:
    """What the journal holds, read without the package's help."""

    attempts: dict[str, dict[str, Any]]
    """Rollouts by unit."""
    failed: Counter[str]
    """Calls that failed for good, by unit."""
    replies: list[tuple[str, str, bool]]
    """Unit, text, and whether it was cut."""

    @classmethod
    def read(cls, log_dir: Path) -> Kept:
        """Read a journal."""
        with closing(sqlite3.connect(log_dir / "journal.sqlite")) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            attempts = {unit: json.loads(text) for unit, text in db.execute("SELECT unit, rollout FROM attempts")}
            other = [(unit, json.loads(call)) for unit, call in db.execute("SELECT unit, call FROM other_calls")]
            calls = db.execute("SELECT unit, call, reply FROM calls").fetchall()
        failed = Counter(unit for unit, call in other if call["failed"])
        for line in (log_dir / "events.jsonl").read_text().splitlines():  # what an outage took is in no journal
            event = json.loads(line)
            if event["event"] == "AttemptFinished" and event["rollout"]["outcome"] == "infrastructure":
                stage, step, rollout = event["stage"], event["step"], event["rollout"]
                key = [stage, step] if stage == "rollout" else [stage]
                unit = "/".join(map(str, [stage, step, *key, rollout["example"], rollout["attempt"]]))
                lost = (name for name in failed if f"{name}/".startswith(f"{unit}/"))
                attempts[next(lost, unit)] = rollout
        return cls(attempts, failed, [(unit, reply, json.loads(call)["truncated"]) for unit, call, reply in calls])

    def of(self, stage: str, step: int) -> list[dict[str, Any]]:
        """Attempts of a stage in a step."""
        return [kept for unit, kept in self.attempts.items() if unit.split("/")[:2] == [stage, str(step)]]


Check = Callable[[DetailedResults, Sequence[ServedRequest], Observed, Kept], list[str]]


def _unequal(**pairs: tuple[Any, Any]) -> list[str]:
    return [f"{name.replace('_', ' ')}: {a} told, {b} in fact" for name, (a, b) in pairs.items() if a != b]


def check_ending(results: DetailedResults, requests: Sequence[ServedRequest], seen: Observed, kept: Kept) -> list[str]:
    """It completes, and says what its replies suffered from."""
    problems = _unequal(stop_reason=(results.stop_reason, "completed"))
    for stage in {row.stage for row in results.spend}:
        rows = [row for row in results.spend if row.stage == stage]
        cut, made = sum(r.truncated for r in rows), sum(r.calls for r in rows)
        sentence = f"{cut} of {made} replies in stage '{stage}' were cut by length: raise the LM's max_tokens."
        if (sentence in results.verdict.text) != (cut > 0.05 * made):
            problems.append(f"the verdict on cut replies in stage {stage!r}, {cut} of {made}")
    return problems


def check_counts(results: DetailedResults, requests: Sequence[ServedRequest], seen: Observed, kept: Kept) -> list[str]:
    """Calls, retries, tokens and cut replies are those the server saw."""
    total, answered = results.total, [r for r in requests if r.status == 200]
    return _unequal(
        requests=(total.calls + total.retries, len(requests)),
        answered=(total.calls - total.failed, len(answered)),
        prompt_tokens=(total.prompt_tokens, sum(r.prompt_tokens for r in answered)),
        completion_tokens=(total.completion_tokens, sum(r.completion_tokens for r in answered)),
        cut=(total.truncated, sum(r.fault == "truncated" for r in answered)),
    )


def check_attempts(
    results: DetailedResults, requests: Sequence[ServedRequest], seen: Observed, kept: Kept
) -> list[str]:
    """No attempt is scored for an outage, and means are those of the scored."""
    problems = []
    for unit, attempt in kept.attempts.items():
        told = attempt["outcome"] in SCORED
        if told != (attempt["score"] is not None):
            problems.append(f"{unit}: {attempt['outcome']} with score {attempt['score']}")
        if told and kept.failed[unit] and unit not in seen.run_again:
            problems.append(f"{unit}: scored {attempt['score']} though an LM call was lost")
        if told and any(sign in attempt["transcript"] for sign in SIGNS):
            problems.append(f"{unit}: scored {attempt['score']} though its transcript tells of an outage")
        if attempt["outcome"] == "infrastructure" and not kept.failed[unit] and TOOL_OUTAGE not in attempt["error"]:
            problems.append(f"{unit}: unscored without an outage")
    for step in results.steps:
        rollouts = kept.of("rollout", step.step)
        problems += _unequal(
            train_mean=(step.train_mean, mean([r["score"] for r in rollouts])),
            outcomes=(step.outcomes, dict(sorted(Counter(r["outcome"] for r in rollouts).items()))),
        )
    for measured in results.measured:
        found = kept.of("validation", measured.step)
        scores = {r["example"]: r["score"] for r in found}
        problems += _unequal(
            validation_scores=(list(measured.scores), [scores[i] for i in range(len(measured.scores))]),
            validation_mean=(measured.mean.value, mean(list(scores.values()))),
            unscored=(measured.mean.unscored, sum(score is None for score in scores.values())),
        )
    return problems


def check_lessons(results: DetailedResults, requests: Sequence[ServedRequest], seen: Observed, kept: Kept) -> list[str]:
    """Lessons come from groups with a contrast among scored attempts, and no prompt tells of an outage."""
    problems = [
        f"a {stage} prompt tells of an outage: {sign!r}"
        for stage in REFLECTION
        for prompt in seen.prompts.get(stage, [])
        for sign in SIGNS
        if sign in prompt
    ]
    informative = set()
    for step in results.steps:
        for index in step.examples:
            rollouts = [r for r in kept.of("rollout", step.step) if r["example"] == index]
            records = [Rollout(index, r["attempt"], Outcome(r["outcome"]), r["score"]) for r in rollouts]
            if RolloutGroup(index, "", "", tuple(records)).informative:
                informative.add(index)
        for entry in step.library:
            if not set(entry.sources) & informative:  # neighbours are compared in one call
                problems.append(f"{entry.id} comes from {entry.sources}, with a contrast are {sorted(informative)}")
    return problems


def check_cut(results: DetailedResults, requests: Sequence[ServedRequest], seen: Observed, kept: Kept) -> list[str]:
    """A reply that was cut is lost, counted, and in no library."""
    told = Counter[str]()
    for step in results.steps:
        for reason, count in step.lost.items():
            told[reason.split(": ")[0]] += count if reason.endswith("cut by length") else 0
    cut_units = {unit for unit, _, cut in kept.replies if cut and unit.split("/")[0] in REFLECTION}
    in_fact = Counter(unit.split("/")[0] for unit in cut_units)
    problems = _unequal(replies_cut=(+told, in_fact))
    whole = "\n".join(text for unit, text, _ in kept.replies if unit not in cut_units)
    for unit, text, _ in kept.replies:
        if unit in cut_units:
            problems += [
                f"{entry.id} is in a reply of {unit} that was cut, and in no other: {entry.text}"
                for step in results.steps
                for entry in step.library
                if entry.text in text and entry.text not in whole
            ]
    return problems


CHECKS: tuple[Check, ...] = (check_ending, check_counts, check_attempts, check_lessons, check_cut)


def main() -> None:
    """Run the campaign and print what was found."""
    options = command_line(__doc__, "one small run of each kind", seeds=(3, "runs of each kind")).parse_args()
    quiet()
    litellm = get_litellm(feature="the campaign")
    litellm.suppress_debug_info = True
    size = {"examples": 6, "valset": 6} if options.quick else {}
    found = []
    for seed in range(1 if options.quick else options.seeds):
        for engine in ("auto", "litellm"):
            for program in ("predict", "agent"):
                with tempfile.TemporaryDirectory() as log_dir:
                    found.append(run(Scenario(engine, program, seed=seed, **size), Path(log_dir)))
                print(found[-1], "\n", flush=True)
    bad = sum(bool(finding.problems) for finding in found)
    requests = sum(len(finding.requests) for finding in found)
    print(f"{len(found)} runs, {requests} requests, {bad} runs not as promised")
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
