"""What is learned, and what is not: gains on held-out test sets with controls, for several seeds.

    python -m benchmarks.learning tickets
    python -m benchmarks.learning banking77
    python -m benchmarks.learning tickets --quick

For each seed the same table holds the learned library and three controls: training labels permuted (the attempts are
scored against other examples' labels, so that only how frequent each answer is can be learned), labels drawn at random
(each value equally often: nothing can be learned), and a placebo (neutral advice in as many entries and about as many
tokens). Gains are on the test set, paired by example, with 95% intervals. For the permuted control the last library is
reported as well, as it would be without the gate of the valset. Beside the table stands what always giving the most
frequent training label scores: the most that permuted labels can teach.

With the built-in text model these figures say nothing about an LLM's; `--model` takes any LiteLLM string.
"""

from __future__ import annotations

import argparse
import importlib
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType

import dspy

from trgrpo_dspy import Evaluation, ExperienceLibrary, TrainingFreeGRPO, attach, evaluate
from trgrpo_dspy.library.entries import clean_entry, count_tokens
from trgrpo_dspy.offline import NOTICE, offline_lm

NEUTRAL = (
    "When the message is long, read it twice before you answer.",
    "When several answers seem possible, weigh them one by one and take the one that fits best.",
    "When in doubt, go back to the words of the message and think again.",
    "When the message is short, take it as it stands and do not read more into it.",
    "When the tone is harsh, stay calm and look at the facts alone.",
    "When you have an answer, check once more that it is one of those allowed.",
)
"""Advice that fits every task and helps with none."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    seed: int
    arm: str
    before: Evaluation
    after: Evaluation
    note: str = ""

    def __str__(self) -> str:
        gain = self.after.versus(self.before)
        low, high = (100 * gain.interval.low, 100 * gain.interval.high) if gain.interval else (float("nan"),) * 2
        scores = f"{100 * (self.before.score or 0):6.1f} {100 * (self.after.score or 0):6.1f}"
        counts = f"{gain.wins}/{gain.ties}/{gain.losses}"
        return (
            f"{self.seed:>4}  {self.arm:<22} {scores} {100 * (gain.difference or 0):+6.1f}  "
            f"[{low:+6.1f}, {high:+6.1f}]  {counts:<12} {self.note}"
        )


def placebo(library: ExperienceLibrary) -> ExperienceLibrary:
    """Return neutral advice in as many entries, each about as long, as the library has."""
    entries = []
    for index, entry in enumerate(library):
        text = NEUTRAL[index % len(NEUTRAL)]
        while count_tokens(text) < count_tokens(entry.text):
            text += " " + NEUTRAL[(index + len(text)) % len(NEUTRAL)]
        words = text.split()[: len(entry.text.split())]
        entries.append(replace(entry, text=clean_entry(" ".join(words))))
    return replace(library, entries=tuple(entries))


def permuted(examples: Sequence[dspy.Example], seed: int) -> list[dspy.Example]:
    """Return the examples with their labels dealt out anew."""
    labels = [dict(example.labels()) for example in examples]
    random.Random(f"permute-{seed}").shuffle(labels)
    return [
        dspy.Example(**example.inputs(), **label).with_inputs(*example.inputs().keys())
        for example, label in zip(examples, labels, strict=True)
    ]


def drawn(examples: Sequence[dspy.Example], seed: int) -> list[dspy.Example]:
    """Return the examples with every label drawn anew, each value that occurs being equally likely."""
    rng = random.Random(f"draw-{seed}")
    values = {name: sorted({example[name] for example in examples}) for name in list(examples[0].labels().keys())}
    return [
        dspy.Example(**example.inputs(), **{name: rng.choice(v) for name, v in values.items()}).with_inputs(
            *example.inputs().keys()
        )
        for example in examples
    ]


def most_frequent(target: ModuleType, train: Sequence[dspy.Example], test: Sequence[dspy.Example]) -> float:
    """Return what always giving each field's most frequent training label scores on the test set."""
    names = train[0].labels().keys()
    constant = {name: Counter(example[name] for example in train).most_common(1)[0][0] for name in names}
    scores = [target.metric(example, dspy.Prediction(**constant)).score for example in test]
    return sum(scores) / len(scores)


