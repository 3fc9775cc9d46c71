"""Puzzles of reasoning-gym: any family, sets that share nothing, the verifier's own score, nothing evaluated."""

from __future__ import annotations

import importlib.util
import json
from contextlib import closing
from typing import Any

import dspy
import pytest

from programs import reasoning_gym, workers
from programs.reasoning_gym import dataset, metric
from trgrpo_dspy import FatalError
from trgrpo_dspy.program.examples import expected_text, task_text

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("reasoning_gym") is None,
        reason="needs the extra: pip install 'trgrpo-dspy[reasoning-gym]'",
    ),
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),  # of a package below, when it is first compiled
]


def scored(example: dspy.Example, answer: Any) -> dspy.Prediction:
    return metric(example, dspy.Prediction(answer=answer))


def test_the_families() -> None:
    assert {"countdown", "chain_sum", "knights_knaves", "propositional_logic"} < set(reasoning_gym.families())


@pytest.mark.parametrize("family", ["chain_sum", "letter_counting", "bitwise_arithmetic", "word_ladder", "syllogism"])
def test_the_answer_of_a_task_is_right(family: str) -> None:
    examples = dataset(family, seed=3, size=6)
    assert len({e.question for e in examples}) == 6
    assert [scored(e, e.answer).score for e in examples] == [1.0] * 6
    assert examples == dataset(family, seed=3, size=6) != dataset(family, seed=4, size=6)


def test_neighbouring_seeds_share_no_task() -> None:
    sets = [{e.question for e in dataset("countdown", seed=seed, size=10)} for seed in range(4)]
    assert len(set.union(*sets)) == 40


def test_a_small_family_gives_what_it_has() -> None:
    first = dataset("coin_flip", size=200, difficulty=0)
    assert 1 < len(first) < 200 and len({e.question for e in first}) == len(first)
    assert not dataset("coin_flip", size=9, difficulty=0, without=[e.question for e in dataset("coin_flip", 0, 90, 0)])


def test_difficulty_is_the_level_alone() -> None:
    def terms(level: int) -> set[int]:
        return {
            len(e.question.split(":")[1].split("=")[0].split()) // 2 + 1 for e in dataset("chain_sum", 1, 20, level)
        }

    assert max(terms(0)) < min(terms(4)) and max(terms(4)) < min(terms(9))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sudoku9",), "family='sudoku9' is none of reasoning-gym's: .*chain_sum"),
        (("acre", 0, 5, 1), "no levels of difficulty"),
        (("chain_sum", 0, 5, 99), "difficulty=99 must be from 0 to 10"),
        (("composite",), "can't be made"),
        (("caesar_cipher", 0, 5, 2), "can't be made"),
    ],
)
def test_what_cant_be_made(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataset(*arguments)


def test_partial_credit_is_kept_with_feedback() -> None:
    example = dataset("countdown", size=1)[0]
    wrong = scored(example, "1 + 1")
    assert wrong.score == 0.05
    assert wrong.feedback == f"Score 0.05 of 1: expected {example.answer}, got 1 + 1."
    assert scored(example, example.answer).feedback == "Right."
    assert scored(example, None).score == scored(example, " ").score == 0.0


def test_a_family_without_a_single_answer_names_none() -> None:
    example = dataset("propositional_logic", size=1)[0]
    assert "answer" not in example and 0 < scored(example, "P").score < 1
    assert "any valid solution counts" in scored(example, "P").feedback


def test_the_import_of_the_package_is_no_time_of_the_question() -> None:
    """It takes seconds in an environment that has no bytecode yet."""
    with closing(workers.Workers("programs.gym_verifier", count=1, cpu_seconds=0.2, patience=1200)) as fresh:
        assert "chain_sum" in fresh.ask({})["families"]


def test_what_the_verifier_cant_read_or_never_ends_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    unread = scored(dataset("prime_factorization", size=1)[0], "lambda")
    assert unread.score == 0.0 and "can't read it (ValueError)" in unread.feedback
    monkeypatch.setattr(workers.shared("programs.gym_verifier"), "cpu_seconds", 1.0)
    endless = scored(dataset("countdown", size=1)[0], "9**9**9**9**9")
    assert endless.score == 0.0 and "within the limits" in endless.feedback


@pytest.mark.parametrize(
    ("family", "answer"),
    [
        ("spiral_matrix", "[__import__('os').getppid()]"),
        ("n_queens", "[].__class__.__base__.__subclasses__()"),
        ("binary_matrix", "open('/etc/passwd').read()"),
        ("countdown", "__import__('os')._exit(7)"),
        ("puzzle24", "exit(7)"),
        ("simple_integration", "x.func.mro()[0]"),
        ("polynomial_multiplication", "getattr(x, 'func')"),
    ],
)
def test_an_answer_is_never_evaluated(family: str, answer: str) -> None:
    from programs.gym_verifier import _nothing_evaluated

    example = dataset(family, size=1)[0]
    assert scored(example, answer).score in (0.0, 0.01), "and the worker lives"
    with _nothing_evaluated({"answer": "", "metadata": {}}), pytest.raises((ValueError, SyntaxError)):
        import sympy

        sympy.parse_expr(answer)
    assert eval("1 + 1") == 2, "afterwards eval is as before"


def test_prompts_show_the_question_and_the_answer_only() -> None:
    example = dataset("chain_sum", size=1)[0]
    assert (
        task_text(example) == f"question: {example.question}" and expected_text(example) == f"answer: {example.answer}"
    )
    assert dspy.Example(**json.loads(json.dumps(example.toDict()))).dspy_task == example.dspy_task


def test_the_target_s_sets_share_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reasoning_gym, "FAMILY", "chain_sum")
    monkeypatch.setattr(reasoning_gym, "SIZES", {"train": 20, "val": 10, "test": 10})
    monkeypatch.setenv("TRGRPO_GYM_DIFFICULTY", "0")
    monkeypatch.setenv("TRGRPO_GYM_TEST_DIFFICULTY", "3")
    sets = [reasoning_gym.trainset(), reasoning_gym.valset(), reasoning_gym.testset()]
    assert [len(s) for s in sets] == [20, 10, 10]
    assert len({e.question for s in sets for e in s}) == 40
    assert sum(len(e.question) for e in sets[2]) / 10 > sum(len(e.question) for e in sets[0]) / 20
    assert isinstance(reasoning_gym.program(), dspy.ChainOfThought)


def test_failures_are_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    example = dataset("chain_sum", size=1)[0]

    class Down:
        def ask(self, *_: Any, **__: Any) -> Any:
            raise workers.WorkerError("gone")

    class Missing:
        def ask(self, *_: Any, **__: Any) -> Any:
            return {"missing": "reasoning-gym"}

    monkeypatch.setattr(reasoning_gym, "shared", lambda module: Down())
    assert scored(example, "1").score is None
    monkeypatch.setattr(reasoning_gym, "shared", lambda module: Missing())
    with pytest.raises(FatalError, match=r"trgrpo-dspy\[reasoning-gym\]"):
        scored(example, "1")
