"""``resume=<run folder>``: the settings of the run that it names, and whether it can go on with them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedapp.config.build import ConfigError
from fedapp.config.overrides import plain_value, quote
from fedapp.config.run import OF_PLACE
from fedapp.core.checks import show_value
from fedapp.core.payload import State
from fedapp.core.status import COMPLETED, FILE, RUNNING, is_held, read_status
from fedapp.engines import orphans
from fedapp.records.checkpoints.run import newest_checkpoint

MAY_CHANGE = OF_PLACE | {
    "num_rounds",
    "patience",
    "engine",
    "num_threads",
    "num_cpus_per_client",
    "num_gpus_per_client",
    "join_timeout",
    "round_timeout",
    "seats",
}
"""Settings that may be others where a run goes on: how long, where and with which means it runs."""

SHOWN = 4


def resumed_words(words: Sequence[str]) -> list[str]:
    """Overrides of a run, behind those of the run that ``resume`` names among them.

    Args:
        words: As the user gave them; the same are returned where none of them is ``resume``, or where those
            of that run are there already.

    Raises:
        ConfigError: If that folder holds nothing that says how its run was started.
    """
    named = plain_value(shlex.join(words), "resume")
    if named is None:
        return list(words)
    folder = Path(named).expanduser().absolute()
    if not (folder / FILE).exists():
        raise ConfigError(f"resume={named} holds no run: it has no {FILE}")
    kept = newest_checkpoint(folder, _silent)
    found = read_status(folder).get("overrides") if kept is None else kept.facts["overrides"]
    if not isinstance(found, list):
        raise ConfigError(f"resume={named} does not say how its run was started: start it again")
    before = [str(word) for word in found if word.partition("=")[0] not in ("resume", "run_dir")]
    if list(words[: len(before)]) == before and before:
        return list(words)
    own = [word for word in words if word.partition("=")[0] not in ("resume", "run_dir")]
    return [*before, *own, f"resume={quote(str(folder))}", f"run_dir={quote(str(folder))}"]


def require_free(folder: Path, warn: Callable[[str], None]) -> None:
    """Have a process that was left behind at a run let go of it.

    Raises:
        ConfigError: If somebody works on the run; says who.
    """
    if is_held(folder) and (who := orphans.free(folder, warn)):
        raise ConfigError(f"resume={folder}: {who}")


def find_resumable(folder: Path, config: Mapping[str, Any], warn: Callable[[str], None]) -> State | None:
    """Check that a run can go on, and find what it goes on from; its folder stays as it is (``cut_back``).

    Args:
        folder: Of the run.
        config: With which it is to go on.
        warn: Told of checkpoints that are damaged, and of a process that was left behind.

    Returns:
        The checkpoint; None where the run stopped before its first and begins again.

    Raises:
        ConfigError: If the run is complete, somebody works on it, or another setting is to hold.
    """
    if read_status(folder).get("status") == RUNNING:
        require_free(folder, warn)
    status = read_status(folder).get("status")  # who was waited for may have finished the run
    kept = newest_checkpoint(folder, warn)
    if kept is not None:
        _require_same(folder, kept.facts["config"], config)
    trained = 0 if kept is None else int(kept.facts["round"])
    if status == COMPLETED and trained in (0, config["num_rounds"]):
        more = f"; num_rounds above {trained} goes on with it" if trained else " and kept no checkpoints"
        raise ConfigError(f"resume={folder}: this run is complete{more}")
    if config["num_rounds"] < trained:
        raise ConfigError(
            f"num_rounds={config['num_rounds']} must be at least {trained}: so many rounds are behind "
            f"resume={folder}"
        )
    return kept


def _require_same(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse settings that would make another run of it, by name and both values."""
    old, new = (
        dict(_leaves({k: v for k, v in tree.items() if k not in MAY_CHANGE})) for tree in (before, now)
    )
    changed = [key for key in {**old, **new} if old.get(key, _NONE) != new.get(key, _NONE)]
    if changed:
        named = [f"{key} was {_shown(old, key)}, is {_shown(new, key)}" for key in sorted(changed)[:SHOWN]]
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        raise ConfigError(f"resume={folder} cannot go on with other settings: {'; '.join(named)}{more}")


_NONE = object()


def _shown(leaves: Mapping[str, Any], key: str) -> str:
    return show_value(leaves[key]) if key in leaves else "not there"


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


def _silent(text: str) -> None:
    """Who goes on with the run says it."""
