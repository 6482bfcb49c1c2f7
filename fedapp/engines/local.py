"""Run the app of a folder on the in-process grid, as ``flwr run`` would on Flower's engine."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

from fedapp.core.errors import Explained, one_line, reason_of
from fedapp.core.files import writing
from fedapp.engines.closing import opened
from fedapp.engines.events import EventTail, FollowEvents
from fedapp.engines.guardian import closed_if_killed
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
    with closed_if_killed(job.run_dir), opened(job):
        _run_and_follow(job, EventTail(job.run_dir / "events.jsonl", job.resumed), on_event)


def _run_and_follow(job: Job, tail: EventTail, on_event: OnEvent) -> None:
    with open_log(job.log_file) as log, _printing_to(log):
        failure: Exception | None = None
        with FollowEvents(tail, on_event):
            try:
                _run(job)
            except Explained as error:
                print(f"the run failed: {one_line(error)}", file=log)
                failure = error
            except Exception as error:
                traceback.print_exc(file=log)
                failure = error
            except KeyboardInterrupt as interrupt:
                print(reason_of(interrupt), file=log)
                raise
    if failure is not None and (tail.end is None or tail.end.get("status") == "completed"):
        raise RunFailed(one_line(failure)) from failure
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


class _Forgiving(io.FileIO):
    """A log that loses what a full disk does not take: what is printed there must not end a run."""

    def write(self, content: Any) -> int:
        try:
            return super().write(content) or 0
        except OSError:
            return len(content)


def open_log(path: Path) -> TextIO:
    """Open a log for appending; each line goes out at once.

    Raises:
        WriteError: If there can be no such file.
    """
    with writing(path):
        return io.TextIOWrapper(
            io.BufferedWriter(_Forgiving(path, "ab")), encoding="utf-8", errors="replace", line_buffering=True
        )


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
