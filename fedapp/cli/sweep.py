"""``fedapp run --multirun``: Hydra's own sweepers over the same settings, one run folder per job.

A job may run in another process, or on another machine: what became of it stands in the sweep's folder,
``jobs/<number>.json``, and is counted there.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from fedapp.cli import run as running
from fedapp.cli.output import FAILED, OK, USAGE, Piped, complain
from fedapp.config.build import ConfigError
from fedapp.config.compose import load_config
from fedapp.config.overrides import quote, refuse_hydra
from fedapp.config.run import folder_setting
from fedapp.config.sweep import (
    SweepStopped,
    chosen_words,
    combinations,
    launch_sweep,
    naming,
    of_experiment,
    parse_overrides,
    sweeper_settings,
)
from fedapp.core.errors import one_line
from fedapp.core.files import write_atomically
from fedapp.planning.job import new_folder
from fedapp.records.results import validation_score
from fedapp.records.table import format_score

JOBS = "jobs"


@dataclass
class JobRecord:
    """What became of a job.

    Attributes:
        number: From 1.
        overrides: Its settings.
        status: ``running``, ``completed`` or ``failed``; a process that died leaves ``running``.
        reason: One line on what went wrong.
        run_dir: Its run folder, where it has one.
        validation_score: The mean validation score that an optimiser is given; None where there is none.
        trace: Where a fault of the program was.
    """

    number: int
    overrides: list[str]
    status: str = "running"
    reason: str = ""
    run_dir: str | None = None
    validation_score: float | None = None
    trace: str = ""

    def write(self, folder: Path) -> None:
        """Put it into the sweep's folder."""
        (folder / JOBS).mkdir(parents=True, exist_ok=True)
        facts = {name.replace("_", "-"): value for name, value in asdict(self).items() if value != ""}
        write_atomically(folder / JOBS / f"{self.number}.json", json.dumps(facts, indent=1))


def read_jobs(folder: Path) -> list[JobRecord]:
    """All jobs of a sweep that have begun, by number."""
    found = []
    for path in (folder / JOBS).glob("*.json"):
        facts = json.loads(path.read_text(encoding="utf-8"))
        found.append(JobRecord(**{name.replace("-", "_"): value for name, value in facts.items()}))
    return sorted(found, key=lambda job: job.number)


def sweep(overrides: Sequence[str]) -> int:
    """Run every combination, as ``run_sweep``; the exit code alone."""
    return run_sweep(overrides)[0]


def run_sweep(overrides: Sequence[str]) -> tuple[int, list[JobRecord]]:
    """Run every combination, or what an optimiser asks for; a failed job does not stop the next.

    All combinations are composed and checked before the first one starts. What the chosen experiment
    sweeps (``hydra.sweeper.params`` of its file) is swept as well, but for settings given here.

    Args:
        overrides: Hydra overrides; ``KEY=A,B`` sweeps.

    Returns:
        0 if all jobs are complete, 1 if one failed or did not start, 2 if the sweep cannot be configured; and
        the jobs that have begun.

    Raises:
        KeyboardInterrupt: If interrupted.
    """
    try:
        refuse_hydra(overrides, sweeping=True)
        overrides = [*of_experiment(overrides), *overrides]
        optimises, own = sweeper_settings(overrides)
        planned = 0 if optimises else _check_combinations(overrides)
        folder = _sweep_folder(overrides)
    except ConfigError as error:
        complain(str(error))
        return USAGE, []
    own.append(f"hydra.sweep.dir={quote(str(folder))}")
    common = frozenset(
        one.get_key_element() for one in parse_overrides(overrides) if not one.is_sweep_override()
    )
    job = functools.partial(run_job, folder=folder, starter=os.getpid(), common=common)
    stopped = ""
    try:
        launch_sweep(job, [*overrides, *own], optimises=optimises)
    except (ConfigError, SweepStopped) as error:
        stopped = one_line(error)
        if not read_jobs(folder):
            _discard(folder)
            complain(stopped)
            return USAGE if isinstance(error, ConfigError) else FAILED, []
    jobs = read_jobs(folder)
    return _tell(jobs, planned, stopped, common if optimises else None), jobs


