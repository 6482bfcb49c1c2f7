"""What one party sends to another, named arrays and named lists of text; and what a side remembers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np

from fedapp.core.files import write_all, writing
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


class ArraysOnDisk(MutableMapping[int, Arrays]):
    """Named arrays by a number, in a file without a name: what is seldom looked at takes no memory.

    It lies in the folder of temporary files (``TMPDIR``), and is gone with the process however that ends.
    What is looked up is read anew each time, bit for bit what was put in.

    Args:
        given: What it holds at first.
    """

    def __init__(self, given: Mapping[int, Arrays] | None = None) -> None:
        self._file: IO[bytes] | None = None
        self._places: dict[int, tuple[int, int, list[tuple[str, np.dtype, tuple[int, ...]]]]] = {}
        self._end = 0
        self.update(given or {})

    def __setitem__(self, key: int, arrays: Arrays) -> None:
        """Keep arrays; they take the place of those of the same number if they fit there.

        Raises:
            WriteError: If the disk does not take them.
        """
        size = sum(array.nbytes for array in arrays.values())
        start, room, _ = self._places.get(key, (self._end, 0, []))
        if size > room:
            start, room, self._end = self._end, size, self._end + size
        with writing(Path(tempfile.gettempdir(), "arrays")):
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  as long as this object
            self._file.seek(start)
            for array in arrays.values():
                write_all(self._file.fileno(), np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        about = [(name, array.dtype, array.shape) for name, array in arrays.items()]
        self._places[key] = (start, room, about)

    def __getitem__(self, key: int) -> Arrays:
        start, _, about = self._places[key]
        arrays: Arrays = {}
        assert self._file is not None
        self._file.seek(start)
        for name, dtype, shape in about:
            arrays[name] = np.empty(shape, dtype)
            rest = arrays[name].reshape(-1).view(np.uint8).data
            while rest and (count := self._file.readinto(rest)):  # type: ignore[attr-defined]
                rest = rest[count:]
            assert not rest
        return arrays

    def __delitem__(self, key: int) -> None:
        del self._places[key]

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


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


@dataclass(frozen=True)
class State:
    """All that somebody must remember to go on: named arrays in their order, and what JSON can hold.

    JSON turns the keys of a table into texts: numbered things are kept as pairs.
    """

    arrays: Arrays = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, parts: Mapping[str, State], **facts: Any) -> State:
        """Several states as one, under names without a slash, and facts beside them."""
        arrays = {
            f"{part}/{name}": array for part, one in parts.items() for name, array in one.arrays.items()
        }
        return cls(arrays, {**facts, **{part: one.facts for part, one in parts.items()}})

    def part(self, name: str) -> State:
        """One of the states that ``of`` joined; an empty one where there is none of this name."""
        start = f"{name}/"
        arrays = {
            key.removeprefix(start): array for key, array in self.arrays.items() if key.startswith(start)
        }
        return State(arrays, self.facts.get(name, {}))

    @classmethod
    def of_uploads(cls, uploads: Iterable[Upload]) -> State:
        """Uploads as a state, in their order; their texts are left out."""
        arrays: Arrays = {}
        about = []
        for number, upload in enumerate(uploads):
            arrays |= {f"{number}/{name}": array for name, array in upload.arrays.items()}
            about.append([upload.client_id, upload.num_examples, dict(upload.metrics)])
        return cls(arrays, {"uploads": about})

    def uploads(self) -> list[Upload]:
        """The uploads that ``of_uploads`` took."""
        found = []
        for number, (client_id, num_examples, metrics) in enumerate(self.facts.get("uploads", [])):
            arrays = self.part(str(number)).arrays
            found.append(Upload(arrays, {}, client_id, num_examples, metrics))
        return found

    @classmethod
    def of_each(cls, each: Mapping[int, Arrays]) -> State:
        """Numbered arrays as a state, in their order."""
        return cls.of({str(number): State(arrays) for number, arrays in each.items()}, order=list(each))

    def each(self) -> dict[int, Arrays]:
        """The numbered arrays that ``of_each`` took."""
        return {number: self.part(str(number)).arrays for number in self.facts.get("order", [])}
