"""A run's folder, and what an engine must know of it."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from fedapp.config.build import ConfigError, about
from fedapp.config.composed import MAY_DIFFER
from fedapp.config.overrides import quote
from fedapp.config.run import folder_setting
from fedapp.core.files import ROOT
from fedapp.core.status import has_died, how_it_died
from fedapp.engines.job import Job
from fedapp.records.checkpoints.resume import find_resumable, require_free
from fedapp.records.checkpoints.run import cut_back

# On top of the wait for the clients themselves: SuperLink and Ray have to start first.
ENGINE_START_SECONDS = 180.0


def make_job(overrides: Sequence[str], config: Mapping[str, Any], warn: Callable[[str], None] = print) -> Job:
    """Make the run folder, or find that of a run that can go on, and what the engine needs to know.

    Args:
        overrides: What the user asked for; behind those of the run that goes on.
        config: The tree composed of it.
        warn: Told of checkpoints that are damaged.

    Raises:
        ConfigError: If there is no app to run, the run folder is taken or its run cannot go on.
    """
    app_dir = find_app()
    resumed = config.get("resume") is not None
    run_dir, make_ready = _resumed(config, warn) if resumed else (_run_folder(config), _do_nothing)
    extra = {**absolute_paths(config), "run_dir": str(run_dir)}
    words = [*overrides, *(f"{key}={quote(value)}" for key, value in extra.items()), *_of_clients(config)]
    job = Job(
        app_dir=app_dir,
        run_dir=run_dir,
        overrides=shlex.join(words),
        num_clients=config["num_clients"],
        num_cpus_per_client=config["num_cpus_per_client"],
        num_gpus_per_client=config["num_gpus_per_client"],
        start_timeout=config["join_timeout"] + ENGINE_START_SECONDS,
        resumed=resumed,
        make_ready=make_ready,
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

    A setting is a path if its name ends with ``_dir``, if its value starts with ``./``, ``../`` or
    ``~/`` or is one of these, or if it is called ``path`` and there is such a file or folder here
    (``model.path=models/tiny``; else that is the id of a hub model). What clients have differently is
    not among them.

    Returns:
        ``{"benchmark.data_dir": "/where/the/user/is/data"}``, only what changes.
    """
    own = {key: value for key, value in config.items() if key not in ("client_configs", "by_client")}
    changed = {}
    for key, value in _leaves(own, ""):
        if value and not os.path.isabs(value) and _is_path(key.rpartition(".")[2], value):
            changed[key] = str(Path(value).expanduser().absolute())
    return changed


def _is_path(name: str, value: str) -> bool:
    written = value in (".", "..", "~") or value.startswith(("./", "../", "~/"))
    return name.endswith("_dir") or written or (name == "path" and Path(value).expanduser().exists())


def _of_clients(config: Mapping[str, Any]) -> list[str]:
    """The override of ``by_client`` with absolute paths behind each text; none if nothing changes."""
    own = {key: config[key] for key in MAY_DIFFER if key in config}
    texts = []
    for text in config.get("by_client") or ():
        differing = config["client_configs"][text]
        typed = [word.partition("=")[0].lstrip("+") for word in shlex.split(text)]
        paths = {
            key: value
            for key, value in absolute_paths({**own, **differing}).items()
            if key in typed or key in absolute_paths(differing)
        }
        texts.append(" ".join([text, *(shlex.quote(f"{k}={quote(v)}") for k, v in paths.items())]).strip())
    if texts == list(config.get("by_client") or ()):
        return []
    return [f"by_client=[{','.join(map(quote, texts))}]"]


def _resumed(config: Mapping[str, Any], warn: Callable[[str], None]) -> tuple[Path, Callable[[], None]]:
    """The folder of a run that can go on, and what brings its files back to its last checkpoint."""
    run_dir = folder_setting(config, "resume")
    require_free(run_dir, warn)
    kept = find_resumable(run_dir, config, warn)
    return run_dir, partial(cut_back, run_dir, kept)


def _do_nothing() -> None:
    """A new folder is ready as it is."""


def _run_folder(config: Mapping[str, Any]) -> Path:
    if config["run_dir"] is not None:
        run_dir = folder_setting(config, "run_dir")
        if run_dir.is_dir() and any(run_dir.iterdir()):
            what = f"holds a run that died, {how_it_died(run_dir)}" if has_died(run_dir) else "is not empty"
            raise ConfigError(f"run_dir={str(run_dir)!r} {what}; name a new folder")
        try:
            return _make_folder(run_dir, "run", exist_ok=run_dir.exists())
        except FileExistsError:
            what = "was made by another process at this moment"
            raise ConfigError(f"run_dir={str(run_dir)!r} {what}; name a new folder") from None
    runs_dir = folder_setting(config, "runs_dir")
    names = [datetime.now().strftime("%Y%m%d-%H%M%S"), _name(config, "method"), _name(config, "benchmark")]
    return new_folder(runs_dir, "-".join([*names, f"s{config['seed']}"]), "run")


def new_folder(runs_dir: Path, stem: str, whose: str) -> Path:
    """Make a folder of this name, or of the next that is free.

    Args:
        runs_dir: Where.
        stem: What it is called; ``-2``, ``-3`` … follow where it is taken.
        whose: What it is for, in messages (``run``).

    Raises:
        ConfigError: If it cannot be made.
    """
    for number in range(1, 1000):
        with contextlib.suppress(FileExistsError):
            return _make_folder(
                runs_dir / (stem if number == 1 else f"{stem}-{number}"), whose, exist_ok=False
            )
    raise ConfigError(f"runs_dir={str(runs_dir)!r} has no room for {stem}")


def _make_folder(path: Path, whose: str, exist_ok: bool) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=exist_ok)
    except FileExistsError:
        if exist_ok:
            raise ConfigError(f"run_dir={str(path)!r} is a file; name a folder") from None
        raise
    except OSError as error:
        raise ConfigError(f"the {whose} folder {path} cannot be made: {error.strerror}") from None
    return path


def _name(config: Mapping[str, Any], group: str) -> str:
    return re.sub(r"[^\w.]+", "_", str(about(config[group], "name")))


def _leaves(node: Any, prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        elif isinstance(value, str):
            yield f"{prefix}{key}", value
