"""The last word on a run whose server could not say it: interrupted, crashed, never started."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from datetime import datetime
from typing import Any

from fedapp.core.files import write_atomically
from fedapp.engines.job import Job


def is_closed(job: Job) -> bool:
    """Whether the server has said how the run ended."""
    return _read(job).get("status") in ("completed", "failed")


def close_run(job: Job, reason: str, *, overrule: bool = False) -> None:
    """Mark a run as failed in run.json, events.jsonl and the log, unless its server has done so.

    Call it when nothing writes to the run folder any more.

    Args:
        job: The run.
        reason: One line on what ended it.
        overrule: Put this reason in the place of the server's: what it saw follows from our stop.
    """
    facts = _read(job)
    if facts.get("status") == "completed" or (facts.get("status") == "failed" and not overrule):
        return
    seconds = _seconds_since(facts.get("started"))
    facts |= {"status": "failed", "reason": reason}
    if seconds is not None:
        facts["seconds"] = seconds
    write_atomically(job.run_dir / "run.json", json.dumps(facts, indent=1))
    _drop_end(job)
    end = {"event": "end", "time": seconds, "status": "failed", "message": reason}
    _append_line(job, "events.jsonl", json.dumps(end))
    _append_line(job, "log.txt", f"fedapp: the run failed: {reason}")


def _read(job: Job) -> dict[str, Any]:
    """What run.json says; nothing if the server did not get as far."""
    with suppress(OSError, ValueError):
        facts = json.loads((job.run_dir / "run.json").read_text(encoding="utf-8"))
        if isinstance(facts, dict):
            return facts
    return {}


def _seconds_since(started: object) -> float | None:
    try:
        begin = datetime.strptime(str(started), "%Y-%m-%dT%H:%M:%S%z")
    except ValueError:
        return None
    return round(max(0.0, time.time() - begin.timestamp()), 3)


def _drop_end(job: Job) -> None:
    """Take the server's last word out of events.jsonl, where there is to be one ``end`` only."""
    path = job.run_dir / "events.jsonl"
    with suppress(OSError):
        lines = path.read_bytes().splitlines(keepends=True)
        if lines and b'"event": "end"' in lines[-1]:
            path.write_bytes(b"".join(lines[:-1]))


def _append_line(job: Job, name: str, line: str) -> None:
    with (job.run_dir / name).open("ab+") as file:
        # A program that was killed may have left half a line.
        torn = False
        if file.tell():
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"
        file.write(b"\n" * torn + line.encode() + b"\n")
