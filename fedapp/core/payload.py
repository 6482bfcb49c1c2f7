"""What one party sends to another, named arrays and named lists of text; and what a side remembers."""

from __future__ import annotations

import errno
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, TypeVar

import ml_dtypes
import numpy as np

from fedapp.core.files import write_all, writing
from fedapp.core.types import Arrays

T = TypeVar("T")

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


PIECE_BYTES = 1 << 20
"""How much of an array on disk is in memory while it goes from file to file."""

BLOCK_BYTES = 4096
"""Places in a temporary file are of multiples of it."""


@dataclass(frozen=True, eq=False)
class ArrayOnDisk:
    """An array that lies in an open file: known by type and shape, read piece by piece.

    Attributes:
        file: Where; kept open by this.
        start: Offset in bytes.
        dtype: Of the values.
        shape: Of the array.
    """

    file: IO[bytes]
    start: int
    dtype: np.dtype
    shape: tuple[int, ...]

    def pieces(self) -> Iterator[memoryview]:
        """Its bytes in order; the memory of a piece is used again for the next.

        Raises:
            OSError: If they cannot be read.
        """
        left = math.prod(self.shape) * self.dtype.itemsize
        buffer = memoryview(bytearray(min(left, PIECE_BYTES)))
        self.file.seek(self.start)
        while left:
            piece = buffer[: min(left, PIECE_BYTES)]
            fill(self.file, piece)
            yield piece
            left -= len(piece)


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
        self._free: list[tuple[int, int]] = []
        self.update(given or {})

    def __setitem__(self, key: int, arrays: Arrays) -> None:
        """Keep arrays; they take the place of those of the same number if they fit there.

        Raises:
            WriteError: If the disk does not take them.
        """
        start, room = self._room(key, sum(array.nbytes for array in arrays.values()))
        with writing(Path(tempfile.gettempdir(), "arrays")):
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  as long as this object
            self._file.seek(start)
            for array in arrays.values():
                write_all(self._file.fileno(), np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        about = [(name, array.dtype, array.shape) for name, array in arrays.items()]
        if key in self._places and self._places[key][0] != start:
            del self[key]  # what grows leaves its place to others, once it is kept elsewhere
        self._places[key] = (start, room, about)

    def __getitem__(self, key: int) -> Arrays:
        arrays: Arrays = {}
        for name, there in self.unread(key).items():
            arrays[name] = np.empty(there.shape, there.dtype)
            there.file.seek(there.start)
            fill(there.file, arrays[name].reshape(-1).view(np.uint8).data)
        return arrays

    def unread(self, key: int) -> dict[str, ArrayOnDisk]:
        """The arrays of a number where they lie, until others take their place."""
        at, _, about = self._places[key]
        found: dict[str, ArrayOnDisk] = {}
        for name, dtype, shape in about:
            assert self._file is not None
            found[name] = ArrayOnDisk(self._file, at, dtype, shape)
            at += math.prod(shape) * dtype.itemsize
        return found

    def state(self) -> State:
        """What it holds, unread, as a state that gives it back by ``each``."""
        parts = {str(key): State(unread=self.unread(key)) for key in self}
        return State.of(parts, order=list(self))

    def _room(self, key: int, size: int) -> tuple[int, int]:
        """Where so many bytes have room: where this number's were, where others' were, or behind all."""
        if key in self._places and size <= self._places[key][1]:
            return self._places[key][:2]
        fits = [place for place in self._free if place[1] >= size]
        if fits:
            best = min(fits, key=lambda place: place[1])
            self._free.remove(best)
            return best
        # A little to spare: sizes of one client's memory differ by some bytes from round to round.
        start, room = self._end, -(-size // BLOCK_BYTES) * BLOCK_BYTES
        self._end += room
        return start, room

    def __delitem__(self, key: int) -> None:
        start, room, _ = self._places.pop(key)
        self._free.append((start, room))

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

    def state(self) -> State:
        """The uploads, unread and without their texts, as a state that gives them back by ``uploads``."""
        about = [[client, one.num_examples, dict(one.metrics)] for client, one in self._about.items()]
        parts = {str(at): State(unread=self._arrays.unread(client)) for at, client in enumerate(self)}
        return State(unread=State.of(parts).unread, facts={"uploads": about})


Spec = tuple[tuple[str, str, tuple[int, ...]], ...]
"""Names, dtypes and shapes of arrays."""


def spec_of(arrays: Arrays) -> Spec:
    """Names, dtypes and shapes, sorted: equal for arrays that may be combined element by element."""
    return tuple((name, str(arrays[name].dtype), arrays[name].shape) for name in sorted(arrays))


@dataclass(frozen=True)
class State:
    """All that somebody must remember to go on: named arrays in their order, and what JSON can hold.

    JSON turns the keys of a table into texts: numbered things are kept as pairs. Arrays that lie on
    disk go from there to where the state is kept; a state that was read has all of its in ``arrays``,
    these first.
    """

    arrays: Arrays = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    unread: dict[str, ArrayOnDisk] = field(default_factory=dict)

    @classmethod
    def of(cls, parts: Mapping[str, State], **facts: Any) -> State:
        """Several states as one, under names without a slash, and facts beside them."""
        arrays = {
            f"{part}/{name}": array for part, one in parts.items() for name, array in one.arrays.items()
        }
        unread = {
            f"{part}/{name}": array for part, one in parts.items() for name, array in one.unread.items()
        }
        return cls(arrays, {**facts, **{part: one.facts for part, one in parts.items()}}, unread)

    def part(self, name: str) -> State:
        """One of the states that ``of`` joined; an empty one where there is none of this name."""
        return State(
            _parted(self.arrays).get(name, {}), self.facts.get(name, {}), _parted(self.unread).get(name, {})
        )

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
        found, arrays = [], _parted(self.arrays)
        for number, (client_id, num_examples, metrics) in enumerate(self.facts.get("uploads", [])):
            found.append(Upload(arrays.get(str(number), {}), {}, client_id, num_examples, metrics))
        return found

    @classmethod
    def of_each(cls, each: Mapping[int, Arrays]) -> State:
        """Numbered arrays as a state, in their order."""
        return cls.of({str(number): State(arrays) for number, arrays in each.items()}, order=list(each))

    def each(self) -> dict[int, Arrays]:
        """The numbered arrays that ``of_each`` took."""
        arrays = _parted(self.arrays)
        return {number: arrays.get(str(number), {}) for number in self.facts.get("order", [])}


def fill(file: IO[bytes], memory: memoryview) -> None:
    """Read as many bytes as the memory holds, from where the file stands.

    Raises:
        OSError: If the file ends before.
    """
    while memory:
        count = file.readinto(memory)  # type: ignore[attr-defined]
        if not count:
            raise OSError(errno.EIO, "a temporary file is shorter than what was written to it")
        memory = memory[count:]


def _parted(named: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """What stands under ``<part>/<name>``, by part, in one walk however many parts there are."""
    found: dict[str, dict[str, T]] = {}
    for key, value in named.items():
        part, slash, name = key.partition("/")
        if slash:
            found.setdefault(part, {})[name] = value
    return found
