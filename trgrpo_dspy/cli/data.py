"""Examples from a file or the hub: JSON lines, JSON, CSV, Parquet, or `owner/name:split`.

A slice may follow, as in `data.csv[:80]`. Which columns are inputs is said by `--inputs`, else by the program.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dspy

from .errors import InputError

__all__ = ["examples_from", "input_names"]

_FORMATS = {".parquet": "parquet", ".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv"}
_SLICE = re.compile(r"(?P<name>.*?)\[(?P<start>\d*):(?P<end>\d*)\]")
_HUB = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?::(?P<config>[\w.-]+))??(?::(?P<split>[\w.\[\]:%+-]+))?")


def examples_from(
    source: str, program: dspy.Module, inputs: Sequence[str], columns: Mapping[str, str]
) -> list[dspy.Example]:
    """Read examples.

    Args:
        source: A file, or a data set on the hub as `owner/name:split`, `owner/name:config:split` or
            `owner/name:train[:100]`.
        program: Says which columns are inputs, where `inputs` does not.
        inputs: Names of the fields that are inputs.
        columns: The column of a field, where it has another name.
    """
    rows = _rows(source)
    if not rows:
        raise InputError(f"{source} holds no rows")
    for field, column in columns.items():
        if column not in rows[0]:
            raise InputError(f"--columns {field}={column}: {source} has the columns {', '.join(rows[0])}")
        for row in rows:
            row[field] = row.pop(column)
    known = input_names(program, rows[0])
    names = list(inputs) or known
    if missing := [name for name in names if name not in rows[0]]:
        raise InputError(f"{source} has no column {', '.join(missing)}; its columns: {', '.join(rows[0])}")
    if not names:
        asked = {name for _, predictor in program.named_predictors() for name in predictor.signature.input_fields}
        example = f"{min(asked, default='field')}={next(iter(rows[0]))}"
        raise InputError(
            f"{source}: which columns are inputs? None of {', '.join(rows[0])} is an input of the program; say "
            f"which are, as in: --columns {example}, or --inputs name,name"
        )
    if not set(names) & set(known):
        raise InputError(
            f"--inputs {','.join(names)}: the program takes none of them; name them by --columns field=column"
        )
    return [dspy.Example(**row).with_inputs(*names) for row in rows]


def input_names(program: dspy.Module, row: Mapping[str, Any]) -> list[str]:
    """The columns of a row that the program takes: by the parameters of its `forward`, else by its signatures."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    forward = getattr(type(program), "forward", None) or getattr(type(program), "aforward", None)
    parameters = inspect.signature(forward).parameters.values() if forward is not None else ()
    named = [p.name for p in parameters if p.kind in kinds and p.name != "self"]
    signatures = [predictor.signature for _, predictor in program.named_predictors()]
    fields = {n for s in signatures for n in s.input_fields} - {n for s in signatures for n in s.output_fields}
    return [name for name in row if name in named] or [name for name in row if name in fields]


def _rows(source: str) -> list[dict[str, Any]]:
    found = _SLICE.fullmatch(source)
    path = Path(found["name"] if found else source).expanduser()
    if path.is_file() or path.suffix.lower() in _FORMATS:
        rows = _rows_of_file(path)
        return rows[slice(*(int(found[end]) if found[end] else None for end in ("start", "end")))] if found else rows
    hub = _HUB.fullmatch(source)
    if hub is None:
        raise InputError(f"{source} is neither a file nor a data set such as owner/name:split")
    import datasets  # slow to import, and only needed here

    try:
        return list(map(dict, datasets.load_dataset(hub["name"], hub["config"], split=hub["split"] or "train")))
    except Exception as error:  # the hub's client raises anything from OSError to its own
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{source} is no file here and can't be loaded from the hub: {type(error).__name__}: {reason}"
        ) from error


def _rows_of_file(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise InputError(f"{path} is not there")
    if (kind := _FORMATS.get(path.suffix.lower())) is None:
        raise InputError(f"{path} must end in one of {', '.join(_FORMATS)}")
    import datasets

    logging.getLogger("datasets").setLevel(logging.CRITICAL)  # it logs the traceback of what it then raises
    with TemporaryDirectory() as cache:  # streaming reads the file afresh: no cache to go stale
        try:
            data = {"data_files": str(path), "split": "train", "streaming": True, "cache_dir": cache}
            return list(map(dict, datasets.load_dataset(kind, **data)))
        except Exception as error:  # readers of files raise anything
            if not path.stat().st_size:
                return []
            reason = error.__cause__ or error
            raise InputError(f"{path} can't be read as {kind}: {type(reason).__name__}: {reason}") from error
