"""The combinations of a sweep as Hydra reads them, and Hydra's sweepers and launchers."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import create_config_search_path
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedapp.config.build import ConfigError
from fedapp.config.compose import load_config
from fedapp.config.effect import no_validation_rows
from fedapp.config.overrides import explain_syntax, is_hydra
from fedapp.core import files
from fedapp.core.errors import one_line

# Quiet, and without a log of Hydra's own.
SETTINGS = (
    "hydra.sweep.subdir=.",
    "hydra.output_subdir=null",
    "hydra.job.chdir=false",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
)
LARGER_IS_BETTER = {
    "direction": "maximize",  # Optuna
    "optim.maximize": "true",  # Nevergrad
    "ax_config.experiment.minimize": "false",  # Ax
}
"""Where a sweeper's node says which scores are good, and what is right for the benchmarks' metrics."""


class JobFailed(RuntimeError):
    """A job of an optimiser's sweep has no score; the sweeper decides what becomes of the sweep."""


class SweepStopped(RuntimeError):
    """A launcher or a sweeper gave up; the text is one line for the user."""


def combinations(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of every combination of ``KEY=A,B`` values, in Hydra's order.

    Raises:
        ConfigError: If an override cannot be read, or sweeps without naming values.
    """
    own = [override for override in parse_overrides(overrides) if not is_hydra(override.key_or_group)]
    try:
        return [list(words) for (words,) in BasicSweeper.split_arguments(own, max_batch_size=1)]
    except HydraException:
        wide = next(one for one in own if one.is_sweep_override() and not one.is_discrete_sweep())
        raise ConfigError(
            f"{wide.input_line} names no values: only an optimiser draws from it (hydra/sweeper=optuna)"
        ) from None


def chosen_words(combination: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """What of a combination tells it from the others."""
    swept = {
        override.get_key_element() for override in parse_overrides(overrides) if override.is_sweep_override()
    }
    return [word for word in combination if word.partition("=")[0] in swept]


def naming(error: ConfigError, chosen: Sequence[str]) -> ConfigError:
    """The same complaint with the combination that it is about, unless it says so itself."""
    told = all(word in str(error) for word in chosen)
    return ConfigError(str(error) if told else f"{' '.join(chosen)}: {error}")


def parse_overrides(overrides: Sequence[str]) -> list[Override]:
    """Read overrides that may sweep.

    Raises:
        ConfigError: If one cannot be read.
    """
    for override in overrides:
        if complaint := explain_syntax(override, may_sweep=True):
            raise ConfigError(complaint)
    loader = ConfigLoaderImpl(create_config_search_path(str(files.CONF)))
    return OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))


def of_experiment(overrides: Sequence[str]) -> list[str]:
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
    given = {override.partition("=")[0].lstrip("+~") for override in overrides}
    swept = _hydra_node(chosen[-1:]).sweeper.get("params") or {}
    return [f"{key}={value}" for key, value in swept.items() if key not in given]


def sweeper_settings(overrides: Sequence[str]) -> tuple[bool, list[str]]:
    """Whether the chosen sweeper is an optimiser, and what it has to be told beside these overrides.

    Hydra's own sweeper tries every combination. Any other is an optimiser: it is given the validation
    score of each job, of which more is better.

    Raises:
        ConfigError: If sweeper or launcher are not installed, if it is told to look for the lowest score,
            or if the runs have no validation score.
    """
    chosen = [word for word in overrides if is_hydra(word) or word.partition("=")[0] == "experiment"]
    sweeper = _hydra_node(chosen).sweeper
    # What an experiment sweeps is among the overrides already, but for what was given by hand.
    added = ["hydra.sweeper.params=null"] if sweeper.get("params") else []
    if sweeper._target_ == f"{BasicSweeper.__module__}.{BasicSweeper.__name__}":
        return False, added
    given = {word.partition("=")[0].lstrip("+~") for word in chosen}
    for key, right in LARGER_IS_BETTER.items():
        found = OmegaConf.select(sweeper, key)
        if found is None or str(found).rpartition(".")[2].lower() == right:
            continue
        if f"hydra.sweeper.{key}" in given:
            raise ConfigError(
                f"hydra.sweeper.{key} must be {right}: it is given validation scores, of which more is better"
            )
        added.append(f"hydra.sweeper.{key}={right}")
    fixed = [one.input_line or "" for one in parse_overrides(overrides) if not one.is_sweep_override()]
    config = load_config([word for word in fixed if not is_hydra(word)])
    if "validation" not in config["score"]["splits"]:
        raise ConfigError(
            f"score.splits={config['score']['splits']} gives an optimiser nothing to choose by: "
            "set score.splits=[validation,test]"
        )
    if fault := no_validation_rows(config):
        raise ConfigError(f"{fault}, by which an optimiser would choose")
    return True, added


def _hydra_node(overrides: Sequence[str]) -> DictConfig:
    """Hydra's own part of the tree that these choices make."""
    Plugins.instance()  # makes the choices known that are installed beside Hydra
    loader = ConfigLoaderImpl(create_config_search_path(str(files.CONF)))
    try:
        node: DictConfig = loader.load_configuration(
            "config", list(overrides), run_mode=RunMode.MULTIRUN
        ).hydra
    except (HydraException, OmegaConfBaseException) as error:
        for word in overrides:
            key, _, value = word.partition("=")
            known = (
                sorted(loader.get_group_options(key)) if key in ("hydra/launcher", "hydra/sweeper") else []
            )
            if known and value not in known:
                raise ConfigError(
                    f"{word} is not there (pip install hydra-{value}-{key[6:]}); known: {', '.join(known)}"
                ) from None
        raise ConfigError(_plain(error)) from None
    return node


def launch_sweep(
    job: Callable[[int, list[str]], float | None], overrides: Sequence[str], *, optimises: bool = False
) -> None:
    """Enter Hydra's sweeper as its command line does; it reads its words from ``sys.argv``.

    Args:
        job: Called with the number of each job, from 1, and its overrides; by another process where the
            launcher has some. Returns a score, None if there is none.
        overrides: What to sweep.
        optimises: Whether a job without a score is an error that the sweeper is to hear of.

    Raises:
        ConfigError: If Hydra refuses the sweep.
        SweepStopped: If it does not come to its end.
    """

    def task(config: DictConfig) -> float | None:
        of = HydraConfig.get()
        score = job(int(of.job.num) + 1, list(of.overrides.task))
        if score is None and optimises:
            raise JobFailed("this job has no validation score")
        return score

    arguments, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = ["fedapp", "--multirun", *SETTINGS, *overrides]
    # Else Hydra prints errors its own way and ends the process.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        hydra.main(version_base="1.3", config_path=str(files.CONF), config_name="config")(task)()
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_plain(error)) from None
    except JobFailed:
        raise SweepStopped("the sweeper gave up on a job without a validation score") from None
    except Exception as error:  # of a launcher or a sweeper: what they may raise is not ours to list
        raise SweepStopped(f"{type(error).__name__}: {one_line(error)}") from error
    finally:
        sys.argv = arguments
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error


def _plain(error: Exception) -> str:
    return re.sub(r"\s*Set the environment variable HYDRA_FULL_ERROR.*", "", str(error), flags=re.DOTALL)
