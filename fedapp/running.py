"""``fedapp run``: one run, from Hydra overrides to a true exit code."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

from fedapp import preflight
from fedapp.cli import FAILED, OK, USAGE, complain
from fedapp.config.build import ConfigError, nearest
from fedapp.config.compose import load_config
from fedapp.config.overrides import quote
from fedapp.config.run import folder_setting, run_settings
from fedapp.core.files import ROOT
from fedapp.engines import Job, OnEvent, RunFailed
from fedapp.progress import make_display, show_summary
from fedapp.resources import check_resources

# On top of the wait for the clients themselves: SuperLink and Ray have to start first.
ENGINE_START_SECONDS = 180.0

Engine = Callable[[Job, OnEvent], None]


def run(overrides: Sequence[str]) -> int:
    """Run once and show it on standard output.

    Args:
        overrides: Hydra overrides, as on the command line.

    Returns:
        0 if the run is complete, 1 if it failed, 2 if the configuration cannot be used.

    Raises:
        KeyboardInterrupt: If interrupted, by SIGTERM too; the run is stopped first. Its first
            argument is the exit code that is due.
    """
    with _interruptible():
        try:
            config = checked_config(overrides)
            engine = ENGINES[config["engine"]]()
            look_ahead(config)
            job = make_job(overrides, config)
        except ConfigError as error:
            complain(str(error))
            return USAGE
        try:
            opening = f"starting with engine={config['engine']}, log: {job.log_file}"
            with make_display(sys.stdout, opening) as display:
                engine(job, display.update)
        except RunFailed as error:
            complain(f"{error} (log: {job.log_file})")
            return FAILED
        show_summary(job.run_dir, sys.stdout)
        return OK


def checked_config(overrides: Sequence[str]) -> dict[str, Any]:
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
    return config


def look_ahead(config: Mapping[str, Any], *, with_model: bool = True) -> None:
    """Find what would fail on every client, before there is a run folder.

    Args:
        config: The composed tree.
        with_model: Load the base model, too, if this process is to use it.

    Raises:
        ConfigError: If a setting, the data or this machine does not allow the run.
    """
    in_process = config["engine"] == "local"
    if not in_process:
        check_resources(run_settings(config))
    with contextlib.redirect_stderr(io.StringIO()):  # libraries that remark on what they import
        preflight.check(config, with_model=with_model and in_process)


def make_job(overrides: Sequence[str], config: Mapping[str, Any]) -> Job:
    """Make the run folder and what the engine needs to know.

    Args:
        overrides: What the user asked for.
        config: The tree composed of it.

    Raises:
        ConfigError: If there is no app to run or the run folder is taken.
    """
    app_dir = find_app()
    run_dir = _run_folder(config)
    extra = {**absolute_paths(config), "run_dir": str(run_dir)}
    job = Job(
        app_dir=app_dir,
        run_dir=run_dir,
        overrides=shlex.join([*overrides, *(f"{key}={quote(value)}" for key, value in extra.items())]),
        num_clients=config["num_clients"],
        num_cpus_per_client=config["num_cpus_per_client"],
        num_gpus_per_client=config["num_gpus_per_client"],
        start_timeout=config["join_timeout"] + ENGINE_START_SECONDS,
    )
    return job


def find_app() -> Path:
    """The folder that holds the two apps: the root of the checkout this package is in.

    Raises:
        ConfigError: If the package was installed without them.
    """
    for name in ("pyproject.toml", "server_app.py", "client_app.py"):
        if not (ROOT / name).exists():
            raise ConfigError(f"{ROOT / name} is missing: install fedapp from a checkout with pip install -e")
    return ROOT


def absolute_paths(config: Mapping[str, Any]) -> dict[str, str]:
    """Relative paths of the tree made absolute: apps do not run in the user's folder.

    A setting is a path if its name ends with ``_dir`` or its value starts with ``./``, ``../`` or
    ``~/``.

    Returns:
        ``{"benchmark.data_dir": "/where/the/user/is/data"}``, only what changes.
    """
    changed = {}
    for key, value in _leaves(config, ""):
        is_path = key.endswith("_dir") or value.startswith(("./", "../", "~/"))
        if is_path and value and not os.path.isabs(value):
            changed[key] = str(Path(value).expanduser().absolute())
    return changed


def _run_folder(config: Mapping[str, Any]) -> Path:
    if config["run_dir"] is not None:
        run_dir = folder_setting(config, "run_dir")
        if run_dir.is_dir() and any(run_dir.iterdir()):
            raise ConfigError(f"run_dir={str(run_dir)!r} is not empty; name a new folder")
        return _make_folder(run_dir, exist_ok=True)
    runs_dir = folder_setting(config, "runs_dir")
    names = [datetime.now().strftime("%Y%m%d-%H%M%S"), _name(config, "method"), _name(config, "benchmark")]
    stem = "-".join([*names, f"s{config['seed']}"])
    for number in range(1, 1000):
        with contextlib.suppress(FileExistsError):
            return _make_folder(runs_dir / (stem if number == 1 else f"{stem}-{number}"), exist_ok=False)
    raise ConfigError(f"runs_dir={str(runs_dir)!r} has no room for {stem}")


def _make_folder(path: Path, exist_ok: bool) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=exist_ok)
    except FileExistsError:
        if exist_ok:
            raise ConfigError(f"run_dir={str(path)!r} is a file; name a folder") from None
        raise
    except OSError as error:
        raise ConfigError(f"the run folder {path} cannot be made: {error.strerror}") from None
    return path


def _name(config: Mapping[str, Any], group: str) -> str:
    return re.sub(r"[^\w.]+", "_", str(config[group]["name"]))


def _flower() -> Engine:
    from fedapp.engines.flower import run_flower

    return run_flower


def _local() -> Engine:
    from fedapp.engines.in_process import run_in_process

    return run_in_process


ENGINES: dict[str, Callable[[], Engine]] = {"flwr": _flower, "local": _local}


def _leaves(node: Any, prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        elif isinstance(value, str):
            yield f"{prefix}{key}", value


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM end the run as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # Not the main thread.
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
