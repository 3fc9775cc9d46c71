"""How long a report takes to write and to open, and how large it is, for a run of about 1,500 attempts.

    python -m benchmarks.report
    python -m benchmarks.report --transcript 100000

Promised: opens in less than 2 s and stays below 10 MB. The run compiles the ticket program with the offline model;
transcripts of `--transcript` characters, all different, are then put in place of its short ones, as an agent would
leave them. Opening is timed in headless Chromium, from the request to the second frame, where Chromium and playwright
are installed.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import dspy

from programs import tickets
from trgrpo_dspy import TrainingFreeGRPO
from trgrpo_dspy.offline import NOTICE, offline_lm
from trgrpo_dspy.report import read_run, write_report

FRAMES = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


@dataclass(frozen=True)
class Measured:
    """One report."""

    attempts: int
    log_mb: float
    """Size of the events."""
    mb: float
    """Size of the report."""
    write: float
    """Seconds to write it, events read."""
    opened: float | None
    """Seconds to open it, the median of five; None without Chromium."""

    def __str__(self) -> str:
        """One line."""
        opened = "no Chromium" if self.opened is None else f"{self.opened:.2f} s"
        return (
            f"{self.attempts:,} attempts, {self.log_mb:.1f} MB of events: "
            f"written in {self.write:.2f} s, opened in {opened}, {self.mb:.2f} MB"
        )


def learn(directory: Path, epochs: int, examples: int | None = None) -> None:
    """A run in steps of 16 of the examples (all by default); with 3 epochs of them it has 1,560 attempts."""
    with dspy.context(lm=offline_lm()):
        optimizer = TrainingFreeGRPO(
            metric=tickets.metric, num_epochs=epochs, batch_size=16, evaluate_every=3, num_threads=2, log_dir=directory
        )
        optimizer.compile(tickets.program(), trainset=tickets.trainset()[:examples], valset=tickets.valset()[:examples])


def lengthen(directory: Path, characters: int) -> None:
    """Give each attempt a transcript of its own of so many characters."""
    chance, lines = random.Random(0), []
    words = " ".join(str(example.ticket) for example in tickets.trainset()).split()
    for line in (directory / "events.jsonl").read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if event["event"] == "AttemptFinished":
            event["rollout"]["transcript"] = " ".join(chance.choices(words, k=characters // 5))[:characters]
        lines.append(json.dumps(event))
    (directory / "events.jsonl").write_text("\n".join([*lines, ""]), encoding="utf-8")


def opening(file: Path, times: int = 5) -> float | None:
    """Seconds to open a page, the median; None without Chromium or playwright."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if found is None:
        return None
    seconds = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        for _ in range(times):
            page = browser.new_page()
            began = time.perf_counter()
            page.goto(file.resolve().as_uri())
            page.evaluate(FRAMES)
            seconds.append(time.perf_counter() - began)
            page.close()
        browser.close()
    return sorted(seconds)[times // 2]


def measure(directory: Path) -> Measured:
    """Write and open the report of a run."""
    began = time.perf_counter()
    file = write_report(directory)
    write = time.perf_counter() - began
    log = (directory / "events.jsonl").stat().st_size / 1e6
    return Measured(len(read_run(directory).attempts), log, file.stat().st_size / 1e6, write, opening(file))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure a run as it is, and with long transcripts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--transcript", type=int, default=10_000, help="characters of a long transcript")
    args = parser.parse_args(argv)
    print(NOTICE)
    with tempfile.TemporaryDirectory() as directory:
        learn(Path(directory), args.epochs)
        print(f"as it is:         {measure(Path(directory))}")
        lengthen(Path(directory), args.transcript)
        print(f"long transcripts: {measure(Path(directory))}")


if __name__ == "__main__":
    main()
