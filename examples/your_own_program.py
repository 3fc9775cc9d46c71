"""Compile your own program, in 30 lines: a program, a metric, examples.

Run it with a model you have a key for: `python examples/your_own_program.py openai/gpt-4o-mini`. Without an argument
the built-in text model answers; it is no LLM, and a toy of eight examples proves nothing: it shows the shape.
"""

import sys

import dspy

from trgrpo_dspy import TrainingFreeGRPO
from trgrpo_dspy.offline import offline_lm

dspy.configure(lm=dspy.LM(sys.argv[1]) if len(sys.argv) > 1 else offline_lm())

program = dspy.ChainOfThought("message -> team: Literal['red', 'blue']")


def metric(example, prediction, trace=None):
    """1 for the right team; the feedback is what attempts are compared by."""
    right = prediction.team == example.team
    return dspy.Prediction(score=float(right), feedback=f"Expected '{example.team}', got '{prediction.team}'.")


rows = [("my invoice is wrong", "blue"), ("the invoice never came", "blue"), ("second invoice for May", "blue"),
        ("invoice without VAT", "blue"), ("the app crashes", "red"), ("crashes when I log in", "red"),
        ("app crashes on start", "red"), ("it crashes daily", "red")]  # fmt: skip
examples = [dspy.Example(message=text, team=team).with_inputs("message") for text, team in rows]

optimizer = TrainingFreeGRPO(metric=metric, num_epochs=1, group_size=4)
compiled = optimizer.compile(program, trainset=examples)
print(compiled.experiences)
print(compiled.detailed_results)
