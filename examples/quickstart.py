"""Compile a DSPy program that triages customer tickets, and see what it is worth.

Without arguments this needs no key and no network: a small built-in text model stands in for an LLM. With
`--model openai/gpt-4o-mini`, or any other LiteLLM string, the same lines run against that model.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import dspy

from programs import tickets
from trgrpo_dspy import TrainingFreeGRPO, evaluate
from trgrpo_dspy.offline import NOTICE, offline_lm


def main() -> None:
    """Measure, learn, measure again, save."""
    args = parse_args()
    lm = dspy.LM(args.model, engine=args.engine) if args.model else offline_lm(seed=args.seed)
    dspy.configure(lm=lm)
    if not args.model:
        print(f"Model: {lm.model}. {NOTICE}\n")

    program, testset = tickets.program(), tickets.testset()
    before = evaluate(program, testset, tickets.metric, num_threads=args.threads)
    print(f"Test score of the input program: {before}\n")

    optimizer = TrainingFreeGRPO(
        metric=tickets.metric, num_epochs=args.epochs, num_threads=args.threads, seed=args.seed
    )
    compiled = optimizer.compile(program, trainset=tickets.trainset(), valset=tickets.valset())
    print(f"\nWhat was learned ({len(compiled.experiences)} experiences):\n{compiled.experiences}\n")

    after = evaluate(compiled, testset, tickets.metric, num_threads=args.threads)
    print(f"Test score before: {before}\nTest score after:  {after}\nDifference:        {after.versus(before)}\n")
    print(f"Verdict on the validation set: {compiled.detailed_results.verdict.text}")

    args.out.mkdir(parents=True, exist_ok=True)
    compiled.save(args.out / "tickets.json")
    (args.out / "tickets_results.json").write_text(compiled.detailed_results.to_json(), encoding="utf-8")
    print(f"\nSaved: {args.out / 'tickets.json'} (plain DSPy loads it) and tickets_results.json beside it.")
    if not args.model:
        print(
            f"\nRemember: {NOTICE}\n"
            "To use a real model, set its key and run one of\n"
            "  python examples/quickstart.py --model openai/gpt-4o-mini\n"
            "  python examples/quickstart.py --model ollama_chat/qwen3\n"
            "  python examples/quickstart.py --model <any LiteLLM string>   (--engine litellm to force LiteLLM)"
        )


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a LiteLLM model string; without it the built-in text model is used")
    parser.add_argument("--engine", default="auto", choices=["auto", "lm15", "litellm"], help="DSPy's LM engine")
    parser.add_argument("--epochs", type=int, default=2, help="passes over the 80 training tickets (default 2)")
    parser.add_argument("--threads", type=int, default=8, help="LM calls at a time (default 8)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out", help="where results are saved")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("trgrpo_dspy").setLevel(logging.INFO)
    return args


if __name__ == "__main__":
    main()
