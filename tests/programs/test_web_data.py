"""Loaders of web questions, on small files in the exact schema of the hub's data sets."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest

from programs import hub
from programs.web_data import afm, webwalkerqa


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


@pytest.fixture(params=[".parquet", ".jsonl"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"data{request.param}"


def pairs(examples: list[dspy.Example]) -> list[tuple[str, str]]:
    assert all(set(e.inputs().keys()) == {"question"} for e in examples)
    return [(e.question, e.answer) for e in examples]


def test_rows_of_afm(file: Path, caplog: pytest.LogCaptureFixture) -> None:
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
    assert set(afm(1, path=file)[0].labels().keys()) == {"answer"}


def test_rows_of_webwalkerqa(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        walker_row("One?"), walker_row("One?"), walker_row("Two?", level="Hard", hop="multi-source", lang="zh"),
        walker_row(None), walker_row("No answer?", None), walker_row("No answer?", " "),
        walker_row("Contradicted?", "a"), walker_row("Contradicted?", "b"),
        walker_row("Without details?") | {"info": None},
    ]  # fmt: skip
    old = walker_row("Of an earlier version?")
    old["info"]["type"] = old["info"].pop("hop")
    with caplog.at_level(logging.INFO, "programs.hub"):
        found = {e.question: e for e in webwalkerqa(None, path=write(file, [*rows, old]))}
    assert set(found) == {"One?", "Two?", "Without details?", "Of an earlier version?"}
    assert (found["Two?"].difficulty, found["Two?"].kind, found["Two?"].language) == ("hard", "multi-source", "zh")
    assert found["Of an earlier version?"].kind == found["One?"].kind == "single-source"
    assert found["Without details?"].difficulty == "" and found["One?"].root_url == "https://conference.example/"
    assert "left out 3 rows" in caplog.text and "left out 1 questions" in caplog.text


def test_the_stratified_subset(file: Path) -> None:
    """680 questions with the levels of the original: 160 easy, 280 medium, 240 hard."""
    levels, hops = ["easy"] * 160 + ["medium"] * 280 + ["hard"] * 240, ["single_source", "multi_source"]
    write(file, [walker_row(f"Q{n}?", f"A{n}", level, hops[n % 2]) for n, level in enumerate(levels)])
    found = webwalkerqa(51, 0, path=file)
    assert len(pairs(found)) == len(set(pairs(found))) == 51
    assert Counter(e.difficulty for e in found) == {"easy": 12, "medium": 21, "hard": 18}
    kinds = Counter((e.difficulty, e.kind) for e in found)
    assert all(abs(kinds[level, "single-source"] - kinds[level, "multi-source"]) <= 1 for level, _ in kinds)
    assert len({e.difficulty for e in found[:15]}) == 3, "mixed, not one stratum after the other"
    assert pairs(found) == pairs(webwalkerqa(path=file)) != pairs(webwalkerqa(51, 1, path=file))
    assert [len(webwalkerqa(size, path=file)) for size in (0, 1, 2, 7, 680, 900)] == [0, 1, 2, 7, 680, 680]


def test_drawn_by_the_seed_alone(file: Path) -> None:
    rows = [afm_row(f"Question {n}?", [f"answer {n}"]) for n in range(50)]
    drawn = pairs(afm(10, 1, path=write(file, rows)))
    assert len(drawn) == 10 and drawn != pairs(afm(10, 2, path=file))
    assert drawn == pairs(afm(seed=1, path=file))[:10] == pairs(afm(10, 1, path=write(file, rows[::-1])))


@pytest.mark.parametrize(
    ("load", "name", "column"),
    [(afm, "PersonalAILab/AFM-WebAgent-RL-Dataset", "extra_info"), (webwalkerqa, "callanwu/WebWalkerQA", "root_url")],
)
def test_what_cannot_be_loaded(
    load: Callable[..., Any], name: str, column: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import datasets
    import huggingface_hub

    with pytest.raises(ValueError, match=r"has not the columns of .*It has \['label', 'text'\]") as caught:
        load(path=write(tmp_path / "other.jsonl", [{"text": "a", "label": "b"}]))
    assert column in str(caught.value) and name in str(caught.value)
    monkeypatch.delenv("TRGRPO_DATA", raising=False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=name) as out_of_reach:
        load()
    told = str(out_of_reach.value)
    assert all(way in told for way in ("Go online", "path=", "TRGRPO_DATA", "TRGRPO_WEB_SEARCH=offline", column))


def test_rows_of_the_hub_and_local_copies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    asked = []

    def load_dataset(name: str, config: str | None, *, split: str) -> Any:
        asked.append((name, split))
        return datasets.Dataset.from_list([walker_row("P?"), walker_row("Q?")])

    monkeypatch.setenv("TRGRPO_DATA", str(tmp_path))
    write(tmp_path / "afm_web_rl.parquet", [afm_row("A?", ["a"])])
    write(tmp_path / "webwalkerqa.jsonl", [walker_row("W?", "w")])
    assert pairs(afm()) == [("A?", "a")] and pairs(webwalkerqa()) == [("W?", "w")]
    monkeypatch.delenv("TRGRPO_DATA", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    hub.load_from_hub.cache_clear()
    assert sorted(pairs(webwalkerqa())) == [("P?", "A"), ("Q?", "A")] and len(webwalkerqa(1)) == 1
    assert asked == [("callanwu/WebWalkerQA", "main")], "the hub is read once"
    hub.load_from_hub.cache_clear()
