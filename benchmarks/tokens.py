"""What a step asks for, in tokens by stage: with and without summaries, with duplicates merged or not.

    python -m benchmarks.tokens
    python -m benchmarks.tokens --quick

Three tasks: tickets (one call an attempt, short transcripts), an agent (`dspy.ReAct` over the same tickets with a tool
that returns a page of earlier ones, long transcripts), and gsm8k (four recorded attempts of real models at each of 138
problems; left out where the data is not there). Each is learned from in four ways: `summarize` "always" or "auto", and
attempts of a group that came back the same told once ("merged") or each for itself ("each").

The first table counts the prompts and replies as the engine saw them, in tokens of 4 characters as everywhere in the
package, for a step on average; the ratio is to "always, each", which is the paper's. The second says how much of a
prompt is a prefix of the prompt of its stage that was made just before it in the same step, or of any made before it:
what a provider's prompt cache could serve at most (providers cache from about 1,024 tokens up). The third is what it
does to what is learned: the score on the tickets' test set of the last library, as it is without the gate of a valset.

The built-in text model answers. It is no large language model: its prompts are as long as they would be for one, its
replies are not. Comparing attempts it reads their answers and nothing else, so the third table can only show that no
vote of an attempt gets lost; whether a model learns more from summaries than from short transcripts it can't show.
"""

from __future__ import annotations

import bisect
import json
import os
import statistics
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import dspy
from dspy.lm15 import Message, Request, Response, Usage

from benchmarks.shared import command_line
from programs import tickets
from trgrpo_dspy import Reflector, TrainingFreeGRPO, evaluate
from trgrpo_dspy.engine.calls.units import current_unit
from trgrpo_dspy.learning import reflector as reflector_module
from trgrpo_dspy.library.entries import count_tokens
from trgrpo_dspy.offline import NOTICE, OfflineEngine

