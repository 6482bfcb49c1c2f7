"""Calibrated tasks on disk: one SQLite file that several servers may share.

A write is one transaction in write-ahead mode, so a reader or a process killed at any moment leaves
either the old record or the new one. The folder must be on a local disk: SQLite's write-ahead mode
does not work over network file systems.
"""

from __future__ import annotations

import json
import shlex
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FILE = "tasks.sqlite"
WAIT_SECONDS = 30.0
"""How long one writer waits for another."""
LATEST = 1e11
"""Seconds since 1970 after which no task was stored (the year 5138), and more clients than there are."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tasks (
    task TEXT PRIMARY KEY, base TEXT NOT NULL, template TEXT NOT NULL, labels TEXT NOT NULL,
    coefficients BLOB NOT NULL, coefficients_shape TEXT NOT NULL,
    vectors BLOB NOT NULL, vectors_shape TEXT NOT NULL,
    count REAL NOT NULL, rounds INTEGER NOT NULL, created REAL NOT NULL, updated REAL NOT NULL
)"""
_COLUMNS = (
    "task, base, template, labels, coefficients, coefficients_shape, vectors, vectors_shape, "
    "count, rounds, created, updated"
)


@dataclass(frozen=True)
class TaskKey:
    """What a task is known by; the id alone names it, the rest must agree.

    Attributes:
        task: The task's id.
        base: Fingerprint of the base model.
        template: Benchmark, version of its prompt template, how demonstrations are read and injected.
        labels: Label words in order.
    """

    task: str
    base: str
    template: str
    labels: tuple[str, ...]

    def differences(self, other: TaskKey) -> list[str]:
        """In words, in what two keys of one id differ: ``base model 12ab… instead of 34cd…``."""
        pairs = {
            "base model": (self.base[:16], other.base[:16]),
            "template": (self.template, other.template),
            "labels": (", ".join(self.labels), ", ".join(other.labels)),
        }
        return [
            f"{name} {mine} instead of {theirs}" for name, (mine, theirs) in pairs.items() if mine != theirs
        ]


@dataclass(frozen=True)
class StoredTask:
    """A calibrated task.

    Attributes:
        key: What it is known by.
        coefficients: [num_layers, 2, 2 or 1], fp32.
        vectors: The mean of all context vectors, [num_layers, 2, hidden_size], fp64.
        count: How many clients (or examples) that mean is over.
        rounds: Rounds of the run that calibrated it.
        created, updated: Seconds since 1970.
    """

    key: TaskKey
    coefficients: np.ndarray
    vectors: np.ndarray
    count: float
    rounds: int
    created: float = 0.0
    updated: float = 0.0


