"""``fedapp run --multirun``: Hydra's own sweeper over the same settings, one run folder per job."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import create_config_search_path
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from fedapp import running
from fedapp.building import ConfigError
from fedapp.cli import FAILED, OK, USAGE, complain
from fedapp.config import explain_syntax, folder_setting, load_config
from fedapp.core import files
from fedapp.running import quote, run

# Quiet, and without a log of Hydra's own.
SETTINGS = (
    "hydra.sweep.subdir=.",
    "hydra.output_subdir=null",
    "hydra.job.chdir=false",
    "hydra/job_logging=disabled",
    "hydra/hydra_logging=disabled",
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

    def job(config: DictConfig) -> int:
        task = list(HydraConfig.get().overrides.task)
        print(f"[{len(results) + 1}] {' '.join(task)}", flush=True)
        results.append(run([*task, f"runs_dir={quote(str(folder))}"]))
        return results[-1]

    try:
        overrides = [*_of_experiment(overrides), *overrides]
        _check_combinations(overrides)
        folder = _sweep_folder(overrides)
    except ConfigError as error:
        complain(str(error))
        return USAGE
    try:
        own = [f"hydra.sweep.dir={quote(str(folder))}", "hydra.sweeper.params=null"]
        _launch(job, [*overrides, *own])
    except (HydraException, OmegaConfBaseException) as error:
        if not results:
            _discard(folder)
        complain(
            re.sub(r"\s*Set the environment variable HYDRA_FULL_ERROR.*", "", str(error), flags=re.DOTALL)
        )
        return USAGE
    failed = [number for number, code in enumerate(results, 1) if code != OK]
    print(f"{len(results) - len(failed)} of {len(results)} runs complete", flush=True)
    if failed:
        complain(f"{len(failed)} of {len(results)} runs failed: {', '.join(map(str, failed))}")
    return FAILED if failed else OK


def _launch(job: object, overrides: Sequence[str]) -> None:
    """Enter Hydra as its command line does; it reads its words from ``sys.argv``."""
    arguments, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = ["fedapp", "--multirun", *SETTINGS, *overrides]
    # Else Hydra prints errors its own way and ends the process.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        hydra.main(version_base="1.3", config_path=str(files.CONF), config_name="config")(job)()  # type: ignore[arg-type]
    finally:
        sys.argv = arguments
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error


def combinations(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of every combination of ``KEY=A,B`` values, in Hydra's order.

    Raises:
        ConfigError: If an override cannot be read.
    """
    own = [override for override in _parsed(overrides) if not override.key_or_group.startswith("hydra")]
    return [list(words) for (words,) in BasicSweeper.split_arguments(own, max_batch_size=1)]


def chosen_words(combination: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """What of a combination tells it from the others."""
    swept = {override.get_key_element() for override in _parsed(overrides) if override.is_sweep_override()}
    return [word for word in combination if word.partition("=")[0] in swept]


def naming(error: ConfigError, chosen: Sequence[str]) -> ConfigError:
    """The same complaint with the combination that it is about, unless it says so itself."""
    told = all(word in str(error) for word in chosen)
    return ConfigError(str(error) if told else f"{' '.join(chosen)}: {error}")


def _parsed(overrides: Sequence[str]) -> list[Override]:
    for override in overrides:
        if complaint := explain_syntax(override, may_sweep=True):
            raise ConfigError(complaint)
    loader = ConfigLoaderImpl(create_config_search_path(str(files.CONF)))
    return OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))


def _of_experiment(overrides: Sequence[str]) -> list[str]:
    """The sweep that the chosen experiment describes, without the settings that are given anyway.

    Raises:
        ConfigError: If several experiments are asked for.
    """
    chosen = [override for override in overrides if override.partition("=")[0] == "experiment"]
    if not chosen or explain_syntax(chosen[-1], may_sweep=True):
        return []
    if explain_syntax(chosen[-1]):
        raise ConfigError(
            f"{chosen[-1]}: every experiment sweeps settings of its own; run one after the other"
        )
    load_config(chosen[-1:])  # explains what is wrong with the choice
    loader = ConfigLoaderImpl(create_config_search_path(str(files.CONF)))
    tree = loader.load_configuration("config", chosen[-1:], run_mode=RunMode.MULTIRUN)
    given = {override.partition("=")[0].lstrip("+~") for override in overrides}
    swept = tree.hydra.sweeper.get("params") or {}
    return [f"{key}={value}" for key, value in swept.items() if key not in given]


def _check_combinations(overrides: Sequence[str]) -> None:
    """Compose and check the config of every job.

    Raises:
        ConfigError: If an override cannot be read or a combination cannot be used; it is named.
    """
    if any(override.key_or_group == "hydra/sweeper" for override in _parsed(overrides)):
        return  # Another sweeper makes its combinations on the way.
    for combination in combinations(overrides):
        try:
            running.look_ahead(running.checked_config(combination), with_model=False)
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
