"""``fedapp tasks``: what a task store holds."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TextIO

import numpy as np

from fedapp.config.build import nearest
from fedapp.methods.ifed_icl.store import StoredTask, TaskStore
from fedapp.records.table import format_bytes, print_table

ACTIONS = ("list", "show", "remove")


def manage(action: str, folder: Path, task: str | None, stream: TextIO) -> None:
    """Do one of ``ACTIONS`` with a store.

    Args:
        action: ``list``, ``show`` or ``remove``.
        folder: What ``method.store_dir`` of the runs named.
        task: The task's id, for all but ``list``.
        stream: Where to print.

    Raises:
        ValueError: If there is no such store, task or action, or the store cannot be used.
    """
    if action not in ACTIONS:
        raise ValueError(f"tasks {action} does not exist{nearest(action, ACTIONS)}")
    store = TaskStore(folder)
    damaged: list[str] = []
    tasks = {one.key.task: one for one in store.tasks(damaged.append)}
    if action == "list":
        if task is not None:
            raise ValueError(f"tasks list takes a folder only, not {task!r} as well")
        _print_all(list(tasks.values()), stream)
        for name in damaged:
            command = shlex.join(["fedapp", "tasks", "remove", str(folder), name])
            print(f"damaged: {name}; to forget it: {command}", file=stream)
        return
    if task is None:
        raise ValueError(f"tasks {action} needs the task's id behind the folder")
    if task not in [*tasks, *damaged]:
        raise ValueError(f"{folder} has no task {task!r}{nearest(task, [*tasks, *damaged])}")
    if action == "show":
        found = store.get(task)
        if found is not None:
            _print_one(found, stream)
    elif store.remove(task):
        print(f"removed {task}", file=stream)


def _print_all(tasks: list[StoredTask], stream: TextIO) -> None:
    columns = ("task", "base model", "rounds", "mean over", "bytes", "updated")
    rows = []
    for one in tasks:
        held = format_bytes(one.coefficients.nbytes + one.vectors.nbytes)
        counts = (one.rounds, f"{one.count:g}", held, _when(one.updated))
        rows.append((one.key.task, one.key.base[:16], *counts))
    print_table(columns, rows, stream, left=columns, ruled=False)


def _print_one(one: StoredTask, stream: TextIO) -> None:
    strengths = one.coefficients[..., 0]
    facts = {
        "task": one.key.task,
        "base model": one.key.base,
        "template": one.key.template,
        "labels": ", ".join(one.key.labels) or "none",
        "layers": f"{one.vectors.shape[0]}, hidden size {one.vectors.shape[2]}",
        "coefficients": f"{one.coefficients.size}",
        "lambda, attention": _range(strengths[:, 0]),
        "lambda, MLP": _range(strengths[:, 1]),
        "norm of vectors": f"{np.linalg.norm(one.vectors):.4g}",
        "mean over": f"{one.count:g}",
        "rounds": f"{one.rounds}",
        "created": _when(one.created),
        "updated": _when(one.updated),
    }
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}", file=stream)


def _range(values: np.ndarray) -> str:
    return f"{values.min():.3f} to {values.max():.3f}, mean {values.mean():.3f}"


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
