"""Drive ``flwr run`` and tell the truth about how it ended.

Plain ``flwr run`` hands the app to a SuperLink in the background and exits with 0 whatever
becomes of it. Here each run has a SuperLink of its own, on its own port and with its own Flower
home, and takes it down again. Measured with flwr 1.41 and 1.42: look here first after an upgrade.
"""

from __future__ import annotations

import re
import shutil
import time
from os import getpid
from pathlib import Path

from fedapp.core.errors import one_line, reason_of
from fedapp.core.files import writing
from fedapp.core.status import FILE
from fedapp.engines.closing import (
    close_run,
    failure_of,
    is_closed,
    open_run,
    opened,
    uninterrupted,
)
from fedapp.engines.events import POLL_SECONDS, EventTail, report
from fedapp.engines.flower.home import flower_home
from fedapp.engines.flower.processes import ProcessTree
from fedapp.engines.flower.superlink import SuperLink, environment
from fedapp.engines.job import Job, OnEvent, RunFailed, check_outcome

STATUS_SECONDS = 30.0
# Ray allows its node 30 s to start, a hard-coded limit that a busy machine can miss.
RAY_TOO_SLOW = "timed out during startup"


def run_flower(job: Job, on_event: OnEvent) -> None:
    """Run the app through ``flwr run`` on Flower's simulation engine.

    Args:
        job: What to run.
        on_event: Called with each event that the server writes.

    Raises:
        RunFailed: If the run was refused, crashed or did not complete.
        KeyboardInterrupt: If interrupted; the run is stopped first.
    """
    with opened(job):
        with writing(job.log_file):
            log = job.log_file.open("ab", buffering=0)
        with log, flower_home() as home:
            _run_on_superlink(job, on_event, log.fileno(), home)


def _run_on_superlink(job: Job, on_event: OnEvent, log: int, home: Path) -> None:
    # Ray's workers import from the working folder first: the user's could hold another client_app.
    tree = ProcessTree(environment(home, job.app_dir), home)
    superlink = SuperLink(tree, job.run_dir, home, log)
    failure: BaseException | None = None
    overrule = False
    try:
        superlink.start()
        for is_last in (False, True):
            if _attempt(job, superlink, on_event, is_last):
                return
    except BaseException as error:
        failure, overrule = error, not is_closed(job.run_dir)
        raise
    finally:
        with uninterrupted():
            superlink.stop_run()
            tree.end()
            if failure is not None:
                close_run(job.run_dir, reason_of(failure), overrule=overrule)


def _attempt(job: Job, superlink: SuperLink, on_event: OnEvent, is_last: bool) -> bool:
    """Submit and watch once; false if it is worth another try."""
    tail = EventTail(job.run_dir / "events.jsonl", job.resumed)
    log_start = job.log_file.stat().st_size
    superlink.submit(job)
    status, details = _watch(job, superlink, tail, on_event)
    log = job.log_file.read_bytes()[log_start:].decode(errors="replace")
    if status != "finished:completed" and RAY_TOO_SLOW in log and not tail.replied and not is_last:
        on_event({"event": "warning", "message": "Ray did not start within its 30 s; trying once more"})
        _clear(job)
        return False
    if status == "finished:completed":
        check_outcome(tail.end, "the server app ended before the run was complete")
    elif tail.end is not None and tail.end.get("status") == "failed":
        check_outcome(tail.end, details)
    else:
        # On a full disk run.json is what the server can still write.
        raise RunFailed(failure_of(job.run_dir) or _reason(status, details, log))
    return True


def _watch(job: Job, superlink: SuperLink, tail: EventTail, on_event: OnEvent) -> tuple[str, str]:
    """Report events until Flower says that the run is over.

    Returns:
        Flower's status (``finished:completed``) and its details.
    """
    begin = time.monotonic()
    next_look = begin + STATUS_SECONDS
    while True:
        report(tail, on_event)
        # Flower's log stream ends with the run; asking for the status takes two seconds of CPU.
        if superlink.log_ended() or time.monotonic() > next_look:
            status, details = superlink.status()
            if status.startswith("finished"):
                report(tail, on_event)
                return status, details
            next_look = time.monotonic() + STATUS_SECONDS
        if not superlink.is_alive():
            raise RunFailed("Flower's SuperLink ended during the run")
        if not tail.started and time.monotonic() - begin > job.start_timeout:
            raise RunFailed(f"the run did not start within {job.start_timeout:g} s")
        time.sleep(POLL_SECONDS)


def _clear(job: Job) -> None:
    """Empty the run folder for another attempt; the log stays, and that the run is about to start.

    A run that goes on is brought back to its last checkpoint by its server.
    """
    for path in () if job.resumed else job.run_dir.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in (job.log_file.name, FILE):
            path.unlink()
    open_run(job, getpid())


def _reason(status: str, details: str, log: str) -> str:
    """One line on a run that Flower calls failed and that the server could not comment on."""
    if status == "finished:stopped":
        return "the run was stopped from outside"
    errors = re.findall(r"^(?:\w+\.)*(\w*(?:Error|Exception): .+)$", log, re.MULTILINE)
    text = one_line(details).removeprefix("Simulation failed with exception: ")
    if errors and ("An error was encountered" in text or not text):
        return str(errors[0])
    if text.startswith(("No module named", "cannot import name")):
        return f"the app cannot be imported: {text}"
    return text or f"Flower says {status}"
