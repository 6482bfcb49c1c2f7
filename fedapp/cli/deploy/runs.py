"""``fedapp site submit``, ``status``, ``stop`` and ``fetch``."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from fedapp.cli.output import FAILED, OK, USAGE, Piped, complain, warn
from fedapp.cli.progress import make_display
from fedapp.config.effect import idle_settings
from fedapp.core.status import read_status
from fedapp.engines.closing import failure_of
from fedapp.engines.job import RunFailed
from fedapp.planning.job import find_app
from fedapp.records.table import print_table, show_summary
from fedapp.site import commands
from fedapp.site import runs as site_runs
from fedapp.site.control import Control, ControlFault, Run
from fedapp.site.layout import ServerSite, read_server


def submit(folder: Path, overrides: Sequence[str], *, wait: bool, dry_run: bool) -> int:
    """Start a run of all parties; the exit code: with ``wait`` that of the run."""
    try:
        site = read_server(folder)
        control = Control(site)
        if dry_run:
            return _show_submission(site, control, overrides)
        job, config = site_runs.prepare(site, overrides, control.seats())
    except (ValueError, OSError) as error:
        complain(str(error))
        return USAGE
    for text in idle_settings(overrides, config):
        warn(text)
    try:
        submission = site_runs.submit(site, job)
        if not wait:
            print(f"run {submission.run_id} submitted, run folder: {job.run_dir}")
            return OK
        stream = sys.stdout if sys.stdout.isatty() else Piped(sys.stdout)
        with make_display(stream, f"run {submission.run_id} submitted, waiting for the parties") as display:
            site_runs.wait(site, submission, display.update)
        show_summary(job.run_dir, stream)
    except RunFailed as error:
        complain(f"{error} (run folder: {job.run_dir})")
        return FAILED
    except KeyboardInterrupt:
        warn(f"the run goes on; to stop it: fedapp site stop --server {folder} {job.run_dir.name}")
        raise
    return OK


def status(folder: Path) -> int:
    """Show parties and runs; the exit code."""
    try:
        site = read_server(folder)
        control = Control(site)
        online, runs = control.online(), control.runs()
    except (ValueError, OSError, ControlFault) as error:
        complain(str(error))
        return FAILED
    columns = ("party", "node")
    rows = [[f"party-{party}", state] for party, state in online.items()]
    print_table(columns, rows, sys.stdout, left=columns, ruled=False)
    submitted = site_runs.submissions(site)
    if submitted:
        columns, rows = ("run", "status"), []
        for one in submitted[-10:]:
            run_dir, run = Path(one.run_dir), runs.get(one.run_id)
            if run is not None and run.is_over:
                site_runs.close_as_flower_says(run_dir, run)
            rows.append([run_dir.name, _standing(run_dir, run)])
        print_table(columns, rows, sys.stdout, left=columns, ruled=False)
    return OK


def stop(folder: Path, name: str | None) -> int:
    """Stop a run; the exit code."""
    try:
        site = read_server(folder)
        found = site_runs.find(site, name)
        site_runs.stop(site, found)
    except (ValueError, OSError, ControlFault) as error:
        complain(str(error))
        return FAILED
    print(f"stopped run {Path(found.run_dir).name}")
    return OK


def fetch(folder: Path, name: str | None, target: Path) -> int:
    """Copy a run's folder; the exit code."""
    try:
        copy = site_runs.fetch(site_runs.find(read_server(folder), name), target.expanduser())
    except (ValueError, OSError) as error:
        complain(str(error))
        return USAGE
    print(copy)
    return OK


def _show_submission(site: ServerSite, control: Control, overrides: Sequence[str]) -> int:
    try:
        seats = control.seats()
    except ValueError:  # the server has not been started yet
        seats = []
    words = site_runs.run_words(site, overrides, seats)
    run_config = f"overrides={json.dumps(shlex.join(words), ensure_ascii=False)}"
    home = {"FLWR_HOME": str(site.home)}
    print(commands.as_shell(commands.submit(find_app(), run_config), home))
    return OK


def _standing(run_dir: Path, run: Run | None) -> str:
    said = str(read_status(run_dir).get("status") or (run.status if run else "unknown"))
    reason = failure_of(run_dir)
    return f"{said}: {reason}" if reason else said
