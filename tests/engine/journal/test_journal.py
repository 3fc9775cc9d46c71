"""The journal: what is in it comes back, what can't be used is refused with what to do, and nothing is overwritten."""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from support import ROOT
from support.scripted import Triage, examples, told

from trgrpo_dspy import JournalError, SchemaVersionError, TrainingFreeGRPO
from trgrpo_dspy.engine.calls.replies import decode_reply, encode_reply
from trgrpo_dspy.engine.journal import database
from trgrpo_dspy.engine.journal.files import write_atomically
from trgrpo_dspy.engine.journal.journal import SCHEMA_VERSION, Journal
from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.meter import LMCall
from trgrpo_dspy.program.rollout import Rollout

CALL = LMCall("m", prompt_tokens=3, completion_tokens=2, cost=0.25, retries=1, truncated=True)
TEXT = st.text(st.characters(codec=None), max_size=30)  # lone surrogates too: models send them


def child(code: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """A Python process that runs the code; `journal` is imported for it."""
    code = "from trgrpo_dspy.engine.journal.journal import Journal\nimport sys\n" + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, text=True, stdout=subprocess.PIPE, stdin=subprocess.PIPE,
        stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}, **options,
    )  # fmt: skip


def snapshot(directory: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(directory.iterdir()) if p.suffix == ".sqlite"}


# -- what is in it ---------------------------------------------------------------------------------------------------


def test_a_reply_comes_back_for_its_unit_and_request_alone(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.record("rollout/1/a", "hash", 0, {"outputs": ["hello"]}, CALL)
        found = journal.reply("rollout/1/a", "hash", 0)
        assert found is not None
        assert (found.reply, found.call, found.occurrence) == ({"outputs": ["hello"]}, CALL, 0)
        assert journal.reply("rollout/1/b", "hash", 0) is None
        assert journal.reply("rollout/1/a", "other", 0) is None
        assert journal.reply("rollout/1/a", "hash", 1) is None
    with Journal(tmp_path) as journal:
        assert journal.reply("rollout/1/a", "hash", 0) == found


def test_equal_requests_take_the_replies_that_are_left(tmp_path: Path) -> None:
    """The first of three was in flight when the process was killed: the others' replies are not lost."""
    with Journal(tmp_path) as journal:
        for number in (1, 2):
            journal.record("u", "hash", number, {"outputs": [f"reply {number}"]}, CALL)
        first = journal.reply("u", "hash", 0)
        assert first is not None and first.occurrence == 1
        second = journal.reply("u", "hash", first.occurrence + 1)
        assert second is not None and second.reply == {"outputs": ["reply 2"]}
        assert journal.reply("u", "hash", second.occurrence + 1) is None


def test_what_can_not_be_replayed_is_counted_and_never_overwritten(tmp_path: Path) -> None:
    failed = LMCall("m", failed=True)
    with Journal(tmp_path) as journal:
        journal.record("rollout/1/a", "hash", 0, None, failed)
        journal.record("rollout/1/a", "hash", 0, None, failed)
        journal.record("rollout/1/a", "hash", 0, {"outputs": [object()]}, CALL)
        assert journal.reply("rollout/1/a", "hash", 0) is None
        journal.record("rollout/1/a", "hash", 0, {"outputs": ["x"]}, CALL)
        paid = [call for unit, call in journal.paid() if unit == "rollout/1/a"]
        assert (len(paid), paid.count(failed), paid.count(CALL)) == (4, 2, 2)


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journal]:
    with Journal(tmp_path_factory.mktemp("journal")) as journal:
        yield journal


UNITS = map(str, itertools.count())


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=8,
    )
)
def test_any_plain_reply_comes_back_exactly(journal: Journal, reply: Any) -> None:
    unit = next(UNITS)
    journal.record(unit, "h", 0, {"outputs": reply}, CALL)
    found = journal.reply(unit, "h", 0)
    assert found is not None and found.reply == {"outputs": reply}


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(Outcome), st.none() | st.floats(allow_nan=False), TEXT, TEXT, st.none() | st.floats(0, 10))
def test_an_attempt_comes_back_exactly(
    journal: Journal, outcome: Outcome, score: Any, told: str, transcript: str, cost: Any
) -> None:
    unit = next(UNITS)
    rollout = Rollout(3, 1, outcome, score, told, "answer", "compared", transcript, "error", 2, 1, 10, 5, cost, 0.5)
    assert journal.attempt(unit) is None
    assert journal.finish(unit, rollout) == rollout
    found = journal.attempt(unit)
    assert found == rollout and found is not None and isinstance(found.outcome, Outcome)


