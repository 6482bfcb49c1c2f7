"""Which rows belong to which client: Flower Datasets' partitioners, plus validation and test shares.

Everything is drawn from the run's seed, so that each client finds its own rows on its own, in any
order of calls and in any process.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fedapp.benchmarks.base import Benchmark
from fedapp.client.dealing import Partitioning, largest_remainder, subsample
from fedapp.core.checks import require_bool, require_choice, require_int, require_number
from fedapp.core.errors import RowError
from fedapp.core.types import Example

if TYPE_CHECKING:
    from datasets import Dataset

if TYPE_CHECKING:
    from fedapp.client.dealing import Partitioner

ROW = "row-of-the-split"
"""Column that carries row numbers through a partitioner."""

# What a random generator is for; with the run's seed and the client it makes the generator's seed.
_SHUFFLE, _VALIDATION, _CAP_TRAIN, _DEAL_TEST, _CAP_TEST = range(5)


@dataclass(frozen=True)
class SplitConfig:
    """How each client divides its own data.

    Attributes:
        val_share: Share of the client's training rows that become its validation rows.
        max_val: Most validation rows of a client.
        max_train: Most training rows of a client, after validation is taken; 0 means no cap.
        max_test: Most test rows of a client; 0 means no cap.
        test: ``own``: the test split is dealt out in proportion to the training rows; ``all``: every
            client gets the whole of it.
        pool: Every client trains on the training rows of all clients, each with its own validation
            and test rows: the centralised end of a comparison, where all data lie in one place.
    """

    val_share: float = 0.1
    max_val: int = 128
    max_train: int = 0
    max_test: int = 0
    test: str = "own"
    pool: bool = False

    def __post_init__(self) -> None:
        require_number("val_share", self.val_share, "[0, 1)")
        for name in ("max_val", "max_train", "max_test"):
            require_int(f"{name}", getattr(self, name), at_least=0)
        require_choice("test", self.test, ("own", "all"))
        require_bool("pool", self.pool)


@dataclass(frozen=True)
class ClientData:
    """One client's examples; no row is in two of them, but two rows may be alike (``client.repeats``)."""

    train: tuple[Example, ...]
    val: tuple[Example, ...]
    test: tuple[Example, ...]


@dataclass(frozen=True)
class _Source:
    """A benchmark as part of a cache key: the same settings are the same benchmark."""

    key: str
    benchmark: Benchmark = field(compare=False)


def client_data(
    benchmark: Benchmark,
    partitioner: Partitioning | Mapping[str, Any],
    client_id: int,
    num_clients: int,
    *,
    seed: int,
    split: SplitConfig,
) -> ClientData:
    """The rows of one client; the same for the same arguments, whatever was asked before.

    The train split is shuffled and partitioned over all clients, each row to exactly one. From its
    part a client takes its validation rows (at least one of two), then caps what is left. With
    ``partitioner=private`` nothing is divided: all rows that this node's benchmark holds are the client's.
    With ``split.pool`` it then trains on what all clients are left with.
    Subsamples keep the proportions of the tasks. The result is kept, as every message asks for it.

    Args:
        benchmark: Where rows come from.
        partitioner: How the train split is divided; a config node is read by ``Partitioning.of``.
        client_id: From 0 to ``num_clients - 1``.
        num_clients: Clients of the federation.
        seed: The run's seed.
        split: The shares of validation and test.

    Raises:
        ValueError: If the data cannot be divided among that many clients; one line that says why.
    """
    if not 0 <= client_id < num_clients:
        raise ValueError(f"client_id={client_id} must be within 0 and num_clients - 1 = {num_clients - 1}")
    if not isinstance(partitioner, Partitioning):
        partitioner = Partitioning.of(partitioner)
    source = _Source(f"{type(benchmark).__module__}.{benchmark!r}", benchmark)
    return _client_data(source, partitioner, client_id, num_clients, seed, split)


