"""The combinations of a sweep, as Hydra reads them."""

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
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from fedapp.config.build import ConfigError
from fedapp.config.compose import load_config
from fedapp.config.overrides import explain_syntax
from fedapp.core import files

# Quiet, and without a log of Hydra's own.
SETTINGS = (
    "hydra.sweep.subdir=.",
    "hydra.output_subdir=null",
    "hydra.job.chdir=false",
    "hydra/job_logging=disabled",
    "hydra/hydra_logging=disabled",
)


def combinations(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of every combination of ``KEY=A,B`` values, in Hydra's order.

    Raises:
        ConfigError: If an override cannot be read.
    """
    own = [
        override for override in parse_overrides(overrides) if not override.key_or_group.startswith("hydra")
    ]
    return [list(words) for (words,) in BasicSweeper.split_arguments(own, max_batch_size=1)]


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
    loader = ConfigLoaderImpl(create_config_search_path(str(files.CONF)))
    tree = loader.load_configuration("config", chosen[-1:], run_mode=RunMode.MULTIRUN)
    given = {override.partition("=")[0].lstrip("+~") for override in overrides}
    swept = tree.hydra.sweeper.get("params") or {}
    return [f"{key}={value}" for key, value in swept.items() if key not in given]


def launch_sweep(job: Callable[[list[str]], object], overrides: Sequence[str]) -> None:
    """Enter Hydra's sweeper as its command line does; it reads its words from ``sys.argv``.

    Args:
        job: Called with the overrides of each combination.
        overrides: What to sweep.

    Raises:
        ConfigError: If Hydra refuses the sweep.
    """

    def task(config: DictConfig) -> object:
        return job(list(HydraConfig.get().overrides.task))

    arguments, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = ["fedapp", "--multirun", *SETTINGS, *overrides]
    # Else Hydra prints errors its own way and ends the process.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        hydra.main(version_base="1.3", config_path=str(files.CONF), config_name="config")(task)()
    except (HydraException, OmegaConfBaseException) as error:
        advice = r"\s*Set the environment variable HYDRA_FULL_ERROR.*"
        raise ConfigError(re.sub(advice, "", str(error), flags=re.DOTALL)) from None
    finally:
        sys.argv = arguments
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error
