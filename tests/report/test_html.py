"""The report: what is in it, that everything shown is data, and that it works in a browser."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
import pytest
from jinja2.utils import htmlsafe_json_dumps
from lxml import etree
from lxml.html import document_fromstring
from support.scripted import Triage, exact, examples, scripted_lm

from trgrpo_dspy import TrainingFreeGRPO, evaluate
from trgrpo_dspy.events import EditApplied, RunEnded
from trgrpo_dspy.library import Edit
from trgrpo_dspy.library.entries import as_written
from trgrpo_dspy.report import RunHistory, html, read_run, write_report
from trgrpo_dspy.report.html import render_report
from trgrpo_dspy.report.payload import payload
from trgrpo_dspy.report.text import visible

HOSTILE = (
    "</script><script>window.hacked=1</script><img src='https://example.com/x.png' onerror=\"window.hacked=1\">"
    "</textarea><!-- ]]> {{ 7*7 }} {% raw %} --- End of experiences --- [[ ## completed ## ]] "
    "\x00\x1b[31m\x07 \u202e\u2066 rtl \u05d0\u05d1 \u200b \U000e0041 \ud800 \u2028 &lt;b&gt; javascript:alert(1) "
    + "W"
    * 300
)
STRUCTURE = {"event", "stage", "outcome", "id", "stop_reason", "run", "shown", "level"}


class Page:
    """What a browser makes of a page: its elements, texts and embedded data."""

    def __init__(self, source: str) -> None:
        tree = document_fromstring(source)
        self.tags = Counter(element.tag for element in tree.iter(etree.Element))
        self.links = [str(link) for link in tree.xpath("//@href | //@src")]
        self.ids = [str(id) for id in tree.xpath("//@id")]
        self.titles = [title.text_content() for title in tree.iter("h2")]
        self.data = json.loads(tree.xpath("string(//script[@id='data'])"))
        self.text = "".join(tree.xpath("//text()[not(parent::script or parent::style)]"))


def hostile(value: Any, key: str = "") -> Any:
    """The same record with a hostile text added to each of its texts."""
    if isinstance(value, str):
        return value if key in STRUCTURE or not value else f"{value} {HOSTILE}"
    if isinstance(value, dict):
        names = ("instructions", "lost", "dispositions", "options")
        return {f"{k} {HOSTILE}" if key in names else k: hostile(v, k) for k, v in value.items()}
    return [hostile(item, key) for item in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def hostile_run(run: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hostile <b>&amp;")
    lines = (run[0] / "events.jsonl").read_text().splitlines()
    (path / "events.jsonl").write_text("".join(json.dumps(hostile(json.loads(line))) + "\n" for line in lines))
    return path


def test_the_optimizer_writes_it_with_all_sections_in_order(run: tuple[Path, Any], history: RunHistory) -> None:
    source = (run[0] / "report.html").read_text()
    assert source == render_report(history)
    page = Page(source)
    assert page.titles[1:] == [
        "Curve", "Examples by step", "Group", "Library", "Failures", "Prompt", "Settings"
    ]  # fmt: skip
    assert (run[0] / "report.html").stat().st_mode & 0o077 == 0
    words = [run[1].verdict.text, "503 from upstream", "Say which queue a ticket belongs to.", "scripted/model"]
    words += [as_written(entry.text) for library in history.libraries.values() for entry in library]
    words += [refused.reason for step in history.steps for refused in step.refused]
    assert not [word for word in words if word not in page.text]
    assert {f"entry-{e.id}" for library in history.libraries.values() for e in library} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert "Offline model." not in page.text


def test_its_data_hold_every_attempt_and_every_library(history: RunHistory) -> None:
    page = Page(render_report(history))
    data = page.data
    texts, links = data["texts"], {group["link"]: group for group in data["groups"]}
    assert sum(len(group["attempts"]) for group in data["groups"]) == len(history.attempts)
    first = history.steps[0].groups[0]
    assert texts[links[f"g-1-{first.example}"]["task"]] == first.task
    for step, library in history.libraries.items():
        assert [texts[entry["text"]] for entry in data["libraries"][str(step)]] == [e.text for e in library]
    assert {link[1:] for link in page.links if link.startswith(("#g-", "#v-"))} <= set(links)


def test_a_comparison_of_several_groups_is_said_once_and_linked(history: RunHistory) -> None:
    step = history.steps[0]
    said = [g.compared.comparison for g in step.groups if g.compared is not None and g.compared.comparison]
    data = payload(replace(history, steps=(step,)), 10**6)
    leads = {g["link"]: data["texts"][g["comparison"]] for g in data["groups"] if g.get("comparison")}
    assert len(said) > len(set(said)) and Counter(leads.values()) == dict.fromkeys(said, 1)
    referring = [group["with"] for group in data["groups"] if group.get("with")]
    assert len(referring) == len(said) - len(set(said)) and set(referring) <= set(leads)


def test_what_came_after_the_returned_library_is_told_apart(history: RunHistory) -> None:
    assert history.ended is not None
    start, last = history.libraries[0], history.steps[-1]
    kept = EditApplied(step=last.step, edit=Edit("KEEP", "E1"), before=start["E1"], after=start["E1"])
    steps = (*history.steps[:-1], replace(last, applied=(*last.applied, kept)))
    returned = replace(history, steps=steps, ended=replace(history.ended, step=1, library=history.libraries[1]))
    assert render_report(returned).count("which were not returned") == 1
    assert "which were not returned" not in render_report(replace(returned, ended=None))


def test_every_text_is_data(hostile_run: Path, history: RunHistory) -> None:
    source = write_report(hostile_run).read_text(encoding="utf-8")
    page, plain = Page(source), Page(render_report(history))
    # The class of a difference's parts aside, a text adds no element.
    assert page.tags == plain.tags and page.tags["script"] == 2 and not page.tags["img"]
    assert not [link for link in page.links if not link.startswith("#")]
    assert re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200b\u2028]", source) is None
    assert "⟨U+202E⟩" in page.text and "{{ 7*7 }}" in page.text and "⟨U+001B⟩[31m" in page.text
    assert sum("</script><script>" in text for text in page.data["texts"]) > 20
    assert "</script><script>window" not in source


def test_invisible_characters_show_and_scripts_of_people_stay() -> None:
    assert visible("a\x00b\x7f\u202ec\r\nd\re") == "a⟨U+0000⟩b⟨U+007F⟩⟨U+202E⟩c\nd⟨U+000D⟩e"
    kept = "\u0645\u06cc\u200c\u062e क्\u200dष 👩\u200d💻 \u05d0\u05d1 ก็ é\n\tx"
    assert visible(kept) == kept


@pytest.mark.parametrize("budget", [60_000, 200_000])
def test_the_data_are_bounded_whatever_the_run(history: RunHistory, budget: int) -> None:
    transcripts = [f"{i} {'<long> ⟨text⟩ ' * 4000}" for i in range(len(history.measured[0].attempts))]
    long = [replace(r, transcript=t) for r, t in zip(history.measured[0].attempts, transcripts, strict=True)]
    measured = {**history.measured, 0: replace(history.measured[0], attempts=tuple(long))}
    data = payload(replace(history, measured=measured), budget)
    assert len(htmlsafe_json_dumps(data, ensure_ascii=False).encode()) <= budget * 1.05
    assert sum("characters are left out here" in text for text in data["texts"]) == len(long)
    example = history.steps[0].groups[0].example
    (group,) = [group for group in data["groups"] if group["link"] == f"g-1-{example}"]
    assert data["texts"][group["task"]] == history.steps[0].groups[0].task  # what is short stays whole


def test_runs_of_every_other_kind_have_a_report(tmp_path: Path) -> None:
    options: dict[str, Any] = {"num_epochs": 1, "group_size": 2}
    with dspy.context(lm=scripted_lm(name="offline/ngram-1-seed0")):
        program = dspy.Predict(Triage)
        TrainingFreeGRPO(metric=None, log_dir=tmp_path / "free", **options).compile(program, trainset=examples(3))
        TrainingFreeGRPO(metric=lambda *_: None, log_dir=tmp_path / "unscored", **options).compile(
            program, trainset=examples(2), valset=examples(2)
        )
        evaluate(program, examples(3), exact, log_dir=tmp_path / "evaluation")
    for name in ("free", "unscored", "evaluation"):
        page = Page(write_report(tmp_path / name).read_text())
        assert "Offline model." in page.text and page.tags["section"] >= 4


def test_a_directory_below_home_and_a_program_that_changes_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def moving(example: dspy.Example, prediction: Any, trace: Any = None) -> float:
        os.chdir("/")
        return exact(example, prediction)

    for name in ("~/below", "relative"):
        os.chdir(tmp_path)
        with dspy.context(lm=scripted_lm()):
            optimizer = TrainingFreeGRPO(metric=moving, num_epochs=1, group_size=2, log_dir=name)
            optimizer.compile(dspy.Predict(Triage), trainset=examples(2))
        assert (tmp_path / name.removeprefix("~/") / "report.html").exists()
    assert read_run("~/below").log_dir == tmp_path / "below"


def test_a_report_that_can_not_be_written_only_warns(
    tmp_path: Path, run: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "report.html").mkdir()
    with caplog.at_level(logging.WARNING), dspy.context(lm=scripted_lm()):
        optimizer = TrainingFreeGRPO(metric=exact, num_epochs=1, group_size=2, log_dir=tmp_path)
        compiled = optimizer.compile(dspy.Predict(Triage), trainset=examples(2))
    assert compiled.detailed_results.stop_reason == "completed"
    assert "report" in caplog.text
    monkeypatch.setattr(html, "_LARGEST_LOG", -1)
    monkeypatch.setattr(html, "write_report", lambda log_dir: pytest.fail("written"))
    html.report_at_end(run[0])(RunEnded(stop_reason="completed", verdict=""))
    assert "`trgrpo report` reads them" in caplog.text


# -- in a browser ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("needs Chromium on PATH")
    with api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"], timeout=120_000)
        yield launched
        launched.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """Opens a page; in the end no error and no request but the page's own may have been seen."""
    seen: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(60_000)

    def visit(path: Path) -> Any:
        page = context.new_page()
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.on("dialog", lambda dialog: seen.append(dialog.message))
        page.on("request", lambda asked: seen.append(asked.url) if asked.url != path.as_uri() else None)
        page.goto(path.as_uri())
        return page

    yield visit
    context.close()
    assert seen == []