@lru_cache(maxsize=64)
def _client_data(
    source: _Source,
    partitioner: Partitioning,
    client_id: int,
    num_clients: int,
    seed: int,
    split: SplitConfig,
) -> ClientData:
    train, test = _rows(source, "train"), _rows(source, "test")
    if split.pool and not partitioner.divides:
        raise ValueError(
            "split.pool=true needs the rows of all clients in one place, and with partitioner=private "
            "nobody has them: take a partitioner that divides, or another method"
        )
    train_rows, val_rows = _own_rows(source, partitioner, client_id, num_clients, seed, split)
    if split.pool:
        others = (_own_rows(source, partitioner, c, num_clients, seed, split)[0] for c in range(num_clients))
        train_rows = np.sort(np.concatenate(list(others)))
    if split.test == "all" or not partitioner.divides:
        # One seed for all clients: with a cap, too, they are compared on the same rows.
        test_rows, cap_rng = np.arange(len(test)), _rng(seed, _CAP_TEST)
    else:
        test_rows = _deal_test(source, partitioner, num_clients, seed)[client_id]
        cap_rng = _rng(seed, _CAP_TEST, client_id)
    test_rows = subsample(
        test_rows, _column(source, "test", "task"), split.max_test or len(test_rows), cap_rng
    )
    return ClientData(
        train=_examples(source, train, train_rows),
        val=_examples(source, train, val_rows),
        test=_examples(source, test, test_rows),
    )


def _own_rows(
    source: _Source,
    partitioner: Partitioning,
    client_id: int,
    num_clients: int,
    seed: int,
    split: SplitConfig,
) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of a client's own training and validation rows."""
    train = _rows(source, "train")
    own = np.arange(len(train))
    if partitioner.divides:
        own = _deal_train(source, partitioner, num_clients, seed)[client_id]
    tasks = _column(source, "train", "task")
    num_val = min(split.max_val, round(split.val_share * len(own)), len(own) - 1)
    if split.max_val and split.val_share and len(own) >= 2:
        num_val = max(num_val, 1)
    val_rows = subsample(own, tasks, num_val, _rng(seed, _VALIDATION, client_id))
    rest = np.setdiff1d(own, val_rows)
    return subsample(rest, tasks, split.max_train or len(rest), _rng(seed, _CAP_TRAIN, client_id)), val_rows


@lru_cache(maxsize=8)
def _rows(source: _Source, split: str) -> Dataset:
    return source.benchmark.load(split)


@lru_cache(maxsize=8)
def _deal_train(
    source: _Source, partitioner: Partitioning, num_clients: int, seed: int
) -> tuple[np.ndarray, ...]:
    """Row numbers of the train split per client, in ascending order."""
    from datasets import Dataset

    benchmark, rows = source.benchmark, _rows(source, "train")
    if num_clients > len(rows):
        raise ValueError(
            f"num_clients={num_clients} is more than the {len(rows)} training rows of {benchmark.name}"
        )
    if partitioner.key not in rows.column_names:
        raise ValueError(
            f"partitioner.partition_by={partitioner.key} is not a column of {benchmark.name}; "
            f"it has: {', '.join(rows.column_names)}"
        )
    order = _rng(seed, _SHUFFLE).permutation(len(rows))
    maker = partitioner.make(num_clients, seed)
    maker.dataset = Dataset.from_dict(
        {partitioner.key: _column(source, "train", partitioner.key)[order], ROW: order}
    )
    # Some partitioners draw a progress bar over every row, which would end up between the run's lines.
    with contextlib.redirect_stderr(io.StringIO()):
        parts = _load_all(maker, benchmark, partitioner, num_clients)
    _check_parts(
        parts, len(rows), f"num_clients={num_clients}: {partitioner.partitioner} on {benchmark.name}"
    )
    return tuple(np.sort(part) for part in parts)


