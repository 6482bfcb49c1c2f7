"""``fedapp run --multirun``: every combination, or what a search draws; one run folder per job."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fedapp.cli.output import FAILED, OK, USAGE, complain
from fedapp.cli.sweeps.jobs import FILE, JobRecord, own_words, read_jobs, run_job, write_sweep
from fedapp.cli.sweeps.plan import Plan, new_sweep_folder, plan_sweep, working_on
from fedapp.cli.sweeps.search import Search, best_of, show_objectives
from fedapp.config.build import ConfigError
from fedapp.config.sweep import SweepStopped, launch


@dataclass(frozen=True)
class SweepResult:
    """What became of a sweep.

    Attributes:
        path: Its folder.
        records: Its jobs that have begun, by number.
        total: How many there were to be.
        fault: One line on what is missing; empty if all runs are complete.
    """

    path: Path
    records: Sequence[JobRecord]
    total: int
    fault: str = ""


def sweep(overrides: Sequence[str]) -> int:
    """Run a sweep and say what became of it.

    Returns:
        0 if all jobs are complete, 1 if one failed or did not start, 2 if the sweep cannot be configured.

    Raises:
        KeyboardInterrupt: If interrupted.
    """
    try:
        result = run_sweep(overrides)
    except ConfigError as error:
        complain(str(error))
        return USAGE
    if result.fault:
        complain(result.fault)
    return FAILED if result.fault else OK


def run_sweep(overrides: Sequence[str]) -> SweepResult:
    """Run every combination, or what a search draws; a failed job does not stop the next.

    All combinations are composed and checked before the first one starts. What the chosen experiment
    sweeps (``hydra.sweeper.params`` of its file) is swept as well, but for settings given here.

    Args:
        overrides: Hydra overrides; ``KEY=A,B`` sweeps, ``sweep.KEY=VALUE`` says how.

    Raises:
        ConfigError: If the sweep cannot be configured.
        KeyboardInterrupt: If interrupted; what is complete is said before.
    """
    plan = plan_sweep(overrides)
    folder = plan.folder or new_sweep_folder(plan.overrides)
    with working_on(folder):
        write_sweep(folder, plan.overrides, plan.jobs)
        done = sum(job.is_complete for job in read_jobs(folder))
        print(f"sweep folder: {folder}" + f", {done} of {plan.total} runs complete" * bool(done), flush=True)
        stopped = ""
        try:
            _work(plan, folder)
        except ConfigError:
            _discard(folder)
            raise
        except SweepStopped as error:
            stopped = str(error)
        except KeyboardInterrupt:
            tell(plan, read_jobs(folder), "")
            print(f"to go on: fedapp run --multirun sweep.resume={folder}", flush=True)
            raise
        jobs = read_jobs(folder)
        return SweepResult(folder, jobs, plan.total, tell(plan, jobs, stopped))


def _work(plan: Plan, folder: Path) -> None:
    """Run what is missing.

    Raises:
        ConfigError: If Hydra refuses the launcher.
        SweepStopped: If the launcher gave up.
    """
    done = {job.number for job in read_jobs(folder) if job.is_complete}
    missing = [number for number in range(1, plan.total + 1) if number not in done]
    job = functools.partial(run_job, folder=folder, starter=os.getpid(), common=plan.common)
    if not plan.settings.searches:
        if missing:
            launch(job, {number: plan.jobs[number] for number in missing}, plan.overrides, folder)
        return
    search = Search(plan.settings, plan.drawn, plan.fixed, folder, read_jobs(folder))
    while missing:
        batch, missing = missing[: plan.settings.at_once], missing[plan.settings.at_once :]
        launch(job, {number: search.ask(number) for number in batch}, plan.overrides, folder)
        for record in read_jobs(folder):
            if record.number in batch:
                search.tell(record)


def tell(plan: Plan, jobs: Sequence[JobRecord], stopped: str) -> str:
    """Say how many runs are complete, and a search's best; one line on what is missing, if anything is."""
    complete = [job for job in jobs if job.is_complete]
    print(f"{len(complete)} of {plan.total} runs complete", flush=True)
    if plan.settings.searches:
        for line in _best(complete, plan):
            print(line, flush=True)
    failed = [job for job in jobs if not job.is_complete and job.number <= plan.total]
    begun = {job.number for job in jobs}
    missing = [number for number in range(1, plan.total + 1) if number not in begun]
    named = ", ".join(f"[{job.number}] {own_words(job.overrides, plan.common)}" for job in failed)
    faults = [f"{len(failed)} of {plan.total} runs failed: {named}"] * bool(failed)
    faults += [f"not started: {', '.join(map(str, missing))}"] * bool(missing)
    faults += [stopped] * bool(stopped)
    return "; ".join(faults)


def _best(complete: Sequence[JobRecord], plan: Plan) -> Iterator[str]:
    names = plan.settings.objectives
    best = best_of(complete, names)
    if len(names) > 1 and best:
        yield f"no run is better by all of {', '.join(names)} than:"
    for job, values in best[: 1 if len(names) == 1 else None]:
        lead = "best " if len(names) == 1 else "  "
        own = own_words(job.overrides, plan.common)
        yield f"{lead}{show_objectives(values, names)} in [{job.number}] {own}"


def _discard(folder: Path) -> None:
    """Leave nothing behind of a sweep that did not begin."""
    if not read_jobs(folder):
        (folder / FILE).unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()
