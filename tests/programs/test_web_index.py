"""The index of pages you have: what it finds, each document once, and what it keeps on disk."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("resiliparse", reason="needs the extra: pip install 'trgrpo-dspy[web]'")

from programs import web_index, web_site
from programs.web_index import LocalIndex
from programs.web_pages import visit_tool
from programs.web_reading import Page
from programs.web_search_engines import Result, search_tool


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is kept of a folder."""
    home = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    return home


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.html").write_text("<html><title>Lamps</title><body><p>The lamp burned oil.</p></body></html>")
    (tmp_path / "sub" / "b.md").write_text("# Boats\n\nA boat of oak.\n")
    (tmp_path / "c.txt").write_text("Notes on oil and oak")
    (tmp_path / "d.png").write_bytes(b"\x89PNG lamp")
    return tmp_path


def test_a_folder(folder: Path) -> None:
    index = LocalIndex.of_folder(folder)
    assert sorted(index.pages) == [f"http://folder.invalid/{path}" for path in ("a.html", "c.txt", "sub/b.md")]
    assert index.search("lamps") == [Result("Lamps", "http://folder.invalid/a.html", "The lamp burned oil.")]
    assert [r.title for r in LocalIndex.of_folder(str(folder), "https://x.example/").search("boat")] == ["Boats"]
    assert {r.url.rsplit("/")[-1] for r in index.search("oil")} == {"a.html", "c.txt"}
    assert index.search("nothing like it") == index.search("") == []


def test_odd_folders(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "pages"
    outside.mkdir(), folder.mkdir()
    (outside / "secret.txt").write_text("The password is xyzzy.")
    (folder / "link.txt").symlink_to(outside / "secret.txt")
    (folder / "links").symlink_to(outside)
    (folder / "circle").symlink_to(folder)
    (folder / "dangling.txt").symlink_to(tmp_path / "nothing")
    (folder / "folder.txt").mkdir()
    (folder / "a b#c?.txt").write_text("Lamps burned oil.")
    (folder / "same.txt").symlink_to(folder / "a b#c?.txt")
    (folder / "long.md").write_bytes(b"word " * 1_000_000)
    (folder / "bytes.txt").write_bytes(bytes(range(256)) * 100)
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.txt")).write_text("Boats.")
    index = LocalIndex.of_folder(folder)
    names = [url.rsplit("/")[-1] for url in index.pages]
    assert sorted(names) == ["%FF.txt", "a%20b%23c%3F.txt", "long.md", "same.txt"], "bytes.txt is no text"
    assert len(index.search("oil")) == 1, "same.txt says the same"
    assert index.search("password") == []
    assert len(index.pages["http://folder.invalid/long.md"].text) <= 400_000
    visit = visit_tool(known=index.pages)
    for query in ("oil", "boats"):
        url = index.search(query)[0].url
        assert search_tool(index)(query).encode() and query in visit(url, query).lower()


def test_a_page_that_is_not_in_the_folder_is_no_outage() -> None:
    index = LocalIndex([Page("http://folder.invalid/a.txt", "A", "Text.")])
    told = visit_tool(known=index.pages)("http://folder.invalid/b.txt", "anything")
    assert told == "This page can't be visited: there is no such page."


def test_bad_folders_and_pages(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match="must be a folder with files of text that end in"):
            LocalIndex.of_folder(folder)
    page = Page("http://a.example/", "T", "x")
    for pages in ([], [page, page]):
        with pytest.raises(ValueError, match="each once"):
            LocalIndex(pages)


def test_it_finds_the_pages_that_answer() -> None:
    rows = [json.loads(line) for line in (web_site._DATA / "web_questions.jsonl").read_text().splitlines()]
    assert len(rows) == 16
    ranks = []
    for row in rows:
        found = [result.url.removeprefix(web_site.BASE) for result in web_site.index().search(row["question"])]
        assert any(page in found[:2] for page in row["pages"]), row["question"]
        ranks.append(min(found.index(page) for page in row["pages"] if page in found))
    assert ranks.count(0) >= 14, "nearly always the first result"


def test_from_many_threads() -> None:
    asked = [example.question for part in ("train", "val", "test") for example in web_site.questions(part)] * 4
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(web_site.index().search, asked))
    assert found == [web_site.index().search(question) for question in asked]


@pytest.fixture
def manual(tmp_path: Path) -> Path:
    """A manual as a documentation tool makes it: pages, their sources, and a page that is there twice."""
    body = "".join(f"<p>The {word} pump is primed by hand.</p>" for word in ("first", "second", "third"))
    source = (
        "Pumps\n=====\n\n.. index:: pump\n\nThe first pump, the second pump and the third pump are primed by hand.\n"
    )
    for path, text in {
        "guide/pumps.html": f"<html><title>Pumps</title><article><h1>Pumps</h1>{body}</article></html>",
        "guide/old/pumps-copy.html": f"<html><title>Copy</title><article><h1>Pumps</h1>{body}</article></html>",
        "_sources/guide/pumps.rst.txt": source,
        "notes/pumps.txt": "The pumps of the lighthouse were taken apart in 1902 and never put together again.",
        "guide/lamps.html": "<html><title>Lamps</title><p>A lamp needs oil; a pump brings it up.</p></html>",
        "broken.html": "%PDF-1.4",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def test_a_document_is_one_result(manual: Path) -> None:
    index = LocalIndex.of_folder(manual, "")
    found = [result.url for result in index.search("pump")]
    assert sorted(found) == ["guide/lamps.html", "guide/pumps.html", "notes/pumps.txt"]
    assert "_sources/guide/pumps.rst.txt" in index.pages, "it can still be visited"
    assert "broken.html" not in index.pages


def test_what_was_read_is_kept_by_content(manual: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def read_page(body: bytes, url: str, **settings: Any) -> Page:
        read.append(url)
        return original(body, url, **settings)

    original = web_index.read_page
    monkeypatch.setattr(web_index, "read_page", read_page)
    first = LocalIndex.of_folder(manual)
    assert len(read) == 6
    again = LocalIndex.of_folder(manual)
    assert len(read) == 6 and again.pages == first.pages and again.search("pump") == first.search("pump")
    (manual / "guide/lamps.html").write_text("<html><title>Lamps</title><p>Electric since 1931.</p></html>")
    assert LocalIndex.of_folder(manual).search("electric")[0].title == "Lamps" and len(read) == 7
    (kept,) = cache.rglob("*.json")
    assert len(json.loads(kept.read_bytes())) == 6, "the folder as it is now"
    assert kept.parent.stat().st_mode & 0o077 == 0, "others may not read what was in the folder"
    for damage in (b"", b"[1", b'{"a": 1}', b"\xff"):
        kept.write_bytes(damage)
        assert LocalIndex.of_folder(manual).search("electric")
    kept.unlink(), kept.parent.rmdir()
    kept.parent.write_text("in the way")
    assert LocalIndex.of_folder(manual).search("electric"), "nothing can be kept"
