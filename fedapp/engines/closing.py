"""The first and the last word on a run, for when its server cannot say it: not started yet, interrupted,
crashed, killed.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path

from fedapp.core.errors import one_line, reason_of
from fedapp.core.files import append_line, write_atomically
from fedapp.core.status import (
    COMPLETED,
    DIED,
    FAILED,
    STARTING,
    TAKEN_UP,
    TIME,
    UNFINISHED,
    holding,
    is_held,
    read_status,
    taking_up,
    write_status,
)
from fedapp.engines.job import Job, RunFailed

# Windows has no SIGHUP.
ENDING = tuple(one for one in signal.Signals if one.name in ("SIGINT", "SIGTERM", "SIGHUP"))


def open_run(job: Job, pid: int) -> None:
    """Say in run.json that the run starts, before its server can.

    Args:
        job: The run; its folder exists.
        pid: Of the command that runs it.

    Raises:
        WriteError: If the folder cannot be written to.
    """
    facts = {"status": STARTING, "reason": "", "started": time.strftime(TIME), "pid": pid}
    write_status(job.run_dir, {**facts, "overrides": shlex.split(job.overrides)})


@contextmanager
def opened(job: Job) -> Iterator[None]:
    """Hold a run's folder while the body runs it, with the first and, whatever happens, a last word.

    Raises:
        RunFailed: In the place of an ``OSError``, which comes of a disk that takes no more; as ``held``.
    """
    run_dir = job.run_dir
    with held(job):
        try:
            job.make_ready()
            open_run(job, os.getpid())
            yield
            complete_run(run_dir)
        except BaseException as error:
            with uninterrupted():
                close_run(run_dir, reason_of(error))
            if isinstance(error, OSError):
                raise RunFailed(one_line(error)) from error
            raise


@contextmanager
def held(job: Job) -> Iterator[None]:
    """Hold a run's folder; of two processes that would go on with one run in the same instant, one does.

    Raises:
        RunFailed: If another process has taken up the run; nothing has been changed.
    """
    with ExitStack() as hold:
        try:
            with taking_up(job.run_dir):
                if job.resumed and is_held(job.run_dir):
                    raise BlockingIOError
                hold.enter_context(holding(job.run_dir))
        except BlockingIOError:
            raise RunFailed(f"resume={job.run_dir}: {TAKEN_UP}") from None
        yield


def is_closed(run_dir: Path) -> bool:
    """Whether it is said how the run ended."""
    return read_status(run_dir).get("status") in (COMPLETED, FAILED, DIED)


def failure_of(run_dir: Path) -> str | None:
    """Why the run failed, in its server's words; None if it says nothing of the kind."""
    facts = read_status(run_dir)
    return str(facts.get("reason")) if facts.get("status") == FAILED and facts.get("reason") else None


def complete_run(run_dir: Path) -> None:
    """Mark a run as complete that its server has called so, should run.json not hold it yet.

    Raises:
        WriteError: If that cannot be written.
    """
    facts = read_status(run_dir)
    if facts.get("status") in UNFINISHED:
        write_status(run_dir, {**facts, "status": COMPLETED})


def close_run(run_dir: Path, reason: str, *, overrule: bool = False, status: str = FAILED) -> None:
    """Mark a run as failed in run.json, events.jsonl and the log, unless its server has done so.

    Call it when nothing writes to the run folder any more. A disk that takes nothing at all is no second
    fault: run.json stays as it was, and that nobody holds the folder any more tells that the run has died.

    Args:
        run_dir: The run folder.
        reason: One line on what ended it.
        overrule: Put this reason in the place of the server's: what it saw follows from our stop.
        status: ``failed``, or ``died`` of a run whose process could not say anything.
    """
    for partial in run_dir.rglob("*.partial"):
        with suppress(OSError):
            partial.unlink()
    facts = read_status(run_dir)
    known = facts.get("status")
    if known in (COMPLETED, DIED) or (known == FAILED and not overrule):
        return
    seconds = _seconds_since(facts.get("started"))
    facts |= {"status": status, "reason": reason}
    if seconds is not None:
        facts["seconds"] = seconds
    with suppress(OSError):
        write_status(run_dir, facts)
    end = {"event": "end", "time": seconds, "status": status, "message": reason}
    verb = "died" if status == DIED else "failed"
    with suppress(OSError):
        _drop_end(run_dir)
        append_line(run_dir / "events.jsonl", json.dumps(end))
    with suppress(OSError):
        append_line(run_dir / "log.txt", f"fedapp: the run {verb}: {reason}")


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold off Ctrl-C, SIGTERM and SIGHUP while cleaning up, so that nothing is left behind."""
    try:
        before = [(number, signal.signal(number, signal.SIG_IGN)) for number in ENDING]
    except ValueError:  # Not the main thread: signals do not arrive here anyway.
        before = []
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def _seconds_since(started: object) -> float | None:
    try:
        begin = datetime.strptime(str(started), TIME)
    except ValueError:
        return None
    return round(max(0.0, time.time() - begin.timestamp()), 3)


def _drop_end(run_dir: Path) -> None:
    """Take the server's last word out of events.jsonl, where there is to be one ``end`` only."""
    path = run_dir / "events.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    if lines and b'"event": "end"' in lines[-1]:
        write_atomically(path, b"".join(lines[:-1]).decode(errors="replace"))