def test_the_first_result_of_a_unit_stays_and_an_outage_for_this_process_alone(tmp_path: Path) -> None:
    outage, first, second = (
        Rollout(0, 0, Outcome.INFRASTRUCTURE, None),
        *(Rollout(0, 0, Outcome.COMPLETED, score) for score in (0.0, 1.0)),
    )
    with Journal(tmp_path) as journal:
        assert journal.finish("u", first) == first == journal.finish("u", second) == journal.attempt("u")
        assert journal.finish("v", outage) == outage == journal.finish("v", second) == journal.attempt("v")
    with Journal(tmp_path) as journal:
        assert (journal.attempt("u"), journal.attempt("v")) == (first, None)
        assert journal.finish("v", second) == second


def test_attempts_of_a_later_patch_with_more_fields_can_be_read(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal._db.write("attempts", "u", '{"example": 0, "attempt": 0, "outcome": "completed", "score": 1, "new": 2}')
    with Journal(tmp_path) as journal:
        assert journal.attempt("u") == Rollout(0, 0, Outcome.COMPLETED, 1)


class Tool(BaseModel):
    """As `engine="litellm"` hands over pydantic objects."""

    name: str
    arguments: str


def test_replies_that_are_a_clients_own_objects_become_plain() -> None:
    """They are read as DSPy's own cache reads them."""
    again = decode_reply(
        encode_reply([{"text": "", "tool_calls": [{"function": Tool(name="look", arguments="{}")}]}]) or {}
    )
    assert (again[0]["tool_calls"][0].function.name, again[0]["tool_calls"][0].function.arguments) == ("look", "{}")


def test_many_threads_commit_together_and_each_its_own(tmp_path: Path) -> None:
    """What a thread has recorded is there when it goes on, whoever wrote it."""

    def work(thread: int) -> None:
        for number in range(40):
            unit = f"rollout/1/{thread}/{number}"
            journal.record(unit, "hash", 0, {"outputs": [f"{thread} {number}"]}, CALL)
            found = journal.reply(unit, "hash", 0)
            assert found is not None and found.reply == {"outputs": [f"{thread} {number}"]}
            journal.record(unit, "hash", 1, None, CALL)
            mine = Rollout(thread, number, Outcome.COMPLETED, 1.0)
            assert journal.finish(unit, mine) == mine == journal.attempt(unit)

    with Journal(tmp_path) as journal, ThreadPoolExecutor(24) as pool:
        list(pool.map(work, range(24)))
    with Journal(tmp_path) as journal:
        assert len(journal.paid()) == 2 * 24 * 40
        assert all(journal.attempt(f"rollout/1/{t}/{n}") for t in range(24) for n in range(40))


def test_two_threads_that_finish_one_unit_agree(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal, ThreadPoolExecutor(2) as pool:
        for number in range(50):
            offers = [Rollout(0, 0, Outcome.COMPLETED, float(score)) for score in range(2)]
            found = list(pool.map(lambda offer: journal.finish(f"u{number}", offer), offers))  # noqa: B023
            assert found[0] == found[1] == journal.attempt(f"u{number}")


def test_an_error_reaches_every_thread_whose_row_it_took(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal, ThreadPoolExecutor(8) as pool:
        pages = journal._db.one("PRAGMA page_count")
        assert pages is not None
        journal._db.connection.execute(f"PRAGMA max_page_count={pages[0] + 3}")

        def work(number: int) -> bool:
            try:
                journal.record("rollout/1/u", f"hash {number}", 0, {"outputs": ["x" * 5000]}, CALL)
            except JournalError:
                return False
            return True

        told = list(pool.map(work, range(32)))
    with Journal(tmp_path) as journal:
        kept = [journal.reply("rollout/1/u", f"hash {number}", 0) is not None for number in range(32)]
    assert kept == told
    assert not all(told)


# -- one process at a time -------------------------------------------------------------------------------------------


def test_a_second_process_is_refused_until_the_first_has_ended_or_was_killed(tmp_path: Path) -> None:
    holder = child("journal = Journal(sys.argv[1]); print('open', flush=True); sys.stdin.read()", str(tmp_path))
    assert holder.stdout is not None and holder.stdout.readline() == "open\n"
    before = snapshot(tmp_path)
    with pytest.raises(JournalError, match=rf"in use by process {holder.pid}; wait for it, stop it"):
        Journal(tmp_path)
    assert snapshot(tmp_path) == before
    holder.kill()
    holder.communicate()
    assert (tmp_path / "run.pid").read_text() == f"{holder.pid}\n"
    with Journal(tmp_path) as journal:
        assert (tmp_path / "run.pid").read_text() == f"{os.getpid()}\n"
        assert journal.paid() == []
    assert not (tmp_path / "run.pid").exists()


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_the_same_process_is_refused_twice_and_may_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal(tmp_path), pytest.raises(JournalError, match=f"in use by process {os.getpid()}"):
        Journal(tmp_path)
    journal = Journal(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", interrupted)  # Ctrl-C while it is closed
        journal.close()
    with Journal(tmp_path):
        pass


def test_a_reply_is_safe_the_moment_it_is_recorded(tmp_path: Path) -> None:
    writer = child(
        """
        from trgrpo_dspy.meter.meter import LMCall
        journal = Journal(sys.argv[1])
        for number in range(10**6):
            journal.record("rollout/1/u", f"hash {number}", 0, {"outputs": ["x" * 3000]}, LMCall("m"))
            print(number, flush=True)
        """,
        str(tmp_path),
    )
    assert writer.stdout is not None and writer.stdout.readline() == "0\n"
    time.sleep(0.3)
    writer.send_signal(signal.SIGKILL)
    told = [0, *(int(line) for line in writer.stdout.read().split("\n")[:-1])]
    writer.communicate()
    assert len(told) > 20
    with Journal(tmp_path) as journal:
        assert all(journal.reply("rollout/1/u", f"hash {number}", 0) is not None for number in told)
        assert len(journal.paid()) - len(told) in (0, 1)


# -- what can't be used ----------------------------------------------------------------------------------------------


def filled(directory: Path, entries: int = 50) -> Path:
    with Journal(directory) as journal:
        for number in range(entries):
            journal.record("rollout/1/u", f"hash {number}", 0, {"outputs": ["x" * 2000]}, CALL)
    return directory / "journal.sqlite"


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:1000],
        lambda data: b"this is no database at all" * 100,
        lambda data: data[:4096] + os.urandom(8192) + data[12288:],
        lambda data: data[:16] + b"\x00" * 84 + data[100:],
    ],
    ids=["half", "header", "text", "pages", "zeroed"],
)
def test_a_damaged_database_is_refused_and_not_touched(tmp_path: Path, damage: Any) -> None:
    path = filled(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    before = snapshot(tmp_path)
    for _ in range(2):
        with pytest.raises(JournalError, match=r"journal.sqlite in .* is damaged: .*. It was left as it is: put a "):
            Journal(tmp_path)
    assert snapshot(tmp_path) == before


def sealed(directory: Path) -> Path:
    """A journal with a row in each table, closed."""
    with Journal(directory) as journal:
        journal.record("rollout/1/u", "hash", 0, {"outputs": ["yes"]}, CALL)
        journal.record("rollout/1/u", "hash", 1, None, CALL)
        journal.finish("rollout/1/u", Rollout(0, 0, Outcome.COMPLETED, 0.25))
        journal.set("fingerprint", {"kind": "a test"})
    return directory / "journal.sqlite"


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("attempts", "rollout = replace(rollout, '0.25', '0.75')"),
        ("calls", "reply = 'null'"),
        ("calls", "occurrence = 1"),
        ("calls", "checksum = checksum + 1"),
        ("other_calls", "call = replace(call, 'cost', 'cosy')"),
        ("meta", "value = replace(value, 'test', 'text')"),
    ],
)
def test_a_changed_row_is_refused_by_name_and_can_be_deleted(tmp_path: Path, table: str, change: str) -> None:
    path = sealed(tmp_path)
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"UPDATE {table} SET {change}")
        db.commit()
    before = snapshot(tmp_path)
    with pytest.raises(JournalError, match=f"journal.sqlite .* is damaged: row 1 of table {table} .*") as caught:
        Journal(tmp_path)
    assert "make room" not in str(caught.value) and snapshot(tmp_path) == before
    (mend,) = re.findall(r"\((DELETE .*?)\)", str(caught.value))
    with closing(sqlite3.connect(path)) as db:
        db.execute(mend)
        db.commit()
    with Journal(tmp_path):
        pass


