"""What uploads must be before they are combined: alike, floats, finite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from fedapp.core.types import Arrays

_FP32_MAX = float(np.finfo(np.float32).max)


class UploadError(ValueError):
    """One upload cannot be combined with the others; ``index`` says which.

    Args:
        index: Position of the upload in the sequence that was given.
        problem: What is wrong with it.
        expected: What the first upload has instead, where the two disagree.
    """

    def __init__(self, index: int, problem: str, expected: str = "") -> None:
        self.index, self.problem, self.expected = index, problem, expected
        super().__init__(self.describe(f"upload {index}", "upload 0"))

    def describe(self, who: str, first: str) -> str:
        """Say the same with the caller's names for this upload and for the first one."""
        if not self.expected:
            return f"{who}: {self.problem}"
        return (
            f"{who}: {self.problem}, but {first} has {self.expected}; "
            "ranks, layers, positions and shared names must agree on all clients"
        )


def check_compatible(uploads: Mapping[int, Arrays]) -> None:
    """Make sure that all clients sent the same names, with the same shapes, as floats.

    Args:
        uploads: Named arrays of any shape for each client_id.

    Raises:
        ValueError: If two clients disagree; the message names both, the array and both shapes.
    """
    client_ids = list(uploads)
    try:
        check_alike(list(uploads.values()))
    except UploadError as error:
        raise ValueError(by_client(error, client_ids)) from None


def check_finite(client_id: int, arrays: Arrays) -> None:
    """Make sure that a client's arrays hold neither NaN nor infinity, nor leave the fp32 range.

    Raises:
        ValueError: If one does; the message names the client and the array.
    """
    for name, problem in _unusable(arrays):
        raise ValueError(f"client {client_id}: array {name!r} {problem}")


def check_alike(arrays: Sequence[Arrays]) -> None:
    """Raise UploadError unless all uploads have the first one's names and shapes, as floats.

    Raises:
        UploadError: For the first upload that differs.
    """
    for index, upload in enumerate(arrays):
        for name in sorted(set(arrays[0]) ^ set(upload)):
            has, lacks = "has an array" if name in upload else "lacks", "none" if name in upload else "it"
            raise UploadError(index, f"{has} {name!r}", lacks)
        for name, array in upload.items():
            if array.shape != arrays[0][name].shape:
                shape, first = list(array.shape), list(arrays[0][name].shape)
                raise UploadError(index, f"array {name!r} has shape {shape}", f"{first}")
            # bfloat16 is no NumPy type, so its kind is V; integers may be packed bits, not numbers.
            if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
                raise UploadError(index, f"array {name!r} has dtype {array.dtype}, must be a float type")
            if array.dtype.itemsize > 4 and not np.abs(array).max(initial=0.0) <= _FP32_MAX:
                raise UploadError(index, f"array {name!r} {_unfit(array)}")


def require_finite(sums: np.ndarray, arrays: Sequence[Arrays]) -> None:
    """Raise UploadError for the first upload whose sum ``[num_uploads]`` is not finite.

    Raises:
        UploadError: For the first upload that is not finite.
    """
    if np.isfinite(sums).all():
        return
    index = int(np.argmin(np.isfinite(sums)))
    name, problem = next(_unusable(arrays[index]))
    raise UploadError(index, f"array {name!r} {problem}")


def by_client(error: UploadError, client_ids: Sequence[int]) -> str:
    """Say what an error says, with client ids in place of positions."""
    return error.describe(f"client {client_ids[error.index]}", f"client {client_ids[0]}")


def _unusable(arrays: Arrays) -> Iterator[tuple[str, str]]:
    """Name the arrays that cannot be combined, with the reason."""
    for name, array in arrays.items():
        if problem := _unfit(array):
            yield name, problem


def _unfit(array: np.ndarray) -> str:
    """Say why an array cannot be combined in fp32; empty if it can."""
    values = array.astype(np.float64)
    bad = int((~np.isfinite(values)).sum())
    if bad:
        return f"has {bad} of {values.size} values that are not finite"
    beyond = bool(np.abs(values).max(initial=0.0) > _FP32_MAX)
    return "has values beyond the fp32 range" if beyond else ""


def check_uploads(arrays: Sequence[Arrays]) -> None:
    """Check what any rule may rely on: one pass over all values.

    Args:
        arrays: Uploads of named arrays of any shape.

    Raises:
        UploadError: Unless all uploads have the same names and shapes and are finite.
    """
    check_alike(arrays)
    with np.errstate(invalid="ignore"):
        sums = [sum(np.sum(a, dtype=np.float64) for a in upload.values()) for upload in arrays]
    require_finite(np.array(sums, np.float64), arrays)


def require_any(arrays: Sequence[Arrays]) -> None:
    """Refuse to combine nothing.

    Raises:
        ValueError: If there is no upload.
    """
    if not arrays:
        raise ValueError("uploads=[] must hold at least one upload to combine")
