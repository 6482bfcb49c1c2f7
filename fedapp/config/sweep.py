"""The jobs of a sweep as Hydra's grammar gives them, and Hydra's launchers."""

from __future__ import annotations

import importlib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from fedapp.config.build import ConfigError
from fedapp.config.compose import load_config
from fedapp.config.loader import config_loader
from fedapp.config.overrides import explain_syntax, is_hydra, key_of, quote
from fedapp.core.errors import one_line

# Quiet, and without a log of Hydra's own.
SETTINGS = (
    "hydra.sweep.subdir=.",
    "hydra.output_subdir=null",
    "hydra.job.chdir=false",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
)


class SweepStopped(RuntimeError):
    """A launcher gave up; the text is one line for the user."""


def combinations(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of every combination of ``KEY=A,B`` values, in Hydra's order.

    Raises:
        ConfigError: If an override cannot be read, or sweeps without naming values.
    """
    lists = []
    for override in parse_overrides(overrides):
        line = override.input_line or ""
        if is_hydra(override.key_or_group):
            continue
        if override.is_sweep_override() and not override.is_discrete_sweep():
            raise ConfigError(f"{line} names no values: only a search draws from it (sweep=search)")
        key = override.get_key_element()
        swept = override.is_sweep_override()
        lists.append([f"{key}={value}" for value in override.sweep_string_iterator()] if swept else [line])
    return [list(words) for words in itertools.product(*lists)]


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
    return OverridesParser.create(config_loader=config_loader()).parse_overrides(list(overrides))


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
    given = set(map(key_of, overrides))
    swept = _tree(chosen[-1:]).hydra.sweeper.get("params") or {}
    return [f"{key}={value}" for key, value in swept.items() if key not in given]


def check_launcher(overrides: Sequence[str]) -> None:
    """Refuse a launcher that is not installed.

    Raises:
        ConfigError: If the chosen launcher, or a setting of it, is not there.
    """
    _tree(_of_hydra(overrides))


def launch(
    job: Callable[[int, list[str]], object],
    jobs: Mapping[int, Sequence[str]],
    overrides: Sequence[str],
    folder: Path,
) -> None:
    """Have Hydra's launcher run jobs, in this process or in others.

    Args:
        job: Called with each job's number and its overrides; by another process where the launcher has some.
        jobs: Overrides by number.
        overrides: Of the sweep, of which Hydra's own say by which launcher.
        folder: Of the sweep, where a launcher may keep files of its own.

    Raises:
        ConfigError: If Hydra refuses the launcher.
        SweepStopped: If the launcher gave up.
    """
    numbers = list(jobs)

    def task(config: DictConfig) -> None:
        of = HydraConfig.get()
        job(numbers[int(of.job.num)], list(of.overrides.task))

    place = f"hydra.sweep.dir={quote(str(folder))}"
    loader = config_loader()
    config = _tree([*SETTINGS, place, *_of_hydra(overrides)])
    # Hydra's type says its internal list of callbacks; what is called of it, this public class has.
    context = HydraContext(config_loader=loader, callbacks=Callback())  # type: ignore[arg-type]
    try:
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=task, config=config
        )
        with _waiting_for_all():
            launcher.launch([list(words) for words in jobs.values()], initial_job_idx=0)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_plain(error)) from None
    except Exception as error:  # of a launcher: what it may raise is not ours to list
        said = re.split(r"\n\w+ stream produced", str(error))[0]  # there submitit quotes the job's whole log
        raise SweepStopped(f"{type(error).__name__}: {one_line(said)}") from error


@contextmanager
def _waiting_for_all() -> Iterator[None]:
    """Have submitit's launcher wait for all of its jobs, and end them where the sweep is interrupted.

    By itself it stops at the first job that died (``scancel``, out of memory, a lost node) and leaves those
    that wait or run to Slurm: the count would be wrong, and going on with the sweep would run them twice.
    """
    try:
        kind: Any = importlib.import_module("submitit.core.core").Executor
    except ImportError:  # other launchers wait by themselves
        yield
        return
    submit = kind.map_array

    def submit_and_wait(executor: Any, *arguments: Any) -> Any:
        jobs = submit(executor, *arguments)
        try:
            for job in jobs:
                job.wait()
        except KeyboardInterrupt:
            for job in jobs:
                job.cancel(check=False)
            raise
        return jobs

    kind.map_array = submit_and_wait
    try:
        yield
    finally:
        kind.map_array = submit


def _of_hydra(overrides: Sequence[str]) -> list[str]:
    """What of a sweep's overrides makes Hydra's own part of the tree."""
    return [word for word in overrides if is_hydra(word) or word.partition("=")[0] == "experiment"]


def _tree(overrides: Sequence[str]) -> DictConfig:
    """The tree of a sweep, with Hydra's own part."""
    Plugins.instance()  # makes the choices known that are installed beside Hydra
    loader = config_loader()
    try:
        return loader.load_configuration("config", list(overrides), run_mode=RunMode.MULTIRUN)
    except (HydraException, OmegaConfBaseException) as error:
        key = "hydra/launcher"
        chosen = [word for word in overrides if word.startswith(f"{key}=")]
        known = sorted(loader.get_group_options(key)) if chosen else []
        if chosen and (value := chosen[-1].partition("=")[2]) not in known:
            raise ConfigError(
                f"{chosen[-1]} is not there (pip install hydra-{value.partition('_')[0]}-launcher); "
                f"known: {', '.join(known)}"
            ) from None
        raise ConfigError(_plain(error)) from None


def _plain(error: Exception) -> str:
    return re.sub(r"\s*Set the environment variable HYDRA_FULL_ERROR.*", "", str(error), flags=re.DOTALL)