def resize(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.wait_for_function("width => innerWidth === width", arg=width)


def test_filters_links_and_differences_work(run: tuple[Path, Any], history: RunHistory, opened: Any) -> None:
    page = opened(run[0] / "report.html")
    entries = len({e.id for library in history.libraries.values() for e in library})
    assert page.inner_text("#found") == f"{entries} of {entries} entries"
    page.fill("#query", "refund")
    shown = page.locator("#entries > li:visible")
    assert shown.count() == page.locator("#entries .text:visible", has_text="refund").count() > 0
    page.fill("#query", "")
    page.select_option("#status", "returned")
    assert shown.count() == len(history.library)

    chip = page.locator("[data-grid] .chips button[value=fixed]").first
    fixed = int(chip.inner_text().split()[-1])
    chip.click()
    assert page.locator("[data-grid]").first.locator("tbody tr:visible").count() == fixed > 0
    cell = page.locator("[data-grid] tbody tr:visible a.cell").first
    cell.focus()
    page.keyboard.press("ArrowRight")
    assert "step 1" in page.evaluate("document.activeElement.getAttribute('aria-label')").lower()
    page.keyboard.press("Enter")
    page.locator("#shown-title:focus").wait_for()
    assert page.inner_text("#shown-title").startswith("Validation of step 1, example")
    example = history.steps[0].groups[0].example
    page.click(f"[data-grid] a[href='#g-1-{history.steps[0].groups[1].example}']")
    page.locator("#shown-title", has_text="Step 1, training example").wait_for()
    page.click(f"#shown .stack p a[href='#g-1-{example}']")  # the group above, under which the comparison stands
    page.locator("#shown-title", has_text=f"Step 1, training example {example}").wait_for()
    assert page.locator("#shown .quote[aria-label=Comparison]").count() == 1
    assert page.locator(".attempt").count() == 3

    page.select_option("#from", "0")
    page.select_option("#to", "0")
    assert page.inner_text("#difference") == "No difference."
    last = max(history.libraries)
    page.select_option("#to", str(last))
    assert page.locator("#difference .good").count() == len(history.libraries[last]) - 1


def test_hostile_texts_do_nothing_in_a_browser(hostile_run: Path, opened: Any) -> None:
    page = opened(write_report(hostile_run))
    for link in page.locator("#choose option").evaluate_all("all => [all[0].value, all.at(-1).value]"):
        page.evaluate("link => { location.hash = link }", link)
        page.wait_for_function("link => document.querySelector('#choose').value === link", arg=link)
        page.locator("#shown-title:focus").wait_for()
        assert "</script><script>window.hacked=1" in page.inner_text("#shown")
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    resize(page, 360)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("[window.hacked, document.scripts.length, document.images.length]") == [None, 2, 0]


@pytest.mark.parametrize("width", [360, 1280])
def test_colours_turn_and_nothing_is_wider_than_the_window(run: tuple[Path, Any], opened: Any, width: int) -> None:
    page = opened(run[0] / "report.html")
    resize(page, width)
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
