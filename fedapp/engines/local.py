"""Run the app of a folder on the in-process grid, as ``flwr run`` would on Flower's engine."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TextIO

from fedapp.core.errors import one_line, reason_of
from fedapp.engines.closing import close_run
from fedapp.engines.events import EventTail, FollowEvents
from fedapp.engines.job import Job, OnEvent, RunFailed, check_outcome


def run_in_process(job: Job, on_event: OnEvent) -> None:
    """Run the app without SuperLink and Ray; what it prints goes to the log.

    Args:
        job: What to run.
        on_event: Called with each event that the server writes, from another thread.

    Raises:
        RunFailed: If the apps cannot be imported, the server crashed or did not complete.
        KeyboardInterrupt: If interrupted.
    """
    tail = EventTail(job.run_dir / "events.jsonl")
    try:
        _run_and_follow(job, tail, on_event)
    except BaseException as error:
        close_run(job, reason_of(error))
        raise


def _run_and_follow(job: Job, tail: EventTail, on_event: OnEvent) -> None:
    with job.log_file.open("a", encoding="utf-8", buffering=1) as log, _printing_to(log):
        failure: Exception | None = None
        with FollowEvents(tail, on_event):
            try:
                _run(job)
            except Exception as error:
                traceback.print_exc(file=log)
                failure = error
            except KeyboardInterrupt as interrupt:
                print(reason_of(interrupt), file=log)
                raise
    if failure is not None and (tail.end is None or tail.end.get("status") == "completed"):
        raise RunFailed(one_line(str(failure)) or type(failure).__name__) from failure
    check_outcome(tail.end, "the server app ended before the run was complete")


def _run(job: Job) -> None:
    # Flower takes a second to import; the log catches what it prints.
    from fedapp.engines.grid import run_local

    server_app, client_app = (_import(job.app_dir, name) for name in ("server_app", "client_app"))
    try:
        run_local(server_app.app, client_app.app, num_nodes=job.num_clients, run_config=job.run_config)
    except SystemExit as error:
        raise RunFailed(f"the server app left with exit code {error.code}") from error


def _import(folder: Path, name: str) -> ModuleType:
    """Import a top-level module of the app's folder, not a stranger of the same name."""
    known = sys.modules.get(name)
    if known is not None and Path(getattr(known, "__file__", None) or "").parent != folder:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise RunFailed(f"{name} cannot be imported: {error}") from error
    finally:
        sys.path.remove(str(folder))


@contextlib.contextmanager
def _printing_to(log: TextIO) -> Iterator[None]:
    """Send standard output, standard error and Flower's console log to a file."""
    flower = logging.getLogger("flwr")
    with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        # Imported now: at import Flower sets up a handler on the standard error of that moment.
        importlib.import_module("flwr.supercore.logger")
        before, propagates = flower.handlers[:], flower.propagate
        handler = logging.StreamHandler(log)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        flower.handlers, flower.propagate = [handler], False
        try:
            yield
        finally:
            flower.handlers, flower.propagate = before, propagates
