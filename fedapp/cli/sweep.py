"""``fedapp run --multirun``: Hydra's own sweeper over the same settings, one run folder per job."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from fedapp.cli import run as running
from fedapp.cli.output import FAILED, OK, USAGE, complain
from fedapp.cli.run import run
from fedapp.config.build import ConfigError
from fedapp.config.compose import load_config
from fedapp.config.overrides import quote
from fedapp.config.run import folder_setting
from fedapp.config.sweep import (
    chosen_words,
    combinations,
    launch_sweep,
    naming,
    of_experiment,
    parse_overrides,
)


def sweep(overrides: Sequence[str]) -> int:
    """Run every combination, one after the other; a failed job does not stop the next.

    All of them are composed and checked before the first one starts. What the chosen experiment
    sweeps (``hydra.sweeper.params`` of its file) is swept as well, but for settings given here.

    Args:
        overrides: Hydra overrides; ``KEY=A,B`` sweeps.

    Returns:
        0 if all jobs are complete, 1 if one failed, 2 if the sweep cannot be configured.

    Raises:
        KeyboardInterrupt: If interrupted.
    """
    results: list[int] = []

    def job(words: list[str]) -> int:
        print(f"[{len(results) + 1}] {' '.join(words)}", flush=True)
        results.append(run([*words, f"runs_dir={quote(str(folder))}"]))
        return results[-1]

    try:
        overrides = [*of_experiment(overrides), *overrides]
        _check_combinations(overrides)
        folder = _sweep_folder(overrides)
    except ConfigError as error:
        complain(str(error))
        return USAGE
    try:
        own = [f"hydra.sweep.dir={quote(str(folder))}", "hydra.sweeper.params=null"]
        launch_sweep(job, [*overrides, *own])
    except ConfigError as error:
        if not results:
            _discard(folder)
        complain(str(error))
        return USAGE
    failed = [number for number, code in enumerate(results, 1) if code != OK]
    print(f"{len(results) - len(failed)} of {len(results)} runs complete", flush=True)
    if failed:
        complain(f"{len(failed)} of {len(results)} runs failed: {', '.join(map(str, failed))}")
    return FAILED if failed else OK


def _check_combinations(overrides: Sequence[str]) -> None:
    """Compose and check the config of every job.

    Raises:
        ConfigError: If an override cannot be read or a combination cannot be used; it is named.
    """
    if any(override.key_or_group == "hydra/sweeper" for override in parse_overrides(overrides)):
        return  # Another sweeper makes its combinations on the way.
    for combination in combinations(overrides):
        try:
            running.look_ahead(running.check_config(combination), with_model=False)
        except ConfigError as error:
            raise naming(error, chosen_words(combination, overrides)) from None


def _sweep_folder(overrides: Sequence[str]) -> Path:
    """A name below runs_dir for this sweep; it is Hydra that makes the folder."""
    config = load_config([override for override in overrides if override.startswith("runs_dir=")])
    runs_dir = folder_setting(config, "runs_dir")
    stem = f"{datetime.now():%Y%m%d-%H%M%S}-sweep"
    names = (stem if number == 1 else f"{stem}-{number}" for number in range(1, 1000))
    return next(runs_dir / name for name in names if not (runs_dir / name).exists())


def _discard(folder: Path) -> None:
    """Leave nothing behind of a sweep that did not begin."""
    (folder / "multirun.yaml").unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()
