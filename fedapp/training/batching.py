"""In which order, and with which others, examples pass through the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fedapp.training.tokens import Encoded

_POOL = 50  # batches whose examples are sorted together, as in transformers' LengthGroupedSampler


def training_batches(
    rows: Sequence[Encoded], size: int, total: int, rng: np.random.Generator, *, grouped: bool = False
) -> Iterator[list[Encoded]]:
    """Batches in random order; every row once per pass.

    Args:
        rows: The tokenised training set.
        size: Rows per batch; the last one of a pass may have fewer.
        total: Batches to give, over as many passes as that takes.
        rng: Decides the order.
        grouped: Put rows of similar length together, which saves padding. Rows are shuffled, sorted
            by length within pools of 50 batches, and the batches shuffled, so which rows meet still
            changes from pass to pass (in a set of several pools; in a smaller one, ties and the
            order of the batches).
    """
    given = 0
    while given < total:
        order = rng.permutation(len(rows))
        for indices in _grouped(order, rows, size, rng) if grouped else _cut(order, size):
            if given < total:
                yield [rows[index] for index in indices]
                given += 1


def batches_by_length(
    rows: Sequence[Encoded], size: int, tokens: int
) -> Iterator[tuple[list[int], list[Encoded]]]:
    """Batches of similar length with their row numbers, longest first: memory runs out at once or never.

    Args:
        rows: Tokenised examples or prompts.
        size: Most rows of a batch.
        tokens: Most tokens of a batch, padding included; a single row may have more.
    """
    order = sorted(range(len(rows)), key=lambda index: (-len(rows[index].ids), index))
    start = 0
    while start < len(order):
        widest = max(len(rows[order[start]].ids), 1)
        indices = order[start : start + max(1, min(size, tokens // widest))]
        yield indices, [rows[index] for index in indices]
        start += len(indices)


def _cut(order: np.ndarray, size: int) -> list[np.ndarray]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def _grouped(
    order: np.ndarray, rows: Sequence[Encoded], size: int, rng: np.random.Generator
) -> list[np.ndarray]:
    lengths = np.array([len(row.ids) for row in rows])
    batches = []
    for pool in _cut(order, _POOL * size):
        batches += _cut(pool[np.argsort(-lengths[pool], kind="stable")], size)
    return [batches[index] for index in rng.permutation(len(batches))]
