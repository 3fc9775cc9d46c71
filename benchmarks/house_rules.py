"""Learning of hidden house rules, by arm, with any model: score, calls, tokens, entries.

    python -m benchmarks.house_rules desk --model openai/gpt-4o-mini --reflection-model openai/gpt-4o
    python -m benchmarks.house_rules desk --arms ours contrast paper gepa simba miprov2 --seeds 3

Arms: `ours` is the default; `contrast`, `no-evidence`, `no-check`, `no-memory` leave out one part each; `paper` is the
paper's form; `gepa`, `simba`, `miprov2` are DSPy's own, given as many metric calls as `ours` made attempts. Without
--model the built-in n-gram model answers, which is no LLM: its figures only show that the command works.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import dspy

from programs.house_rules import FAMILIES, dataset
from trgrpo_dspy import Reflector, TrainingFreeGRPO, evaluate
from trgrpo_dspy.events import AttemptFinished, Event, GroupCompared
from trgrpo_dspy.offline import offline_lm

OURS: dict[str, dict[str, Any]] = {
    "ours": {},
    "contrast": {"learn_from": "contrast"},
    "no-evidence": {"evidence": False},
    "no-check": {"check_entries": False},
    "no-memory": {"memory": False},
    "build-on-best": {"build_on": "best"},
    "paper": {"learn_from": "contrast", "reflector": lambda: Reflector(form="paper", summarize="always")},
}
THEIRS = ("gepa", "simba", "miprov2")


def main() -> None:
    """Run the arms and print a line each, as a table and as JSON."""
    args = _arguments()
    lm = dspy.LM(args.model, **json.loads(args.lm)) if args.model else offline_lm()
    reflection = dspy.LM(args.reflection_model, **json.loads(args.reflection)) if args.reflection_model else lm
    if not args.model:
        print("answers of the built-in n-gram model, no LLM: the figures mean nothing")
    dspy.configure(lm=lm)
    rows = []
    for seed in range(args.seeds):
        attempts = 0
        for arm in args.arms:
            row = _run(args, arm, seed, reflection, attempts)
            attempts = row["attempts"] if arm == "ours" else attempts
            rows.append(row)
            print(json.dumps(row, ensure_ascii=False), flush=True)
    print(f"{'arm':<14}{'seed':>5}{'before':>8}{'after':>8}{'calls':>7}{'reflection':>11}{'tokens':>9}{'entries':>8}")
    for r in rows:
        print(
            f"{r['arm']:<14}{r['seed']:>5}{r['before']:>8.3f}{r['after']:>8.3f}{r['calls']:>7}{r['reflection']:>11}"
            f"{r['tokens']:>9}{r['entries']:>8}"
        )


def _run(args: argparse.Namespace, arm: str, seed: int, reflection: dspy.BaseLM, attempts: int) -> dict[str, Any]:
    family = FAMILIES[args.family]
    train, val, test = (
        dataset(args.family, s, n, seed) for s, n in (("train", args.train), ("val", args.val), ("test", args.test))
    )
    began, program = time.monotonic(), family.program()
    if arm in THEIRS:
        found, row = _theirs(arm, family.metric, program, train, val, reflection, args, attempts)
    else:
        found, row = _ours(arm, family.metric, program, train, val, reflection, args, seed)
    before, after = (evaluate(p, test, family.metric, num_threads=args.threads) for p in (program, found))
    scores = {"before": before.mean.value or 0.0, "after": after.mean.value or 0.0}
    return {"arm": arm, "family": args.family, "seed": seed, **scores, **row, "seconds": time.monotonic() - began}


def _ours(
    arm: str, metric: Any, program: Any, train: Any, val: Any, reflection: Any, args: Any, seed: int
) -> tuple[Any, dict[str, Any]]:
    options = {name: value() if callable(value) else value for name, value in OURS[arm].items()}
    optimizer = TrainingFreeGRPO(
        metric=metric, group_size=args.group_size, num_epochs=args.epochs, reflection_lm=reflection,
        num_threads=args.threads, seed=seed, log_dir=args.log_dir and f"{args.log_dir}/{arm}-{seed}",
        callbacks=[mistakes := _Mistakes()], **options,
    )  # fmt: skip
    compiled = optimizer.compile(program, trainset=train, valset=val or None)
    results = compiled.detailed_results
    spent = {name: [row for row in results.spend if (row.stage in ("rollout", "validation")) == own]
             for name, own in (("program", True), ("reflection", False))}  # fmt: skip
    return compiled, {
        "calls": results.total.calls,
        "reflection": sum(row.calls for row in spent["reflection"]),
        "tokens": sum(row.prompt_tokens + row.completion_tokens for row in spent["reflection"]),
        "entries": len(compiled.experiences),
        "attempts": sum(row.calls for row in spent["program"]),
        "compared": str(mistakes),
        "library": str(compiled.experiences).splitlines(),
        "verdict": results.verdict.text,
    }


class _Mistakes:
    """Listens for wrong training attempts, and for those of them that a comparison looked at."""

    def __init__(self) -> None:
        """Nothing heard yet."""
        self.wrong: list[tuple[int, int]] = []
        self.compared: set[tuple[int, int]] = set()

    def __call__(self, event: Event) -> None:
        """Take one event in."""
        if isinstance(event, AttemptFinished) and event.stage == "rollout" and (event.rollout.score or 0) < 1:
            self.wrong.append((event.step, event.rollout.example))
        if isinstance(event, GroupCompared) and event.teaches:
            self.compared.add((event.step, event.example))

    def __str__(self) -> str:
        """How many of how many."""
        return f"{sum(at in self.compared for at in self.wrong)} of {len(self.wrong)} wrong attempts"


def _theirs(
    arm: str, metric: Any, program: Any, train: Any, val: Any, reflection: Any, args: Any, attempts: int
) -> tuple[Any, dict[str, Any]]:
    budget = attempts or args.group_size * args.epochs * len(train) + len(val) * (args.epochs + 1)

    def scored(example: Any, prediction: Any, trace: Any = None, *more: Any) -> Any:
        found = metric(example, prediction, trace)
        return found if more else float(found.score)

    seen = len(dspy.settings.lm.history)
    if arm == "gepa":
        optimizer = dspy.GEPA(
            metric=lambda e, p, t=None, n=None, pt=None: scored(e, p, t, n, pt),
            max_metric_calls=budget, reflection_lm=reflection, num_threads=args.threads,
        )  # fmt: skip
        found = optimizer.compile(program, trainset=train, valset=val or train)
    elif arm == "simba":
        steps = max(1, budget // (4 * 32))
        optimizer = dspy.SIMBA(metric=scored, max_steps=steps, num_candidates=4, bsize=min(32, len(train)))
        found = optimizer.compile(program, trainset=train, seed=0)
    else:
        optimizer = dspy.MIPROv2(metric=scored, auto=None, num_candidates=5, prompt_model=reflection)
        trials = max(2, budget // max(1, len(val or train)))
        found = optimizer.compile(
            program, trainset=train, valset=val or train, num_trials=trials, minibatch=False,
            max_bootstrapped_demos=0, max_labeled_demos=0,
        )  # fmt: skip
    calls = len(dspy.settings.lm.history) - seen
    return found, {"calls": calls, "reflection": 0, "tokens": 0, "entries": 0, "attempts": budget}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("--arms", nargs="+", default=["ours"], choices=[*OURS, *THEIRS])
    parser.add_argument("--model", help="LiteLLM model string; without it the offline model answers")
    parser.add_argument("--lm", default="{}", help="further arguments of dspy.LM as JSON, such as api_base")
    parser.add_argument("--reflection-model", help="model of the reflection; the same as --model if left out")
    parser.add_argument("--reflection", default="{}", help="further arguments of its dspy.LM as JSON")
    numbers = {"train": 60, "val": 40, "test": 60, "group-size": 3, "epochs": 2, "seeds": 1, "threads": 16}
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--log-dir", help="where journals are kept, so that a run can go on")
    return parser.parse_args()


if __name__ == "__main__":
    main()
