"""Real data: recognise 77 intents in queries to a bank, learning from 100 labelled ones.

Reads local CSV files or the hub (see `programs/banking77.py`). `--model` as in the quickstart; without it the built-in
text model answers, whose figures say nothing about an LLM's.
"""

from __future__ import annotations

import argparse
import logging

import dspy

from programs import banking77
from trgrpo_dspy import TrainingFreeGRPO, compare
from trgrpo_dspy.offline import NOTICE, offline_lm


def main() -> None:
    """Learn from 100 queries, choose on 150, test on 1,000."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a LiteLLM model string; without it the built-in text model is used")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=8)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("trgrpo_dspy").setLevel(logging.INFO)

    dspy.configure(lm=dspy.LM(args.model) if args.model else offline_lm(seed=args.seed))
    if not args.model:
        print(NOTICE)
    program = banking77.program()
    optimizer = TrainingFreeGRPO(
        metric=banking77.metric, num_epochs=args.epochs, num_threads=args.threads, seed=args.seed
    )
    compiled = optimizer.compile(program, trainset=banking77.trainset(args.seed), valset=banking77.valset(args.seed))
    print(compiled.experiences)
    print(compiled.detailed_results)
    test = banking77.testset(args.seed)
    print(f"Test: {compare(program, compiled, test, banking77.metric, num_threads=args.threads)}")


if __name__ == "__main__":
    main()