class TaskStore:
    """The tasks in a folder.

    Args:
        folder: Holds ``tasks.sqlite``; made when first written to.
    """

    def __init__(self, folder: Path) -> None:
        self.path = Path(folder) / FILE

    def tasks(self, damaged: Callable[[str], None] | None = None) -> list[StoredTask]:
        """All tasks that can be read, by id.

        Args:
            damaged: Told the id of each task whose record makes no sense.

        Raises:
            ValueError: If there is no store, or it cannot be read.
        """
        with self._reading() as database:
            rows = database.execute(f"SELECT {_COLUMNS} FROM tasks ORDER BY task").fetchall()
        found = []
        for row in rows:
            try:
                found.append(_task(row))
            except _Unreadable:
                if damaged is not None:
                    damaged(str(row[0]))
        return found

    def get(self, task: str) -> StoredTask | None:
        """A task by its id; None if there is none, or no store yet.

        Raises:
            ValueError: If the store or the task's record cannot be read.
        """
        if not self.path.exists():
            return None
        with self._reading() as database:
            row = database.execute(f"SELECT {_COLUMNS} FROM tasks WHERE task = ?", (task,)).fetchone()
        return self._known(row)

    def update(self, task: str, change: Callable[[StoredTask | None], StoredTask]) -> StoredTask:
        """Replace a task by what ``change`` makes of it, as one step that no other writer can split.

        Raises:
            ValueError: If the store cannot be written.
        """
        self.prepare()
        with self._open() as database:
            database.execute("BEGIN IMMEDIATE")
            row = database.execute(f"SELECT {_COLUMNS} FROM tasks WHERE task = ?", (task,)).fetchone()
            old = self._known(row)
            new = change(old)
            now = time.time()
            created = old.created if old else now
            marks = ", ".join("?" * len(_COLUMNS.split(",")))
            database.execute(
                f"INSERT OR REPLACE INTO tasks ({_COLUMNS}) VALUES ({marks})", (*_row(new), created, now)
            )
            database.execute("COMMIT")
        return new

    def prepare(self) -> None:
        """Make the store unless it is there; a file that a killed process left empty becomes one.

        Raises:
            ValueError: If its folder cannot be used.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            folder = self.path.parent
            raise ValueError(f"method.store_dir={folder} cannot be a folder: {error.strerror}") from None
        with self._open() as database:
            _write_ahead(database)
            database.execute(_SCHEMA)

    def remove(self, task: str) -> bool:
        """Forget a task; says whether there was one.

        Raises:
            ValueError: If there is no store, or it cannot be written.
        """
        with self._reading() as database:
            return database.execute("DELETE FROM tasks WHERE task = ?", (task,)).rowcount > 0

    def _known(self, row: Sequence | None) -> StoredTask | None:
        if row is None:
            return None
        try:
            return _task(row)
        except _Unreadable as error:
            command = shlex.join(["fedapp", "tasks", "remove", str(self.path.parent), str(row[0])])
            raise ValueError(
                f"task {row[0]!r} in {self.path} is damaged ({error}); to forget it: {command}"
            ) from None

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        if not self.path.exists():
            raise ValueError(
                f"{self.path.parent} holds no task store ({FILE}); runs with method.store_dir make one"
            )
        with self._open() as database:
            # Whoever was killed while making the store has left it without its table.
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'tasks'").fetchone():
                database.execute(_SCHEMA)
            yield database

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            # Without isolation_level Python opens no transactions of its own.
            with closing(sqlite3.connect(self.path, timeout=WAIT_SECONDS, isolation_level=None)) as database:
                yield database
        except sqlite3.Error as error:
            raise ValueError(f"the task store {self.path} cannot be used: {error}") from None


def _write_ahead(database: sqlite3.Connection) -> None:
    """Switch to write-ahead mode; SQLite does not wait by itself for others that do so just now."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            database.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def merge_means(
    mean: np.ndarray, count: float, other: np.ndarray, other_count: float
) -> tuple[np.ndarray, float]:
    """The mean over both of two groups, in fp64, and its count.

    Args:
        mean: Of the first group.
        count: What it is over.
        other: The mean of a disjoint second group, of the same shape.
        other_count: What that is over; not both 0.
    """
    total = count + other_count
    return mean + (np.asarray(other, np.float64) - mean) * (other_count / total), total


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Cosine of two arrays of one shape as long vectors; 0 if one of them is zero."""
    a, b = np.ravel(first).astype(np.float64), np.ravel(second).astype(np.float64)
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return min(max(float(a @ b) / size, -1.0), 1.0) if size else 0.0


def _row(task: StoredTask) -> tuple[object, ...]:
    coefficients = np.ascontiguousarray(task.coefficients, np.float32)
    vectors = np.ascontiguousarray(task.vectors, np.float64)
    key = task.key
    return (
        *(key.task, key.base, key.template, json.dumps(list(key.labels))),
        *(
            coefficients.tobytes(),
            json.dumps(coefficients.shape),
            vectors.tobytes(),
            json.dumps(vectors.shape),
        ),
        *(float(task.count), int(task.rounds)),
    )


class _Unreadable(Exception):
    """A record that is no calibrated task."""


def _task(row: Sequence) -> StoredTask:
    texts, numbers = row[:4], row[-4:]
    labels, coefficients, shape, vectors, vectors_shape = row[3:8]
    # SQLite keeps any type in any column.
    if not all(isinstance(text, str) for text in texts) or not all(map(_plausible, numbers)):
        raise _Unreadable("a text, count or time is none")
    try:
        words = json.loads(labels)
        arrays = _array(coefficients, np.float32, shape), _array(vectors, np.float64, vectors_shape)
    except (ValueError, TypeError, RecursionError) as error:
        raise _Unreadable(str(error)) from None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise _Unreadable("its labels are no list of texts")
    if arrays[0].shape[:2] != arrays[1].shape[:2]:
        raise _Unreadable("coefficients and vectors are of different layers")
    count, rounds, created, updated = numbers
    if rounds != int(rounds):
        raise _Unreadable("its rounds are no whole number")
    task, base, template, _ = texts
    key = TaskKey(task, base, template, tuple(words))
    return StoredTask(key, *arrays, count, int(rounds), created, updated)


def _plausible(number: object) -> bool:
    """Whether this may be a count, a number of rounds or a time in seconds."""
    return isinstance(number, (int, float)) and 0 < number <= LATEST


def _array(content: bytes, dtype: type, shape: str) -> np.ndarray:
    """A stored array; of three dimensions and finite, or a ValueError."""
    sizes = json.loads(shape)
    array = np.frombuffer(content, dtype).reshape(sizes)
    if list(array.shape) != sizes or array.ndim != 3 or not np.isfinite(array).all():
        raise ValueError(f"an array of shape {list(array.shape)} that is not finite or has not 3 dimensions")
    return array
