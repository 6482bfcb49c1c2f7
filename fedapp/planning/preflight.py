"""What can be found wrong with a config before an engine starts or a folder is made."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from fedapp.config.build import ConfigError, about, build, named_class, nearest
from fedapp.config.choices import groups
from fedapp.config.compose import load_config
from fedapp.config.composed import Composed
from fedapp.config.run import RunSettings, folder_setting
from fedapp.core import files
from fedapp.core.errors import RowError, one_line
from fedapp.core.method import ClientRoutine
from fedapp.core.types import ClientFailure
from fedapp.engines import ENGINES
from fedapp.models.loading import count_gpus
from fedapp.planning import bases
from fedapp.records.trackers.tracker import build_tracker
from fedapp.server.strategy import ServerStrategy, build_strategy


def check(config: Composed, *, with_model: bool, with_files: bool = False) -> list[str]:
    """Build what a run needs and look at every client's data once.

    The nodes of a simulation would find the same mistakes when they join; here they cost no start
    of an engine and leave no run folder behind.

    Args:
        config: Of a run whose clients are all on this machine.
        with_model: Also load the base model, attach the adapter and train one step on two rows. For
            engines that work in this process, which keeps the base model.
        with_files: Also look at the base model's files, config and tokenizer; ``with_model`` does, too.

    Returns:
        In one line each what is allowed and yet good to know.

    Raises:
        ConfigError: If a setting cannot be used, the data cannot be divided, or base model and
            adapter do not fit each other.
    """
    from fedapp.client import workplace as workplaces
    from fedapp.client.repeats import Repeats, describe_repeats

    notes: list[str] = []
    try:
        setup = workplaces.ClientSetup(config)
        alike = [config.client(client_id) for client_id in config.one_of_each()]
        strategy = build_strategy(config)
        for own in alike:
            build(own["adapter"], "adapter")
        require_fitting(config, strategy, setup.routine)
        repeats = {client: Repeats.of(setup.data(client)) for client in range(config.run.num_clients)}
        notes += describe_repeats(repeats)
        if with_model or with_files:
            for own in alike:
                notes += bases.look_at_files(own, tuple(setup.benchmark.labels or ()))
        if with_model:
            workplaces.close()
            for own, first in zip(alike, config.one_of_each(), strict=True):
                everybody = range(first, config.run.num_clients)
                same = [other for other in everybody if config.variant(other) == config.variant(first)]
                bases.try_one_step(own, setup, same)
    except RowError as error:  # the rows are this user's own: what stands in them may be shown
        raise ConfigError(one_line(error.private)) from None
    except (ClientFailure, ValueError, ImportError, OSError) as error:
        raise ConfigError(one_line(error)) from None
    return list(dict.fromkeys(notes))


def require_fitting(config: Composed, strategy: ServerStrategy, routine: ClientRoutine) -> None:
    """Refuse clients, and settings of the run, that the strategy cannot do with.

    Args:
        config: Of the run.
        strategy: What the server does.
        routine: What each client does.

    Raises:
        ConfigError, ValueError: In one line that begins with the setting.
    """
    alike = [config.client(client_id) for client_id in config.one_of_each()]
    if strategy.equal_shapes:
        require_one_rank(config, alike)
    require_same_settings(config, alike, strategy.same_settings)
    strategy.check(config.run, routine)


def require_one_rank(config: Mapping[str, Any], alike: Sequence[Mapping[str, Any]]) -> None:
    """Refuse ranks that differ between clients where the strategy combines entry by entry.

    Raises:
        ConfigError: If they do.
    """
    ranks = {own["adapter"].get("rank") for own in alike}
    if len(ranks) > 1:
        named = ", ".join(sorted(map(str, ranks), key=lambda rank: (len(rank), rank)))
        raise ConfigError(
            f"by_client gives adapter.rank={named}, but method={about(config['method'], 'name')} needs one "
            f"rank on all clients; methods that take different ranks: {', '.join(_mixed_rank_methods())}"
        )


def require_same_settings(
    config: Mapping[str, Any], alike: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> None:
    """Refuse settings of the adapter that differ between clients and give uploads another meaning.

    Raises:
        ConfigError: If they do.
    """
    method = about(config["method"], "name")
    for name in names:
        values = sorted({str(own["adapter"].get(name)) for own in alike})
        if len(values) > 1:
            raise ConfigError(
                f"by_client gives adapter.{name}={', '.join(map(repr, values))}, but "
                f"method={method} combines what clients send and needs one value on all"
            )


def _mixed_rank_methods() -> list[str]:
    """The files of conf/method whose strategy says that clients' shapes may differ."""
    found = []
    for name in groups()["method"]:
        tree = yaml.safe_load((files.CONF / "method" / f"{name}.yaml").read_text(encoding="utf-8"))
        kind = named_class(tree["strategy"]["_target_"])
        if isinstance(kind, type) and issubclass(kind, ServerStrategy) and not kind.equal_shapes:
            found.append(name)
    return found


def check_resources(settings: RunSettings) -> None:
    """Refuse what Flower's simulation engine would wait for in vain.

    Only for who is about to start that engine here: the server of a deployment composes the same
    settings, on a machine on which no client runs.

    Raises:
        ConfigError: If a client is to reserve more CPU cores or GPUs than there are here.
    """
    asked, there = settings.num_cpus_per_client, os.cpu_count() or 1
    if asked > there:
        cores = "CPU core" if there == 1 else "CPU cores"
        raise ConfigError(f"num_cpus_per_client={asked} must not exceed this machine's {there} {cores}")
    if settings.num_gpus_per_client > 0:
        visible = count_gpus()
        if settings.num_gpus_per_client > visible:
            seen = f"the {visible} visible here" if visible else "0: no GPU is visible here"
            raise ConfigError(f"num_gpus_per_client={settings.num_gpus_per_client} must not exceed {seen}")


def check_config(overrides: Sequence[str]) -> Composed:
    """Compose the config of a run and look at all that can be judged before it starts.

    Args:
        overrides: What the user asked for.

    Raises:
        ConfigError: If a setting cannot be used.
    """
    config = load_config(overrides)
    name = str(config["engine"])
    if name not in ENGINES:
        raise ConfigError(f"engine={name} does not exist{nearest(name, list(ENGINES))}")
    for setting in ("runs_dir", "run_dir"):
        if setting == "runs_dir" or config[setting] is not None:
            folder_setting(config, setting)
    build_tracker(config)
    return config


def look_ahead(config: Composed, *, with_model: bool = True) -> list[str]:
    """Find what would fail on every client, before there is a run folder.

    Args:
        config: The composed tree.
        with_model: Look at the base model's files, too, and load it if this process is to use it.

    Returns:
        In one line each what is allowed and yet good to know.

    Raises:
        ConfigError: If a setting, the data or this machine does not allow the run.
    """
    in_process = config["engine"] == "local"
    if not in_process:
        check_resources(config.run)
    with contextlib.redirect_stderr(io.StringIO()):  # libraries that remark on what they import
        return check(config, with_model=with_model and in_process, with_files=with_model)
