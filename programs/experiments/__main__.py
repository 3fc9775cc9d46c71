"""The experiments of Training-Free GRPO (arXiv 2510.08191), on the model of your choice.

    python -m programs.experiments math --model deepseek/deepseek-chat --mode agent --max-cost 80
    python -m programs.experiments web --model deepseek/deepseek-chat --max-cost 40
    python -m programs.experiments ablations --model deepseek/deepseek-chat --task math --max-cost 200
    python -m programs.experiments gym --model deepseek/deepseek-chat
    python -m programs.experiments math --offline

Each measures the input program, learns, measures again and writes `report.md` and `report.json` into --out, the paper's
figures beside its own. Killed, interrupted or out of money: the same command goes on where it ended.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trgrpo_dspy import TrainingFreeGRPOError

from .article import rows_of, to_markdown
from .models import OFFLINE_MODEL
from .plan import Limits, Plan
from .records import OFFLINE
from .run import Refused, run
from .tables import scores
from .together import run_together

__all__ = ["main"]

_DEFAULTS = {
    ("math", False): {"k": 32, "train": 100, "group_size": 5, "max_iters": 50},
    ("math", True): {"k": 4, "train": 14, "group_size": 5, "max_iters": 50},
    ("web", False): {"k": 3, "train": 100, "group_size": 3, "max_iters": 20, "size": 51},
    ("web", True): {"k": 3, "train": 8, "group_size": 3, "max_iters": 20},
    ("gym", False): {"k": 4, "train": 60, "group_size": 5, "max_iters": 1, "size": 50},
    ("gym", True): {"k": 2, "train": 6, "group_size": 3, "max_iters": 1, "size": 8},
}
"""Where an argument is left out, by task and whether it runs offline: the paper's and its code's, or small ones."""
_FAMILIES = ("basic_arithmetic", "spell_backward", "leg_counting")
"""Arithmetic, letters and counting: families whose levels differ clearly and have enough puzzles."""
_ALL = 0
"""`--size all`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one experiment. Returns the exit status: 0 complete, 1 failed, 2 refused, 130 partial."""
    parser = _parser()
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("trgrpo_dspy").setLevel(logging.INFO)
    for name in ("bm25s", "huggingface_hub", "LiteLLM"):  # the first tells of every index, the others by themselves
        logging.getLogger(name).propagate = False
    logging.getLogger("dspy.clients.lm").setLevel(logging.ERROR)  # a line a cut reply; the report counts them
    try:
        plan, limits = _plan(args), _limits(args)
        plans = _plans(args, plan)
    except ValueError as error:
        parser.error(str(error))
    out = args.out or Path("runs", "experiments", _name(plan))
    if plan.offline:
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else prices are fetched from the network
        print(f"{OFFLINE}\n")
    try:
        reports = [run(*plans.values(), limits, out)] if len(plans) == 1 else run_together(plans, limits, out)
    except Refused as error:
        return _fail(f"Not begun: {error}.", 2)
    except FileNotFoundError as error:
        return _fail(f"{error} With this command: --offline.", 1)
    except (TrainingFreeGRPOError, ValueError, OSError, ImportError) as error:
        return _fail(f"{error}", 1)
    except KeyboardInterrupt:
        return _fail("Interrupted before anything was measured. The same command goes on.", 130)
    if any(report.cells for report in reports):
        shown = scores(reports[0]) if len(plans) == 1 else to_markdown(row for r in reports for row in rows_of(r))
        print(f"\n{shown}\n\nThe whole report: {out / 'report.md'}, its table as table.csv and table.tex beside it.")
    if partial := reports[-1].partial:
        return _fail(f"PARTIAL: {partial}. The same command goes on.", 130)
    return 0


def _fail(message: str, status: int) -> int:
    print(message, file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m programs.experiments", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    math = commands.add_parser("math", help="competition mathematics: DAPO to learn from, AIME 2024 and 2025")
    web = commands.add_parser("web", help="web search: AFM to learn from, WebWalkerQA")
    ablations = commands.add_parser("ablations", help="what each part of the method is worth")
    ablations.add_argument("--task", choices=["math", "web"], default="math", help="default math")
    for command in (math, ablations):
        command.add_argument("--mode", choices=["agent", "direct", "both"],
                             help="with a Python tool (the default), without, or both in one table")  # fmt: skip
    for command in (web, ablations):
        command.add_argument("--judge", help="LiteLLM string of the judge's LM; default --model")
        command.add_argument("--search", help="ddgs (needs no key), serper (SERPER_API_KEY) or a folder of pages")
        command.add_argument(
            "--size", type=_size, help="questions of WebWalkerQA (51, as the paper's subset), or 'all'"
        )
    gym = commands.add_parser(
        "gym", help="puzzles of reasoning-gym, tested at another difficulty too; not of the paper"
    )
    gym.add_argument("--families", type=_families, default=_FAMILIES, help=f"with commas ({','.join(_FAMILIES)})")
    gym.add_argument("--difficulty", type=int, default=1, help="level of the curriculum to learn from (1)")
    gym.add_argument("--test-difficulty", type=int, default=3, help="level of the other test (3)")
    gym.add_argument("--size", type=_size, help="puzzles of each test set (50)")
    for command in (math, web, ablations, gym):
        _common(command)
    return parser


def _common(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--model", help="a LiteLLM model string, such as deepseek/deepseek-chat")
    add("--reflection-model", help="the same for the reflection steps; default --model")
    add("--offline", action="store_true", help="shipped sample data and the built-in text model: no key, no network")
    add("--k", type=int, help="attempts at each problem (math 32, web 3); may grow when it goes on")
    add("--train", type=int, help="problems to learn from (100)")
    add("--epochs", type=int, default=3, help="passes over them (3)")
    add("--group-size", type=int, help="attempts at each problem to learn from (math 5, web 3)")
    add("--seed", type=int, default=0, help="decides which problems are drawn, and all chance (0)")
    add("--max-tokens", type=int, default=16384, help="tokens of a reply at most (16384, or the model's limit)")
    add("--top-p", type=float, default=0.95, help="left out for models that don't take it (0.95)")
    add("--max-iters", type=int, help="steps of an agent at most (math 50, web 20)")
    add("--learnings", type=int, default=1, help="learn so often, each time with another seed; may grow (1)")
    add("--curve", action="store_true", help="measure the library after every step, not only after the last")
    add("--out", type=_directory, help="directory of journals and report; default runs/experiments/...")
    add("--threads", type=int, default=32, help="attempts at a time (32)")
    add("--timeout", type=float, help="seconds after which an attempt is given up and left unscored")
    add("--max-cost", type=float, default=20.0, help="US dollars at which it stops; a higher estimate is asked about")
    add("--yes", action="store_true", help="begin whatever the estimate says")
    add("--price", action="append", default=[], metavar="MODEL=PROMPT,COMPLETION",
        help="US dollars per million tokens, for a model whose price is not known")  # fmt: skip


def _plan(args: argparse.Namespace) -> Plan:
    task = args.task if args.command == "ablations" else args.command
    judge, search, mode, size = (getattr(args, name, None) for name in ("judge", "search", "mode", "size"))
    if args.offline and (args.model or args.reflection_model or judge):
        raise ValueError("--offline runs on the built-in text model: leave --model, --reflection-model and --judge out")
    if not args.offline and not args.model:
        raise ValueError("--model is missing: a LiteLLM string such as deepseek/deepseek-chat, or --offline")
    if task == "math" and (judge or search or size is not None):
        raise ValueError("--judge, --search and --size are for the web task; math-verify scores mathematics")
    if task == "web" and mode:
        raise ValueError("--mode is for the math task; the web task has an agent only")
    if task == "gym" and size == _ALL:
        raise ValueError("--size all is for WebWalkerQA; puzzles are made, as many as are asked for")
    if task == "web" and args.offline and (search or size is not None):
        raise ValueError("--offline searches the shipped site, whose questions are few: leave --search and --size out")
    if task == "web" and not args.offline:
        search = search or os.environ.get("TRGRPO_WEB_SEARCH") or "ddgs"
    usual = {"size": None, **_DEFAULTS[task, args.offline]}
    given = {name: getattr(args, name, None) for name in usual}
    chosen: dict[str, Any] = {name: usual[name] if value is None else value for name, value in given.items()}
    chosen["size"] = chosen["size"] or None
    return Plan(
        command=args.command, task=task, mode=mode or ("direct" if task == "gym" else "agent"),
        model=args.model or OFFLINE_MODEL, reflection_model=args.reflection_model, judge=judge, search=search,
        epochs=args.epochs, seed=args.seed, max_tokens=args.max_tokens, top_p=args.top_p,
        learnings=args.learnings,
        family=args.families[0] if task == "gym" else None,
        difficulty=getattr(args, "difficulty", None), test_difficulty=getattr(args, "test_difficulty", None),
        curve=args.curve, offline=args.offline, **chosen,
    )  # fmt: skip


def _plans(args: argparse.Namespace, plan: Plan) -> dict[str, Plan]:
    """The experiments of the command, by the name of their directories."""
    if getattr(args, "mode", None) == "both":
        return {mode: replace(plan, mode=mode) for mode in ("direct", "agent")}
    if args.command == "gym":
        return {family: replace(plan, family=family) for family in args.families}
    return {plan.setting: plan}


def _limits(args: argparse.Namespace) -> Limits:
    return Limits(args.threads, args.max_cost, args.yes, dict(map(_price, args.price)), args.timeout)


def _size(text: str) -> int:
    if text == "all":
        return _ALL
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of questions from 1 on, or 'all'")
    return int(text)


def _families(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names or any(not name.replace("_", "").isalnum() for name in names):
        raise argparse.ArgumentTypeError(f"{text!r} must be names of families with commas between them")
    return names


def _directory(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("'' names no directory; leave it out for runs/experiments/...")
    return Path(text)


def _price(text: str) -> tuple[str, tuple[float, float]]:
    model, _, amounts = text.rpartition("=")
    try:
        prompt, completion = (float(amount) for amount in amounts.split(","))
    except ValueError:
        model = ""
    if not model or not all(0 <= amount < float("inf") for amount in (prompt, completion)):
        raise ValueError(f"--price {text!r} must be MODEL=PROMPT,COMPLETION, such as openai/my-model=0.15,0.60")
    return model, (prompt, completion)


def _name(plan: Plan) -> str:
    parts = [plan.command, *([plan.task] if plan.command == "ablations" else []), plan.mode]
    return "-".join([*parts, "offline" if plan.offline else "".join(c if c.isalnum() else "-" for c in plan.model)])


if __name__ == "__main__":
    sys.exit(main())
