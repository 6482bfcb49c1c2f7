"""Runs on a federation's server: submitted, waited for, stopped, fetched."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fedapp.config.build import ConfigError, build_routine
from fedapp.config.composed import Composed
from fedapp.core.errors import one_line
from fedapp.core.files import WriteError, append_line, writing
from fedapp.core.status import RUNNING, STARTING, TIME, has_died, is_held, read_status
from fedapp.engines.closing import close_run, held, is_closed, open_run
from fedapp.engines.events import POLL_SECONDS, EventTail, report
from fedapp.engines.job import Job, OnEvent, RunFailed, check_outcome
from fedapp.planning.job import make_job
from fedapp.planning.preflight import check_config, require_fitting
from fedapp.records.checkpoints.resume import resumed_words
from fedapp.server.strategy import build_strategy
from fedapp.site.control import Control, ControlFault, Run
from fedapp.site.layout import ServerSite, SiteError

STATUS_SECONDS = 10.0
# From Flower's word that a run is over to the server app's own last word.
LAST_WORD_SECONDS = 5.0
STOP_SECONDS = 30.0


@dataclass(frozen=True)
class Submission:
    """A run that was handed to the server.

    Attributes:
        run_id: Flower's number of it.
        run_dir: Its folder.
        submitted: When.
    """

    run_id: str
    run_dir: str
    submitted: str


def prepare(site: ServerSite, overrides: Sequence[str], seats: Sequence[int]) -> tuple[Job, Composed]:
    """Check a run's settings, and make its folder.

    Args:
        site: The server's folder.
        overrides: What the user asked for; the site's own come before them.
        seats: Node id of each party.

    Raises:
        ConfigError: If a setting cannot be used.
    """
    words = run_words(site, overrides, seats)
    config = check_config(words)
    if config.run.num_clients > site.parties:
        raise ConfigError(
            f"num_clients={config.run.num_clients} exceeds the {site.parties} parties of {site.folder}"
        )
    try:
        require_fitting(config, build_strategy(config), build_routine(config))
    except (ValueError, ImportError) as error:
        raise ConfigError(one_line(error)) from None
    return make_job(words, config), config


def run_words(site: ServerSite, overrides: Sequence[str], seats: Sequence[int]) -> list[str]:
    """All overrides of a run: what the site says of its runs, where the user says nothing of it, and his own.

    A run that goes on has the settings that it had; only the parties' nodes may be others by now.

    Raises:
        ConfigError: If ``resume`` names no run.
    """
    known = resumed_words(overrides)
    goes_on = known != list(overrides)
    typed, before = _typed(overrides), _typed(known)
    clients = before.get("num_clients", str(site.parties))
    bound = list(seats)[: int(clients)] if clients.isdigit() else list(seats)
    own = {} if goes_on else {"num_clients": str(site.parties), "runs_dir": str(site.runs)}
    if bound:
        own["seats"] = f"[{','.join(map(str, bound))}]"
    words = [f"{key}={value}" for key, value in own.items() if key not in typed]
    return [*known, *words] if goes_on else [*words, *known]


def _typed(words: Sequence[str]) -> dict[str, str]:
    return {word.lstrip("+").partition("=")[0]: word.partition("=")[2] for word in words}


def submit(site: ServerSite, job: Job) -> Submission:
    """Hand a prepared run to the server.

    Raises:
        RunFailed: If it is refused, and the run folder says why; or if another process has taken up the run
            that is to go on, or its files cannot be changed.
    """
    try:
        with held(job):
            job.make_ready()
            open_run(job, os.getpid())
    except WriteError as error:
        raise RunFailed(one_line(error)) from None
    try:
        run_id = Control(site).submit(job.app_dir, job.overrides)
    except ControlFault as fault:
        close_run(job.run_dir, str(fault))
        raise RunFailed(str(fault)) from None
    submission = Submission(run_id, str(job.run_dir), time.strftime(TIME))
    append_line(site.submissions, json.dumps(asdict(submission)))
    return submission


def wait(site: ServerSite, submission: Submission, on_event: OnEvent) -> None:
    """Follow a run to its end.

    Args:
        site: The server's folder.
        submission: The run.
        on_event: Called with each event that the server writes.

    Raises:
        RunFailed: Unless the run is complete.
    """
    control, run_dir = Control(site), Path(submission.run_dir)
    tail = EventTail(run_dir / "events.jsonl")
    next_look = time.monotonic() + STATUS_SECONDS
    while tail.end is None:
        report(tail, on_event)
        if time.monotonic() > next_look:
            try:
                run = control.run(submission.run_id)
            except ControlFault as fault:
                raise RunFailed(f"{fault}; the run may go on: fedapp site status") from None
            if run.is_over:
                time.sleep(LAST_WORD_SECONDS)
                report(tail, on_event)
                close_as_flower_says(run_dir, run)
                report(tail, on_event)
                break
            next_look = time.monotonic() + STATUS_SECONDS
        time.sleep(POLL_SECONDS)
    # The last event comes a moment before run.json is written for the last time.
    deadline = time.monotonic() + LAST_WORD_SECONDS
    while not is_closed(run_dir) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    check_outcome(tail.end, "the server app ended before the run was complete")


def close_as_flower_says(run_dir: Path, run: Run) -> None:
    """Give a run that is over its last word, where its server app could not."""
    if not is_closed(run_dir) and not is_held(run_dir):
        stopped = run.status == "finished:stopped"
        close_run(run_dir, "the run was stopped" if stopped else one_line(run.details or run.status))


def stop(site: ServerSite, submission: Submission) -> None:
    """Stop a run, and say in its folder that this ended it.

    Raises:
        ControlFault: If the SuperLink does not do it.
    """
    run_dir = Path(submission.run_dir)
    Control(site).stop(submission.run_id)
    deadline = time.monotonic() + STOP_SECONDS
    while is_held(run_dir) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    if not is_held(run_dir):  # what the server app saw of it is no reason
        close_run(run_dir, "stopped by fedapp site stop", overrule=True)


def submissions(site: ServerSite) -> list[Submission]:
    """All runs that were submitted from this folder, the oldest first."""
    found = []
    if site.submissions.exists():
        for line in site.submissions.read_text(encoding="utf-8").splitlines():
            found.append(Submission(**json.loads(line)))
    return found


def find(site: ServerSite, name: str | None) -> Submission:
    """The run of a number, or of a folder's name; the newest where none is named.

    Raises:
        SiteError: If there is none.
    """
    known = submissions(site)
    for one in reversed(known):
        if name is None or name in (one.run_id, one.run_dir, Path(one.run_dir).name):
            return one
    if not known:
        raise SiteError(f"no run was submitted from {site.folder} yet")
    names = ", ".join(Path(one.run_dir).name for one in known[-5:])
    raise SiteError(f"{site.folder} has no run {name}; the newest: {names}")


def fetch(submission: Submission, target: Path) -> Path:
    """Copy a run that is over.

    Args:
        submission: The run.
        target: Folder to copy it into; made if it is not there.

    Returns:
        The copy.

    Raises:
        SiteError: If the run goes on, its folder is gone, or there is such a copy already.
    """
    source = Path(submission.run_dir)
    if not source.is_dir():
        raise SiteError(f"{source} is gone")
    status = read_status(source).get("status")  # one that is only submitted is held by nobody yet
    if status == STARTING or (status == RUNNING and not has_died(source)):
        raise SiteError(f"run {source.name} goes on; wait for it, or: fedapp site stop {source.name}")
    copy = target / source.name
    if copy.exists():
        raise SiteError(f"{copy} is there already")
    with writing(copy):
        target.mkdir(parents=True, exist_ok=True)
        partial = copy.with_name(copy.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial)
        partial.rename(copy)
    return copy
