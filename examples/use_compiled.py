"""Use a compiled program where trgrpo-dspy is not installed: plain DSPy loads the saved JSON.

Run `examples/quickstart.py` first; it saves `examples/out/tickets.json`. In production this file would stand in a
project of its own, with the signature it needs and `dspy` as its only dependency:

    python examples/use_compiled.py openai/gpt-4o-mini "The refund of $620 you promised has not arrived."
"""

import sys
from pathlib import Path
from typing import Literal

import dspy

Queue = Literal["harbor", "falcon", "gypsum", "juniper", "anvil", "bramble", "zephyr", "cobalt", "walnut"]


class TriageTicket(dspy.Signature):
    """Decide which internal queue takes a customer ticket, and how urgent the ticket is."""

    ticket: str = dspy.InputField(desc="The customer's message.")
    queue: Queue = dspy.OutputField(desc="The internal queue that takes the ticket.")
    urgency: Literal["today", "this_week", "whenever"] = dspy.OutputField(desc="How soon the ticket must be looked at.")


def main() -> None:
    """Load the program, and answer if a model and a ticket are given."""
    path = Path(__file__).parent / "out" / "tickets.json"
    if not path.exists():
        sys.exit(f"{path.name} is not there yet: run examples/quickstart.py first")
    program = dspy.Predict(TriageTicket)
    program.load(path)
    assert "trgrpo_dspy" not in sys.modules
    print(f"Loaded instructions, {len(program.signature.instructions)} characters:\n{program.signature.instructions}\n")
    if len(sys.argv) < 3:
        print("Give a model and a ticket to get an answer: python examples/use_compiled.py openai/gpt-4o-mini '...'")
        return
    with dspy.context(lm=dspy.LM(sys.argv[1])):
        print(program(ticket=sys.argv[2]))


if __name__ == "__main__":
    main()
