"""Real attempts of real models go through the whole pipeline as if they had just been rolled out.

The data is `gsm8k_attempts.jsonl` (OpenAI, Cobbe et al. 2021): 138 problems whose four recorded attempts hold both
right and wrong ones. A replaying engine hands them out; the built-in text model reflects. An agent with the Python tool
works on the same questions over HTTP.
"""

import json
import re
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import dspy
import pytest
from support import DATA

from programs import math_reasoning
from programs.sandbox import MontyInterpreter
from trgrpo_dspy import Reflector, TrainingFreeGRPO
from trgrpo_dspy.engine.calls.gate import Gate
from trgrpo_dspy.engine.calls.units import Unit
from trgrpo_dspy.engine.runner import Runner
from trgrpo_dspy.library.entries import count_tokens
from trgrpo_dspy.meter import Stage
from trgrpo_dspy.offline import offline_lm
from trgrpo_dspy.offline.server import OfflineServer

FILE = DATA / "gsm8k_attempts.jsonl"

pytestmark = pytest.mark.skipif(not FILE.is_file(), reason=f"{FILE.name} is not in TRGRPO_DATA or beside the project")


class ReplayEngine:
    """Answers a question with its recorded attempts, one after the other."""

    def __init__(self, attempts):
        self.attempts = attempts
        self.given = defaultdict(int)
        self.lock = threading.Lock()

    def complete(self, request):
        text = request.messages[-1].parts[0].text
        question = text.split("[[ ## question ## ]]\n")[1].split("\n\nRespond with")[0].strip()
        with self.lock:
            number = self.given[question]
            self.given[question] += 1
        reply = f"[[ ## solution ## ]]\n{self.attempts[question][number]['solution']}\n\n[[ ## completed ## ]]"
        return dspy.lm15.Response(
            id="replay", model=request.model, message=dspy.lm15.Message.assistant(reply), finish_reason="stop",
            usage=dspy.lm15.Usage(input_tokens=1, output_tokens=1, total_tokens=2),
        )  # fmt: skip


class Seen(list):
    """A list that copies of its owner share."""

    def __deepcopy__(self, memo):
        return self


class Watching(Reflector):
    """The paper's form; keeps what each attempt was summarized as."""

    def __init__(self, seen):
        super().__init__(form="paper", summarize="always")
        self.seen = seen

    def summarize(self, group, rollout, context):
        summary = super().summarize(group, rollout, context)
        self.seen.append((group, rollout, summary))
        return summary


@pytest.fixture(scope="module")
def rows():
    rows = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if len({a["correct"] for a in row["attempts"]}) == 2]


@pytest.fixture(scope="module")
def run(rows):
    """Compile on all groups that hold right and wrong."""
    attempts = {row["question"].strip(): row["attempts"] for row in rows}
    verdicts = {(q, a["solution"].strip()): a["correct"] for q, group in attempts.items() for a in group}

    def metric(example, prediction, trace=None):
        right = verdicts[example.question.strip(), prediction.solution.strip()]
        return dspy.Prediction(score=float(right), feedback=f"The answer is {'right' if right else 'wrong'}.")

    trainset = [
        dspy.Example(question=row["question"].strip(), answer=row["answer"]).with_inputs("question") for row in rows
    ]
    seen = Seen()
    lm = dspy.LM("replay/gsm8k", engine=ReplayEngine(attempts), cache=False)
    optimizer = TrainingFreeGRPO(
        metric=metric,
        group_size=4,
        num_epochs=1,
        reflection_lm=offline_lm(seed=0),
        reflector=Watching(seen),
        num_threads=4,
    )
    with dspy.context(lm=lm):
        compiled = optimizer.compile(dspy.Predict("question -> solution"), trainset=trainset)
    return compiled, seen


def test_every_group_is_informative_and_nothing_is_lost(rows, run):
    compiled, seen = run
    steps = compiled.detailed_results.steps
    assert len(rows) == sum(len(step.examples) for step in steps) == 138
    assert all(step.informative == 1.0 and step.lost == {} for step in steps)
    assert sum(sum(step.outcomes.values()) for step in steps) == 4 * 138 == len(seen)
    assert {name for step in steps for name in step.outcomes} == {"completed"}


def test_attempts_are_told_whole(run):
    _, seen = run
    for _, rollout, _ in seen:
        assert rollout.transcript
        assert count_tokens(rollout.transcript) <= 2000


def test_every_summary_quotes_its_own_attempt_and_is_bounded(run):
    _, seen = run
    for _, rollout, summary in seen:
        assert count_tokens(summary) <= 2000
        quoted = re.search(r"answered solution '(.*?)'\. It scored", summary, re.DOTALL)
        assert quoted, f"nothing quoted: {summary!r}"
        own = " ".join(rollout.transcript.split())
        assert all(part.strip() in own for part in re.split(r" \.\.\. | \[\.\.\. .* cut \.\.\.\] ", quoted.group(1))), (
            f"not its own words: {summary!r}"
        )


def test_every_summary_names_right_and_wrong_as_recorded(run):
    _, seen = run
    for _, rollout, summary in seen:
        assert summary.endswith(f"It scored {rollout.score:g}."), summary


def test_edits_are_applied_within_the_caps(run):
    compiled, _ = run
    assert 0 < len(compiled.experiences) <= 45
    assert compiled.experiences.tokens <= 3000
    assert all(len(e.text.split()) <= 64 and e.sources for e in compiled.experiences)


class TestAgentOverHttp:
    """The Python tool on real questions, each attempt over HTTP: what it did is told once each."""

    def attempt(self, server, row, index):
        """One attempt, and what its sandboxes were asked and said, each reply marked so that no two are alike."""
        done = []

        class Marked(MontyInterpreter):
            def execute(self, code, variables=None):
                try:
                    said = str(super().execute(code, variables))
                except Exception as error:
                    said = str(error)
                done.append((code, f"{' '.join(said.split())} (call {len(done)} of question {index})"))
                return done[-1][1]

        calls, program = Gate(backoff=0.001), math_reasoning.agent(Marked)
        calls.bind(program)
        example = dspy.Example(problem=row["question"], answer=row["answer"]).with_inputs("problem")
        unit = Unit(Stage.ROLLOUT, 1, ("rollout", 1, index, 0), resample=True, temperature=0.7)
        with dspy.context(lm=server.lm()):
            rollout = Runner(calls, math_reasoning.metric).attempt(program, example, unit, index=index, attempt=0)
        return rollout, done

    def test_tool_calls_and_observations_appear_once_each(self, rows):
        pytest.importorskip("pydantic_monty", reason="needs the extra: pip install 'trgrpo-dspy[math]'")
        with OfflineServer() as server, ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda i: self.attempt(server, rows[i], i), range(24)))
            assert len(server.requests) == sum(rollout.lm_calls for rollout, _ in found) > 3 * 24
        for rollout, done in found:
            told = rollout.transcript
            assert rollout.outcome.value == "completed" and 1 <= len(done) == rollout.tool_calls - 1  # the last ends it
            assert told.count("next_tool_name: run_python") == len(done)
            assert told.count("next_tool_name: finish") == 1
            assert [json.loads(args)["code"] for args in re.findall(r"next_tool_args: (.*\"code\".*)", told)] == [
                code for code, _ in done
            ]
            assert re.findall(r"^observation: (.* \(call .*)$", told, re.MULTILINE) == [said for _, said in done]
            worked = told.partition("extract.predict")[0]  # the answer after it may quote what was observed
            assert all(worked.count(said) == 1 for _, said in done)
        assert {len(done) for _, done in found} == {1, 2} and len({s for _, done in found for _, s in done}) > 24