def sets(
    target: ModuleType, seed: int, quick: bool
) -> tuple[list[dspy.Example], list[dspy.Example], list[dspy.Example]]:
    """Return train, validation and test examples; Banking77 draws them by seed."""
    seeded = target.__name__.endswith("banking77")
    found = [getattr(target, name)(*([seed] if seeded else [])) for name in ("trainset", "valset", "testset")]
    return (found[0][:30], found[1][:30], found[2][:40]) if quick else (found[0], found[1], found[2])


def run_seed(target: ModuleType, seed: int, args: argparse.Namespace) -> list[Row]:
    """Learn with true and with permuted labels, and measure all arms on the test set."""
    train, val, test = sets(target, seed, args.quick)
    program = target.program()

    def measure(candidate: dspy.Module) -> Evaluation:
        return evaluate(candidate, test, target.metric, num_threads=args.threads)

    def learn(examples: list[dspy.Example]) -> dspy.Module:
        optimizer = TrainingFreeGRPO(metric=target.metric, num_epochs=args.epochs, num_threads=args.threads, seed=seed)
        return optimizer.compile(program, trainset=examples, valset=val)

    before = measure(program)
    learned, control, noise = learn(train), learn(permuted(train, seed)), learn(drawn(train, seed))
    last = control.detailed_results.steps[-1].library
    baseline, returned = learned.detailed_results.baseline, learned.detailed_results.verdict.step
    chosen = next(m for m in learned.detailed_results.measured if m.step == returned)
    assert (chosen.mean.value or 0) >= (baseline.mean.value or 0), "returned below the input on the valset"
    sizes = f"{len(learned.experiences)} entries, {learned.experiences.tokens} tokens"
    verdict = learned.detailed_results.verdict.text.split(":")[0]
    return [
        Row(seed, "learned", before, measure(learned), f"{sizes}; {verdict}"),
        Row(seed, "labels permuted", before, measure(control), control.detailed_results.verdict.text.split(":")[0]),
        Row(seed, "labels permuted, last", before, measure(attach(program, last)), "as it would be without the gate"),
        Row(seed, "labels drawn at random", before, measure(noise), noise.detailed_results.verdict.text.split(":")[0]),
        Row(seed, "placebo", before, measure(attach(program, placebo(learned.experiences)))),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=["tickets", "banking77"])
    parser.add_argument("--model", help="a LiteLLM model string; without it the built-in text model is used")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="one seed on a few examples: does it run?")
    args = parser.parse_args(argv)
    args.seeds, args.epochs = ([0], 1) if args.quick else (args.seeds, args.epochs)
    target = importlib.import_module(f"programs.{args.target}")

    print(f"{args.target}, {args.model or 'built-in text model'}" + ("" if args.model else f"\n{NOTICE}"))
    print("seed  arm                    before  after   gain  95% interval       wins/ties/losses")
    rows: list[Row] = []
    for seed in args.seeds:
        started = time.monotonic()
        with dspy.context(lm=dspy.LM(args.model) if args.model else offline_lm(seed=seed)):
            found = run_seed(target, seed, args)
        constant = 100 * most_frequent(target, *sets(target, seed, args.quick)[::2])
        found_text = "\n".join(map(str, found))
        print(f"{found_text}\n      most frequent label always: {constant:.1f}   ({time.monotonic() - started:.0f} s)")
        rows += found
    print("\nmean gain over seeds, points")
    for arm in dict.fromkeys(row.arm for row in rows):
        gains = [100 * (row.after.versus(row.before).difference or 0) for row in rows if row.arm == arm]
        print(f"  {arm:<22} {sum(gains) / len(gains):+6.1f}   (lowest {min(gains):+.1f}, highest {max(gains):+.1f})")


if __name__ == "__main__":
    main()
