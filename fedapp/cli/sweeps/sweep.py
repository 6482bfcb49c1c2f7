"""``fedapp run --multirun``: every combination, or what a search draws; one run folder per job."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from fedapp.cli import run as running
from fedapp.cli.output import FAILED, OK, USAGE, complain
from fedapp.cli.sweeps.jobs import (
    JobRecord,
    find_sweep,
    own_words,
    read_jobs,
    read_sweep,
    run_job,
    run_words,
    same_settings,
    write_sweep,
)
from fedapp.cli.sweeps.search import Search, best_of, require_optuna, show_objectives
from fedapp.config.build import ConfigError
from fedapp.config.compose import load_config
from fedapp.config.effect import no_validation_rows
from fedapp.config.overrides import is_hydra, refuse_hydra
from fedapp.config.run import folder_setting
from fedapp.config.search import Drawn, SweepSettings, drawn_settings, is_of_sweep, sweep_settings
from fedapp.config.sweep import (
    SweepStopped,
    check_launcher,
    chosen_words,
    combinations,
    launch,
    naming,
    of_experiment,
    parse_overrides,
)
from fedapp.core.status import holding, is_held
from fedapp.planning.job import new_folder

Jobs = Mapping[int, Sequence[str]]


@dataclass(frozen=True)
class Plan:
    """What a sweep is to do.

    Attributes:
        overrides: As given, an experiment's sweep among them.
        settings: How it goes.
        jobs: Overrides by number; those of a search are drawn later.
        drawn: What a search draws.
        folder: That of the sweep that goes on; None for a new one.
    """

    overrides: Sequence[str]
    settings: SweepSettings
    jobs: Jobs = field(default_factory=dict)
    drawn: Sequence[Drawn] = ()
    folder: Path | None = None

    @property
    def total(self) -> int:
        """How many jobs there are to be."""
        return self.settings.num_trials if self.settings.searches else len(self.jobs)

    @property
    def common(self) -> frozenset[str]:
        """Settings that all jobs are given."""
        parsed = parse_overrides(run_words(self.overrides))
        return frozenset(one.get_key_element() for one in parsed if not one.is_sweep_override())

    @property
    def fixed(self) -> list[str]:
        """What of the overrides every trial of a search has."""
        parsed = parse_overrides(run_words(self.overrides))
        kept = [one.input_line or "" for one in parsed if not one.is_sweep_override()]
        return [word for word in kept if not is_hydra(word)]


@dataclass(frozen=True)
class SweepResult:
    """What became of a sweep.

    Attributes:
        folder: Its folder.
        jobs: Those that have begun, by number.
        total: How many there were to be.
        fault: One line on what is missing; empty if all runs are complete.
    """

    folder: Path
    jobs: Sequence[JobRecord]
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
    folder = plan.folder or _new_folder(plan.overrides)
    with holding(folder):
        if plan.folder is None:
            write_sweep(folder, plan.overrides, plan.jobs)
        done = sum(job.is_complete for job in read_jobs(folder))
        print(f"sweep folder: {folder}" + f", {done} of {plan.total} runs complete" * bool(done), flush=True)
        stopped = ""
        try:
            _work(plan, folder)
        except (ConfigError, SweepStopped) as error:
            stopped = str(error)
        except KeyboardInterrupt:
            tell(plan, read_jobs(folder), "")
            print(f"to go on: fedapp run --multirun sweep.resume={folder}", flush=True)
            raise
        jobs = read_jobs(folder)
        return SweepResult(folder, jobs, plan.total, tell(plan, jobs, stopped))


def plan_sweep(overrides: Sequence[str]) -> Plan:
    """Compose and check all that can be checked before the first job.

    Raises:
        ConfigError: If a setting cannot be used; the combination is named.
    """
    settings, overrides, folder = _resumed(sweep_settings(overrides), list(overrides))
    refuse_hydra(overrides, sweeping=True)
    check_launcher(overrides)
    words = run_words(overrides)
    if settings.searches:
        plan = Plan(overrides, settings, drawn=drawn_settings(parse_overrides(words)), folder=folder)
        require_optuna()
        _check_search(plan)
        return plan
    if folder is None:
        _check_combinations(words)
    jobs = read_sweep(folder)[1] if folder else dict(enumerate(combinations(words), start=1))
    return Plan(overrides, settings, jobs, folder=folder)


def _resumed(
    settings: SweepSettings, overrides: list[str]
) -> tuple[SweepSettings, list[str], Path | None]:
    """The same with the folder of the sweep that is to go on, if there is one, and what it was begun with."""
    swept = [*of_experiment(overrides), *overrides]
    if settings.resume is False:
        return settings, swept, None
    if settings.resume is True:
        found = find_sweep(_runs_dir(overrides), swept)
        if found is None:
            return settings, swept, None
        _refuse_held(found)
        return settings, swept, found
    folder = Path(settings.resume).expanduser().absolute()
    begun = read_sweep(folder)[0]
    _refuse_held(folder)
    own = [word for word in swept if not word.startswith("sweep.resume=")]
    if run_words([word for word in own if not is_hydra(word)]) and not same_settings(begun, own):
        raise ConfigError(
            f"sweep.resume={folder} is a sweep of {' '.join(run_words(begun))!r}: give no other settings"
        )
    launcher = [word for word in own if is_hydra(word)]
    kept = [word for word in begun if not (launcher and is_hydra(word))]
    given = {word.partition("=")[0] for word in own if is_of_sweep(word)}
    kept = [word for word in kept if word.partition("=")[0] not in given]
    words = [*kept, *launcher, *(word for word in own if is_of_sweep(word))]
    return replace(sweep_settings(words), resume=settings.resume), words, folder


def _refuse_held(folder: Path) -> None:
    if is_held(folder):
        raise ConfigError(f"{folder}: another process works on this sweep")


def _work(plan: Plan, folder: Path) -> None:
    """Run what is missing.

    Raises:
        ConfigError: If Hydra refuses the launcher.
        SweepStopped: If the launcher gave up.
    """
    done = {job.number for job in read_jobs(folder) if job.is_complete}
    missing = [number for number in range(1, plan.total + 1) if number not in done]
    job = functools.partial(_job, folder=folder, starter=os.getpid(), common=plan.common)
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


def _job(number: int, words: list[str], *, folder: Path, starter: int, common: frozenset[str]) -> None:
    run_job(number, words, folder=folder, starter=starter, common=common)


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
        yield f"{lead}{show_objectives(values, names)} in [{job.number}] {own_words(job.overrides, plan.common)}"


def _check_combinations(overrides: Sequence[str]) -> None:
    """Compose and check the config of every job.

    Raises:
        ConfigError: If an override cannot be read or a combination cannot be used; it is named.
    """
    for combination in combinations(overrides):
        with _named(chosen_words(combination, overrides)):
            running.look_ahead(running.check_config(combination), with_model=False)


def _check_search(plan: Plan) -> None:
    """Check a search by the first value of each setting, and that its runs have what it goes by.

    Raises:
        ConfigError: If they cannot be used.
    """
    chosen = [one.first for one in plan.drawn]
    with _named(chosen):
        config = running.check_config([*plan.fixed, *chosen])
        if "validation-score" in plan.settings.objectives:
            if "validation" not in config["score"]["splits"]:
                raise ConfigError(
                    f"score.splits={config['score']['splits']} gives a search nothing to choose by: "
                    "set score.splits=[validation,test]"
                )
            if fault := no_validation_rows(config):
                raise ConfigError(f"{fault}, by which a search would choose")
        running.look_ahead(config, with_model=False)


@contextmanager
def _named(chosen: Sequence[str]) -> Iterator[None]:
    """Complaints of the body name the combination that they are about."""
    try:
        yield
    except ConfigError as error:
        raise naming(error, chosen) from None


def _runs_dir(overrides: Sequence[str]) -> Path:
    config = load_config([override for override in overrides if override.startswith("runs_dir=")])
    return folder_setting(config, "runs_dir")


def _new_folder(overrides: Sequence[str]) -> Path:
    """Make a folder below runs_dir for this sweep."""
    return new_folder(_runs_dir(overrides), f"{datetime.now():%Y%m%d-%H%M%S}-sweep", "sweep's")
