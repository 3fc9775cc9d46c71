"""The offline site: real pages, real links, questions that they answer."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from support import ROOT

pytest.importorskip("resiliparse", reason="needs the extra: pip install 'trgrpo-dspy[web]'")

from programs import web_site
from programs.web_fetch import Limits
from programs.web_pages import visit_tool

ROWS = [json.loads(line) for line in (web_site._DATA / "web_questions.jsonl").read_text().splitlines()]


def test_thirty_pages_that_link_to_each_other() -> None:
    read = web_site.index().pages
    assert len(read) == len(web_site.pages()) == 30
    linked = Counter(address for page in read.values() for _, address in page.links)
    assert set(linked) <= set(read), "no dead link"
    menu = {web_site.BASE + path for path in ("index.html", "islands.html", "ferries.html", "people.html")}
    assert all(linked[web_site.BASE + path] for path in web_site.pages())
    assert not [page.url for page in read.values() if not {address for _, address in page.links} - menu - {page.url}]
    assert sum("<table>" in text for text in web_site.pages().values()) >= 8
    assert all("<nav>" in text and "<footer>" in text for text in web_site.pages().values())
    assert not any("tourist office" in page.text or "](" in page.text for page in read.values())


def test_the_questions() -> None:
    assert [len(web_site.questions(part)) for part in ("train", "val", "test")] == [8, 4, 4]
    assert len({row["question"] for row in ROWS}) == 16
    with pytest.raises(ValueError, match="part='dev'"):
        web_site.questions("dev")


@pytest.mark.parametrize("row", ROWS, ids=[row["question"][:40] for row in ROWS])
def test_their_answers_are_on_the_pages_named(row: dict[str, str]) -> None:
    text = " ".join(web_site.index().pages[web_site.BASE + path].text for path in row["pages"]).replace("**", "")
    stems = {word.strip(".").lower() for word in re.findall(r"[\w.]+", text)}
    assert not {word.lower() for word in re.findall(r"[\w.]+", row["answer"])} - stems - {"metres", "crowns"}


def test_it_is_served() -> None:
    question = "Who ground the lens of the Stell telescope?"
    with web_site.site() as served:
        with urllib.request.urlopen(served.url, timeout=60) as answer:
            assert answer.headers["content-type"] == "text/html; charset=utf-8"
            assert answer.read().decode() == web_site.pages()["index.html"]
        search = urllib.request.Request(f"{served.url}/search", b"no JSON", method="POST")
        for request, status in ((f"{served.url}/none.html", "404"), (search, "400")):
            with pytest.raises(urllib.error.HTTPError, match=status) as caught:
                urllib.request.urlopen(request, timeout=60)
            caught.value.close()
        found = served.engine.search(question)
        text = visit_tool(served.fetcher)(found[0].url, question)
    assert found == web_site.index().search(question), "over HTTP as in memory"
    assert "ground in Brevik by the Tolland brothers" in text
    assert text == visit_tool(known=web_site.index().pages)(found[0].url, question)
    with pytest.raises(OSError):
        urllib.request.urlopen(served.url, timeout=60)


def test_many_at_once() -> None:
    paths = list(web_site.pages()) * 4
    with web_site.site() as served, ThreadPoolExecutor(64) as threads:
        fetcher = replace(served.fetcher, limits=Limits(seconds=120))
        fetched = list(threads.map(lambda path: fetcher.get(web_site.BASE + path).body.decode(), paths))
    assert fetched == [web_site.pages()[path] for path in paths]


def test_two_sites_look_the_same() -> None:
    """Whatever the port: so a run can be replayed."""
    with web_site.site() as one, web_site.site() as other:
        assert one.url != other.url
        assert one.engine.search("whale") == other.engine.search("whale")
        first, second = (visit_tool(s.fetcher)(f"{web_site.BASE}museum.html", "whale") for s in (one, other))
    assert first == second and "127.0.0.1" not in first


def test_the_command() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "programs.web_site", "0"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            url = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
            assert url is not None
            with urllib.request.urlopen(f"{url[0]}/weather.html", timeout=60) as answer:
                assert "201 km/h" in answer.read().decode()
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--help"], 0, "usage: python -m programs.web_site"),
        (["eighty"], 2, "argument port: invalid int value: 'eighty'"),
        (["70000"], 1, "port 70000 can't be used: "),
        (["taken"], 1, "can't be used: Address already in use"),
    ],
)
def test_other_ports(
    arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with web_site.site() as served:
        port = served.url.rpartition(":")[2]
        monkeypatch.setattr(sys, "argv", ["web_site", *(a.replace("taken", port) for a in arguments)])
        with pytest.raises(SystemExit) as left:
            web_site.main()
    assert left.value.code == status
    assert said in "".join(capsys.readouterr())