def test_any_flipped_byte_of_the_rows_is_noticed(tmp_path: Path) -> None:
    """Either SQLite or a checksum sees it, or it changed nothing that is read."""
    data = sealed(tmp_path / "run").read_bytes()
    chance = random.Random(0)

    def content(directory: Path) -> Any:
        with Journal(directory) as journal:
            found = journal.reply("rollout/1/u", "hash", 0)
            return found, journal.attempt("rollout/1/u"), journal.get("fingerprint"), journal.paid()

    whole, noticed = content(tmp_path / "run"), 0
    places = [i for i, byte in enumerate(data) if byte and i > 100]
    for number, at in enumerate(chance.sample(places, 60)):
        directory = tmp_path / str(number)
        directory.mkdir()
        (directory / "journal.sqlite").write_bytes(
            data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
        )
        try:
            assert content(directory) == whole
        except JournalError as error:
            assert "make room" not in str(error)
            noticed += 1
    assert noticed > 20


@pytest.mark.parametrize("beside", ["config.json", "events.jsonl", "results.json"])
def test_an_emptied_file_beside_those_of_a_run_is_noticed(tmp_path: Path, beside: str) -> None:
    (tmp_path / "journal.sqlite").touch()
    Journal(tmp_path).close()  # a run that was killed as it began
    (tmp_path / "journal.sqlite").write_bytes(b"")
    (tmp_path / beside).touch()
    with pytest.raises(JournalError, match="is damaged: it is empty, but other files of a run are here"):
        Journal(tmp_path)


