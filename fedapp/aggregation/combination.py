"""Products of many uploads, taken block by block so that no second copy of them is made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fedapp.aggregation.checks import require_finite
from fedapp.core.types import Arrays

# Values per client in flight at once: 10 clients then fit a 1 MiB cache. A power of two would put
# the same column of all clients into the same few lines of that cache.
_BLOCK = 8000
# Uploads whose products are taken at once, at least, and in how many strips at most: short strips skip most
# of the lower triangle, long ones keep a product of hundreds of uploads as fast as it can be.
_STRIP, _STRIPS = 4, 16
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

    def _fill(self, outputs: np.ndarray, name: str, coefficients: np.ndarray) -> None:
        """Write one array of all wanted rows, flattened, to outputs ``[num_rows, size]``."""
        num_uploads = len(self.uploads)
        for start, block in _blocks(self.uploads, name):
            if not self.finite:  # a zero coefficient does not stop a NaN
                require_finite(_sums(block[:num_uploads]), self.uploads)
            outputs[:, start : start + block.shape[1]] = coefficients @ block[:num_uploads]


def means_of_the_others(uploads: Sequence[Arrays], weights: np.ndarray) -> list[Arrays]:
    """For every upload the weighted mean of all the others, in time that grows with the uploads alone.

    What comes before an upload and what comes behind it are summed apart, so that nothing is subtracted:
    an upload's own size leaves no rounding behind in what its sender gets.

    Args:
        uploads: Two or more, of equal names and shapes.
        weights: ``[num_uploads]`` in fp64, not negative; at least two are positive.

    Returns:
        One set of named fp32 arrays per upload.

    Raises:
        UploadError: If an upload holds a value that is not finite.
    """
    count = len(uploads)
    totals = _sums_of_the_others(weights[:, np.newaxis])
    outputs = _Outputs(uploads[0], count)
    for name in uploads[0]:
        flat = outputs.flat(name)
        for start, block in _blocks(uploads, name):
            require_finite(_sums(block[:count]), uploads)
            block[:count] *= weights[:, np.newaxis]
            flat[:, start : start + block.shape[1]] = _sums_of_the_others(block[:count]) / totals
    return outputs.named()


def _sums_of_the_others(rows: np.ndarray) -> np.ndarray:
    """For each row of ``[num_uploads, size]`` the sum of all the others."""
    sums = np.empty_like(rows)
    before, behind = np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
    for row, found in zip(rows, sums, strict=True):
        found[:] = before
        before += row
    for row, found in zip(rows[::-1], sums[::-1], strict=True):
        found += behind
        behind += row
    return sums


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