DATA = Path(os.environ.get("TRGRPO_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
STAGES = ("rollout", "summary", "comparison", "proposals", "consolidation")
WAYS = tuple((summarize, merged) for summarize in ("always", "auto") for merged in (False, True))


@dataclass
class Seen:
    """Prompts and replies of one run, by step and stage, in the order in which they were asked for."""

    prompts: dict[tuple[int, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    replies: dict[tuple[int, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, request: Request, reply: str) -> None:
        """Keep one call."""
        unit, system = current_unit(), request.system
        texts = [system if isinstance(system, str) else "".join(getattr(p, "text", "") for p in system or ())]
        texts += ["".join(getattr(part, "text", "") or "" for part in m.parts) for m in request.messages]
        with self.lock:
            self.prompts[unit.step, unit.stage.value].append("\n".join(texts))
            self.replies[unit.step, unit.stage.value].append(reply)

    @property
    def steps(self) -> int:
        """Steps that were made."""
        return max((step for step, _ in self.prompts), default=0)

    def of(self, stage: str) -> tuple[float, float, float]:
        """Calls, prompt tokens and completion tokens of a stage in a step on average."""
        prompts = [text for (_, name), texts in self.prompts.items() if name == stage for text in texts]
        replies = [text for (_, name), texts in self.replies.items() if name == stage for text in texts]
        return (
            len(prompts) / self.steps,
            sum(map(count_tokens, prompts)) / self.steps,
            sum(map(count_tokens, replies)) / self.steps,
        )

    def shared(self, stage: str) -> tuple[float, float]:
        """Share of a stage's prompts that is a prefix of the one before it, and of any before it."""
        before = anywhere = total = 0
        for (_, name), texts in self.prompts.items():
            if name != stage:
                continue
            known: list[str] = []
            for at, text in enumerate(texts):
                total += len(text)
                place = bisect.bisect(known, text)  # in order of the alphabet the longest prefix is a neighbour's
                anywhere += max((_prefix(text, other) for other in known[max(0, place - 1) : place + 1]), default=0)
                before += _prefix(text, texts[at - 1]) if at else 0
                known.insert(place, text)
        return (before / total, anywhere / total) if total else (0.0, 0.0)


def _prefix(a: str, b: str) -> int:
    differ = (at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return next(differ, min(len(a), len(b)))


class WatchedEngine(OfflineEngine):
    """The built-in model, or recorded attempts, with every call kept."""

    def __init__(self, seed: int, seen: Seen, recorded: dict[str, list[str]] | None = None) -> None:
        """Answer as the model of this seed; a program's question is answered with its recorded attempts, in turn."""
        super().__init__(seed)
        self._seen, self._recorded = seen, recorded
        self._given: dict[str, int] = defaultdict(int)
        self._lock = threading.Lock()

    def complete(self, request: Request) -> Response:
        """Answer, and keep what was asked and answered."""
        response = self._replay(request) if self._recorded is not None else None
        response = response or super().complete(request)
        self._seen.add(request, response.message.text or "")
        return response

    def _replay(self, request: Request) -> Response | None:
        found = str(getattr(request.messages[-1].parts[0], "text", "")).partition("[[ ## question ## ]]\n")[2]
        if not found or self._recorded is None:
            return None
        question = found.partition("\n\nRespond with")[0].strip()
        with self._lock:
            number, self._given[question] = self._given[question], self._given[question] + 1
        text = f"[[ ## solution ## ]]\n{self._recorded[question][number]}\n\n[[ ## completed ## ]]"
        usage = Usage(input_tokens=0, output_tokens=0)
        return Response(
            id=None, model=request.model, message=Message.assistant(text), finish_reason="stop", usage=usage
        )


@dataclass(frozen=True)
class Task:
    """What is learned from."""

    name: str
    program: Callable[[], dspy.Module]
    metric: Callable[..., Any]
    trainset: list[dspy.Example]
    epochs: int = 2
    group_size: int = 5
    recorded: dict[str, list[str]] | None = None
    testset: list[dspy.Example] = field(default_factory=list)


def agent() -> dspy.Module:
    """An agent that reads a page of earlier tickets, without their labels, before it decides."""
    earlier = [str(example.ticket) for example in tickets.valset()]

    def earlier_tickets(query: str) -> str:
        """Find earlier tickets like this one."""
        words = set(query.casefold().split())
        alike = sorted(earlier, key=lambda text: -len(words & set(text.casefold().split())))
        return "\n".join(alike[:10])

    return dspy.ReAct(tickets.TriageTicket, tools=[earlier_tickets], max_iters=3)


def gsm8k(most: int | None) -> Task | None:
    """Recorded attempts at problems that some got right and some wrong; None where they are not there."""
    file = DATA / "gsm8k_attempts.jsonl"
    if not file.is_file():
        return None
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if len({a["correct"] for a in row["attempts"]}) == 2][:most]
    recorded = {row["question"].strip(): [a["solution"].strip() for a in row["attempts"]] for row in rows}
    right = {(row["question"].strip(), a["solution"].strip()): a["correct"] for row in rows for a in row["attempts"]}

    def metric(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> dspy.Prediction:
        score = float(right[example.question, prediction.solution.strip()])
        return dspy.Prediction(score=score, feedback=f"The answer is {'right' if score else 'wrong'}.")

    examples = [
        dspy.Example(question=row["question"].strip(), answer=row["answer"]).with_inputs("question") for row in rows
    ]
    return Task("gsm8k", lambda: dspy.Predict("question -> solution"), metric, examples, 1, 4, recorded)


def way(merged: bool) -> AbstractContextManager[Any]:
    """Tell attempts that came back the same once, as the package does, or each for itself."""
    each = mock.patch.object(reflector_module, "_content", lambda rollout: rollout.attempt)
    return nullcontext() if merged else each


def learn(task: Task, summarize: Any, merged: bool, seed: int, threads: int) -> tuple[dspy.Module, Seen]:
    """Compile once; what was asked for on the way."""
    seen = Seen()
    lm = dspy.LM("offline/watched", engine=WatchedEngine(seed, seen, task.recorded), cache=False, seed=seed)
    optimizer = TrainingFreeGRPO(
        metric=task.metric, num_epochs=task.epochs, group_size=task.group_size, seed=seed, num_threads=threads,
        learn_from="contrast", reflector=Reflector(form="paper", summarize=summarize),
    )  # fmt: skip
    with way(merged), dspy.context(lm=lm):
        return optimizer.compile(task.program(), trainset=task.trainset), seen


def label(summarize: str, merged: bool) -> str:
    """How a row of a table is called."""
    return f"{summarize}, {'merged' if merged else 'each'}"


def print_tokens(task: Task, found: dict[str, Seen]) -> None:
    """Print calls and tokens by stage, with ratios to the first row's."""
    print(f"\n{task.name}: {len(task.trainset)} examples x {task.group_size} attempts; a step on average")
    print(f"  {'':<15} {'stage':<14} {'calls':>7} {'prompt':>9} {'completion':>11}   {'ratio of calls, tokens':>22}")
    whole = {stage: next(iter(found.values())).of(stage) for stage in STAGES}
    for name, seen in found.items():
        rows = {stage: seen.of(stage) for stage in STAGES}
        after = STAGES[1:]
        for stages, title in [*(((stage,), stage) for stage in STAGES), (after, "all but rollout"), (STAGES, "all")]:
            calls, prompt, completion = (sum(rows[s][i] for s in stages) for i in range(3))
            first = [sum(whole[s][i] for s in stages) for i in range(3)]
            of_calls = f"{calls / first[0]:.2f}" if first[0] else "-"
            of_tokens = f"{(prompt + completion) / (first[1] + first[2]):.2f}" if first[0] else "-"
            told = f"{calls:>7.1f} {prompt:>9.0f} {completion:>11.0f}"
            print(f"  {name if title == 'rollout' else '':<15} {title:<14} {told}   {of_calls:>14} {of_tokens:>7}")


def print_shared(seen: Seen) -> None:
    """Print how much of a stage's prompts other prompts of its step begin with."""
    shares = [f"{stage} {100 * a:.0f}% / {100 * b:.0f}%" for stage in STAGES for a, b in [seen.shared(stage)]]
    print(f"  shared prefix with the call before / with any before: {', '.join(shares)}")


def print_learned(task: Task, seeds: Sequence[int], threads: int) -> None:
    """Print the score on the test set for each way over seeds."""
    print(f"\n{task.name}: score of the last library on {len(task.testset)} test examples, seeds {list(seeds)}")
    for summarize, merged in WAYS:
        scores = []
        for seed in seeds:
            compiled, _ = learn(task, summarize, merged, seed, threads)
            lm = dspy.LM("offline/watched", engine=OfflineEngine(seed), cache=False, seed=seed)
            with dspy.context(lm=lm):
                measured = evaluate(compiled, task.testset, task.metric, num_threads=threads)
            scores.append(100 * (measured.score or 0.0))
        each = " ".join(f"{score:5.1f}" for score in scores)
        print(f"  {label(summarize, merged):<15} {each}   mean {statistics.mean(scores):.1f}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit status is 0."""
    parser = command_line(__doc__, "a few examples, one seed: does it run?", threads=(8, "calls in flight"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of what is learned")
    options = parser.parse_args(arguments)
    most = 4 if options.quick else None
    train, test = tickets.trainset()[:most], tickets.testset()[: 10 if options.quick else None]
    epochs = 1 if options.quick else 2
    first = Task("tickets", tickets.program, tickets.metric, train, epochs, testset=test)
    tasks = [first, Task("agent", agent, tickets.metric, train, epochs)]
    if recorded := gsm8k(most):
        tasks.append(recorded)
    print(NOTICE)
    for task in tasks:
        found = {label(*w): learn(task, *w, seed=0, threads=1)[1] for w in WAYS}  # one thread: one order of calls
        print_tokens(task, found)
        print_shared(found[label("always", True)])
    if recorded is None:
        print("\ngsm8k: left out, there is no gsm8k_attempts.jsonl in TRGRPO_DATA or beside the project")
    print_learned(first, [0] if options.quick else options.seeds, options.threads)
    return 0


if __name__ == "__main__":
    sys.exit(main())