def test_a_copy_without_its_log_is_noticed(tmp_path: Path) -> None:
    """While a run goes on, and after it was killed, what was written last stands in the log."""
    for entries in (1, 3000):  # the log was never moved into the file, or several times
        source, copy = tmp_path / f"run{entries}", tmp_path / f"copy{entries}"
        writer = child(
            f"""
            from trgrpo_dspy.meter.meter import LMCall
            journal = Journal(sys.argv[1])
            for number in range({entries}):
                journal.record("rollout/1/u", f"hash {{number}}", 0, {{"outputs": ["x" * 3000]}}, LMCall("m"))
            print("written", flush=True)
            sys.stdin.read()
            """,
            str(source),
        )
        assert writer.stdout is not None and writer.stdout.readline() == "written\n"
        writer.kill()
        writer.communicate()
        copy.mkdir()
        shutil.copy(source / "journal.sqlite", copy)
        for _ in range(2):
            with pytest.raises(JournalError, match=r"copied without journal.sqlite-wal, .*: copy both"):
                Journal(copy)
        (copy / "journal.sqlite").unlink()
        shutil.copy(source / "journal.sqlite-wal", copy)
        with pytest.raises(JournalError, match=r"journal.sqlite-wal is here, but the file that it belongs to is not"):
            Journal(copy)
        shutil.copy(source / "journal.sqlite", copy)
        for directory in (copy, source):
            with closing(sqlite3.connect(directory / "journal.sqlite")) as db:  # a stranger who looks moves the log
                assert db.execute("SELECT count(*) FROM calls").fetchone()[0] == entries
            with Journal(directory) as journal:
                assert len(journal.paid()) == entries


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.record("rollout/1/u", "hash", 0, {"outputs": ["x"]}, CALL)
        write_atomically(tmp_path / "results.json", "{}")
        names = {"journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm", "results.json", "run.lock", "run.pid"}
        assert {p.name: p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == dict.fromkeys(names, 0o600)
    (tmp_path / "journal.sqlite").chmod(0o644)
    with Journal(tmp_path):
        assert (tmp_path / "journal.sqlite").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        ("PRAGMA user_version=1", "is of schema 1, of trgrpo-dspy 0.1, which .* finish that run with 0.1, or pass"),
        (f"PRAGMA user_version={SCHEMA_VERSION + 1}", "is of schema 3; this version knows 2: upgrade trgrpo-dspy"),
        ("CREATE TABLE theirs (x)", "is another program's database: pass another log_dir"),
    ],
)
def test_journals_of_others_are_refused_and_not_touched(tmp_path: Path, statements: str, message: str) -> None:
    with closing(sqlite3.connect(tmp_path / "journal.sqlite")) as db:
        db.execute("CREATE TABLE meta (key TEXT)") if "PRAGMA" in statements else None
        db.execute(statements)
        db.commit()
    before = snapshot(tmp_path)
    with pytest.raises((JournalError, SchemaVersionError), match=message):
        Journal(tmp_path)
    assert snapshot(tmp_path) == before


