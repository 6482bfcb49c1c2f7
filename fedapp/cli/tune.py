"""``fedapp tune``: the same step sizes tried for every method, one chosen by validation scores and kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from fedapp.cli.output import FAILED, OK, USAGE, complain, require_place, warn
from fedapp.cli.sweeps.jobs import JobRecord
from fedapp.cli.sweeps.sweep import run_sweep
from fedapp.config.build import ConfigError
from fedapp.config.compose import load_config
from fedapp.config.effect import no_validation_rows
from fedapp.config.sweep import combinations
from fedapp.core.files import WriteError
from fedapp.records.machine import describe_machine
from fedapp.records.table import format_score
from fedapp.reporting.tuning import STEP_SIZE, Choice, Trial, choose, read_choices, write_choices

EXPERIMENT = "experiment=tune"
# Whatever else is given: test rows are not scored, so that they can have no say.
SCORES = ("score.splits=[validation]",)


def tune(overrides: Sequence[str], to: Path) -> int:
    """Try every step size of the grid for every method, choose, and keep the choice.

    Args:
        overrides: Settings; ``method=A,B`` tunes each, ``train.learning_rate=A,B`` is another grid than that
            of ``conf/experiment/tune.yaml``, ``seed=A,B`` averages over seeds.
        to: The file of choices; a new one if there is none.

    Returns:
        0 if a step size was chosen for each, 1 if a run failed, 2 if the trials cannot be configured.
    """
    words = [EXPERIMENT, *overrides, *SCORES]
    try:
        if given := next((word for word in overrides if word.startswith("experiment=")), None):
            raise ConfigError(f"{given}: tuning is an experiment of its own; give its settings one by one")
        require_place("--to", to, "tuned.json")
        if to.exists():
            read_choices(to)
        # Of the first combination: a method without validation rows would end every trial without a score.
        if fault := no_validation_rows(load_config(combinations(words)[0])):
            raise ConfigError(f"{fault}, by which step sizes are chosen")
    except ValueError as error:
        complain(str(error))
        return USAGE
    try:
        result = run_sweep(words)
    except ConfigError as error:
        complain(str(error))
        return USAGE
    if result.fault:
        complain(result.fault)
        complain("nothing was chosen: not every trial is complete")
        return FAILED
    try:
        choices = choose([_trial(job) for job in result.records])
        about = describe_machine()
        write_choices(to, choices, {name: about[name] for name in ("git-sha", "processor")})
    except (ValueError, WriteError) as error:
        complain(str(error))
        return FAILED
    for choice in choices:
        print(_line(choice), flush=True)
        if choice.at_edge:
            warn(f"{STEP_SIZE}={choice.chosen:g} is an end of the grid: a wider one may hold a better one")
    print(f"kept in {to}", flush=True)
    return OK


def _trial(job: JobRecord) -> Trial:
    """What a complete job of the sweep says.

    Raises:
        ValueError: If it has no validation score.
    """
    if job.validation_score is None or job.run_dir is None:
        raise ValueError(f"[{job.number}] has no validation score: no client has validation rows")
    config: Any = yaml.safe_load((Path(job.run_dir) / "config.yaml").read_text(encoding="utf-8"))
    own = [word for word in job.overrides if word not in (EXPERIMENT, *SCORES)]
    return Trial.of(own, config, job.validation_score)


def _line(choice: Choice) -> str:
    """A choice in a line: settings, what was chosen, and every trial."""
    trials = ", ".join(
        f"{size}: {format_score(sum(scores) / len(scores))}" for size, scores in choice.scores.items()
    )
    return f"{' '.join(choice.overrides)} {STEP_SIZE}={choice.chosen:g}  (validation, in %: {trials})"
