"""The jobs of a sweep and its folder: what was to be run, and what became of it.

sweep.json          the overrides, and the jobs of a sweep over all combinations
jobs/<number>.json  what became of a job; it may have run in another process, or on another machine
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from fedapp.cli import run as running
from fedapp.cli.output import OK, USAGE, Piped, complain, warn
from fedapp.config.build import ConfigError
from fedapp.config.overrides import is_hydra, quote
from fedapp.config.search import RESUME, is_of_sweep
from fedapp.core.errors import one_line
from fedapp.core.files import write_atomically
from fedapp.core.status import is_held
from fedapp.records.checkpoints.run import newest_checkpoint
from fedapp.records.results import validation_score

JOBS, FILE = "jobs", "sweep.json"
MAY_CHANGE = (RESUME, "sweep.num_trials", "sweep.at_once")
"""What may be said anew of a sweep that goes on, beside Hydra's launcher."""


@dataclass
class JobRecord:
    """What became of a job.

    Attributes:
        number: From 1.
        overrides: Its settings.
        status: ``running``, ``completed`` or ``failed``; a process that died leaves ``running``.
        reason: One line on what went wrong.
        run_dir: Its run folder, from when there is one.
        validation_score: Its mean validation score, a fraction; None where there is none.
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

    @property
    def is_complete(self) -> bool:
        """Whether its run is complete, and there still."""
        return self.status == "completed" and (Path(self.run_dir or "") / "summary.json").is_file()


def read_jobs(folder: Path) -> list[JobRecord]:
    """All jobs of a sweep that have begun, by number."""
    found = []
    for path in (folder / JOBS).glob("*.json"):
        facts = json.loads(path.read_text(encoding="utf-8"))
        found.append(JobRecord(**{name.replace("-", "_"): value for name, value in facts.items()}))
    return sorted(found, key=lambda job: job.number)


def write_sweep(folder: Path, overrides: Sequence[str], jobs: Mapping[int, Sequence[str]]) -> None:
    """Put down what a sweep is to run, before its first job."""
    begun = [word for word in overrides if word.partition("=")[0] != RESUME]
    facts = {"overrides": begun, "jobs": {str(number): list(jobs[number]) for number in jobs}}
    write_atomically(folder / FILE, json.dumps(facts, indent=1))


def read_sweep(folder: Path) -> tuple[list[str], dict[int, list[str]]]:
    """Overrides and jobs of a sweep.

    Raises:
        ConfigError: If the folder is no sweep's, or its file is damaged.
    """
    try:
        facts: Any = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return list(facts["overrides"]), {int(n): list(words) for n, words in facts["jobs"].items()}
    except OSError:
        inside = sorted(path.parent for path in folder.glob(f"*/{FILE}"))
        hint = f"; the latest in it is {inside[-1]}" if inside else ""
        raise ConfigError(f"{folder} is not the folder of a sweep: it has no {FILE}{hint}") from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ConfigError(f"{folder / FILE} is damaged") from None


def find_sweep(runs_dir: Path, overrides: Sequence[str]) -> Path | None:
    """The latest sweep of these settings below a folder; None if there is none."""
    for path in sorted(runs_dir.glob(f"*/{FILE}"), key=lambda path: path.stat().st_mtime, reverse=True):
        with suppress(ConfigError):
            if same_settings(read_sweep(path.parent)[0], overrides):
                return path.parent
    return None


def same_settings(some: Sequence[str], others: Sequence[str]) -> bool:
    """Whether two sweeps run the same, whatever starts their jobs."""
    return _kept(some) == _kept(others)


def _kept(overrides: Sequence[str]) -> list[str]:
    return sorted(
        word for word in overrides if not is_hydra(word) and word.partition("=")[0] not in MAY_CHANGE
    )


def run_words(overrides: Sequence[str]) -> list[str]:
    """What of a sweep's overrides is for its runs, and for Hydra."""
    return [word for word in overrides if not is_of_sweep(word)]


def run_job(number: int, words: list[str], *, folder: Path, starter: int, common: frozenset[str]) -> None:
    """Run one job, in whatever process the launcher has put it, and put down what became of it.

    A job whose run kept a checkpoint goes on from there; any other begins anew, in a folder of its own.

    Args:
        number: From 1.
        words: Its overrides.
        folder: Of the sweep.
        starter: The process that began the sweep; the lines of any other are marked with the job's number.
        common: Settings that all jobs were given.
    """
    stopped = _stopped_run(folder, number)
    record = JobRecord(number, words, run_dir=None if stopped is None else str(stopped))
    record.write(folder)
    apart = os.getpid() != starter
    stream = (
        Piped(sys.stdout, f"[{number}] " if apart else "") if apart or not sys.stdout.isatty() else sys.stdout
    )
    further = "" if stopped is None else f", goes on in {stopped.name}"
    print(f"{'' if apart else f'[{number}] '}{own_words(words, common)}{further}", file=stream, flush=True)
    try:
        outcome = _run(record, stopped, folder, stream)
        record.reason = outcome.complaint
        if outcome.code == OK:
            record.status = "completed"
            record.validation_score = validation_score(outcome.run_dir) if outcome.run_dir else None
    except Exception as error:  # a fault of the program ends one job, and is told like any other
        record.reason = f"{type(error).__name__}: {one_line(error)}"
        record.trace = traceback.format_exc()
    except KeyboardInterrupt:
        record.reason = "interrupted"
        raise
    finally:
        if record.status != "completed":
            record.status = "failed"
        record.write(folder)
    if record.reason:
        complain(f"[{number}] {record.reason}")


def _stopped_run(folder: Path, number: int) -> Path | None:
    """The folder of a job's earlier run, where that kept something to go on from."""
    before = next((job for job in read_jobs(folder) if job.number == number), None)
    if before is None or before.run_dir is None:
        return None
    run_dir = Path(before.run_dir)
    return run_dir if newest_checkpoint(run_dir, lambda _: None) is not None else None


def _run(record: JobRecord, stopped: Path | None, folder: Path, stream: TextIO) -> running.Outcome:
    """Run a job, and put down its run folder as soon as there is one: who goes on must find it."""

    def begun(run_dir: Path) -> None:
        record.run_dir = str(run_dir)
        record.write(folder)

    if stopped is not None:
        outcome = running.run_once([f"resume={quote(str(stopped))}"], stream, begun)
        if outcome.code != USAGE or is_held(stopped):
            return outcome
        # Complete but for its summary, or of other settings than this program's: nothing to go on from.
        warn(f"[{record.number}] begins again: {outcome.complaint}")
        record.run_dir = None
    return running.run_once([*record.overrides, f"runs_dir={quote(str(folder))}"], stream, begun)


def own_words(words: Sequence[str], common: frozenset[str]) -> str:
    """What of a job's overrides tells it from the others."""
    return " ".join([word for word in words if word.partition("=")[0] not in common] or words)
