"""The verbs for what was learned: show, diff, edit, apply, export, import."""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Annotated, Any

import typer

from trgrpo_dspy.library.exchange import FORMATS
from trgrpo_dspy.library.library import ExperienceLibrary, diff
from trgrpo_dspy.library.markdown import stray_line

from .arguments import Format, Out, takes
from .console import experiences, library_table, line, note, show, show_json
from .directories import is_run, run_directory
from .errors import InputError
from .job import names
from .sources import Source, other_fields, read_source, saved_fields, write_text

__all__ = ["apply", "diff_", "edit", "export", "import_", "show_"]

_FORMATS = "; ".join(f"{name}: {kind.about}" for name, kind in FORMATS.items())
SourceName = Annotated[
    str, typer.Argument(help="A library in any format, a saved program, or a run's directory.", show_default=False)
]
_IDS = "ID,ID"


@takes("json")
def show_(source: SourceName = "", format: Format = "", **given: Any) -> None:
    """Show a run, a library or a saved program.

    Without SOURCE the newest run in runs/.

    Example: trgrpo show compiled.json
    """
    if not source or is_run(Path(source).expanduser()):
        _show_run(source or None, json=given["json"])
        return
    found = read_source(source, format)
    if given["json"]:
        show_json({"source": str(found.path), "format": found.format, **dataclasses.asdict(_plain(found.library))})
        return
    show(f"{found.path}: {experiences(len(found.library))}, {found.library.tokens:,} tokens")
    if found.library.entries:
        show(library_table(found.library.entries))
    if found.library.banned:
        show(f"banned: {len(found.library.banned)}")


def _show_run(name: str | None, *, json: bool) -> None:
    from trgrpo_dspy.report import read_run

    from .view import run_data, run_view

    run = read_run(run_directory(name))
    if json:
        show_json(run_data(run))
    else:
        show(f"{run.log_dir}: {', '.join(run.models)}", *run_view(run))


@takes("json")
def diff_(a: SourceName, b: SourceName, **given: Any) -> None:
    """Show what changed from one library to another.

    Example: trgrpo diff runs/my_task-1/libraries/step_001.json compiled.json
    """
    changed = diff(read_source(a).library, read_source(b).library)
    if given["json"]:
        show_json(dataclasses.asdict(changed))
    else:
        _lines(str(changed))


def edit(
    source: SourceName,
    remove: Annotated[str, typer.Option(metavar=_IDS, help="Remove entries.")] = "",
    ban: Annotated[str, typer.Option(metavar=_IDS, help="Remove them; learning brings back none like them.")] = "",
    pin: Annotated[str, typer.Option(metavar=_IDS, help="Keep entries as they are in learning.")] = "",
    add: Annotated[str | None, typer.Option(metavar="TEXT", help="Add an entry.")] = None,
) -> None:
    """Edit a library or a saved program.

    In $EDITOR: take lines out, change them, or add `- When ..., ...`. The text is checked and written back; one that
    can't be read is kept beside the file, and the next edit goes on from it. With an option no editor is called.

    Example: trgrpo edit compiled.json --remove E1
    """
    if Path(source).expanduser().is_dir():
        raise InputError(f"{source} is a run's record; edit a copy: trgrpo export {source} -o library.md")
    found = read_source(source)
    if not (remove or ban or pin) and add is None:
        _edit_text(found)
        return
    library = found.library.pin(*names(pin)).without(*names(remove)).ban(*names(ban))
    library = library.add(add) if add is not None else library
    write_text(found.path, found.with_library(library))
    _lines(str(diff(found.library, library)))
    note(f"written: {found.path}")


def _edit_text(found: Source) -> None:
    """Let the user edit the entries as text, check the text and write it back."""
    draft = found.path.with_name(f"{found.path.name}.edit.md")
    is_list = found.format in ("markdown", "list")  # edited as it stands, with all that is no entry
    before = found.text if is_list else found.library.to_markdown()
    if draft.exists():
        note(f"going on from {draft}, which was kept when it could not be read")
    else:
        write_text(draft, before)
        shutil.copymode(found.path, draft)
    _call_editor(draft, before)
    try:
        text = draft.read_text(encoding="utf-8")
        if not is_list and (stray := stray_line(text)):
            raise ValueError(f"line {stray} belongs to no entry; begin an entry with '- '")
        library = ExperienceLibrary.from_markdown(text)
        written = text if is_list else found.with_library(library)
    except ValueError as error:
        raise InputError(f"{error}. Nothing was written; your text is kept in {draft}, `edit` again goes on") from error
    if found.path.read_text(encoding="utf-8-sig") != found.text:
        raise InputError(f"{found.path} was changed by something else meanwhile; your text is kept in {draft}")
    if text != before:
        write_text(found.path, written)
    draft.unlink()
    _lines(str(diff(found.library, library)))
    note(f"written: {found.path}" if text != before else "nothing was changed")


