"""Products of many uploads, taken block by block so that no second copy of them is made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fedapp.aggregation.checks import require_finite
from fedapp.core.types import Arrays

# Values per client in flight at once: 10 clients then fit a 1 MiB cache. A power of two would put
# the same column of all clients into the same few lines of that cache.
_BLOCK = 8000
# Uploads whose products are taken at once, at least, and in how many strips at most: short strips skip most
# of the lower triangle, long ones keep a product of hundreds of uploads as fast as it can be.
_STRIP, _STRIPS = 4, 16
# Parts in which results for everybody are made, and results in a part at least. More parts take less memory,
# and one more pass over the uploads each.
_PARTS, _PART = 8, 8
_CANCELLED = 1e-8  # a squared distance below this share of the squared norms is mostly rounding

Group = tuple[tuple[str, ...], np.ndarray]
"""Names of arrays that share coefficients, and those coefficients ``[num_outputs, num_uploads]``."""


@dataclass(frozen=True, eq=False)
class LinearCombination:
    """Coefficients found, product not yet taken: lets a server make one download at a time.

    Attributes:
        uploads: Named arrays, equal names and shapes; held, not copied.
        groups: Which arrays take which coefficients ``[num_outputs, num_uploads]``.
        finite: Whether the uploads were already found to be finite.
    """

    uploads: Sequence[Arrays]
    groups: Sequence[Group]
    finite: bool = False

    def make(self, rows: Sequence[int] | None = None) -> list[Arrays]:
        """Make the outputs of the given rows, or of all rows in one pass over the uploads.

        A pass reads every upload, so all rows at once cost far less than row after row. New
        memory: the outputs, in one piece that is freed with the last of them, and two blocks.

        Returns:
            One set of named fp32 arrays per row.

        Raises:
            UploadError: If an upload holds a value that is not finite.
        """
        num_rows = len(self.groups[0][1]) if rows is None else len(rows)
        groups = [(names, found if rows is None else found[list(rows)]) for names, found in self.groups]
        coefficients = {name: found for names, found in groups for name in names}
        outputs = _Outputs(self.uploads[0], num_rows)
        for name, found in coefficients.items():
            self._fill(outputs.flat(name), name, found)
        return outputs.named()

    def each(self) -> Iterator[Arrays]:
        """Make the outputs of all rows in their order, an eighth of them at a time.

        Whoever lets go of one before it takes the next has two eighths in memory at most.

        Raises:
            UploadError: As ``make``, when the first one is asked for.
        """
        for first, end in pairwise(_parts(len(self.groups[0][1]))):
            yield from self.make(range(first, end))

    def _fill(self, outputs: np.ndarray, name: str, coefficients: np.ndarray) -> None:
        """Write one array of all wanted rows, flattened, to outputs ``[num_rows, size]``."""
        num_uploads = len(self.uploads)
        for start, block in _blocks(self.uploads, name):
            if not self.finite:  # a zero coefficient does not stop a NaN
                require_finite(_sums(block[:num_uploads]), self.uploads)
            outputs[:, start : start + block.shape[1]] = coefficients @ block[:num_uploads]


def means_of_the_others(uploads: Sequence[Arrays], weights: np.ndarray) -> Iterator[Arrays]:
    """For every upload the weighted mean of all the others, in time that grows with the uploads alone.

    What comes before an upload and what comes behind it are summed apart, so that nothing is subtracted:
    an upload's own size leaves no rounding behind in what its sender gets. The means are made an eighth
    at a time; beside them there are sums of what comes behind each eighth, and before it: nine in fp64, as
    much memory as 18 uploads.

    Args:
        uploads: Two or more, of equal names and shapes.
        weights: ``[num_uploads]`` in fp64, not negative; at least two are positive.

    Returns:
        One set of named fp32 arrays per upload, in their order.

    Raises:
        UploadError: If an upload holds a value that is not finite.
    """
    starts = _parts(len(uploads))
    behind = {name: _sums_behind(uploads, weights, name, starts[1:]) for name in uploads[0]}
    return _means_of_the_others(uploads, weights, starts, behind)


def _sums_behind(
    uploads: Sequence[Arrays], weights: np.ndarray, name: str, starts: Sequence[int]
) -> np.ndarray:
    """Weighted sums of one array over the uploads from each start on, ``[num_starts, size]``."""
    found = np.zeros((len(starts), uploads[0][name].size))
    for at, block in _blocks(uploads, name):
        require_finite(_sums(block[: len(uploads)]), uploads)
        total = np.zeros(block.shape[1])
        for row, (start, end) in reversed(list(enumerate(pairwise(starts)))):
            for upload in reversed(range(start, end)):
                total += block[upload] * weights[upload]
            found[row, at : at + total.size] = total
    return found


def _means_of_the_others(
    uploads: Sequence[Arrays], weights: np.ndarray, starts: Sequence[int], behind: Arrays
) -> Iterator[Arrays]:
    """What ``means_of_the_others`` gives, part by part; what came before a part is carried on."""
    totals = _sums_of_the_others(weights[:, np.newaxis], np.zeros(1), np.zeros(1))
    before = {name: np.zeros(array.size) for name, array in uploads[0].items()}
    for part, (start, end) in enumerate(pairwise(starts)):
        outputs = _Outputs(uploads[0], end - start)
        for name in uploads[0]:
            flat = outputs.flat(name)
            for at, block in _blocks(uploads[start:end], name):
                place = slice(at, at + block.shape[1])
                rows = block[: end - start]
                rows *= weights[start:end, np.newaxis]
                sums = _sums_of_the_others(rows, before[name][place], behind[name][part, place])
                flat[:, place] = sums / totals[start:end]
        yield from outputs.named()


def _sums_of_the_others(rows: np.ndarray, before: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """For each row of ``[num_uploads, size]`` the sum of all the others, and of what is around them all.

    ``before`` and ``behind``, ``[size]``, are moved on past the rows, in place.
    """
    sums = np.empty_like(rows)
    for row, found in zip(rows, sums, strict=True):
        found[:] = before
        before += row
    for row, found in zip(rows[::-1], sums[::-1], strict=True):
        found += behind
        behind += row
    return sums


def _parts(count: int) -> list[int]:
    """Where each part of so many results starts, and where the last one ends."""
    size = max(_PART, -(-count // _PARTS))
    return [*range(0, count, size), count]


class _Outputs:
    """Room for results that are like an upload, all in one piece.

    It then comes in huge pages, several times as cheap, and is freed with the last of the results.

    Args:
        like: Arrays of the names and shapes that each result has.
        num_rows: How many results there are.
    """

    def __init__(self, like: Arrays, num_rows: int) -> None:
        self._shapes = {name: array.shape for name, array in like.items()}
        ends = np.cumsum([0, *(array.size for array in like.values())]).tolist()
        self._places = {name: slice(*ends[at : at + 2]) for at, name in enumerate(like)}
        self._memory = np.empty((num_rows, ends[-1]), np.float32)

    def flat(self, name: str) -> np.ndarray:
        """One array of all results, flattened, ``[num_rows, size]``; to be written to."""
        return self._memory[:, self._places[name]]

    def named(self) -> list[Arrays]:
        """The results."""
        return [
            {name: row[place].reshape(self._shapes[name]) for name, place in self._places.items()}
            for row in self._memory
        ]


def inner_products(arrays: Sequence[Arrays], names: Sequence[str]) -> np.ndarray:
    """Inner products ``[K, K]`` of the uploads in fp64, around a central one if they nearly agree."""
    gram = _gram(arrays, names, origin=None)
    norms = gram.diagonal()
    require_finite(norms, arrays)
    squared = norms + norms[:, np.newaxis] - 2 * gram
    near = squared < _CANCELLED * np.maximum(norms, norms[:, np.newaxis])
    np.fill_diagonal(near, False)
    if near.any():
        # The median of the distances, not their sum: one far upload must not choose the origin.
        gram = _gram(arrays, names, origin=int(np.argmin(np.median(squared, axis=1))))
    return gram


def _gram(arrays: Sequence[Arrays], names: Sequence[str], origin: int | None) -> np.ndarray:
    """Inner products ``[K, K]`` of the uploads minus upload number ``origin`` (None: as they are)."""
    count = len(arrays)
    gram, strip = np.zeros((count, count + 1)), max(_STRIP, -(-count // _STRIPS))
    with np.errstate(invalid="ignore", over="ignore"):  # the caller checks the diagonal
        for name in names:
            for _, block in _blocks(arrays, name):
                if origin is not None:
                    block[:count] -= block[origin].copy()
                # The zero row keeps NumPy from the symmetric product, half as fast for few rows.
                for first in range(0, count, strip):
                    end = min(first + strip, count)
                    gram[first:end, first:] += block[first:end] @ block[first:].T
        upper = np.triu(gram[:, :count])
        return upper + np.triu(upper, 1).T


def _sums(block: np.ndarray) -> np.ndarray:
    """Sum of each row ``[num_rows]``, not finite where a value is not."""
    with np.errstate(invalid="ignore"):
        return block @ np.ones(block.shape[1])


def _blocks(arrays: Sequence[Arrays], name: str) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (start, block): one array of all uploads, flattened, in fp64 ``[num_uploads + 1, size]``.

    The last row is zero. The memory is used again for the next block.
    """
    flat = [upload[name].reshape(-1) for upload in arrays]
    size = flat[0].size
    buffer = np.zeros((len(flat) + 1, min(size, _BLOCK)))
    for start in range(0, size, _BLOCK):
        block = buffer[:, : min(_BLOCK, size - start)]
        for row, values in zip(block, flat, strict=False):
            row[:] = values[start : start + _BLOCK]
        yield start, block