def _check_parts(parts: Sequence[np.ndarray], num_rows: int, what: str) -> None:
    empty = [client_id for client_id, part in enumerate(parts) if not len(part)]
    if empty:
        raise ValueError(
            f"{what} leaves client {empty[0]} without a training row; "
            "take fewer clients, another seed or a milder skew"
        )
    dealt = np.concatenate(parts)
    distinct = len(np.unique(dealt))
    if len(dealt) != num_rows or distinct != num_rows:
        raise ValueError(
            f"{what} deals out {len(dealt)} rows, {distinct} of them different, of {num_rows}; "
            "every training row must go to exactly one client"
        )


def _load_all(
    maker: Partitioner, benchmark: Benchmark, partitioner: Partitioning, num_clients: int
) -> list[np.ndarray]:
    try:
        if maker.num_partitions != num_clients:
            values = ", ".join(sorted(map(str, maker.dataset.unique(partitioner.key))))
            has = f"{benchmark.name} has {maker.num_partitions} values of {partitioner.key}"
            wanted = f"one for each client: set num_clients={maker.num_partitions}"
            shown = f"{has} ({values}), {wanted}"
            raise RowError(f"{has}, {wanted}", shown)
        return [np.array(maker.load_partition(i)[ROW][:], dtype=np.int64) for i in range(num_clients)]
    except ValueError as error:
        settings = ", ".join(f"partitioner.{name}={value}" for name, value in partitioner.settings.items())
        where = f"num_clients={num_clients}" + (f", {settings}" if settings else "")
        text = f"{where} on the {len(maker.dataset)} training rows"
        reason = " ".join(str(error).split())
        private = f"{text}: {error.private if isinstance(error, RowError) else reason}"
        if partitioner.key == "task" or isinstance(error, RowError):
            raise RowError(f"{text}: {reason}", private) from None
        raise RowError(f"{text}: {partitioner.partitioner} cannot divide them so", private) from None


@lru_cache(maxsize=8)
def _deal_test(
    source: _Source, partitioner: Partitioning, num_clients: int, seed: int
) -> tuple[np.ndarray, ...]:
    """Row numbers of the test split per client: each key's rows as its training rows lie."""
    key = partitioner.key
    train_keys = _column(source, "train", key).astype(str)
    test_keys = _column(source, "test", key).astype(str)
    held = _deal_train(source, partitioner, num_clients, seed)
    sizes = np.array([len(rows) for rows in held])
    rng = _rng(seed, _DEAL_TEST)
    parts: list[list[np.ndarray]] = [[] for _ in held]
    for value in np.unique(test_keys):
        rows = rng.permutation(np.flatnonzero(test_keys == value))
        weights = np.array([np.count_nonzero(train_keys[part] == value) for part in held])
        # A value that nobody trains on is still tested: by everyone, as much as they train at all.
        shares = largest_remainder(weights if weights.any() else sizes, len(rows), rng)
        for part, dealt in zip(parts, np.split(rows, np.cumsum(shares)[:-1]), strict=True):
            part.append(dealt)
    return tuple(np.sort(np.concatenate(part)) for part in parts)


def _examples(source: _Source, rows: Dataset, numbers: Sequence[int] | np.ndarray) -> tuple[Example, ...]:
    columns = rows[list(map(int, numbers))]  # in one piece: a row at a time takes ten times as long
    return tuple(
        source.benchmark.template(dict(zip(columns, cells, strict=True)))
        for cells in zip(*columns.values(), strict=True)
    )


@lru_cache(maxsize=16)
def _column(source: _Source, split: str, name: str) -> np.ndarray:
    """A column of all rows, read once: every client's rows are drawn by it."""
    column = np.array(_rows(source, split)[name][:])
    column.flags.writeable = False
    return column


def _rng(seed: int, purpose: int, client_id: int = 0) -> np.random.Generator:
    return np.random.default_rng([seed, purpose, client_id])
