"""What a sweep is to do, checked before its first job, or read from the folder of the one that goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from fedapp.cli import run as running
from fedapp.cli.sweeps.jobs import find_sweep, read_sweep, run_words, same_settings
from fedapp.cli.sweeps.search import require_optuna
from fedapp.config.build import ConfigError
from fedapp.config.compose import load_config
from fedapp.config.effect import no_validation_rows
from fedapp.config.overrides import is_hydra, refuse_hydra
from fedapp.config.run import folder_setting
from fedapp.config.search import (
    RESUME,
    Drawn,
    SweepSettings,
    drawn_settings,
    is_of_sweep,
    resume_setting,
    sweep_settings,
)
from fedapp.config.sweep import (
    check_launcher,
    chosen_words,
    combinations,
    naming,
    of_experiment,
    parse_overrides,
)
from fedapp.core.status import holding_alone, is_held
from fedapp.planning.job import new_folder

_IN_USE = "{}: another process works on this sweep"


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
    jobs: Mapping[int, Sequence[str]] = field(default_factory=dict)
    drawn: Sequence[Drawn] = ()
    folder: Path | None = None

    @property
    def total(self) -> int:
        """How many jobs there are to be."""
        return self.settings.num_trials or len(self.jobs)

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


def plan_sweep(overrides: Sequence[str]) -> Plan:
    """Compose and check all that can be checked before the first job.

    Raises:
        ConfigError: If a setting cannot be used; the combination is named.
    """
    overrides, folder = _resumed(overrides)
    settings = sweep_settings(overrides)
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


def _resumed(overrides: Sequence[str]) -> tuple[list[str], Path | None]:
    """All overrides of a sweep, and the folder of the one that is to go on, if there is one.

    Raises:
        ConfigError: If the folder is no sweep's, one of other settings, or somebody works on it.
    """
    resume = resume_setting(overrides)
    swept = [*of_experiment(overrides), *overrides]
    if resume is False:
        return swept, None
    if resume is True:
        found = find_sweep(_runs_dir(overrides), swept)
        if found is not None:
            _refuse_held(found)
        return swept, found
    folder = Path(resume).expanduser().absolute()
    begun = read_sweep(folder)[0]
    _refuse_held(folder)
    if any(not is_hydra(word) and not is_of_sweep(word) for word in swept) and not same_settings(
        begun, swept
    ):
        raise ConfigError(
            f"{RESUME}={folder} is a sweep of {' '.join(run_words(begun))!r}: give no other settings"
        )
    # What may be said anew takes the place of what was said.
    new = [word for word in swept if is_hydra(word) or is_of_sweep(word)]
    given = {word.partition("=")[0] for word in new}
    launcher = any(map(is_hydra, new))
    kept = [w for w in begun if w.partition("=")[0] not in given and not (launcher and is_hydra(w))]
    return [*kept, *new], folder


def _refuse_held(folder: Path) -> None:
    if is_held(folder):
        raise ConfigError(_IN_USE.format(folder))


def working_on(folder: Path) -> AbstractContextManager[None]:
    """Hold a sweep's folder, alone.

    Raises:
        ConfigError: If another process has it.
    """
    try:
        return holding_alone(folder)
    except BlockingIOError:
        raise ConfigError(_IN_USE.format(folder)) from None


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


def new_sweep_folder(overrides: Sequence[str]) -> Path:
    """Make a folder below runs_dir for a sweep.

    Raises:
        ConfigError: If it cannot be made.
    """
    return new_folder(_runs_dir(overrides), f"{datetime.now():%Y%m%d-%H%M%S}-sweep", "sweep's")