def run_job(
    number: int, words: list[str], *, folder: Path, starter: int, common: frozenset[str]
) -> float | None:
    """Run one job, in whatever process the launcher has put it.

    Args:
        number: From 1.
        words: Its overrides.
        folder: Of the sweep.
        starter: The process that began the sweep; the lines of any other are marked with the job's number.
        common: Settings that all jobs were given.

    Returns:
        The validation score, None if the job failed or has none.
    """
    record = JobRecord(number, words)
    record.write(folder)
    apart = os.getpid() != starter
    stream = (
        Piped(sys.stdout, f"[{number}] " if apart else "") if apart or not sys.stdout.isatty() else sys.stdout
    )
    print(f"{'' if apart else f'[{number}] '}{_own(words, common)}", file=stream, flush=True)
    record.status = "failed"
    try:
        outcome = running.run_once([*words, f"runs_dir={quote(str(folder))}"], stream)
        record.reason = outcome.complaint
        record.run_dir = None if outcome.run_dir is None else str(outcome.run_dir)
        if outcome.code == OK:
            record.status = "completed"
            record.validation_score = validation_score(outcome.run_dir) if outcome.run_dir else None
    except Exception as error:  # a fault of the program ends one job, and is told like any other
        record.reason = f"{type(error).__name__}: {one_line(error)}"
        record.trace = traceback.format_exc()
    finally:
        record.write(folder)
    if record.reason:
        complain(f"[{number}] {record.reason}")
    return record.validation_score


def _own(words: Sequence[str], common: frozenset[str]) -> str:
    """What of a job's overrides tells it from the others."""
    return " ".join([word for word in words if word.partition("=")[0] not in common] or words)


def _tell(jobs: Sequence[JobRecord], planned: int, stopped: str, common: frozenset[str] | None) -> int:
    """Say how many runs are complete and which are not, and an optimiser's best; the exit code.

    ``common`` are the settings that all jobs were given, None if there is no best.
    """
    total = max(planned, max((job.number for job in jobs), default=0))
    complete = [job for job in jobs if job.status == "completed"]
    print(f"{len(complete)} of {total} runs complete", flush=True)
    scored = [job for job in complete if job.validation_score is not None]
    if common is not None and scored:
        winner = max(scored, key=lambda job: (job.validation_score, -job.number))
        score = format_score(winner.validation_score)
        print(
            f"best validation score: {score} in [{winner.number}] {_own(winner.overrides, common)}",
            flush=True,
        )
    failed = [job.number for job in jobs if job.status != "completed"]
    missing = sorted(set(range(1, total + 1)) - {job.number for job in jobs})
    faults = [f"{len(failed)} of {total} runs failed: {', '.join(map(str, failed))}"] * bool(failed)
    faults += [f"not started: {', '.join(map(str, missing))}"] * bool(missing)
    faults += [stopped] * bool(stopped)
    if not jobs:
        faults.append("no run was started")
    if faults:
        complain("; ".join(faults))
    return FAILED if faults else OK


def _check_combinations(overrides: Sequence[str]) -> int:
    """Compose and check the config of every job; how many there are.

    Raises:
        ConfigError: If an override cannot be read or a combination cannot be used; it is named.
    """
    found = combinations(overrides)
    for combination in found:
        try:
            running.look_ahead(running.check_config(combination), with_model=False)
        except ConfigError as error:
            raise naming(error, chosen_words(combination, overrides)) from None
    return len(found)


def _sweep_folder(overrides: Sequence[str]) -> Path:
    """Make a folder below runs_dir for this sweep."""
    config = load_config([override for override in overrides if override.startswith("runs_dir=")])
    runs_dir = folder_setting(config, "runs_dir")
    return new_folder(runs_dir, f"{datetime.now():%Y%m%d-%H%M%S}-sweep", "sweep's")


def _discard(folder: Path) -> None:
    """Leave nothing behind of a sweep that did not begin."""
    (folder / "multirun.yaml").unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()
