"""The journal: what is in it comes back, what can't be used is refused with what to do, and nothing is overwritten."""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
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
from support.waiting import until

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
UNITS = map(str, itertools.count())


def snapshot(directory: Path) -> dict[str, bytes]:
    return {
        p.name: p.read_bytes()
        for p in sorted(directory.iterdir())
        if p.name in ("journal.sqlite", "journal.sqlite-wal")
    }


def damaged(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


def completed(score: float | None = 1.0, index: int = 0) -> Rollout:
    return Rollout(index, 0, Outcome.COMPLETED, score)


# -- what is in it ---------------------------------------------------------------------------------------------------


def test_a_reply_comes_back_for_its_unit_and_request_alone(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.record("rollout/1/a", "hash", 0, {"outputs": ["hello"]}, CALL)
        found = journal.reply("rollout/1/a", "hash", 0)
        assert found is not None
        assert (found.reply, found.call, found.occurrence) == ({"outputs": ["hello"]}, CALL, 0)
        for other in (("rollout/1/b", "hash", 0), ("rollout/1/a", "other", 0), ("rollout/1/a", "hash", 1)):
            assert journal.reply(*other) is None
    with Journal(tmp_path) as journal:
        assert journal.reply("rollout/1/a", "hash", 0) == found


def test_equal_requests_take_the_replies_that_are_left(tmp_path: Path) -> None:
    """The first of three was in flight when the process was killed: the others' replies are not lost."""
    with Journal(tmp_path) as journal:
        for number in (1, 2):
            journal.record("u", "hash", number, {"outputs": [f"reply {number}"]}, CALL)
        found = [journal.reply("u", "hash", occurrence) for occurrence in (0, 2, 3)]
    assert [kept and (kept.occurrence, kept.reply["outputs"]) for kept in found] == [
        (1, ["reply 1"]), (2, ["reply 2"]), None,
    ]  # fmt: skip


def test_what_can_not_be_replayed_is_counted_and_never_overwritten(tmp_path: Path) -> None:
    failed = LMCall("m", failed=True)
    with Journal(tmp_path) as journal:
        for reply, call in ((None, failed), (None, failed), ({"outputs": [object()]}, CALL)):
            journal.record("rollout/1/a", "hash", 0, reply, call)
        assert journal.reply("rollout/1/a", "hash", 0) is None
        journal.record("rollout/1/a", "hash", 0, {"outputs": ["x"]}, CALL)
        paid = [call for unit, call in journal.paid() if unit == "rollout/1/a"]
        assert (len(paid), paid.count(failed), paid.count(CALL)) == (4, 2, 2)


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journal]:
    with Journal(tmp_path_factory.mktemp("journal")) as journal:
        yield journal


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
    assert journal.finish(unit, rollout) == rollout == (found := journal.attempt(unit))
    assert found is not None and isinstance(found.outcome, Outcome)


def test_the_first_result_of_a_unit_stays_and_an_outage_for_this_process_alone(tmp_path: Path) -> None:
    outage, first, second = Rollout(0, 0, Outcome.INFRASTRUCTURE, None), completed(0.0), completed(1.0)
    with Journal(tmp_path) as journal:
        assert journal.finish("u", first) == first == journal.finish("u", second) == journal.attempt("u")
        assert journal.finish("v", outage) == outage == journal.finish("v", second) == journal.attempt("v")
        journal._db.write("attempts", "w", '{"example": 0, "attempt": 0, "outcome": "completed", "score": 1, "new": 2}')
    with Journal(tmp_path) as journal:
        assert (journal.attempt("u"), journal.attempt("v")) == (first, None)
        assert journal.finish("v", second) == second
        assert journal.attempt("w") == completed(), "of a later patch, with more fields"


def test_an_attempt_is_committed_in_a_moment_whatever_comes(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal, closing(sqlite3.connect(tmp_path / "journal.sqlite")) as reader:
        journal.finish("u", completed())
        assert until(lambda: reader.execute("SELECT count(*) FROM attempts").fetchone()[0])


class Tool(BaseModel):
    """As `engine="litellm"` hands over pydantic objects."""

    name: str
    arguments: str


def test_replies_that_are_a_clients_own_objects_become_plain() -> None:
    """They are read as DSPy's own cache reads them."""
    kept = encode_reply([{"text": "", "tool_calls": [{"function": Tool(name="look", arguments="{}")}]}])
    function = decode_reply(kept or {})[0]["tool_calls"][0].function
    assert (function.name, function.arguments, hasattr(function, "id")) == ("look", "{}", False)


def test_many_threads_commit_together_and_each_its_own(tmp_path: Path) -> None:
    """What a thread has recorded is there when it goes on, whoever wrote it; two that finish one unit agree."""

    def work(thread: int) -> None:
        for number in range(30):
            unit = f"rollout/1/{thread}/{number}"
            journal.record(unit, "hash", 0, {"outputs": [unit]}, CALL)
            found = journal.reply(unit, "hash", 0)
            assert found is not None and found.reply == {"outputs": [unit]}
            journal.record(unit, "hash", 1, None, CALL)
            assert journal.finish(unit, completed(index=thread)) == completed(index=thread) == journal.attempt(unit)
            mine = journal.finish(f"shared/{number}", completed(index=thread))
            assert mine == journal.attempt(f"shared/{number}")

    with Journal(tmp_path) as journal, ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    with Journal(tmp_path) as journal:
        assert len(journal.paid()) == 2 * 16 * 30
        assert all(journal.attempt(f"rollout/1/{t}/{n}") for t in range(16) for n in range(30))


def test_an_error_reaches_every_thread_whose_row_it_took_and_what_was_committed_stays(tmp_path: Path) -> None:
    def work(number: int) -> bool:
        try:
            journal.record("rollout/1/u", f"hash {number}", 0, {"outputs": ["x" * 5000]}, CALL)
        except JournalError as error:
            assert "full. What was committed is safe; make room or mend the directory" in str(error)
            return False
        return True

    with Journal(tmp_path) as journal, ThreadPoolExecutor(8) as pool:
        (pages,) = journal._db.one("PRAGMA page_count") or ()
        journal._db.connection.execute(f"PRAGMA max_page_count={pages + 3}")
        said = list(pool.map(work, range(32)))
    with Journal(tmp_path) as journal:
        kept = [journal.reply("rollout/1/u", f"hash {number}", 0) is not None for number in range(32)]
    assert kept == said and not all(said)


# -- one process at a time -------------------------------------------------------------------------------------------


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_second_one_is_refused_and_the_first_may_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal(tmp_path):
        before = snapshot(tmp_path)
        with pytest.raises(JournalError, match=f"in use by process {os.getpid()}; wait for it, stop it"):
            Journal(tmp_path)
        assert snapshot(tmp_path) == before
    journal = Journal(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", interrupted)  # Ctrl-C while it is closed
        journal.close()
    with Journal(tmp_path):
        pass
    assert not (tmp_path / "run.pid").exists()


def test_a_reply_is_safe_the_moment_it_is_recorded_and_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    code = """if True:
        import sys
        from trgrpo_dspy.engine.journal.journal import Journal
        from trgrpo_dspy.meter import LMCall
        journal = Journal(sys.argv[1])
        for number in range(10**6):
            journal.record("rollout/1/u", f"hash {number}", 0, {"outputs": ["x" * 3000]}, LMCall("m"))
            print(number, flush=True)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    heard = [process.stdout.readline()[:-1] for _ in range(30)]
    process.kill()
    said = [*heard, *process.communicate()[0].split("\n")[:-1]]
    assert heard[0] == "0" and (tmp_path / "run.pid").read_text() == f"{process.pid}\n"
    with Journal(tmp_path) as journal:
        assert (tmp_path / "run.pid").read_text() == f"{os.getpid()}\n"
        assert all(journal.reply("rollout/1/u", f"hash {number}", 0) is not None for number in said)
        assert len(journal.paid()) - len(said) in (0, 1)


# -- what can't be used ----------------------------------------------------------------------------------------------


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
    with Journal(tmp_path) as journal:
        for number in range(50):
            journal.record("rollout/1/u", f"hash {number}", 0, {"outputs": ["x" * 2000]}, CALL)
    path = tmp_path / "journal.sqlite"
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
        journal.finish("rollout/1/u", completed(0.25))
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
    damaged(path, f"UPDATE {table} SET {change}")
    before = snapshot(tmp_path)
    with pytest.raises(JournalError, match=f"journal.sqlite .* is damaged: row 1 of table {table} .*") as caught:
        Journal(tmp_path)
    assert "make room" not in str(caught.value) and snapshot(tmp_path) == before
    damaged(path, *re.findall(r"\((DELETE .*?)\)", str(caught.value)))
    with Journal(tmp_path):
        pass


def test_any_flipped_byte_of_the_rows_is_noticed(tmp_path: Path) -> None:
    """Either SQLite or a checksum sees it, or it changed nothing that is read."""
    data, chance = sealed(tmp_path / "run").read_bytes(), random.Random(0)

    def content(directory: Path) -> Any:
        with Journal(directory) as journal:
            found = journal.reply("rollout/1/u", "hash", 0)
            return found, journal.attempt("rollout/1/u"), journal.get("fingerprint"), journal.paid()

    whole, noticed = content(tmp_path / "run"), 0
    written = [i for i, byte in enumerate(data) if byte and i > 100]
    for at in chance.sample(written, 150):
        directory = tmp_path / str(at)
        directory.mkdir()
        flipped = bytes([data[at] ^ 1 << chance.randrange(8)])
        (directory / "journal.sqlite").write_bytes(data[:at] + flipped + data[at + 1 :])
        try:
            assert content(directory) == whole
        except JournalError as error:
            assert "make room" not in str(error)
            noticed += 1
    assert noticed > 50


@pytest.mark.parametrize("beside", ["config.json", "events.jsonl", "results.json"])
def test_an_empty_file_is_a_run_killed_at_birth_unless_it_stands_beside_those_of_a_run(
    tmp_path: Path, beside: str
) -> None:
    (tmp_path / "journal.sqlite").touch()
    with Journal(tmp_path) as journal:
        assert journal.paid() == []
    (tmp_path / "journal.sqlite").write_bytes(b"")
    (tmp_path / beside).touch()
    with pytest.raises(JournalError, match="is damaged: it is empty, but other files of a run are here"):
        Journal(tmp_path)


@pytest.mark.parametrize("entries", [1, 3000])  # the log was never moved into the file, or several times
def test_a_copy_without_its_log_is_noticed(tmp_path: Path, entries: int) -> None:
    """While a run goes on, and after it was killed, what was written last stands in the log."""
    source, copy = tmp_path / "killed", tmp_path / "copy"
    copy.mkdir()
    with Journal(tmp_path / "run") as journal:
        for number in range(entries):
            journal.record("rollout/1/u", f"hash {number}", 0, {"outputs": ["x" * 3000]}, CALL)
        shutil.copytree(tmp_path / "run", source, ignore=shutil.ignore_patterns("run.*"))
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


OF_META = "CREATE TABLE meta (key TEXT)"
NEWER = f"PRAGMA user_version={SCHEMA_VERSION + 1}"


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        (
            (OF_META, "PRAGMA user_version=1"),
            "is of schema 1, of trgrpo-dspy 0.1, which .* finish that run with 0.1, or",
        ),
        ((OF_META, NEWER), "is of schema 3; this version knows 2: upgrade trgrpo-dspy"),
        (("CREATE TABLE theirs (x)",), "is another program's database: pass another log_dir"),
        (("PRAGMA journal_mode=WAL", OF_META, NEWER), "is of schema 3"),  # with a log that a killed writer left
    ],
)
def test_journals_of_others_are_refused_and_not_touched(tmp_path: Path, statements: Any, message: str) -> None:
    with closing(sqlite3.connect(tmp_path / "theirs.sqlite")) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()
        for file in tmp_path.iterdir():  # while it is open, with its log
            shutil.copy(file, tmp_path / file.name.replace("theirs", "journal"))
    before = snapshot(tmp_path)
    assert len(before) == 1 + ("WAL" in statements[0])
    with pytest.raises((JournalError, SchemaVersionError), match=message):
        Journal(tmp_path)
    assert snapshot(tmp_path) == before


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
    assert 0 < len(lm.engine.calls) - cut < compiled.detailed_results.total.calls


def test_a_file_is_whole_or_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "results.json"
    write_atomically(path, "old")
    with (
        monkeypatch.context() as patch,
        pytest.raises(JournalError, match=r"results.json .* No space left .*; make room"),
    ):
        patch.setattr(os, "replace", full)
        write_atomically(path, "new")
    assert path.read_text() == "old"
    write_atomically(path, "new \ud800")
    assert path.read_text() == "new \\ud800"  # in JSON that is the same character
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]