def test_a_newer_schema_with_a_killed_writers_log_is_not_touched_either(tmp_path: Path) -> None:
    writer = child(
        f"""
        import sqlite3
        db = sqlite3.connect(sys.argv[1] + "/journal.sqlite")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE novel (x)")
        db.execute("PRAGMA user_version={SCHEMA_VERSION + 1}")
        db.commit()
        print("written", flush=True)
        sys.stdin.read()
        """,
        str(tmp_path),
    )
    assert writer.stdout is not None and writer.stdout.readline() == "written\n"
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    assert (tmp_path / "journal.sqlite-wal").stat().st_size > 0
    before = {name: (tmp_path / name).read_bytes() for name in ("journal.sqlite", "journal.sqlite-wal")}
    with pytest.raises(SchemaVersionError):
        Journal(tmp_path)
    assert before == {name: (tmp_path / name).read_bytes() for name in before}


def test_an_empty_file_is_a_journal_that_was_killed_at_birth(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").touch()
    with Journal(tmp_path) as journal:
        assert journal.paid() == []


def test_a_file_in_place_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(JournalError, match=r"log_dir='.*file' can't be used: .*; pass another directory"):
        Journal(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["run.lock", "run.pid", "journal.sqlite"])
def test_a_directory_that_can_not_be_written(tmp_path: Path, name: str) -> None:
    """Tests run as root, whom no permission stops: a folder stands where the file must go."""
    (tmp_path / name).mkdir()
    with pytest.raises(JournalError, match=r"can't be written"):
        Journal(tmp_path)
    (tmp_path / name).rmdir()
    with Journal(tmp_path):
        pass


def test_a_full_disk_is_told_and_what_was_committed_stays(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.record("rollout/1/u", "before", 0, {"outputs": ["x"]}, CALL)
        pages = journal._db.connection.execute("PRAGMA page_count").fetchone()[0]
        journal._db.connection.execute(f"PRAGMA max_page_count={pages + 2}")
        with pytest.raises(JournalError, match=r"full. What was committed is safe; make room or mend the directory"):
            journal.record("rollout/1/u", "big", 0, {"outputs": ["x" * 10**6]}, CALL)
        assert journal.reply("rollout/1/u", "before", 0) is not None
    with Journal(tmp_path) as journal:
        assert journal.reply("rollout/1/u", "before", 0) is not None
        assert journal.reply("rollout/1/u", "big", 0) is None


def test_a_run_on_a_full_disk_ends_with_the_error_and_goes_on_when_there_is_room(
    tmp_path: Path, lm: dspy.LM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small(*arguments: Any) -> sqlite3.Connection:
        connection = connect(*arguments)
        connection.execute("PRAGMA max_page_count=12")
        return connection

    connect = database._connect
    optimizer = TrainingFreeGRPO(metric=told, group_size=3, num_epochs=1, num_threads=8, log_dir=tmp_path)
    monkeypatch.setattr(database, "_connect", small)
    with pytest.raises(JournalError, match=r"can't be written.*full.*run again with the same log_dir"):
        optimizer.compile(dspy.Predict(Triage), trainset=examples(6))
    monkeypatch.setattr(database, "_connect", connect)
    cut = len(lm.engine.calls)
    compiled = optimizer.compile(dspy.Predict(Triage), trainset=examples(6))
    total = compiled.detailed_results.total.calls
    assert 0 < len(lm.engine.calls) - cut < total


# -- files -----------------------------------------------------------------------------------------------------------


def test_a_file_is_whole_or_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    write_atomically(path, "old")

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(JournalError, match=r"results.json .* can't be written: No space left on device; make room"):
        write_atomically(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    write_atomically(path, "new \ud800")
    assert path.read_text() == "new \\ud800"  # in JSON that is the same character
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]
