"""What one party sends to another: named arrays and named lists of text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import ml_dtypes
import numpy as np

from fedapp.core.files import ArraysOnDisk
from fedapp.core.types import Arrays

DTYPES = {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    **{name: np.dtype(name) for name in ("float16", "float32", "float64", "int64", "int32", "uint8")},
}


@dataclass(frozen=True)
class Payload:
    """What one party sends: named arrays and named lists of text."""

    arrays: Arrays = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Bytes of the values themselves (arrays as stored, texts as UTF-8), without containers."""
        arrays = sum(array.nbytes for array in self.arrays.values())
        texts = sum(len(text.encode("utf-8", "surrogatepass")) for v in self.texts.values() for text in v)
        return arrays + texts


@dataclass(frozen=True)
class Upload(Payload):
    """A client's payload together with who sent it and what it measured."""

    client_id: int = -1
    num_examples: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)


class UploadsOnDisk(Mapping[int, Upload]):
    """Uploads by client; their arrays lie on disk and are read anew by whoever looks one up.

    Args:
        uploads: One a client.
    """

    def __init__(self, uploads: Iterable[Upload]) -> None:
        self._arrays = ArraysOnDisk()
        self._about: dict[int, Upload] = {}
        for upload in uploads:
            self._arrays[upload.client_id] = upload.arrays
            self._about[upload.client_id] = replace(upload, arrays={})

    def __getitem__(self, client_id: int) -> Upload:
        return replace(self._about[client_id], arrays=self._arrays[client_id])

    def __iter__(self) -> Iterator[int]:
        return iter(self._about)

    def __len__(self) -> int:
        return len(self._about)


Spec = tuple[tuple[str, str, tuple[int, ...]], ...]
"""Names, dtypes and shapes of arrays."""


def spec_of(arrays: Arrays) -> Spec:
    """Names, dtypes and shapes, sorted: equal for arrays that may be combined element by element."""
    return tuple((name, str(arrays[name].dtype), arrays[name].shape) for name in sorted(arrays))
