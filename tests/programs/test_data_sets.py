"""The data sets, on small files in the exact schema of the hub's: DAPO, AIME, GSM8K, AFM, WebWalkerQA, and a sample."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest

from programs import banking77, hub, math_reasoning, web_search
from programs.math_reasoning import aime, dapo, gsm8k
from programs.web_data import afm, webwalkerqa

HEAD = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
TAIL = '\n\nRemember to put your answer on its own line after "Answer:".'


def dapo_row(problem: str | None, answer: str | None, index: str = "i") -> dict[str, Any]:
    turns = [] if problem is None else [{"content": f"{HEAD}{problem}{TAIL}", "role": "user"}]
    return {
        "data_source": "math_dapo",
        "prompt": turns,
        "ability": "MATH",
        "reward_model": {"ground_truth": answer, "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": index},
    }


def aime_row(number: int, problem: str | None, answer: str | int | None) -> dict[str, Any]:
    return {"id": number, "problem": problem, "solution": "s", "answer": answer, "url": "u", "year": "2024"}


def afm_row(question: str | None, answer: list[str] | None) -> dict[str, Any]:
    asked = {"ground_truth": answer, "question": question, "data_source": "web"}
    return {
        "data_source": "web",
        "prompt": [{"content": f"You can search and crawl.\n\nQuestion: {question}", "role": "user"}],
        "reward_model": {"ground_truth": json.dumps({"target": answer, "question": question})},
        "extra_info": {
            "answer": answer, "index": "web-1", "need_tools_kwargs": True, "question": question,
            "tools_kwargs": {"crawl_page": {"create_kwargs": asked}, "web_search": {"create_kwargs": asked}},
        },
    }  # fmt: skip


def walker_row(question: str | None, answer: str | None = "A", level: str = "easy", hop: str = "single_source",
               lang: str = "en") -> dict[str, Any]:  # fmt: skip
    info = {"domain": "conference", "difficulty_level": level, "hop": hop, "lang": lang,
            "golden_path": ["root->call"], "source_website": ["https://conference.example/call"]}  # fmt: skip
    return {"question": question, "answer": answer, "root_url": "https://conference.example/", "info": info}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def pairs(examples: list[dspy.Example]) -> list[tuple[str, str]]:
    (name,) = {name for e in examples for name in e.inputs()}
    return [(e[name], e.answer) for e in examples]


@pytest.fixture(params=[".parquet", ".jsonl"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"data{request.param}"


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets
    import huggingface_hub

    monkeypatch.delenv("TRGRPO_DATA", raising=False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


# -- what is read from the rows ----------------------------------------------------------------------------------------


def test_dapo(file: Path) -> None:
    rows = [dapo_row(f"Problem {n}: find $x$.", str(n)) for n in range(30)] * 3
    rows += [
        dapo_row("Problem 4:  find\n$x$.", "4"),  # the same with other spaces
        dapo_row("A problem with two answers", "1"), dapo_row("A problem with two answers", "2"),
        dapo_row(None, "1"), dapo_row("No answer", None), dapo_row("  ", "1"), dapo_row("An empty answer", " "),
        dapo_row("In two turns", "9") | {"prompt": [
            {"content": "Be brief.", "role": "system"}, {"content": f"{HEAD}In two turns{TAIL}", "role": "user"},
        ]},
        dapo_row("Bare", "8") | {"prompt": [{"content": "Bare problem", "role": "user"}]},
    ]  # fmt: skip
    found = pairs(dapo(path=write(file, rows)))
    assert sorted(found) == sorted(
        [(f"Problem {n}: find $x$.", str(n)) for n in range(30)] + [("In two turns", "9"), ("Bare problem", "8")]
    )


@pytest.mark.parametrize("year", [2024, 2025])
def test_aime(file: Path, year: int) -> None:
    write(file, [aime_row(60, "First", "073"), aime_row(61, None, "1"), aime_row(62, "Third", None)])
    assert pairs(aime(year, path=file)) == [("First", "073")]
    write(file, [aime_row(1, "First", 0), aime_row(2, "Second", 70)])
    assert pairs(aime(year, path=file)) == [("First", "0"), ("Second", "70")]


def test_gsm8k(file: Path) -> None:
    rows = [
        {"question": "How many?", "answer": "She has 2*3=<<2*3=6>>6.\n#### 6"},
        {"question": "How much?", "answer": "A lot.\n#### 1,250"},
        {"question": "Less than nothing?", "answer": "#### -3"},
        {"question": "Unfinished", "answer": "No answer"},
        {"question": None, "answer": "#### 1"},
    ]
    found = pairs(gsm8k("test", path=write(file, rows)))
    assert sorted(found) == [("How many?", "6"), ("How much?", "1250"), ("Less than nothing?", "-3")]


def test_afm(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [afm_row(f"Question {n}?", [f"answer {n}"]) for n in range(20)]
    rows += [
        afm_row("Question  3?\n", ["answer 3"]),  # the same with other spaces
        afm_row("Two answers at once?", ["a", "b"]), afm_row("No answer?", []), afm_row("Still none?", None),
        afm_row("An empty one?", [" "]), afm_row(None, ["x"]), afm_row("Answered twice?", ["a"]),
        afm_row("Answered twice?", ["b"]), afm_row(" In Chinese \u4e2d\u6587? ", [" \u7b54\u6848 "]),
        afm_row("Nothing at all", ["x"]) | {"extra_info": None},
    ]  # fmt: skip
    with caplog.at_level(logging.INFO, "programs.hub"):
        found = pairs(afm(path=write(file, rows)))
    expected = {(f"Question {n}?", f"answer {n}") for n in range(20)}
    assert set(found) == expected | {("In Chinese \u4e2d\u6587?", "\u7b54\u6848")} and len(found) == 21
    assert "left out 1 questions that come with different answers" in caplog.text
    assert "left out 6 rows without a question or an answer" in caplog.text


def test_webwalkerqa(file: Path) -> None:
    rows = [
        walker_row("One?"), walker_row("One?"), walker_row("Two?", level="Hard", hop="multi-source", lang="zh"),
        walker_row("No answer?", " "), walker_row("Contradicted?", "a"), walker_row("Contradicted?", "b"),
        walker_row("Without details?") | {"info": None},
    ]  # fmt: skip
    old = walker_row("Of an earlier version?")
    old["info"]["type"] = old["info"].pop("hop")
    found = {e.question: e for e in webwalkerqa(None, path=write(file, [*rows, old]))}
    assert set(found) == {"One?", "Two?", "Without details?", "Of an earlier version?"}
    assert (found["Two?"].difficulty, found["Two?"].kind, found["Two?"].language) == ("hard", "multi-source", "zh")
    assert found["Of an earlier version?"].kind == found["One?"].kind == "single-source"
    assert found["Without details?"].difficulty == "" and found["One?"].root_url == "https://conference.example/"


# -- what is drawn -----------------------------------------------------------------------------------------------------


def test_the_stratified_subset(tmp_path: Path) -> None:
    """680 questions with the levels of the original: 160 easy, 280 medium, 240 hard."""
    levels, hops = ["easy"] * 160 + ["medium"] * 280 + ["hard"] * 240, ["single_source", "multi_source"]
    rows = [walker_row(f"Q{n}?", f"A{n}", level, hops[n % 2]) for n, level in enumerate(levels)]
    file = write(tmp_path / "data.jsonl", rows)
    found = webwalkerqa(51, 0, path=file)
    assert len(pairs(found)) == len(set(pairs(found))) == 51
    assert Counter(e.difficulty for e in found) == {"easy": 12, "medium": 21, "hard": 18}
    kinds = Counter((e.difficulty, e.kind) for e in found)
    assert all(abs(kinds[level, "single-source"] - kinds[level, "multi-source"]) <= 1 for level, _ in kinds)
    assert len({e.difficulty for e in found[:15]}) == 3, "mixed, not one stratum after the other"
    assert pairs(found) == pairs(webwalkerqa(path=file)) != pairs(webwalkerqa(51, 1, path=file))
    assert [len(webwalkerqa(size, path=file)) for size in (0, 1, 2, 7, 900)] == [0, 1, 2, 7, 680]


@pytest.mark.parametrize("load", [dapo, afm])
def test_drawn_by_the_seed_alone(load: Callable[..., Any], tmp_path: Path) -> None:
    rows = [dapo_row(f"P{n}", f"{n}") if load is dapo else afm_row(f"Q{n}?", [f"{n}"]) for n in range(50)]
    path = write(tmp_path / "data.jsonl", rows)
    drawn = pairs(load(10, seed=1, path=path))
    assert len(drawn) == 10 and drawn != pairs(load(10, seed=2, path=path))
    write(path, rows[::-1])
    assert drawn == pairs(load(seed=1, path=path))[:10], "the order of the rows changes nothing"


def test_a_folder_of_local_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRGRPO_WEB_SEARCH", "TRGRPO_WEB_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRGRPO_DATA", str(tmp_path))
    monkeypatch.setenv("TRGRPO_MATH_DATA", "dapo")
    write(tmp_path / "dapo_math_17k.parquet", [dapo_row(f"Problem {n}", str(n)) for n in range(200)])
    for year in (2024, 2025):
        write(tmp_path / f"aime_{year}.jsonl", [aime_row(n, f"{year}-{n}", str(n)) for n in range(30)])
    write(tmp_path / "afm_web_rl.jsonl", [afm_row(f"Q{n}?", [f"A{n}"]) for n in range(200)])
    write(tmp_path / "webwalkerqa.jsonl", [walker_row(f"W{n}?") for n in range(80)])
    for program, tested in ((math_reasoning, 60), (web_search, 51)):
        train, val, test = (pairs(load()) for load in (program.trainset, program.valset, program.testset))
        assert (len(train), len(val), len({*train, *val}), len(test)) == (100, 50, 150, tested)
        assert train == pairs(program.trainset())


def test_banking77(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["text,category", *(f'"Card {n}, please?",card_{n % 3}' for n in range(260))]
    for split in ("train", "test"):
        (tmp_path / f"banking77_{split}.csv").write_text("\n".join([*lines, lines[1]]), encoding="utf-8")
    monkeypatch.setenv("TRGRPO_DATA", str(tmp_path))
    banking77.rows.cache_clear()
    train, val, test = (load(seed=1) for load in (banking77.trainset, banking77.valset, banking77.testset))
    assert (len(train), len(val), len({e.query for e in (*train, *val)}), len(test)) == (100, 150, 250, 260)
    assert train[0].query.endswith(", please?") and train != banking77.trainset(seed=2)
    banking77.rows.cache_clear()


def test_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRGRPO_MATH_DATA", "sample")
    sets = [pairs(load()) for load in (math_reasoning.trainset, math_reasoning.valset, math_reasoning.testset)]
    assert [len(s) for s in sets] == [14, 8, 10]
    assert len({problem for s in sets for problem, _ in s}) == 32


# -- the hub -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("load", "name", "column", "way_out"),
    [
        (dapo, "BytedTsinghua-SIA/DAPO-Math-17k", "reward_model", "TRGRPO_MATH_DATA=sample"),
        (lambda **at: aime(2025, **at), "yentinglin/aime_2025", "problem", "TRGRPO_MATH_DATA=sample"),
        (gsm8k, "openai/gsm8k", "####", "TRGRPO_MATH_DATA=sample"),
        (afm, "PersonalAILab/AFM-WebAgent-RL-Dataset", "extra_info", "TRGRPO_WEB_SEARCH=offline"),
        (webwalkerqa, "callanwu/WebWalkerQA", "root_url", "TRGRPO_WEB_SEARCH=offline"),
    ],
)
def test_what_cannot_be_loaded(
    load: Callable[..., Any], name: str, column: str, way_out: str, no_hub: None, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"has not the columns of .*It has \['label', 'text'\]") as caught:
        load(path=write(tmp_path / "other.jsonl", [{"text": "a", "label": "b"}]))
    assert column in str(caught.value) and name in str(caught.value)
    with pytest.raises(FileNotFoundError, match=name) as out_of_reach:
        load()
    assert all(way in str(out_of_reach.value) for way in ("Go online", "path=", "TRGRPO_DATA", way_out, column))


def test_the_hub_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load_dataset(*args: Any, **kwargs: Any) -> Any:
        asked.append((*args, kwargs["split"]))
        return datasets.Dataset.from_list([dapo_row("P", "1"), dapo_row("P", "1"), dapo_row("Q", "2")])

    monkeypatch.delenv("TRGRPO_DATA", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    hub.load_from_hub.cache_clear()
    assert sorted(pairs(dapo())) == [("P", "1"), ("Q", "2")] and len(dapo(1)) == 1
    assert asked == [("BytedTsinghua-SIA/DAPO-Math-17k", None, "train")]
    hub.load_from_hub.cache_clear()


def test_bad_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="is no file"):
        dapo(path=tmp_path / "none.parquet")
    with pytest.raises(ValueError, match=r"must end in one of \.parquet"):
        dapo(path=tmp_path / "none.xlsx")
    with pytest.raises(ValueError, match="year=2023"):
        aime(2023)
    with pytest.raises(ValueError, match="holds no problem with an answer"):
        dapo(path=write(tmp_path / "empty.parquet", [dapo_row("Only a question", None)]))
    with pytest.raises(ValueError, match="split='dev'"):
        math_reasoning.sample("dev")
    monkeypatch.setenv("TRGRPO_MATH_DATA", "mathematics")
    with pytest.raises(ValueError, match="TRGRPO_MATH_DATA is 'mathematics'"):
        math_reasoning.trainset()