def _call_editor(path: Path, before: str) -> None:
    """Let the user edit a draft; one that was never touched goes where there is no editor."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or ("notepad" if os.name == "nt" else "vi")
    try:
        code = subprocess.call([*shlex.split(editor), str(path)])
    except OSError as error:
        if path.read_text(encoding="utf-8", errors="replace") == before:
            path.unlink()
        raise InputError(f"the editor {editor!r} can't be started: {error.strerror}; set EDITOR") from error
    if code:
        raise InputError(f"the editor {editor!r} ended with {code}; nothing was written, your text is kept in {path}")


def apply(
    library: SourceName,
    program: Annotated[str, typer.Argument(help="A saved program (.json).")],
    out: Annotated[str, typer.Option("--out", "-o", help="Where to write; by default PROGRAM itself.")] = "",
    format: Format = "",
) -> None:
    """Write a library into a saved program.

    It takes the place of what the program carries.

    Example: trgrpo apply library.md compiled.json
    """
    found, source = read_source(program), read_source(library, format)
    if found.format != "program":
        raise InputError(f"{program} is no saved program; `compile --save` and `program.save(...)` write one")
    if source.format == "program" and (other := other_fields(saved_fields(source.text), saved_fields(found.text))):
        note(f"warning: the experiences of {library} were learned with another program: {other}")
    target = Path(out).expanduser() if out else found.path
    write_text(target, found.with_library(source.library))
    written = read_source(str(target)).library
    _lines(str(diff(found.library, written)))
    note(f"written: {target} ({experiences(len(written))})")


def export(source: SourceName, to: Annotated[str, typer.Option("--format", help=_FORMATS)] = "", out: Out = "") -> None:
    """Write a library in another format.

    Another project's, or a list to read and edit. Without --format it is markdown, or json for a FILE so named. What
    is no entry in a FILE that exists stays as it is.

    Example: trgrpo export compiled.json --format ace -o playbook.txt
    """
    name = to or ("json" if out.endswith(".json") else "markdown")
    if name not in FORMATS:
        raise InputError(f"--format {name}: the formats are {', '.join(FORMATS)}")
    _deliver(read_source(source).library, name, out)


def import_(
    file: Annotated[str, typer.Argument(help="Another project's file.")],
    format: Annotated[str, typer.Option(help=f"{_FORMATS}. By default guessed.")] = "",
    out: Out = "",
) -> None:
    """Read another project's file into a library.

    FILE of --out ends in .json, or in .md to read and edit it.

    Example: trgrpo import playbook.txt --format ace -o library.json
    """
    found = read_source(file, format)
    if not found.library.entries:
        raise InputError(f"no experience was found in {file}, read as {found.format}; --format names another")
    note(f"{found.path}: {found.format}, {experiences(len(found.library))}")
    _deliver(found.library, "markdown" if out.endswith(".md") else "json", out)


def _deliver(library: ExperienceLibrary, format: str, out: str) -> None:
    """Write a library to a file or the screen; refuses a file whose other text the format would not keep."""
    path, base = Path(out).expanduser(), ""
    if out and path.exists():
        base = path.read_text(encoding="utf-8-sig")
        if {"json": '"next_id"', "markdown": "Next id: E"}.get(format, "") not in base:
            raise InputError(
                f"{out} is there and is no library; choose another name, or write into it with --format list"
            )
    text = FORMATS[format].write(_plain(library), base)
    if out:
        write_text(path, text)
        note(f"written: {out}")
    else:
        _lines(text.rstrip("\n"))


def _plain(library: ExperienceLibrary) -> ExperienceLibrary:
    """The library alone, where a program carries more."""
    return ExperienceLibrary(library.entries, library.next_id, library.banned)


def _lines(text: str) -> None:
    for row in text.split("\n"):
        line(row)
