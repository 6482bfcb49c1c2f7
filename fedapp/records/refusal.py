"""The run folder of a run that could not begin."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedapp.config.overrides import plain_value
from fedapp.core.errors import reason_of
from fedapp.core.files import WriteError, append_line, writing
from fedapp.core.status import FAILED, TIME, holds_run, write_status
from fedapp.records.machine import describe_machine

LONGEST_OVERRIDES = 4000


@contextmanager
def refusals_kept(overrides: str) -> Iterator[None]:
    """Leave a run folder with the reason if the body finds that the run cannot begin.

    Args:
        overrides: As the run was given them, in one string.
    """
    try:
        yield
    except Exception as error:
        try:
            folder = keep_refusal(overrides, error)
        except WriteError as full:
            print(f"fedapp: {full}", file=sys.stderr, flush=True)
        else:
            print(f"fedapp: the run cannot begin, the reason is in {folder}", file=sys.stderr, flush=True)
        raise


def keep_refusal(overrides: str, error: Exception) -> Path:
    """Leave a run folder that says why a run could not begin.

    It is the folder that ``run_dir`` or ``resume`` names, as far as the overrides can be read, and one beside
    it where that holds a run; where none is named, a new one below ``runs_dir``, else below ``runs`` in the
    current folder.

    Args:
        overrides: As the run was given them, in one string.
        error: What is wrong with them, or with this machine.

    Returns:
        The folder.

    Raises:
        WriteError: If there can be no such folder.
    """
    run_dir, resumed, runs_dir = (plain_value(overrides, name) for name in ("run_dir", "resume", "runs_dir"))
    named = resumed or run_dir
    path = Path(named or runs_dir or "runs").expanduser().absolute()
    if not named:
        path = _free(path / f"{time.strftime('%Y%m%d-%H%M%S')}-refused")
    elif path.is_file() or holds_run(path):
        path = _free(path.with_name(f"{path.name}-refused"))
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    reason, now = reason_of(error), time.strftime(TIME)
    said = {"status": FAILED, "reason": reason, "started": now, "seconds": 0.0}
    write_status(path, {**said, "overrides": overrides[:LONGEST_OVERRIDES], **describe_machine()})
    end = {"event": "end", "time": 0.0, "status": FAILED, "message": reason}
    append_line(path / "events.jsonl", json.dumps(end))
    return path


def _free(path: Path) -> Path:
    names = (path.name if number == 1 else f"{path.name}-{number}" for number in itertools.count(1))
    return next(path.with_name(name) for name in names if not path.with_name(name).exists())
